"""Scores of each reward; nothing a model writes can break or stall one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gemtune.request.rewards import Reward
from trainer.rows import rewards

ADAPTER: TypeAdapter[Reward] = TypeAdapter(Reward)


def score(reward_type: str, text: str, answer: str | None = None, *, tokens: int = 0, **parameters: Any) -> float:
    return rewards.score_function(ADAPTER.validate_python({"type": reward_type, **parameters}))(text, tokens, answer)


@pytest.mark.parametrize(
    ("text", "answer", "parameters", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        (" Paris\n", "Paris", {}, 1),
        ("Paris.", "Paris", {}, 0),
        ("", "Paris", {}, 0),
        ("paris", "Paris", {}, 0),
        ("STRASSE", "Straße", {"ignore_case": True}, 1),
        ("caf\u0065\u0301", "caf\u00e9", {}, 1),
        ("\uff28i", "Hi", {}, 1),
        ("a \t\n b", "a b", {}, 1),
        ("So: #### 12 #### Paris", "Paris", {"after": "####"}, 1),
        ("Paris", "Paris", {"after": "####"}, 0),
        ("Paris ####", "Paris", {"after": "####"}, 0),
        ("Paris", None, {}, 0),
        ("\U0001f600", "\U0001f600", {}, 1),
    ],
)
def test_an_exact_answer_is_the_same_text(text: str, answer: str | None, parameters: Any, expected: float) -> None:
    assert score("exact_answer", text, answer, **parameters) == expected


@pytest.mark.parametrize(
    ("text", "answer", "tolerance", "expected"),
    [
        ("0.1", "0.1", 0, 1),
        ("0.30", "0.3", 0, 1),
        ("0.30000000000000004", "0.3", 0, 0),
        ("0.31", "0.3", 0.01, 1),
        ("0.32", "0.3", 0.01, 0),
        ("1,000", "1000", 0, 1),
        ("-5", "5", 0, 0),
        ("99999999999999999999", "1e20", 0, 0),
        ("99999999999999999999", "1e20", 1, 1),
        ("nothing", "5", 1e9, 0),
        ("inf", "5", 1e9, 0),
        ("5", None, 1e9, None),
        ("5", "five", 1e9, None),
        ("9" * 5000, "1", 0, 0),
        ("1e999", "1e-999", 0, 0),
        ("0.333", "1/3", 0.001, 1),
        ("0.333", "1/3", 0, 0),
        ("$0.50", "1/2", 0, 1),
        ("5 cm", "5", 0, 1),
        ("5 m", "5 cm", 0, 0),
    ],
)
def test_a_number_is_right_within_its_tolerance(
    text: str, answer: Any, tolerance: float, expected: float | None
) -> None:
    assert score("numeric_answer", text, answer, tolerance=float(tolerance)) == expected


@pytest.mark.parametrize(
    ("answer", "wrong", "right"),
    [
        ("1/2", "2", "0.5"),
        ("\\frac{3}{4}", "4", "3/4"),
        ("\u00bd", "2", "\\frac12"),
        ("10\u00b2", "102", "100"),
        ("50%", "50", "1/2"),
        ("3 million", "3", "3,000,000"),
        ("-5", "5", "\u22125"),
    ],
)
def test_a_part_of_the_answer_is_not_paid(answer: str, wrong: str, right: str) -> None:
    assert (score("numeric_answer", wrong, answer), score("numeric_answer", right, answer)) == (0, 1)
    assert score("numeric_answer", answer, wrong) == 0


@pytest.mark.parametrize("answer", ["3:2", "10:30", "\\sqrt{3}", "3 and 5"])
def test_an_answer_that_is_not_one_number_is_not_judged(answer: str) -> None:
    assert score("numeric_answer", answer, answer) is None
    for number in ("2", "30", "3", "5"):
        assert score("numeric_answer", number, answer) is None
        assert score("numeric_answer", answer, number) == 0


def test_the_answer_of_a_row_begins_after_the_marker_too() -> None:
    """GSM8K's answers have their calculation before the marker."""
    answer = "He has 2+2=<<2+2=4>>4 apples.\n#### 4"
    assert score("numeric_answer", "2 and 2 is #### 4", answer, after="####") == 1
    assert score("numeric_answer", "2 and 2 is #### 2", answer, after="####") == 0
    assert score("numeric_answer", "4", answer) is None
    assert score("exact_answer", "So #### 4", answer, after="####") == 1
    assert score("exact_answer", "So #### 4", "4", after="####") == 1
    assert score("exact_answer", "So #### 5", answer, after="####") == 0


def test_a_number_can_be_searched_after_a_marker() -> None:
    assert score("numeric_answer", "3 + 4 = 7 \\boxed{7} of 9", "7", after="\\boxed{") == 0
    assert score("numeric_answer", "of 9: \\boxed{7}", "7", after="\\boxed{") == 1


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^<think>(?s:.*)</think>", "<think>a\nb</think> c", 1),
        ("^a+$", "aab", 0),
        ("\\bparis\\b", "in Paris", 0),
        ("(?i)\\bparis\\b", "in Paris", 1),
        ("^$", "", 1),
        ("é+", "caféé", 1),
        ("^.$", "\U0001f600", 1),
    ],
)
def test_a_regex_scores_whether_it_matches(pattern: str, text: str, expected: float) -> None:
    assert score("regex", text, pattern=pattern) == expected


