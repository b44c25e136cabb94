"""Pictures and audio in columns of their own, with marks for their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemtune.datasets.conversation import (
    Audio,
    Content,
    Conversation,
    Image,
    Medium,
    Part,
    Text,
    Turn,
    content_texts,
)
from gemtune.datasets.reading.content import NO_AUDIO, NO_PICTURES
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import structured
from gemtune.datasets.row_options import ReadOptions


@dataclass(frozen=True, slots=True)
class MediaColumn:
    """Column of a row with pictures, or with audio clips.

    names: that the column may have. mark: stands for the next file of the column, as in the rows of LLaVA,
    LLaMA-Factory and ms-swift. part: the kind of the parts. noun: in the plural, for messages. is_read: whether a job
    reads such a column. refusal: why a job that does not refuses the row.
    """

    names: tuple[str, ...]
    mark: str
    part: type[Medium]
    noun: str
    is_read: Callable[[ReadOptions], bool]
    refusal: str


PICTURES = MediaColumn(
    ("images", "image"), "<image>", Image, "pictures", lambda options: options.with_pictures, NO_PICTURES
)
AUDIO = MediaColumn(("audios", "audio"), "<audio>", Audio, "audio clips", lambda options: options.with_audio, NO_AUDIO)
COLUMNS = (*PICTURES.names, *AUDIO.names)


def place_media(conversation: Conversation, row: Fields) -> Conversation:
    """Return a conversation with the pictures or audio of the row's columns.

    Each file goes to the next mark in a text of the user, or to the next part such as `{"type": "image"}` without a
    file. If there is neither, all go in front of the first text of the user, as with TRL. Raises BadRow if the numbers
    differ.
    """
    for column in (PICTURES, AUDIO):
        conversation = _placed(conversation, row, column)
    return conversation


def _placed(conversation: Conversation, row: Fields, column: MediaColumn) -> Conversation:
    """Return a conversation with the files of one column. Raises BadRow."""
    if not row.present(column.names) and not column.is_read(row.reading.options):
        return conversation
    value = structured(row.take_first(*column.names))
    files = value if isinstance(value, list) else [] if value is None else [value]
    if not files:
        if column.is_read(row.reading.options):
            _check_no_marks(conversation, row, column)
        return conversation
    if not column.is_read(row.reading.options):
        raise row.bad(column.refusal)
    turns = [_with_places(turn, column) for turn in conversation.turns]
    places = sum(_is_place(part, column) for turn in turns for part in _parts(turn.content))
    if places == 0:
        first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise row.bad(f"{column.noun}, and no message of the user to show them in")
        parts = tuple(column.part(None) for _ in files)
        turns[first] = turns[first].with_content((*parts, *_parts(turns[first].content)))
    elif places != len(files):
        raise row.bad(f"{len(files)} {column.noun}, and {places} places for them ({column.mark} in a text of the user)")
    ahead = iter(files)
    return conversation.with_turns([_filled(turn, ahead, column) for turn in turns])


def _check_no_marks(conversation: Conversation, row: Fields, column: MediaColumn) -> None:
    """Raise BadRow for marks, where there are no files for them.

    The model would learn to answer without having seen the picture or heard the audio.
    """
    texts = [text for turn in conversation.turns if turn.role == "user" for text in content_texts(turn.content)]
    marks = sum(text.count(column.mark) for text in texts)
    if marks:
        raise row.bad(
            f"no {column.noun} in a column {column.names[0]}, and {marks} places for them ({column.mark} in a text of "
            "the user)"
        )


def _with_places(turn: Turn, column: MediaColumn) -> Turn:
    """Return a turn of the user with a part for each mark."""
    if turn.role != "user" or not any(column.mark in text for text in content_texts(turn.content)):
        return turn
    parts: list[Part] = []
    for part in _parts(turn.content):
        if not isinstance(part, Text):
            parts.append(part)
            continue
        first, *others = part.text.split(column.mark)
        pieces: list[Part] = [replace(part, text=first)]
        for other in others:
            pieces += [column.part(None, part.languages), replace(part, text=other)]
        parts += [piece for piece in pieces if not isinstance(piece, Text) or piece.text.strip()]
    return turn.with_content(tuple(parts))


def _filled(turn: Turn, files: Iterator[Any], column: MediaColumn) -> Turn:
    if isinstance(turn.content, str):
        return turn
    return turn.with_content(
        tuple(
            replace(part, file=next(files)) if not isinstance(part, Text) and _is_place(part, column) else part
            for part in turn.content
        )
    )


def _parts(content: Content) -> tuple[Part, ...]:
    return (Text(content),) if isinstance(content, str) else content


def _is_place(part: Part, column: MediaColumn) -> bool:
    """Return whether a part is the place of a file in the column.

    In Parquet its own file can be an object of nulls.
    """
    if isinstance(part, Text) or not isinstance(part, column.part):
        return False
    file = part.file
    return file is None or (isinstance(file, Mapping) and not any(value is not None for value in file.values()))
