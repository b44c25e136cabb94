"""Prompts in a file of rows: all of a row but its last answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import Conversation, content_texts
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.datasets.rl.read import RlRow, read_question
from gemtune.datasets.row_options import ReadOptions
from gemtune.errors import StepError
from trainer.dataset.local_folder import LocalFolder
from trainer.dataset.row import bad_dataset
from trainer.dataset.rows import read_rows
from trainer.media.sources import CLIP, PICTURE, MediaSource

OPTIONS = ReadOptions(with_pictures=True, with_audio=True)
ANSWER = "answer"
Columns = Mapping[str, str | None]
NO_COLUMNS: Columns = {}


@dataclass(frozen=True, slots=True)
class RowPrompt:
    """Prompt of a row.

    number: of the row or line, from 1. conversation: None for a row that cannot be asked. text: the last message of the
    user. expected: the row's own answer; None if it has none. refusal: why the row cannot be asked.
    """

    number: int
    conversation: Conversation | None = None
    text: str = ""
    expected: str | None = None
    refusal: str | None = None


def read(path: Path, columns: Columns = NO_COLUMNS) -> Iterator[RowPrompt]:
    """Yield the prompt of each row of a file.

    columns: the `dataset_columns` of the training, for rows that have such columns. Raises StepError `bad_dataset`.
    """
    reader = _RowReader(path, columns)
    try:
        for number, row in read_rows(path, with_media=True):
            yield RowPrompt(number, refusal=row.reason) if isinstance(row, Refused) else reader.read(number, row)
    except StepError as error:
        raise bad_dataset(error.message, hint="correct the file, and ask again") from error


@dataclass(frozen=True, slots=True)
class _RowReader:
    """Reader of the rows of one file."""

    path: Path
    columns: Columns

    def read(self, number: int, row: Mapping[str, Any]) -> RowPrompt:
        """Return the prompt of a row that could be decoded, or its refusal."""
        try:
            return self._prompt(number, row)
        except BadRow as bad:
            return RowPrompt(number, refusal=str(bad))

    def _prompt(self, number: int, row: Mapping[str, Any]) -> RowPrompt:
        """Return the prompt of a row. Raises BadRow."""
        conversation, expected = self._conversation(row)
        images, clips = conversation.images(), conversation.clips()
        names = {name for medium in (*images, *clips) if (name := _path_in(medium)) is not None}
        folder = _FilesBeside(self.path.parent, names)
        pictures, audio = MediaSource(folder, PICTURE), MediaSource(folder, CLIP)
        opened = conversation.with_images([pictures.content(image) for image in images])
        opened = opened.with_clips([audio.content(clip) for clip in clips])
        text = "".join(content_texts(opened.turns[-1].content))
        return RowPrompt(number, opened, text, expected)

    def _conversation(self, row: Mapping[str, Any]) -> tuple[Conversation, str | None]:
        """Return a row's turns before its last answer, and that answer.

        Rows of supervised training have one, others may. Raises BadRow.
        """
        options = self._options(row)
        content = table.read(row, options)
        if not isinstance(content, Refused):
            if not isinstance(content.content, Conversation):
                raise BadRow("a text without turns has no prompt")
            whole = content.content
            until = max(index for index, turn in enumerate(whole.turns) if turn.role == "assistant")
            return whole.first(until), "".join(content_texts(whole.turns[until].content))
        answer = options.columns.get(ANSWER) or ANSWER
        question = read_question(row, options, [ANSWER] if answer in row else [])
        if not isinstance(question, RlRow):
            raise BadRow(content.reason)
        expected = question.content.answers.get(ANSWER)
        return question.content.prompt, None if expected is None else str(expected)

    def _options(self, row: Mapping[str, Any]) -> ReadOptions:
        """Return how to read a row.

        The columns of the training apply if it has some of them.
        """
        names = {column or name for name, column in self.columns.items()}
        return replace(OPTIONS, columns=self.columns) if names & row.keys() else OPTIONS


def _path_in(medium: Any) -> str | None:
    """Return the path of a picture or clip, or None if the row contains it."""
    path = medium.get("path") if isinstance(medium, Mapping) else medium
    return path if isinstance(path, str) and not path.startswith("data:") else None


class _FilesBeside(LocalFolder):
    """The pictures and clips that a row names, in the folder of its file."""

    def __init__(self, folder: Path, names: set[str]):
        super().__init__(folder)
        self._names = names

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file that exists."""
        files = {name: self._folder / name for name in sorted(self._names)}
        return {name: file.stat().st_size for name, file in files.items() if file.is_file()}
