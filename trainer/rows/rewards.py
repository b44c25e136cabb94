"""What a completion is worth to GRPO: pure functions of its text, its tokens and the row's answer.

Completions are a model's, answers a user's: neither is ever run, and each function takes time that their length bounds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, assert_never

from gemtune.request import rl_spec
from gemtune.request.matching import patterns, schemas
from gemtune.request.rewards import ExactAnswer, JsonSchema, Length, NumericAnswer, Regex, Reward
from gemtune.untrusted import Unreadable, read_json

# completion's text, its tokens, the row's answer -> reward, or None where the row gives nothing to judge by
Score = Callable[[str, int, str | None], float | None]
RewardFunction = Callable[..., list[float | None]]

# A number with a decimal point, thousands set off by commas or not at all. Its sign counts where nothing is subtracted.
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![\w.)])[+-])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))?")
_BY_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?![\d,])")
_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{FULLWIDTH HYPHEN-MINUS}": "-"})
_FENCE = re.compile(r" {0,3}```([^`]*)")


def reward_functions(rewards: Sequence[Reward]) -> list[RewardFunction]:
    """What TRL's GRPOTrainer takes as `reward_funcs`: one a reward, by the name it has in metrics."""
    named = zip(rl_spec.reward_names(list(rewards)), rewards, strict=True)
    return [_function(name, score_function(reward)) for name, reward in named]


def _function(name: str, score: Score) -> RewardFunction:
    def reward(
        completions: Sequence[str], completion_ids: Sequence[Sequence[int]], answer: Sequence[str | None], **_: Any
    ) -> list[float | None]:
        rows = zip(completions, completion_ids, answer, strict=True)
        return [score(text, len(tokens), right) for text, tokens, right in rows]

    reward.__name__ = name
    return reward


def score_function(reward: Reward) -> Score:
    """The function of one reward, with what can be prepared once."""
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
    """1.0 when both are the same text: in Unicode's compatible form, runs of spaces as one, none around."""
    found = _after(text, reward.after)
    if found is None or answer is None:
        return 0.0
    return float(_plain(found, reward.ignore_case) == _plain(answer, reward.ignore_case))


def numeric_answer(text: str, answer: str | None, reward: NumericAnswer) -> float | None:
    """1.0 when the last number of the text is at most `tolerance` off; compared as decimals, so 0.1 is 0.1. None when
    the answer holds no number: TRL leaves such a reward out of the row's sum."""
    right = number(answer or "")
    if right is None:
        return None
    given = number(_after(text, reward.after) or "")
    if given is None:
        return 0.0
    return float(abs(given - right) <= Decimal(repr(reward.tolerance)))


def number(text: str) -> Decimal | None:
    """The last number in a text; None when there is none, or its commas are not between thousands."""
    plain = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    found = [match.group() for match in _NUMBER.finditer(plain)]
    if not found:
        return None
    last = found[-1].rstrip(",")
    if "," in last and not _BY_THOUSANDS.match(last):
        return None
    return Decimal(last.replace(",", ""))


def json_schema(text: str, validator: Any) -> float:
    """1.0 when the text, or its last fenced code block, is JSON that the schema allows."""
    block = _last_block(text)
    try:
        value = read_json(text if block is None else block, max_bytes=len(text), repeated_keys=True)
        return float(validator.is_valid(value))
    except (Unreadable, RecursionError):  # a schema may refer to itself
        return 0.0


def _last_block(text: str) -> str | None:
    """The last block between fences of three backticks; one that is not closed is none."""
    block: list[str] | None = None
    last = None
    for line in text.replace("\r\n", "\n").split("\n"):  # other separators may stand in a JSON text
        fence = _FENCE.fullmatch(line)
        if block is None:
            block = None if fence is None else []
        elif fence is not None and not fence.group(1).strip():
            last, block = "\n".join(block), None
        else:
            block.append(line)
    return last


def length(tokens: int, reward: Length) -> float:
    """1.0 within the bounds; below, the share of `at_least` that is there; above, 1.0 less the share of `at_most` that
    is too much, and never less than 0."""
    if reward.at_least is not None and tokens < reward.at_least:
        return tokens / reward.at_least
    if reward.at_most is not None and tokens > reward.at_most:
        return max(0.0, 1.0 - (tokens - reward.at_most) / reward.at_most)
    return 1.0


def _after(text: str, marker: str | None) -> str | None:
    """What stands after the last marker; None when it is not there."""
    if marker is None:
        return text
    _, there, rest = text.rpartition(marker)
    return rest if there else None


def _plain(text: str, ignore_case: bool) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return plain.casefold() if ignore_case else plain
