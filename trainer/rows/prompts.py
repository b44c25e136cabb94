"""Rows of GRPO: a prompt, and the answer to compare completions with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.rl.read import read_question
from gemtune.datasets.row_options import ReadOptions
from gemtune.errors import StepError
from gemtune.request import rl_spec
from gemtune.request.rewards import AnswerReward, NumericAnswer
from gemtune.request.rl_spec import GrpoConfig
from trainer.media.arrow_file import MediaFile, open_media, store_media
from trainer.rows import rewards
from trainer.rows.encoder import Encoder
from trainer.rows.numbers.reading import NotOneNumber, read_answer
from trainer.rows.prepared import PICTURES
from trainer.rows.replies import encode_prompt


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of GRPO: the tokenized prompt, and the answers by column.

    pictures: numbers of the prompt's pictures in the picture file. unjudged_by: names of the rewards that the answer
    gives nothing to compare with. unread_fields: names of the row's fields that cannot change what is learned.
    """

    prompt_ids: list[int]
    answers: Mapping[str, str]
    pictures: Sequence[int]
    unjudged_by: Sequence[str] = ()
    unread_fields: Sequence[str] = ()

    format = "prompt"

    truncated = end_is_cut = False  # prompts are never truncated: a shortened one would ask something else
    trained_tokens = 0  # training samples the completions

    @property
    def columns(self) -> dict[str, Any]:
        answers = {rewards.column_of_answers(column): answer for column, answer in self.answers.items()}
        return {"prompt_ids": self.prompt_ids, PICTURES: self.pictures} | answers

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def whole_tokens(self) -> int:
        return self.tokens


class Prompts:
    """Rows of GRPO: a prompt, and the columns that rewards compare with.

    Rewards that compare numbers cannot judge a row whose answer is not one number. Such a row is kept for the other
    rewards, and refused if there are none.
    """

    def __init__(
        self,
        encoder: Encoder,
        rl: GrpoConfig,
        media_file: MediaFile | None,
        options: ReadOptions,
        *,
        max_length: int,
    ):
        """Raise StepError `completion_too_long` if no prompt would fit.

        media_file: stores the pictures of a vision job. options: how to read rows. max_length: tokens of prompt and
        completion together.
        """
        self._encoder, self._media_file = encoder, media_file
        self._completion_tokens = rl.max_completion_length
        self._max_tokens = max_length - rl.max_completion_length
        self.with_media = media_file is not None
        self._options = options
        self._answer_columns = rl_spec.answer_columns(rl)
        columns = ("prompt_ids", *map(rewards.column_of_answers, self._answer_columns))
        self.columns: Sequence[str] = (*columns, PICTURES) if self.with_media else columns
        if self._max_tokens < 1:
            message = (
                f"the base model reads {max_length} tokens: {rl.max_completion_length} tokens of a completion leave "
                "no room for a prompt"
            )
            raise StepError("completion_too_long", message, hint="lower max_completion_length")
        named = zip(rl_spec.reward_names(rl.rewards), rl.rewards, strict=True)
        self._comparing = [(name, reward) for name, reward in named if isinstance(reward, AnswerReward)]
        self._only_numbers = all(isinstance(reward, NumericAnswer) for reward in rl.rewards)

    def encode(self, row: dict[str, Any]) -> Prompt | Refused:
        read = read_question(row, self._options, self._answer_columns)
        if isinstance(read, Refused):
            return read
        try:
            unjudged_by = self._unjudged_by(read.content.answers)
            prompt = open_media(self._media_file, read.content.prompt)
        except BadRow as bad:
            return Refused(str(bad))
        ids = encode_prompt(self._encoder, prompt)
        if isinstance(ids, Refused):
            return ids
        if len(ids) > self._max_tokens:
            limit = f"max_seq_length less max_completion_length is {self._max_tokens}"
            return TooLong(f"the prompt has {len(ids)} tokens; {limit}", len(ids) + self._completion_tokens)
        try:
            pictures = store_media(self._media_file, prompt)
        except BadRow as bad:
            return Refused(str(bad))
        return Prompt(ids, read.content.answers, pictures, unjudged_by, read.unread_fields)

    def text_pieces(self, prompt: Prompt) -> list[dict[str, Any]]:
        answers = [{"trained": False, "part": column, "text": text} for column, text in prompt.answers.items()]
        return [{"trained": False, "text": self._encoder.text(prompt.prompt_ids)}, *answers]

    def _unjudged_by(self, answers: Mapping[str, str]) -> list[str]:
        """Return the names of the rewards that need a number and get none.

        Raises BadRow if no other reward is left, or if an answer is empty.
        """
        problems = {}
        for name, reward in self._comparing:
            answer = rewards.conclusion_of(answers[reward.answer_column], reward.after)
            if not answer.strip():
                raise BadRow(f"the {reward.answer_column} is empty after {reward.after!r}")
            try:
                if isinstance(reward, NumericAnswer):
                    read_answer(answer)
            except NotOneNumber as problem:
                problems[name] = f"the {reward.answer_column} {problem}"
        if problems and self._only_numbers and len(problems) == len(self._comparing):
            raise BadRow(f"{next(iter(problems.values()))}, and all rewards compare numbers")
        return list(problems)
