"""Rewards that GRPO maximizes: one class each, with its parameters and rules.

No reward runs code of the user. The functions that compute them are in `trainer/rows/rewards.py`.
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
    """Parameters that all rewards have.

    compares: what a completion is compared with: nothing, the row's answer, or the number in that answer.
    """

    compares: ClassVar[Literal["nothing", "answer", "number"]]

    name: str | None = Field(
        None, pattern=r"^[a-z0-9_]{1,40}$", description="name of the reward in metrics; absent: its type"
    )
    weight: float = Field(
        1.0, ge=-100, le=100, description="factor of the reward in the weighted sum; a negative one makes it a penalty"
    )

    @abstractmethod
    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield what is wrong with the parameters.

        loc: location of the reward in the request. max_completion_length: the request's limit in tokens.
        """


class AnswerReward(RewardBase):
    """Parameters of rewards that compare the completion's answer."""

    after: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="text after whose last occurrence the answer begins, in the completion and, if it is there, in the "
        "row's answer; absent: the whole completion is the answer",
    )
    answer_column: str = Field(
        "answer",
        min_length=1,
        max_length=100,
        description="column of the dataset with the answers to compare with; `a.b` is the field b inside of column a",
    )

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield nothing: no combination of the parameters is wrong."""
        return iter(())


class ExactAnswer(AnswerReward):
    """1 if the completion's answer equals the row's, except for spaces."""

    compares = "answer"

    type: Literal["exact_answer"] = Field(description="which reward this is")
    ignore_case: bool = Field(False, description="treat upper and lower case as equal")


class NumericAnswer(AnswerReward):
    """1 if the completion's last number equals the row's answer."""

    compares = "number"

    type: Literal["numeric_answer"] = Field(description="which reward this is")
    tolerance: float = Field(
        0.0, ge=0, le=1e12, description="largest absolute difference of numbers that count as equal"
    )


class Regex(RewardBase):
    """1 if the pattern matches somewhere in the completion."""

    compares = "nothing"

    type: Literal["regex"] = Field(description="which reward this is")
    pattern: str = Field(
        min_length=1,
        max_length=1000,
        description="pattern in RE2 syntax; anchor it with ^ and $ to match the whole completion",
    )

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield a problem for a pattern that RE2 cannot run."""
        try:
            patterns.compile_pattern(self.pattern)
        except ValueError as error:
            yield Problem(
                (*loc, "pattern"), f"this is not an RE2 pattern: {error}", "bad_pattern", "see the syntax of RE2"
            )


class JsonSchema(RewardBase):
    """1 if the completion, or its last code block, matches a JSON Schema."""

    compares = "nothing"

    type: Literal["json_schema"] = Field(description="which reward this is")
    json_schema: dict[str, Any] = Field(description="JSON Schema of draft 2020-12")

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield a problem for a schema that is invalid or not supported."""
        try:
            schemas.build_validator(self.json_schema)
        except ValueError as error:
            hint = "use JSON Schema 2020-12, with all definitions in the schema itself"
            yield Problem((*loc, "json_schema"), f"this schema cannot be used: {error}", "bad_schema", hint)


class Length(RewardBase):
    """1 if the completion's length is within bounds, else less.

    The reward decreases with the distance from the bounds. The token that ends the turn counts.
    """

    compares = "nothing"

    type: Literal["length"] = Field(description="which reward this is")
    at_least: Tokens | None = Field(None, description="smallest number of tokens; absent: no lower bound")
    at_most: Tokens | None = Field(None, description="largest number of tokens; absent: no upper bound")

    def problems(self, loc: Loc, *, max_completion_length: int) -> Iterator[Problem]:
        """Yield problems for missing, empty or unreachable bounds."""
        if self.at_least is None:
            if self.at_most is None:
                yield Problem(
                    loc, "reward length needs at_least or at_most", "missing_field", "set one of them, or both"
                )
            return
        if self.at_most is not None and self.at_least > self.at_most:
            yield Problem(loc, "at_least is larger than at_most", "empty_range", "lower at_least")
        if self.at_least > max_completion_length:
            message = f"no completion can have more than max_completion_length ({max_completion_length}) tokens"
            yield Problem((*loc, "at_least"), message, "out_of_reach", "lower at_least, or raise max_completion_length")


Reward = Annotated[ExactAnswer | NumericAnswer | Regex | JsonSchema | Length, Field(discriminator="type")]
