"""Rows of DPO, KTO and GRPO: every shape people have, and nothing lost."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl.contents import Labelled, Pair, Question
from gemtune.datasets.rl.formats import LABELLED_ROWS, PAIRS
from gemtune.datasets.rl.read import RlRow, read_labelled, read_pair, read_question
from gemtune.datasets.row_options import RL_FORMATS, ReadOptions, RlFormatName

OPTIONS = ReadOptions()
SYSTEM, HI, SURE = Turn("system", "Be brief."), Turn("user", "Hi"), Turn("user", "Sure?")
GOOD, BAD, YES = Turn("assistant", "Hello!"), Turn("assistant", "What?"), Turn("assistant", "Yes.")
TOOL = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {"type": "object"}}}


def messages(*turns: Turn) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def spoken(*turns: Turn) -> list[dict[str, Any]]:
    """Return messages as ShareGPT has them."""
    return [{"from": {"user": "human", "assistant": "gpt"}[turn.role], "value": turn.content} for turn in turns]


def pair(row: dict[str, Any]) -> Pair:
    read = read_pair(row, OPTIONS)
    assert isinstance(read, RlRow), read
    return read.content


def labelled(row: dict[str, Any]) -> Labelled:
    read = read_labelled(row, OPTIONS)
    assert isinstance(read, RlRow), read
    return read.content


def question(row: dict[str, Any], *answers: str) -> RlRow[Question]:
    read = read_question(row, OPTIONS, answers)
    assert isinstance(read, RlRow), read
    return read


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"question": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"messages": messages(HI), "chosen": messages(GOOD), "rejected": messages(BAD)},
        {"prompt": "Hi", "chosen": messages(GOOD)[0], "rejected": messages(BAD)[0]},
        {"prompt": "Hi", "chosen": messages(HI, GOOD), "rejected": messages(HI, BAD)},
        {"prompt": "Hi", "chosen": messages(HI, GOOD), "rejected": "What?"},
        {"prompt": "Hi ", "chosen": messages(HI, GOOD), "rejected": messages(HI, BAD), "score_chosen": 8.5},
        {"chosen": messages(HI, GOOD), "rejected": messages(HI, BAD)},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
        {"chosen": "Human: Hi\n\nAssistant: Hello!", "rejected": messages(HI, BAD)},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": "Hi", "chosen": "Human: Hi\n\nAssistant: Hello!", "rejected": "Human: Hi\n\nAssistant: What?"},
        {
            "input": {"messages": messages(HI), "tools": [], "parallel_tool_calls": True},
            "preferred_output": messages(GOOD),
            "non_preferred_output": messages(BAD),
        },
        {
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
            "completions": [
                {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "What?"}]}},
                {"score": 1.0, "completion": {"role": "model", "parts": [{"text": "Hello!"}]}},
            ],
        },
        # UltraFeedback's, whose messages are the chosen ones again.
        {"prompt": "Hi", "chosen": messages(HI, GOOD), "rejected": messages(HI, BAD), "messages": messages(HI, GOOD)},
        {"chosen": messages(HI, GOOD), "rejected": messages(HI, BAD), "messages": messages(HI, GOOD)},
        # LLaMA-Factory's, in the formats of Alpaca and of ShareGPT.
        {"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "What?"},
        {"instruction": "", "input": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"conversations": spoken(HI), "chosen": spoken(GOOD)[0], "rejected": spoken(BAD)[0]},
        {"conversations": messages(HI), "chosen": spoken(HI, GOOD), "rejected": messages(BAD)},
        # Two answers and which is better.
        {
            **{"prompt": "Hi", "response_0": "What?", "response_1": "Hello!", "better_response_id": 1},
            **{"safer_response_id": 0, "is_response_0_safe": True, "response_1_source": "x", "prompt_source": "y"},
        },
        {"prompt": "Hi", "response_0": "Hello!", "response_1": "What?", "better_response_id": 0},
        {"instruction": "Hi", "input": "", "output_1": "What?", "output_2": "Hello!", "preference": 2.0},
        {"prompt": "Hi", "response_1": "Hello!", "response_2": "What?", "preference_strength": -3},
        {"prompt": "Hi", "response1": "What?", "response2": "Hello!", "overall_preference": "1"},
        {
            **{"context": messages(HI), "response1": "Hello!", "response2": "What?", "overall_preference": -2},
            **{"domain": "general", "language": "en", "individual_preference": [{"score": -2, "reasoning": "…"}]},
        },
        {"prompt": "Hi", "response_a": "What?", "response_b": "Hello!", "winner": "model_b", "model_a": "x"},
        {
            **{"conversation_a": messages(HI, GOOD), "conversation_b": messages(HI, BAD), "winner": "model_a"},
            **{
                "question_id": "1",
                "model_a": "x",
                "model_b": "y",
                "judge": "z",
                "turn": 1,
                "anony": True,
                "tstamp": 1.5,
            },
        },
        # Lists in files without lists, such as CSV.
        {name: json.dumps(messages(turn)) for name, turn in (("prompt", HI), ("chosen", GOOD), ("rejected", BAD))},
        {"conversations": json.dumps(spoken(HI)), "chosen": "Hello!", "rejected": json.dumps(spoken(BAD))},
    ],
)
def test_a_pair_is_the_same_in_every_shape(row: dict[str, Any]) -> None:
    read = pair(row)
    assert (read.prompt.turns[-1].content.strip(), read.chosen, read.rejected) == ("Hi", (GOOD,), (BAD,))  # type: ignore[union-attr]
    assert len(read.prompt.turns) == 1


@pytest.mark.parametrize(
    ("row", "turns", "chosen", "rejected"),
    [
        # A system message in a column of its own, in the prompt, or in both conversations.
        ({"prompt": "Hi", "system": "Be brief.", "chosen": "Hello!", "rejected": "What?"}, [SYSTEM, HI], [GOOD], [BAD]),
        ({"prompt": messages(SYSTEM, HI), "chosen": "Hello!", "rejected": "What?"}, [SYSTEM, HI], [GOOD], [BAD]),
        (
            {"prompt": "Hi", "chosen": messages(SYSTEM, HI, GOOD), "rejected": messages(SYSTEM, HI, BAD)},
            [SYSTEM, HI],
            [GOOD],
            [BAD],
        ),
        (
            {"system": "Be brief.", "prompt": "Hi", "chosen": messages(HI, GOOD), "rejected": messages(HI, BAD)},
            [SYSTEM, HI],
            [GOOD],
            [BAD],
        ),
        (
            {"chosen": messages(SYSTEM, HI, GOOD), "rejected": messages(SYSTEM, HI, BAD)},
            [SYSTEM, HI],
            [GOOD],
            [BAD],
        ),
        # Turns that both conversations share belong to the prompt.
        (
            {"prompt": "Hi", "chosen": messages(HI, GOOD, SURE, YES), "rejected": messages(HI, GOOD, SURE, BAD)},
            [HI, GOOD, SURE],
            [YES],
            [BAD],
        ),
        # Answers of several turns, also of different length.
        (
            {"chosen": messages(HI, GOOD, SURE, YES), "rejected": messages(HI, BAD)},
            [HI],
            [GOOD, SURE, YES],
            [BAD],
        ),
        (
            {"chosen": messages(HI, GOOD, SURE, YES), "rejected": messages(HI, GOOD, HI, YES)},
            [HI],
            [GOOD, SURE, YES],
            [GOOD, HI, YES],
        ),
        (
            {
                "chosen": "Human: Hi\n\nAssistant: Hello!\n\nHuman: Sure?\n\nAssistant: Yes.",
                "rejected": "Human: Hi\n\nAssistant: Hello!\n\nHuman: Sure?\n\nAssistant: What?",
            },
            [HI, GOOD, SURE],
            [YES],
            [BAD],
        ),
    ],
)
def test_what_both_answers_begin_with_is_the_prompt(
    row: dict[str, Any], turns: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> None:
    assert pair(row) == Pair(Conversation(tuple(turns)), tuple(chosen), tuple(rejected))


def test_tools_are_part_of_the_prompt_and_calls_of_the_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    answer = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "noon"}]
    rest = {"chosen": [*answer, *messages(YES)], "rejected": "What?"}
    for row in (
        {"prompt": "Hi", "tools": [TOOL], **rest},
        {
            "input": {"messages": messages(HI), "tools": [TOOL]},
            "preferred_output": rest["chosen"],
            "non_preferred_output": rest["rejected"],
        },
    ):
        read = pair(row)
        assert read.prompt.tools == (TOOL,)
        assert [turn.role for turn in read.chosen] == ["assistant", "tool", "assistant"]
        assert read.chosen[0].calls[0].name == "clock"
        assert read.rejected == (BAD,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "Hello!", "rejected": "What?"}, "chosen is a text, and there is no prompt"),
        ({"prompt": "Hi", "chosen": "Hello!"}, "the row has no rejected"),
        ({"prompt": "Hi", "question": "Hi", "chosen": "a", "rejected": "b"}, "both prompt and question"),
        ({"prompt": "Ho", "chosen": messages(HI, GOOD), "rejected": messages(HI, BAD)}, "begins neither with the"),
        ({"chosen": messages(HI, GOOD), "rejected": messages(SURE, BAD)}, "there is no prompt"),
        ({"chosen": messages(GOOD), "rejected": messages(BAD)}, "there is no prompt"),
        ({"prompt": "Hi", "chosen": messages(HI), "rejected": "b"}, "chosen has no answer"),
        ({"prompt": "Hi", "chosen": messages(GOOD, SURE), "rejected": "b"}, "chosen ends with a message of the user"),
        ({"prompt": "Hi", "chosen": messages(GOOD, YES), "rejected": "b"}, "the roles do not alternate"),
        (
            {"prompt": messages(SYSTEM, HI), "chosen": messages(Turn("system", "Be long."), HI, GOOD), "rejected": "b"},
            "another system message",
        ),
        ({"prompt": messages(SYSTEM, HI), "system": "x", "chosen": "a", "rejected": "b"}, "both have a system message"),
        (
            {"prompt": "Hi", "chosen": [messages(GOOD)[0] | {"weight": 0}], "rejected": "b"},
            "a turn that is not to be learned",
        ),
        ({"prompt": "Hi", "completion": "a"}, "this is a row for supervised training; DPO needs"),
        ({"prompt": "Hi", "answer": "a"}, "this is a row for GRPO; DPO needs"),
        ({"prompt": "Hi", "completion": "a", "label": True}, "this is a row for KTO; DPO needs"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "preferred_output": "c"}, "fits the formats"),
        ({"contents": [], "completions": [{"score": 1}]}, "completions is not a list of two"),
        (
            {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"},
            "winner is 'tie (bothbad)', so that neither answer is preferred: leave the row out",
        ),
        (
            {"prompt": "Hi", "response_1": "a", "response_2": "b", "preference_strength": 0},
            "neither answer is preferred",
        ),
        ({"prompt": "Hi", "response_0": "a", "response_1": "b"}, "several answers to one prompt"),
        (
            {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1, "rejected": "c"},
            "fits the formats preference and choice",
        ),
        (
            {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1, "better": 0},
            "better is unknown",
        ),
        (
            {
                "contents": [],
                "completions": [{"score": 1, "completion": {"role": "model", "parts": [{"text": "a"}]}}] * 2,
            },
            "both completions have the score 1",
        ),
        ({"contents": [], "completions": [{"completion": {}}] * 2}, "completion 1: it has no score"),
        (
            {"contents": [], "completions": [{"score": math.nan}] * 2},
            "completion 1: score is nan: write a finite number",
        ),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "messages": messages(HI)}, "both prompt and messages"),
        ({"conversations": spoken(HI, GOOD), "chosen": "a", "rejected": "b"}, "ends with a message of the assistant"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    read = read_pair(row, OPTIONS)
    assert isinstance(read, Refused)
    assert reason in read.reason


@pytest.mark.parametrize(
    ("label", "expected"),
    [(True, True), (False, False), (1, True), (0, False), (1.0, True), ("True", True), ("false", False), ("1", True)],
)
def test_a_label_is_true_or_false(label: Any, expected: bool) -> None:
    assert labelled({"prompt": "Hi", "completion": "Hello!", "label": label}) == Labelled(
        Conversation((HI,)), (GOOD,), expected
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": messages(HI), "completion": messages(GOOD)},
        {"question": "Hi", "answer": "Hello!"},
        {"prompt": "Hi", "response": "Hello!"},
        {"messages": messages(HI, GOOD)},
        {"messages": json.dumps(messages(HI, GOOD))},
        {"conversations": spoken(HI, GOOD)},
        {"instruction": "Hi", "output": "Hello!"},
    ],
)
def test_a_labelled_answer_is_the_same_in_every_shape(row: dict[str, Any]) -> None:
    assert labelled(row | {"label": False}) == Labelled(Conversation((HI,)), (GOOD,), False)


def test_a_label_beside_messages_is_about_the_last_answer() -> None:
    read = labelled({"messages": messages(SYSTEM, HI, GOOD, SURE, YES), "label": True})
    assert (read.prompt.turns, read.completion) == ((SYSTEM, HI, GOOD, SURE), (YES,))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "completion": "a"}, "this is a row for supervised training; KTO needs"),
        ({"prompt": "Hi", "completion": "a", "label": 0.5}, "neither true nor false"),
        ({"prompt": "Hi", "completion": "a", "label": "good"}, "neither true nor false"),
        ({"prompt": "Hi", "completion": "a", "label": ""}, "neither true nor false"),
        ({"prompt": "Hi", "label": True}, "there is no answer"),
        ({"messages": messages(HI), "label": True}, "there is no answer"),
        ({"prompt": "Hi", "completion": "a"} | {"kto_tag": True}, "this is a row for supervised training; KTO needs"),
        ({"prompt": str(messages(HI)), "completion": "a", "label": True}, "write it with json.dumps"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "this is a row for DPO; KTO needs"),
        ({"prompt": "Hi", "completion": "a", "label": True, "rejected": "b"}, "the field rejected is not read"),
    ],
)
def test_a_row_without_a_labelled_answer_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    read = read_labelled(row, OPTIONS)
    assert isinstance(read, Refused)
    assert reason in read.reason


def test_a_question_keeps_the_columns_that_rewards_compare_with() -> None:
    row = {"question": "2+2?", "answer": "2+2=4\n#### 4", "solution": "4", "ground_truth": 4, "level": "easy"}
    read = question(row, "answer", "ground_truth")
    assert read.content == Question(
        Conversation((Turn("user", "2+2?"),)), {"answer": "2+2=4\n#### 4", "ground_truth": "4"}
    )
    assert set(read.unread_fields) == {"solution", "level"}


def test_a_column_in_another_case_is_the_one_that_a_reward_names() -> None:
    for name in ("Answer", "answer"):
        assert question({"Prompt": "Hi", "Answer": "5"}, name).content.answers == {name: "5"}
    assert pair({"Prompt": "Hi", "Chosen": "Hello!", "Rejected": "What?"}).chosen == (GOOD,)


def test_rewards_compare_with_fields_inside_of_a_column() -> None:
    row = {
        "prompt": messages(HI),
        "reward_model": {"style": "rule", "ground_truth": 4, "more": {"a": "5", "b": "6"}},
        "ability": "x",
    }
    read = question(row, "reward_model.ground_truth", "reward_model.more.a")
    assert read.content.answers == {"reward_model.ground_truth": "4", "reward_model.more.a": "5"}
    assert set(read.unread_fields) == {"reward_model.style", "reward_model.more.b", "ability"}
    assert question(row | {"a.b": "6"}, "a.b").content.answers == {"a.b": "6"}
    for path in ("reward_model.none", "reward_model.ground_truth.more", "none.more"):
        refused = read_question(row, OPTIONS, [path])
        assert isinstance(refused, Refused)
        assert f"no {path}, which a reward needs" in refused.reason


@pytest.mark.parametrize(
    "row", [{"conversations": spoken(HI)}, {"instruction": "Hi"}, {"prompt": json.dumps(spoken(HI))}, {"prompt": "Hi"}]
)
def test_a_question_is_the_same_in_every_shape(row: dict[str, Any]) -> None:
    assert question(row | {"answer": 4}, "answer").content == Question(Conversation((HI,)), {"answer": "4"})


TWO_SHAPES = {
    "prompt": "Hi",
    "chosen": "Hello!",
    "rejected": "What?",
    "input": {"messages": messages(HI)},
    "preferred_output": messages(GOOD),
    "non_preferred_output": messages(BAD),
}


@pytest.mark.parametrize(
    ("stated", "others"),
    [
        ("preference", ("input", "preferred_output", "non_preferred_output")),
        ("openai_preference", ("prompt", "chosen", "rejected")),
    ],
)
def test_a_stated_format_decides_between_two_that_fit(stated: RlFormatName, others: tuple[str, ...]) -> None:
    read = read_pair(TWO_SHAPES, ReadOptions(format=stated, columns=dict.fromkeys(others)))
    assert isinstance(read, RlRow)
    assert (read.format, read.content) == (stated, Pair(Conversation((HI,)), (GOOD,), (BAD,)))
    assert set(read.unread_fields) == {*others}
    refused = read_pair(TWO_SHAPES, ReadOptions(format=stated))
    assert isinstance(refused, Refused)
    assert others[-2] in refused.reason or others[0] in refused.reason


def test_a_row_without_the_fields_of_the_stated_format_is_refused_by_name() -> None:
    refusals = [
        read_pair({"prompt": "Hi"}, ReadOptions(format="preference")),
        read_labelled({"prompt": "Hi", "completion": "Hello!"}, ReadOptions(format="labelled")),
        read_labelled(LABELLED_ROW, ReadOptions(format="preference")),
        read_question(QUESTION_ROW, ReadOptions(format="openai"), ["answer"]),
        table.read({"prompt": "Hi", "completion": "Hello!"}, ReadOptions(format="labelled")),
    ]
    reasons = ["the row has no chosen", "the row has no label", "other rows; KTO", "other rows than", "is supervised"]
    for refused, reason in zip(refusals, reasons, strict=True):
        assert isinstance(refused, Refused)
        assert reason in refused.reason


def test_every_stated_format_of_rl_is_one_that_rows_are_read_in() -> None:
    read = {"dpo": tuple(each.name for each in PAIRS), "kto": tuple(each.name for each in LABELLED_ROWS)}
    assert {**read, "grpo": (question(QUESTION_ROW, "answer").format,)} == RL_FORMATS
    assert {name for names in RL_FORMATS.values() for name in names} == {*get_args(RlFormatName)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi"}, "no ground_truth, which a reward needs"),
        ({"prompt": "Hi", "ground_truth": True}, "the ground_truth is neither a text nor a number"),
        ({"prompt": "Hi", "ground_truth": "1", "completion": "x"}, "supervised training: GRPO samples"),
        ({"prompt": "Hi", "ground_truth": "1", "label": True}, "a row for KTO: GRPO samples"),
        ({"prompt": "Hi", "ground_truth": "1", "context": "x"}, "the field context is not read"),
        ({"messages": messages(HI, GOOD), "ground_truth": "1"}, "a row for supervised training"),
        ({"ground_truth": "1"}, "GRPO needs prompt"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_the_reason(row: dict[str, Any], reason: str) -> None:
    read = read_question(row, OPTIONS, ["ground_truth"])
    assert isinstance(read, Refused)
    assert reason in read.reason


# Fields with a meaning, in any format.
MEANINGFUL: dict[str, Any] = {
    "system": "Be kind.",
    "system_prompt": "Be kind.",
    "tools": [TOOL],
    "messages": messages(SURE),
    "question": "Sure?",
    "prompt": "Sure?",
    "completion": "Yes.",
    "response": "Yes.",
    "chosen": "Yes.",
    "rejected": "No.",
    "preferred_output": messages(YES),
    "non_preferred_output": messages(BAD),
    "label": True,
    "context": "It is noon.",
    "images": ["a.png"],
    "image": "a.png",
    "history": [["Hi", "Hello!"]],
    "functions": [TOOL],
    "input": {"messages": messages(SURE)},
    "conversations": spoken(SURE),
    "instruction": "Sure?",
    "output": "Yes.",
    "completions": [{"score": 1.0}],
    "contents": [{"role": "user", "parts": [{"text": "Sure?"}]}],
}
PAIR_ROW = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
LABELLED_ROW = {"prompt": "Hi", "completion": "Hello!", "label": False}
QUESTION_ROW = {"prompt": "Hi", "answer": "Hello!"}


@pytest.mark.parametrize("name", MEANINGFUL)
@pytest.mark.parametrize(
    ("row", "read"),
    [
        (PAIR_ROW, read_pair),
        ({"chosen": messages(HI, GOOD), "rejected": messages(HI, BAD)}, read_pair),
        (LABELLED_ROW, read_labelled),
        (QUESTION_ROW, lambda row, options: read_question(row, options, ["answer"])),
    ],
)
def test_a_field_with_a_meaning_changes_the_content_or_the_verdict(name: str, row: dict[str, Any], read: Any) -> None:
    without = read(row, OPTIONS)
    assert isinstance(without, RlRow)
    if name in row:
        return
    changed = read({**row, name: MEANINGFUL[name]}, OPTIONS)
    assert isinstance(changed, Refused) or changed.content != without.content
    null = read({**row, name: None}, OPTIONS)
    assert isinstance(null, RlRow)
    assert null.content == without.content


@pytest.mark.parametrize(
    ("field", "turn"),
    [
        ("weight", {"role": "assistant", "content": "Hello!", "weight": 0}),
        ("thinking", {"role": "assistant", "content": "Hello!", "reasoning_content": "They greet."}),
        ("tool_calls", {"role": "assistant", "content": "Hello!", "tool_calls": [{"name": "clock", "arguments": {}}]}),
        ("unknown", {"role": "assistant", "content": "Hello!", "mood": "glad"}),
    ],
)
def test_a_field_of_a_turn_changes_the_content_or_the_verdict(field: str, turn: dict[str, Any]) -> None:
    plain = {"role": "assistant", "content": "Hello!"}
    for row, column, read in ((PAIR_ROW, "chosen", read_pair), (LABELLED_ROW, "completion", read_labelled)):
        without, changed = (read({**row, column: [each]}, OPTIONS) for each in (plain, turn))  # type: ignore[operator]
        assert isinstance(without, RlRow)
        assert isinstance(changed, Refused) or changed.content != without.content, field


def test_fields_that_cannot_matter_are_counted() -> None:
    measures = {"score_chosen": 8, "rejected-rating": 2, "chosen_model": "x"}
    read = read_pair({**PAIR_ROW, "source": "web", **measures}, OPTIONS)
    assert isinstance(read, RlRow)
    assert set(read.unread_fields) == {"source", "score_chosen", "rejected-rating", "chosen_model"}


def test_columns_can_have_other_names() -> None:
    options = ReadOptions(columns={"chosen": "better", "rejected": "worse", "mood": None})
    read = read_pair({"prompt": "Hi", "better": "Hello!", "worse": "What?", "mood": "glad"}, options)
    assert isinstance(read, RlRow)
    assert (read.content.chosen, read.content.rejected, read.unread_fields) == ((GOOD,), (BAD,), ("mood",))
