"""Rows of DPO: a prompt, the chosen answer and the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemtune.datasets import turn_order
from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.reading.fields import Fields, Reading, names_in
from gemtune.datasets.reading.turns import column_turns
from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.row_options import ReadOptions
from trainer.pictures.arrow_file import PictureFile, open_pictures, store_pictures
from trainer.rows.encoder import Encoder
from trainer.rows.prepared import PICTURES
from trainer.rows.prompts import prompt_conversation


@dataclass(frozen=True, slots=True)
class Preference:
    """One row of DPO, tokenized.

    Each answer is truncated so that it fits behind the prompt. whole_tokens: tokens of the longer sequence before
    truncation. end_is_cut: the chosen answer lost its end. pictures: numbers of the prompt's pictures in the picture
    file.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    whole_tokens: int
    end_is_cut: bool
    pictures: Sequence[int]

    unjudged_by = unread_fields = ()
    format = "preference"

    @property
    def columns(self) -> dict[str, Any]:
        ids = {"prompt_ids": self.prompt_ids, "chosen_ids": self.chosen_ids, "rejected_ids": self.rejected_ids}
        return ids | {PICTURES: self.pictures}

    @property
    def tokens(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def truncated(self) -> bool:
        return self.whole_tokens > self.tokens

    @property
    def trained_tokens(self) -> int:
        return len(self.chosen_ids) + len(self.rejected_ids)


class Preferences:
    """Rows `{"prompt", "chosen", "rejected"}` of DPO.

    Each value is a text or a list of messages. picture_file: stores the pictures of a vision job, which only prompts
    may hold. max_length: tokens of a prompt and one answer together. cuts: longer answers are cut, and otherwise their
    rows refused as too long.
    """

    def __init__(self, encoder: Encoder, picture_file: PictureFile | None, *, max_length: int, cuts: bool):
        self._encoder, self._picture_file, self._max_length, self._cuts = encoder, picture_file, max_length, cuts
        self.with_pictures = picture_file is not None
        ids = ("prompt_ids", "chosen_ids", "rejected_ids")
        self.columns: Sequence[str] = (*ids, PICTURES) if self.with_pictures else ids

    def encode(self, row: dict[str, Any]) -> Preference | Refused:
        """Return the tokenized row, or why it is refused.

        Only the chosen answer counts for `end_is_cut`: it is the one that the model learns to end.
        """
        try:
            prompt, chosen, rejected = _parts(row, with_pictures=self.with_pictures)
            prompt = open_pictures(self._picture_file, prompt)
        except BadRow as bad:
            return Refused(str(bad))
        ids = [self._encoder.prompt(prompt), *(self._encoder.reply(prompt, answer) for answer in (chosen, rejected))]
        for each in ids:
            if isinstance(each, Refused):
                return each
        prompt_ids, *answers = (each for each in ids if not isinstance(each, Refused))
        room = self._max_length - len(prompt_ids)
        whole_tokens = len(prompt_ids) + max(map(len, answers))
        if whole_tokens > self._max_length and not self._cuts:
            return TooLong(f"{whole_tokens} tokens", whole_tokens)
        if room < 1:
            return Refused(f"the prompt alone has {len(prompt_ids)} tokens; max_seq_length is {self._max_length}")
        truncated = [answer[:room] for answer in answers]
        chosen_ids, rejected_ids = truncated
        if chosen_ids == rejected_ids:
            scope = " up to max_seq_length" if truncated != answers else ""
            return Refused(f"chosen and rejected are the same{scope}")
        try:
            pictures = store_pictures(self._picture_file, prompt)
        except BadRow as bad:
            return Refused(str(bad))
        return Preference(prompt_ids, chosen_ids, rejected_ids, whole_tokens, len(answers[0]) > room, pictures)

    def text_pieces(self, preference: Preference) -> list[dict[str, Any]]:
        answers = {"chosen": preference.chosen_ids, "rejected": preference.rejected_ids}
        return [
            {"trained": False, "text": self._encoder.text(preference.prompt_ids)},
            *({"trained": True, "part": name, "text": self._encoder.text(ids)} for name, ids in answers.items()),
        ]


def _parts(row: dict[str, Any], *, with_pictures: bool) -> tuple[Conversation, Turn, Turn]:
    """Return the prompt, the chosen and the rejected answer. Raises BadRow."""
    if not {"prompt", "chosen", "rejected"} <= set(row):
        guess = "this is a row for GRPO; " if "answer" in row else ""
        guess = "this is a row for supervised training; " if {"messages", "completion"} & set(row) else guess
        raise BadRow(f"{guess}DPO needs prompt, chosen and rejected; the row has {names_in(row)}")
    prompt = prompt_conversation(row["prompt"], with_pictures=with_pictures)
    chosen, rejected = (
        _answer(prompt, row[column], column, with_pictures=with_pictures) for column in ("chosen", "rejected")
    )
    return prompt, chosen, rejected


def _answer(prompt: Conversation, value: Any, column: str, *, with_pictures: bool) -> Turn:
    fields = Fields({column: value}, Reading(ReadOptions(with_pictures=with_pictures)))
    turns = column_turns(fields, column, "assistant")
    if len(turns) != 1:
        raise BadRow(f"{column} has {len(turns)} messages; it must be one message of the assistant")
    return turn_order.checked(prompt.with_turns([*prompt.turns, *turns])).turns[-1]
