"""Rows of GRPO: a prompt to complete, and the answer that completions are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gemtune.errors import StepError
from gemtune.request import rl_spec
from gemtune.request.rl_spec import GrpoConfig
from trainer.conversation.dataset_files import Refused
from trainer.conversation.messages import BadRow, Messages, checked_messages, column_turns, names_in
from trainer.pictures.arrow_file import PictureFile, store_pictures
from trainer.rows import rewards
from trainer.rows.encoder import Encoder
from trainer.rows.prepared import ANSWER, PICTURES


@dataclass(frozen=True, slots=True)
class Prompt:
    prompt_ids: list[int]
    answer: str | None
    pictures: Sequence[int]
    unjudged_by: Sequence[str] = ()

    truncated = end_is_cut = False  # a prompt cut short would ask something else
    trained_tokens = 0  # what is trained on is yet to be sampled

    @property
    def columns(self) -> dict[str, Any]:
        return {"prompt_ids": self.prompt_ids, ANSWER: self.answer, PICTURES: self.pictures}

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def whole_tokens(self) -> int:
        return self.tokens


class Prompts:
    """`{"prompt", "answer"}`; the answer may be absent when no reward compares with it.

    An answer without a number gives a reward that compares numbers nothing to judge by. The row is kept for the other
    rewards, and refused where there are none."""

    def __init__(self, encoder: Encoder, rl: GrpoConfig, picture_file: PictureFile | None, *, max_length: int):
        """picture_file: where the pictures of a vision job are collected. max_length: tokens of prompt and completion
        together. Raises StepError `completion_too_long`."""
        self._encoder, self._picture_file, self._max_tokens = (
            encoder,
            picture_file,
            max_length - rl.max_completion_length,
        )
        self.with_pictures = picture_file is not None
        self.columns: Sequence[str] = ("prompt_ids", ANSWER, PICTURES) if self.with_pictures else ("prompt_ids", ANSWER)
        if self._max_tokens < 1:
            message = f"the base model reads {max_length} tokens, which leaves none for a prompt"
            raise StepError("completion_too_long", message, hint="lower max_completion_length")
        self._needs_answer = rl_spec.needs_answer(rl)
        named = zip(rl_spec.reward_names(rl.rewards), rl.rewards, strict=True)
        self._need_number = tuple(name for name, reward in named if reward.compares == "number")
        self._only_numbers = len(self._need_number) == len(rl.rewards)

    def encode(self, row: dict[str, Any]) -> Prompt | Refused:
        try:
            messages, answer = _messages(row, with_pictures=self.with_pictures), self._answer(row)
        except BadRow as bad:
            return Refused(str(bad))
        ids = self._encoder.prompt(messages)
        if isinstance(ids, Refused):
            return ids
        if len(ids) > self._max_tokens:
            return Refused(f"the prompt has {len(ids)} tokens; max_seq_length leaves it {self._max_tokens}")
        pictures = store_pictures(self._picture_file, messages)
        if isinstance(pictures, Refused):
            return pictures
        judged = answer is None or rewards.number(answer) is not None
        return Prompt(ids, answer, pictures, () if judged else self._need_number)

    def text_pieces(self, prompt: Prompt) -> list[dict[str, Any]]:
        pieces: list[dict[str, Any]] = [{"trained": False, "text": self._encoder.text(prompt.prompt_ids)}]
        if prompt.answer is not None:
            pieces.append({"trained": False, "part": ANSWER, "text": prompt.answer})
        return pieces

    def _answer(self, row: dict[str, Any]) -> str | None:
        if not self._needs_answer:
            return None
        value = row.get(ANSWER)
        if value is None:
            raise BadRow(f"no answer, which a reward compares with; has {names_in(row)}")
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise BadRow("answer is no text and no number")
        if not value.strip():
            raise BadRow("an empty answer")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow("broken Unicode (half of a surrogate pair)") from None
        if self._only_numbers and rewards.number(value) is None:
            raise BadRow("the answer holds no number, which all rewards compare with")
        return value


def _messages(row: dict[str, Any], *, with_pictures: bool) -> Messages:
    if "prompt" not in row:
        shape = {"chosen", "rejected"} & set(row)
        told = "a row for DPO; " if shape else "a row for supervised training; " if "messages" in row else ""
        raise BadRow(f"{told}GRPO needs prompt (and answer); has {names_in(row)}")
    if "completion" in row or {"chosen", "rejected"} <= set(row):
        raise BadRow(f"a row for another method: GRPO samples its completions; has {names_in(row)}")
    return prompt_messages(row["prompt"], with_pictures=with_pictures)


def prompt_messages(prompt: Any, *, with_pictures: bool) -> Messages:
    """A prompt's messages, the last one the user's, who may show pictures if `with_pictures`.

    Raises BadRow.
    """
    messages = checked_messages(column_turns(prompt, "user", "prompt"), with_pictures=with_pictures)
    if messages[-1]["role"] != "user":
        raise BadRow(f"the prompt ends with a turn of the {messages[-1]['role']}, not of the user")
    return messages
