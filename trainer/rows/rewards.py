"""Reward functions of GRPO.

They are pure functions of a completion's text, its number of tokens and the row's answer. Neither completions, which a
model wrote, nor answers, which a user wrote, are ever executed. The length of both bounds the time of each function.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import repeat
from typing import Any, assert_never

from gemtune.request import rl_spec
from gemtune.request.matching import patterns, schemas
from gemtune.request.rewards import AnswerReward, ExactAnswer, JsonSchema, Length, NumericAnswer, Regex, Reward
from gemtune.untrusted import Unreadable, read_json
from trainer.rows.numbers.reading import NotOneNumber, last_number, read_answer
from trainer.rows.prepared import ANSWER

# (text of the completion, its number of tokens, the row's answer) -> reward, or None if the row cannot be judged
Score = Callable[[str, int, str | None], float | None]
RewardFunction = Callable[..., list[float | None]]

_FENCE = re.compile(r" {0,3}```([^`]*)")


def reward_functions(rewards: Sequence[Reward]) -> list[RewardFunction]:
    """Return the `reward_funcs` of TRL's GRPOTrainer: one function per reward.

    A function's `__name__` is the reward's name in metrics.
    """
    named = zip(rl_spec.reward_names(list(rewards)), rewards, strict=True)
    return [_function(name, reward) for name, reward in named]


def _function(name: str, reward: Reward) -> RewardFunction:
    score = score_function(reward)
    column = column_of_answers(reward.answer_column) if isinstance(reward, AnswerReward) else None

    def scores(
        completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        answers = repeat(None, len(completions)) if column is None else columns[column]
        rows = zip(completions, completion_ids, answers, strict=True)
        return [score(text, len(tokens), answer) for text, tokens, answer in rows]

    scores.__name__ = name
    return scores


def column_of_answers(column: str) -> str:
    """Return the token file's name of a dataset's column of answers.

    TRL gives functions the file's columns by name, beside arguments of its own.
    """
    return column if column == ANSWER else f"{ANSWER} {column}"


def score_function(reward: Reward) -> Score:
    """Return the scoring function of one reward.

    Patterns and schemas are compiled here, once.
    """
    match reward:
        case ExactAnswer():
            return lambda text, tokens, answer: exact_answer(text, answer, reward)
        case NumericAnswer():
            return lambda text, tokens, answer: numeric_answer(text, answer, reward)
        case Regex():
            pattern = patterns.compile_pattern(reward.pattern)
            return lambda text, tokens, answer: float(pattern.search(text) is not None)
        case JsonSchema():
            validator = schemas.build_validator(reward.json_schema)
            return lambda text, tokens, answer: json_schema(text, validator)
        case Length():
            return lambda text, tokens, answer: length(tokens, reward)
    assert_never(reward)


def exact_answer(text: str, answer: str | None, reward: ExactAnswer) -> float:
    """Return 1.0 if the text, after its marker, is the answer; otherwise 0.0.

    Both are compared in Unicode's NFKC form, with runs of white space as one space and none around.
    """
    conclusion = _after(text, reward.after)
    if conclusion is None or answer is None:
        return 0.0
    expected = conclusion_of(answer, reward.after)
    return float(_plain(conclusion, reward.ignore_case) == _plain(expected, reward.ignore_case))


def numeric_answer(text: str, answer: str | None, reward: NumericAnswer) -> float | None:
    """Return 1.0 if the text's last number is close to the answer's, else 0.0.

    Close means: at most `tolerance` apart. Numbers are compared as fractions, so 0.1 is exactly 0.1, and 50% is 1/2.
    If both have a unit, it must be the same. Returns None if the answer is not one number: TRL then leaves the reward
    out of the row's sum.
    """
    try:
        expected = read_answer(conclusion_of(answer or "", reward.after))
    except NotOneNumber:
        return None
    completed = last_number(_after(text, reward.after) or "")
    if completed is None or not completed.has_unit_of(expected):
        return 0.0
    return float(abs(completed.value - expected.value) <= Fraction(repr(reward.tolerance)))


def json_schema(text: str, validator: Any) -> float:
    """Return 1.0 if a text is JSON that the schema allows, otherwise 0.0.

    If the text has fenced code blocks, only the last of them is read.
    """
    block = _last_block(text)
    try:
        value = read_json(text if block is None else block, max_bytes=len(text), repeated_keys=True)
        return float(validator.is_valid(value))
    except (Unreadable, RecursionError):  # a schema may refer to itself
        return 0.0


def _last_block(text: str) -> str | None:
    """Return the last block between fences of three backticks, or None.

    A block without a closing fence does not count.
    """
    block: list[str] | None = None
    last = None
    for line in text.replace("\r\n", "\n").split("\n"):  # splitlines would also split at characters that JSON allows
        fence = _FENCE.fullmatch(line)
        if block is None:
            block = None if fence is None else []
        elif fence is not None and not fence.group(1).strip():
            last, block = "\n".join(block), None
        else:
            block.append(line)
    return last


def length(tokens: int, reward: Length) -> float:
    """Return 1.0 within the bounds, and less the further tokens are outside.

    Below: tokens / at_least. Above: max(0, 1 - (tokens - at_most) / at_most).
    """
    if reward.at_least is not None and tokens < reward.at_least:
        return tokens / reward.at_least
    if reward.at_most is not None and tokens > reward.at_most:
        return max(0.0, 1.0 - (tokens - reward.at_most) / reward.at_most)
    return 1.0


def conclusion_of(answer: str, marker: str | None) -> str:
    """Return the part of a row's answer that is compared.

    An answer with the marker, such as GSM8K's with their calculation before `####`, is compared from there on, as
    completions are; one without it is compared whole.
    """
    conclusion = _after(answer, marker)
    return answer if conclusion is None else conclusion


def _after(text: str, marker: str | None) -> str | None:
    """Return the text after the last marker, or None if it has no marker.

    If the reward has no marker, that is the whole text.
    """
    if marker is None:
        return text
    _, separator, rest = text.rpartition(marker)
    return rest if separator else None


def _plain(text: str, ignore_case: bool) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return plain.casefold() if ignore_case else plain
