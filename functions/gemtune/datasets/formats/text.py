"""Plain texts to continue, as in pretraining."""

from __future__ import annotations

from gemtune.datasets.conversation import PlainText
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row

# Beginnings of turns in templates of other models. Such a text is learned as it is, its questions too.
TURNS = ("<|im_start|>", "<|start_header_id|>", "[INST]", "### Human:", "### Instruction:")


def _fits(row: Row) -> bool:
    return "text" in row


def _read(row: Fields) -> PlainText:
    if "label" in row:
        raise row.bad(
            "a text with a label is for classification: set dataset_columns to {prompt: text, completion: label}, and "
            "write labels as words"
        )
    text = row.take_text("text") or ""
    if not text.strip():
        raise row.bad("an empty text")
    for turn in TURNS:
        if turn in text:
            row.reading.unread[turn] = None
    return PlainText(text)


TEXT = Format("text", "plain `text`, of which every token is trained", ("text",), _fits, _read)
