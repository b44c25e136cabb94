"""Rows of GRPO: a prompt, and the answer to compare completions with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gemtune.datasets import turn_order
from gemtune.datasets.conversation import Conversation
from gemtune.datasets.reading.fields import Fields, Reading, names_in
from gemtune.datasets.reading.turns import column_turns
from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.row_options import ReadOptions
from gemtune.errors import StepError
from gemtune.request import rl_spec
from gemtune.request.rewards import AnswerReward, NumericAnswer
from gemtune.request.rl_spec import GrpoConfig
from trainer.pictures.arrow_file import PictureFile, open_pictures, store_pictures
from trainer.rows import rewards
from trainer.rows.encoder import Encoder
from trainer.rows.numbers.reading import NotOneNumber, read_answer
from trainer.rows.prepared import ANSWER, PICTURES


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of GRPO: the tokenized prompt, and the answer as text.

    pictures: numbers of the prompt's pictures in the picture file. unjudged_by: names of the rewards that the answer
    gives nothing to compare with.
    """

    prompt_ids: list[int]
    answer: str | None
    pictures: Sequence[int]
    unjudged_by: Sequence[str] = ()

    unread_fields = ()
    format = "prompt"

    truncated = end_is_cut = False  # prompts are never truncated: a shortened one would ask something else
    trained_tokens = 0  # training samples the completions

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
    """Rows `{"prompt", "answer"}` of GRPO.

    The answer may be absent if no reward compares with it. Rewards that compare numbers cannot judge a row whose answer
    has no number. Such a row is kept for the other rewards, and refused if there are none.
    """

    def __init__(self, encoder: Encoder, rl: GrpoConfig, picture_file: PictureFile | None, *, max_length: int):
        """Raise StepError `completion_too_long` if no prompt would fit.

        picture_file: stores the pictures of a vision job. max_length: tokens of prompt and completion together.
        """
        self._encoder, self._picture_file = encoder, picture_file
        self._completion_tokens = rl.max_completion_length
        self._max_tokens = max_length - rl.max_completion_length
        self.with_pictures = picture_file is not None
        self.columns: Sequence[str] = ("prompt_ids", ANSWER, PICTURES) if self.with_pictures else ("prompt_ids", ANSWER)
        if self._max_tokens < 1:
            message = (
                f"the base model reads {max_length} tokens: {rl.max_completion_length} tokens of a completion leave "
                "no room for a prompt"
            )
            raise StepError("completion_too_long", message, hint="lower max_completion_length")
        self._needs_answer = rl_spec.needs_answer(rl)
        named = zip(rl_spec.reward_names(rl.rewards), rl.rewards, strict=True)
        self._numeric = [(name, reward.after) for name, reward in named if isinstance(reward, NumericAnswer)]
        self._markers = [reward.after for reward in rl.rewards if isinstance(reward, AnswerReward)]
        self._only_numbers = len(self._numeric) == len(rl.rewards)

    def encode(self, row: dict[str, Any]) -> Prompt | Refused:
        try:
            conversation, answer = _conversation(row, with_pictures=self.with_pictures), self._answer(row)
            unjudged_by = self._unjudged_by(answer)
            conversation = open_pictures(self._picture_file, conversation)
        except BadRow as bad:
            return Refused(str(bad))
        ids = self._encoder.prompt(conversation)
        if isinstance(ids, Refused):
            return ids
        if len(ids) > self._max_tokens:
            limit = f"max_seq_length less max_completion_length is {self._max_tokens}"
            return TooLong(f"the prompt has {len(ids)} tokens; {limit}", len(ids) + self._completion_tokens)
        try:
            pictures = store_pictures(self._picture_file, conversation)
        except BadRow as bad:
            return Refused(str(bad))
        return Prompt(ids, answer, pictures, unjudged_by)

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
            raise BadRow(f"no answer, which a reward needs to compare with; the row has {names_in(row)}")
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise BadRow("the answer is neither a text nor a number")
        if not value.strip():
            raise BadRow("the answer is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow("the answer is broken Unicode (half of a surrogate pair)") from None
        empty = next((marker for marker in self._markers if not rewards.conclusion_of(value, marker).strip()), None)
        if empty is not None:
            raise BadRow(f"the answer is empty after {empty!r}")
        return value

    def _unjudged_by(self, answer: str | None) -> list[str]:
        """Return the names of the rewards that need a number and get none.

        Raises BadRow if no other reward is left.
        """
        problems = {}
        for name, marker in self._numeric:
            try:
                read_answer(rewards.conclusion_of(answer or "", marker))
            except NotOneNumber as problem:
                problems[name] = problem
        if problems and self._only_numbers and len(problems) == len(self._numeric):
            raise BadRow(f"the answer {next(iter(problems.values()))}, and all rewards compare numbers")
        return list(problems)


def _conversation(row: dict[str, Any], *, with_pictures: bool) -> Conversation:
    if "prompt" not in row:
        shape = {"chosen", "rejected"} & set(row)
        guess = "supervised training" if "messages" in row else ""
        guess = "DPO" if shape else guess
        guess = f"this is a row for {guess}; " if guess else ""
        raise BadRow(f"{guess}GRPO needs prompt (and answer); the row has {names_in(row)}")
    if "completion" in row or {"chosen", "rejected"} <= set(row):
        raise BadRow(f"this is a row for another method: GRPO samples completions itself; the row has {names_in(row)}")
    return prompt_conversation(row["prompt"], with_pictures=with_pictures)


def prompt_conversation(prompt: Any, *, with_pictures: bool) -> Conversation:
    """Return the conversation of a prompt; the last turn is the user's.

    Raises BadRow.

    prompt: the row's value, a text or a list of messages. with_pictures: users may show pictures.
    """
    fields = Fields({"prompt": prompt}, Reading(ReadOptions(with_pictures=with_pictures)))
    conversation = turn_order.checked(Conversation(tuple(column_turns(fields, "prompt", "user"))))
    last = conversation.turns[-1].role
    if last != "user":
        raise BadRow(f"the prompt ends with a message of the {last}; the last one must be the user's")
    return conversation