def test_texts_that_would_stall_slower_algorithms_are_scored() -> None:
    """With quadratic or slower work these texts would exceed the time limit."""
    assert score("regex", "a" * 500_000 + "!", pattern="^(a|a)*$|^(a+)+$") == 0
    assert score("json_schema", f'"{"a" * 500_000}!"', json_schema={"pattern": "^(a+)+$"}) == 0
    assert score("json_schema", "```json\n" * 500_000, json_schema={}) == 0
    objects = json.dumps([{"a": number} for number in range(100_000)])
    assert score("json_schema", objects, json_schema={"uniqueItems": True}) == 1
    assert score("numeric_answer", "1," * 500_000 + "-" * 500_000, "1") == 0


PERSON = {
    "type": "object",
    "required": ["name", "home"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "home": {"$ref": "#/$defs/place"}},
    "$defs": {"place": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}},
}
GOOD = '{"name": "Ada", "home": {"city": "Zürich"}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1),
        (f"\n {GOOD} \n", 1),
        (f"Here:\n```json\n{GOOD}\n```\nDone.", 1),
        (f"```\n{GOOD}\n```", 1),
        (f"```json\r\n{GOOD}\r\n```", 1),
        (f"```\n{GOOD.replace('rich', chr(0x2028))}\n```", 1),
        (f"```json\n1\n```\n```json\n{GOOD}\n```", 1),
        (f"```json\n{GOOD}\n```\n```json\n1\n```", 0),
        (f"Here: {GOOD}", 0),
        (f"```json\n{GOOD}", 0),
        ("", 0),
        ('{"name": "ada", "home": {"city": "Z"}}', 0),
        ('{"name": "Ada", "home": {}}', 0),
        ('{"name": "Ada", "home": {"city": "Z"}, "age": 1}', 0),
        ("null", 0),
        ("[" * 100_000, 0),
        ("NaN", 0),
    ],
)
def test_json_is_scored_by_its_schema(text: str, expected: float) -> None:
    assert score("json_schema", text, json_schema=PERSON) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ('1, "1", true, "true", null, [], {}, [[]], [1], [true], {"a": 1}, {"a": true}, {"a": {}}', 1),
        ("1, 1.0", 0),
        ("0, false, 0.0", 0),
        ('{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}', 0),
        ("[[1], 2], [[1], 2]", 0),
    ],
)
def test_unique_items_are_compared_as_json_schema_defines(items: str, expected: float) -> None:
    assert score("json_schema", f"[{items}]", json_schema={"uniqueItems": True}) == expected


@pytest.mark.parametrize(
    ("text", "as_number"),
    [("1e999", 0), ("-1e999", 0), ("Infinity", 0), ("9" * 5000, 0), ("1" + "0" * 4000, 0), ("0.5", 1)],
)
def test_a_number_beyond_all_floats_scores_zero_without_an_error(text: str, as_number: float) -> None:
    """The same holds for a number with more digits than the parser accepts."""
    assert score("json_schema", text, json_schema={"type": "number"}) == as_number
    assert score("json_schema", text, json_schema={"type": "number", "multipleOf": 0.5}) == float(text == "0.5")


@pytest.mark.parametrize(
    ("tokens", "parameters", "expected"),
    [
        (5, {"at_most": 10}, 1),
        (10, {"at_most": 10}, 1),
        (15, {"at_most": 10}, 0.5),
        (40, {"at_most": 10}, 0),
        (5, {"at_least": 10}, 0.5),
        (0, {"at_least": 10}, 0),
        (10, {"at_least": 10}, 1),
        (7, {"at_least": 5, "at_most": 9}, 1),
        (4, {"at_least": 5, "at_most": 9}, 0.8),
    ],
)
def test_a_length_scores_less_the_further_it_is_off(tokens: int, parameters: Any, expected: float) -> None:
    assert score("length", "x", tokens=tokens, **parameters) == expected


def test_reward_functions_have_names_and_accept_trls_arguments() -> None:
    both = [{"type": "exact_answer"}, {"type": "length", "name": "short", "at_most": 2}]
    first, second = rewards.reward_functions([ADAPTER.validate_python(reward) for reward in both])
    arguments = {
        "prompts": [[1], [1]],
        "completions": ["a", "b"],
        "completion_ids": [[5, 1], [6, 7, 8, 1]],
        "answer": ["a", "a"],
        "trainer_state": None,
    }
    assert (first.__name__, second.__name__) == ("exact_answer", "short")
    assert (first(**arguments), second(**arguments)) == ([1.0, 0.0], [1.0, 0.0])


@given(st.text(), st.text())
def test_every_text_scores_between_0_and_1(text: str, answer: str) -> None:
    for reward_type, parameters in (
        ("exact_answer", {}),
        ("numeric_answer", {}),
        ("numeric_answer", {"after": "#"}),
        ("regex", {"pattern": "a.b"}),
        ("json_schema", {"json_schema": {"type": "array"}}),
    ):
        assert score(reward_type, text, answer, **parameters) in (
            (0, 1, None) if reward_type == "numeric_answer" else (0, 1)
        )
