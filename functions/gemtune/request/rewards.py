"""The rewards that GRPO maximizes: one class each, with its parameters, what it needs of a row, and its own rules.

No reward runs code of the user. `trainer/rows/rewards.py` has the function of each class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gemtune.errors import Problem
from gemtune.request.contract import Contract, Loc
from gemtune.request.matching import patterns, schemas

Tokens = Annotated[int, Field(ge=1, le=8192)]


class RewardBase(Contract, ABC):
    """compares: what it compares a completion with: nothing, the row's answer, or the number in that answer."""

    compares: ClassVar[Literal["nothing", "answer", "number"]]

    name: str | None = Field(None, pattern=r"^[a-z0-9_]{1,40}$", description="its name in metrics; absent: its type")
    weight: float = Field(1.0, ge=-100, le=100, description="its factor in the sum; negative: a penalty")

    @abstractmethod
    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield what is wrong with its parameters. loc: where it stands in the request."""


class AnswerReward(RewardBase):
    after: str | None = Field(
        None, min_length=1, max_length=100, description="the answer stands after the last one of these; absent: all"
    )

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        return iter(())


class ExactAnswer(AnswerReward):
    """1 when the completion's answer is the row's, spaces aside."""

    compares = "answer"

    type: Literal["exact_answer"] = Field(description="which reward this is")
    ignore_case: bool = Field(False, description="whether upper and lower case are the same")


class NumericAnswer(AnswerReward):
    """1 when the last number of the completion's answer is the row's, within a tolerance."""

    compares = "number"

    type: Literal["numeric_answer"] = Field(description="which reward this is")
    tolerance: float = Field(0.0, ge=0, le=1e12, description="absolute difference that still counts as the same")


class Regex(RewardBase):
    """1 when the pattern is found in the completion."""

    compares = "nothing"

    type: Literal["regex"] = Field(description="which reward this is")
    pattern: str = Field(min_length=1, max_length=1000, description="RE2 syntax; anchor it with ^ and $")

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        try:
            patterns.compile_pattern(self.pattern)
        except ValueError as error:
            yield Problem((*loc, "pattern"), f"this is no RE2 pattern: {error}", "bad_pattern", "see RE2's syntax")


class JsonSchema(RewardBase):
    """1 when the completion, or its last code block, is JSON that the schema allows."""

    compares = "nothing"

    type: Literal["json_schema"] = Field(description="which reward this is")
    json_schema: dict[str, Any] = Field(description="JSON Schema, draft 2020-12")

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        try:
            schemas.build_validator(self.json_schema)
        except ValueError as error:
            hint = "use JSON Schema 2020-12 with its definitions inside"
            yield Problem((*loc, "json_schema"), f"this schema cannot be used: {error}", "bad_schema", hint)


class Length(RewardBase):
    """1 when the completion has a number of tokens, its end of turn among them, within bounds; less the further off."""

    compares = "nothing"

    type: Literal["length"] = Field(description="which reward this is")
    at_least: Tokens | None = Field(None, description="tokens")
    at_most: Tokens | None = Field(None, description="tokens")

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        if self.at_least is None:
            if self.at_most is None:
                yield Problem(loc, "length needs at_least or at_most", "missing_field", "give one of them, or both")
            return
        if self.at_most is not None and self.at_least > self.at_most:
            yield Problem(loc, "at_least is more than at_most", "empty_range", "lower at_least")
        if self.at_least > max_completion_length:
            message = f"no completion has more than max_completion_length ({max_completion_length}) tokens"
            yield Problem((*loc, "at_least"), message, "out_of_reach", "lower at_least, or raise max_completion_length")


Reward = Annotated[ExactAnswer | NumericAnswer | Regex | JsonSchema | Length, Field(discriminator="type")]
