"""Advice about rows of no format: what has to be done with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from gemtune.datasets.choices import choice_of
from gemtune.datasets.reading.fields import HARMLESS, names_in, shown
from gemtune.datasets.reading.tools import structured

Row = Mapping[str, Any]
# Other names that datasets have for a field.
SYNONYMS: Mapping[str, str] = {
    **dict.fromkeys(
        ("problem", "article", "document", "inputs", "input_text", "text_input", "user", "human"), "prompt"
    ),
    **dict.fromkeys(("solution", "summary", "highlights", "targets", "target", "output_text"), "completion"),
    **dict.fromkeys(("assistant", "bot"), "completion"),
    **dict.fromkeys(("dialog", "dialogue", "data", "items"), "conversations"),
    **dict.fromkeys(("chosen_response", "preferred", "better"), "chosen"),
    **dict.fromkeys(("rejected_response", "dispreferred", "worse"), "rejected"),
}
# Columns of several answers to one prompt.
_NUMBERED = re.compile(r"(.*(?:response|answer|output|completion|conversation))[-_ ]?(?:[0-9]|[a-dj-k])", re.IGNORECASE)
# Columns that wrap rows, with a command that unpacks them.
WRAPPERS = ("data", "rows", "examples", "records", "samples", "items", "instances", "train")


def of_shape(row: Row) -> str | None:
    """Return what to do with rows of a known shape that is read in no format.

    None if the shape is not known.
    """
    for name, value in row.items():
        if isinstance(value, str) and "USER:" in value and "ASSISTANT:" in value:
            return (
                f"its {shown(name)} is a transcript of USER: and ASSISTANT:, as in Glaive's datasets: set "
                f"dataset_columns to {{chat: {shown(name)}}}, with the system message in a column system"
            )
    if row and all(name.isdecimal() for name in row):
        return "it has rows by their numbers: write each of them on a line of its own, as `jq -c '.[]'` does"
    if {"from", "value"} <= row.keys():
        return "such a row is one message: write all messages of a conversation into one row, as conversations"
    if {"input_ids", "attention_mask"} & row.keys():
        return "its texts are tokens of a tokenizer already: write the texts themselves"
    if "choices" in row or isinstance(structured(row.get("body")), Mapping):
        return "it is a request or an answer of an API: write the messages of the request, and the answer behind them"
    if {"annotations", "data"} <= row.keys():
        return "it is an export of Label Studio with all details: export JSON-MIN or CSV, and name its columns"
    if isinstance(structured(row.get("row")), Mapping):
        return "the row is inside of its field row: write each of them on a line of its own, as `jq -c .row` does"
    wrapper = next((name for name in WRAPPERS if _are_objects(row.get(name))), None)
    if wrapper is not None:
        inner = f".{wrapper}[].row" if _wraps_twice(row[wrapper]) else f".{wrapper}[]"
        return f"its field {wrapper} has rows in it: write each of them on a line of its own, as `jq -c '{inner}'` does"
    if any(isinstance(value, Mapping) and "replies" in value for value in row.values()):
        return "a tree of messages: write a row of messages for each path from the first message to an answer"
    answers = structured(row.get("answers"))
    if isinstance(answers, list) and answers and all(isinstance(answer, str) for answer in answers):
        return "its answers are a list of texts: write one of them into answer"
    if choice_of(row) is not None:
        return "it says which of two answers is better: use method RL with DPO"
    if _has_numbered_answers(row) or _are_objects(answers) or _are_objects(row.get("completions")):
        return (
            "it has several answers to one prompt: write a better one into chosen and a worse one into rejected for "
            "method RL with DPO, or the best one into completion"
        )
    if isinstance(row.get("translation"), Mapping):
        return "write the text to translate into prompt, and its translation into completion"
    return None


def _has_numbered_answers(row: Row) -> bool:
    """Return whether a row has columns such as response_0 and response_1."""
    stems = [numbered[1] for name in row if (numbered := _NUMBERED.fullmatch(name)) is not None]
    return len(stems) > len({*stems})


def _messages_in(value: Any) -> str:
    """Return which column a list of messages is expected in, or nothing."""
    value = structured(value)
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, Mapping):
        return ""
    return "messages" if "role" in first else "conversations" if "from" in first else ""


def _are_objects(value: Any) -> bool:
    """Return whether a value is a list of objects that are no messages."""
    value = structured(value)
    are_objects = isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)
    return are_objects and not {"role", "from"} & set(value[0])


def _wraps_twice(rows: Any) -> bool:
    """Return whether rows are those of the Hub's viewer: {row_idx, row}."""
    return all("row" in each for each in structured(rows))


def columns_for(row: Row, fields: Collection[str]) -> dict[str, str]:
    """Return the row's own names of some fields, as far as can be guessed.

    fields: of the formats in question.
    """
    near: dict[str, str] = {}
    for name, value in row.items():
        column = _messages_in(value)
        if column in fields and column not in row:
            near.setdefault(column, name)
            continue
        meant = SYNONYMS.get(name.casefold())
        if meant not in fields:
            meant = next(iter(difflib.get_close_matches(name, sorted(fields), n=1, cutoff=0.8)), None)
        if meant is not None and meant not in row and name not in HARMLESS:
            near.setdefault(meant, name)
    return near


def why_no_format(row: Row, needs: str, columns: Mapping[str, str], example: str) -> str:
    """Return why a row has no format, and what to do.

    needs: what the method needs. columns: the row's own names of fields. example: of `dataset_columns`, if none could
    be guessed.
    """
    if (advice := of_shape(row)) is not None:
        return f"{needs}; the row has {names_in(row)}: {advice}"
    pairs = ", ".join(f"{name}: {shown(own)}" for name, own in columns.items())
    return (
        f"{needs}; the row has {names_in(row)}: if these are other names of a format's fields, set dataset_columns, "
        f"such as {{{pairs or example}}}, with null for each field to ignore"
    )


def about_absent_column(column: str, field: str, row: Row, fields: Collection[str]) -> tuple[str, str]:
    """Return that no row has the column of a field, and what to do about it.

    row: the first one. fields: those that formats have.
    """
    message = f"no row has the column {shown(column)} for the field {field}; the first row has {names_in(row)}"
    if field in row and column in fields:  # the pair is reversed
        return message, f"if {shown(field)} is the {column}, set dataset_columns to {{{column}: {shown(field)}}}"
    return message, "name a column that the rows have, or leave the field out"
