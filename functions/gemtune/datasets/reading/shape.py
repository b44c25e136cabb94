"""Format: a shape of rows, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.conversation import Conversation, PlainText
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import structured
from gemtune.datasets.reading.turns import by_message
from gemtune.datasets.row_options import FormatName

Row = Mapping[str, Any]
Content = Conversation | PlainText


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows of supervised training.

    name: its value in `dataset_format`. title: whose format it is, and its fields, for the docs. fields: the names of
    its row's fields, to which `dataset_columns` can give other names. fits: whether a row without nulls has this shape.
    read: return the content of a row; raises BadRow.
    """

    name: FormatName
    title: str
    fields: tuple[str, ...]
    fits: Callable[[Row], bool]
    read: Callable[[Fields], Content]


def first_turn(value: Any) -> Mapping[str, Any]:
    """Return the first object of a list, to tell formats apart.

    It is empty if the list, which may be JSON text, has none.
    """
    value = by_message(structured(value))
    first = structured(value[0]) if isinstance(value, list) and value else None
    return first if isinstance(first, Mapping) else {}
