"""Plain texts to continue, as in pretraining."""

from __future__ import annotations

from gemtune.datasets.conversation import PlainText
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row


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
    return PlainText(text)


TEXT = Format("text", "plain `text`, of which every token is trained", ("text",), _fits, _read)
