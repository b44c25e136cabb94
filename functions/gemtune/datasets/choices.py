"""Rows of two answers and a column that says which one is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
# Strengths of a preference: negative for the first answer, positive for the second, zero for neither.
_STRENGTHS = {"-3": 0, "-2": 0, "-1": 0, "1": 1, "2": 1, "3": 1}
_FIRST_OR_SECOND = {"1": 0, "2": 1}


@dataclass(frozen=True, slots=True)
class Choice:
    """Columns of the rows of a dataset, and of those like them.

    whose: name of the dataset, for docs. answers: the two answers, or whole conversations. verdict: the column that
    says which is better. better: by its values, as texts in lower case, the index of the better answer; any other value
    says that neither is. prompt: a column with the prompt, if no other format has it in a column of that name.
    """

    whose: str
    answers: tuple[str, str]
    verdict: str
    better: Mapping[str, int]
    prompt: str | None = None

    @property
    def columns(self) -> tuple[str, str, str]:
        """Names of all columns."""
        return (*self.answers, self.verdict)


CHOICES = (
    Choice("PKU-SafeRLHF", ("response_0", "response_1"), "better_response_id", {"0": 0, "1": 1}),
    Choice("AlpacaFarm", ("output_1", "output_2"), "preference", _FIRST_OR_SECOND),
    Choice("HelpSteer2", ("response_1", "response_2"), "preference_strength", _STRENGTHS),
    Choice("HelpSteer3", ("response1", "response2"), "overall_preference", _STRENGTHS, prompt="context"),
    Choice("LMSYS's arena", ("conversation_a", "conversation_b"), "winner", {"model_a": 0, "model_b": 1}),
    Choice("LMSYS's arena", ("response_a", "response_b"), "winner", {"model_a": 0, "model_b": 1}),
)
COLUMNS = tuple(dict.fromkeys(column for choice in CHOICES for column in choice.columns))


def choice_of(row: Row) -> Choice | None:
    """Return the choice whose columns a row has, or None."""
    return next((choice for choice in CHOICES if all(column in row for column in choice.columns)), None)
