"""Pictures in a column of their own, with marks in the text for their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gemtune.datasets.conversation import Content, Conversation, Image, Text, Turn, content_texts
from gemtune.datasets.reading.content import NO_PICTURES
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import structured

COLUMNS = ("images", "image")
# Stands for the next picture of the column, as in LLaVA's, LLaMA-Factory's and ms-swift's rows.
MARK = "<image>"


def place_pictures(conversation: Conversation, row: Fields) -> Conversation:
    """Return a conversation with the pictures of a row's own column.

    The column is called `images` or `image`. Each picture goes to the next `<image>` in a text of the user, or to the
    next part `{"type": "image"}` without a picture. If there is neither, all go in front of the first text of the user,
    as with TRL. Raises BadRow if the numbers differ.
    """
    value = structured(row.take_first(*COLUMNS))
    images = value if isinstance(value, list) else [] if value is None else [value]
    if not images:
        if row.reading.options.with_pictures:
            _check_no_marks(conversation, row)
        return conversation
    if not row.reading.options.with_pictures:
        raise row.bad(NO_PICTURES)
    turns = [_with_places(turn) for turn in conversation.turns]
    places = sum(_is_place(part) for turn in turns for part in _parts(turn.content))
    if places == 0:
        first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise row.bad("pictures, and no message of the user to show them in")
        pictures = tuple(Image(None) for _ in images)
        turns[first] = turns[first].with_content((*pictures, *_parts(turns[first].content)))
    elif places != len(images):
        raise row.bad(f"{len(images)} pictures, and {places} places for them ({MARK} in a text of the user)")
    ahead = iter(images)
    return conversation.with_turns([_filled(turn, ahead) for turn in turns])


def _check_no_marks(conversation: Conversation, row: Fields) -> None:
    """Raise BadRow for marks, where there are no pictures for them.

    The model would learn to answer without having seen the picture.
    """
    texts = [text for turn in conversation.turns if turn.role == "user" for text in content_texts(turn.content)]
    marks = sum(text.count(MARK) for text in texts)
    if marks:
        raise row.bad(
            f"no pictures in a column {COLUMNS[0]}, and {marks} places for them ({MARK} in a text of the user)"
        )


def _with_places(turn: Turn) -> Turn:
    """Return a turn of the user with a part for each mark."""
    if turn.role != "user" or not any(isinstance(part, Text) and MARK in part.text for part in _parts(turn.content)):
        return turn
    parts: list[Text | Image] = []
    for part in _parts(turn.content):
        if isinstance(part, Image):
            parts.append(part)
            continue
        first, *others = part.text.split(MARK)
        pieces: list[Text | Image] = [replace(part, text=first)]
        for other in others:
            pieces += [Image(None, part.languages), replace(part, text=other)]
        parts += [piece for piece in pieces if isinstance(piece, Image) or piece.text.strip()]
    return turn.with_content(tuple(parts))


def _filled(turn: Turn, images: Iterator[Any]) -> Turn:
    if isinstance(turn.content, str):
        return turn
    return turn.with_content(
        tuple(
            replace(part, image=next(images)) if isinstance(part, Image) and _is_place(part) else part
            for part in turn.content
        )
    )


def _parts(content: Content) -> tuple[Text | Image, ...]:
    return (Text(content),) if isinstance(content, str) else content


def _is_place(part: Text | Image) -> bool:
    """Return whether a part is the place of a picture in the column.

    In Parquet its own picture can be an object of nulls.
    """
    if not isinstance(part, Image):
        return False
    image = part.image
    return image is None or (isinstance(image, Mapping) and not any(value is not None for value in image.values()))
