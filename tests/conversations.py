"""Conversations of rows, for tests that need no refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import ReadOptions


def conversation_of(row: Mapping[str, Any], *, with_pictures: bool = False, with_audio: bool = False) -> Conversation:
    """Return the conversation of a row, which has to be one."""
    read = table.read(row, ReadOptions(with_pictures=with_pictures, with_audio=with_audio))
    assert not isinstance(read, Refused), read.reason
    assert isinstance(read.content, Conversation)
    return read.content
