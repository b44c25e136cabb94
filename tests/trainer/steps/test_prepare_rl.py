"""Prepare for RL: prompts and pairs become tokens, bad rows are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from trainer.rows.prepared import read_tokens

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}
DPO: dict[str, Any] = {"algorithm": "dpo"}
NUMERIC = {"type": "numeric_answer"}
BenchOf = Callable[..., Bench]


def grpo(*rewards: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"algorithm": "grpo", "num_generations": 4, "max_completion_length": 12, "rewards": list(rewards)} | more


def run_prepare(bench_of: BenchOf, rl: dict[str, Any] | None, content: list[Any], **training: Any) -> Bench:
    bench = bench_of(method="RL", rl_config=rl, **training)
    bench.put("train", content)
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.run(Step.PREPARE)
    return bench


def tokens(bench: Bench, split: str = "train") -> list[dict[str, Any]]:
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1")
    return list(read_tokens(Path(folder) / f"{split}.parquet"))


GOOD_PROMPTS = [{"prompt": f"Number {n}?", "answer": str(n)} for n in range(20)]
PAIR_COLUMNS = {"prompt_ids", "chosen_ids", "chosen_gaps", "rejected_ids", "rejected_gaps"}
GOOD_PAIRS = preference_rows.pairs(rows.train_rows(20))


def test_prompts_end_with_the_generation_prompt_and_answers_are_text(bench_of: BenchOf) -> None:
    bench = run_prepare(bench_of, grpo(NUMERIC), [*GOOD_PROMPTS, {"prompt": [USER, ANSWER, USER], "answer": 1.5}])
    report = bench.read("prepared/1/report.json")
    assert (report["rows"], report["train"]["kept"], report["train"]["trained_tokens"]) == (21, 21, 0)
    assert report["samples"][0] == [
        {"trained": False, "text": "<bos><start_of_turn>user\nNumber 0?<end_of_turn>\n<start_of_turn>model\n"},
        {"trained": False, "part": "answer", "text": "0"},
    ]
    assert tokens(bench)[20]["answer"] == "1.5"
    assert all(len(row["prompt_ids"]) > 5 for row in tokens(bench))


@pytest.mark.parametrize(("content", "column"), [(GOOD_PROMPTS, "answer"), (GOOD_PAIRS, "chosen_ids")])
def test_the_rows_decide_the_algorithm_if_the_request_names_none(
    bench_of: BenchOf, content: list[Any], column: str
) -> None:
    bench = run_prepare(bench_of, None, content)
    assert all(row[column] for row in tokens(bench))
    assert len(tokens(bench)) == len(content)


def test_pairs_share_their_prompt_and_end_their_turns(bench_of: BenchOf) -> None:
    as_messages = {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "model", "content": "No"}]}
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, as_messages])
    report = bench.read("prepared/1/report.json")
    prompt = GOOD_PAIRS[0]["prompt"]
    assert report["samples"][0] == [
        {"trained": False, "text": f"<bos><start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"},
        {"trained": True, "part": "chosen", "text": f"{GOOD_PAIRS[0]['chosen']}<end_of_turn>\n"},
        {"trained": True, "part": "rejected", "text": f"{GOOD_PAIRS[0]['rejected'].strip()}<end_of_turn>\n"},
    ]
    trained = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in tokens(bench))
    assert report["train"]["trained_tokens"] == trained


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, ANSWER]}, "a row for supervised training"),
        ({"prompt": "Hi", "completion": "x"}, "supervised training: GRPO samples completions itself"),
        ({"prompt": "Hi", "chosen": "x", "rejected": "y"}, "a row for DPO: GRPO samples completions itself"),
        ({"chosen": "x", "rejected": "y"}, "a row for DPO"),
        ({"answer": "1"}, "GRPO needs prompt"),
        ({"prompt": "Hi"}, "no answer"),
        ({"prompt": "Hi", "answer": " "}, "the answer is empty"),
        ({"prompt": "Hi", "answer": True}, "neither a text nor a number"),
        ({"prompt": "Hi", "answer": ["1"]}, "neither a text nor a number"),
        ({"prompt": "Hi", "answer": "one"}, "the answer has no number, and all rewards compare numbers"),
        ({"prompt": "Hi", "answer": "10:30"}, "the answer is no number that can be compared"),
        ({"prompt": "Hi", "answer": "3 and 5"}, "the answer is no number that can be compared"),
        ({"prompt": "Hi", "answer": "2+2=4\n#### 4"}, "the answer has more than one number"),
        ({"prompt": "Hi", "answer": "1\ud800"}, "surrogate"),
        ({"prompt": [USER, ANSWER], "answer": "1"}, "ends with a message of the assistant"),
        ({"prompt": [{"role": "system", "content": "Be"}], "answer": "1"}, "ends with a message of the system"),
        ({"prompt": "", "answer": "1"}, "empty message"),
        ({"prompt": 5, "answer": "1"}, "not a list of messages"),
    ],
)
def test_a_row_without_a_usable_prompt_is_refused_by_its_number(bench_of: BenchOf, row: Any, reason: str) -> None:
    bench = run_prepare(bench_of, grpo(NUMERIC), [*GOOD_PROMPTS, row])
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert entry["row"] == 21
    assert reason in entry["reason"]


def test_a_row_that_one_reward_cannot_judge_is_kept_and_reported(bench_of: BenchOf) -> None:
    both = grpo(NUMERIC, {"type": "exact_answer"}, NUMERIC | {"name": "again"})
    bench = run_prepare(bench_of, both, [*GOOD_PROMPTS, {"prompt": "Hi", "answer": "one"}])
    report = bench.read("prepared/1/report.json")["train"]
    assert (report["kept"], report["refused"]) == (21, 0)
    assert report["not_judged"] == {"numeric_answer": 1, "again": 1}
    messages = {warning.code: warning.message for warning in bench.job.warnings}
    assert set(messages) == {"rows_not_judged"}
    assert (
        "1 of 21 rows of train.jsonl have an answer that is not one number: the reward again"
        in messages["rows_not_judged"]
    )


def test_a_pair_whose_chosen_answer_is_cut_is_reported(bench_of: BenchOf) -> None:
    chosen, rejected = (
        {"prompt": "Hi", "chosen": "boat " * 600, "rejected": "y"},
        {"prompt": "Hi", "chosen": "x", "rejected": "boat " * 600},
    )
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, chosen, rejected], too_long="cut")
    report = bench.read("prepared/1/report.json")["train"]
    assert (report["truncated"], report["cut_ends"]) == (2, 1)
    (warning,) = bench.job.warnings
    assert warning.code == "ends_cut_off"
    assert str(warning.hint).endswith("tokens, the model reads 512")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, ANSWER]}, "a row for supervised training"),
        ({"prompt": "Hi", "completion": "x"}, "a row for supervised training"),
        ({"prompt": "Hi", "answer": "x"}, "a row for GRPO"),
        ({"prompt": "Hi", "chosen": "x"}, "DPO needs prompt, chosen and rejected"),
        ({"prompt": "Hi", "chosen": "x", "rejected": "x"}, "are the same"),
        ({"prompt": "Hi", "chosen": "x", "rejected": " x "}, "are the same"),
        ({"prompt": "Hi", "chosen": "x", "rejected": ""}, "empty message"),
        ({"prompt": "Hi", "chosen": "x", "rejected": None}, "the row has no rejected"),
        ({"prompt": "Hi", "chosen": "x", "rejected": True}, "rejected is not a list of messages"),
        ({"prompt": "Hi", "chosen": "x", "rejected": {"a": 5}}, "a message needs role and content"),
        ({"prompt": "Ho", "chosen": [USER, ANSWER], "rejected": "y"}, "begins neither with the prompt nor"),
        ({"prompt": "Hi", "chosen": [USER], "rejected": "y"}, "chosen has no answer"),
    ],
)
def test_a_row_without_a_usable_pair_is_refused_by_its_number(bench_of: BenchOf, row: Any, reason: str) -> None:
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, row])
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert entry["row"] == 21
    assert reason in entry["reason"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "boat " * 600, "chosen": "x", "rejected": "y"}, "the prompt alone has"),
        ({"prompt": "Hi", "chosen": "boat " * 600 + "x", "rejected": "boat " * 600 + "y"}, "the same up to max_seq"),
    ],
)
def test_a_pair_of_which_cutting_leaves_nothing_to_compare_is_refused(bench_of: BenchOf, row: Any, reason: str) -> None:
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, row], too_long="cut")
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert reason in entry["reason"]


PICTURE_PART = rows.picture_row("red", 0)["messages"][0]["content"][0]
QUESTION_TURN = {"role": "user", "content": [PICTURE_PART, {"type": "text", "text": rows.QUESTION}]}
MISSING_PICTURE_PART = {"type": "image", "image": {"path": "lost.png"}}


@pytest.mark.parametrize(
    ("rl", "rest", "parts"),
    [
        (grpo(NUMERIC), {"answer": "1"}, [{"trained": False, "part": "answer", "text": "1"}]),
        (
            DPO,
            {"chosen": [ANSWER], "rejected": [{"role": "model", "content": [{"type": "text", "text": "No"}]}]},
            [
                {"trained": True, "part": "chosen", "text": "Captain<end_of_turn>\n"},
                {"trained": True, "part": "rejected", "text": "No<end_of_turn>\n"},
            ],
        ),
    ],
)
def test_prompts_can_contain_pictures(vision_bench_of: BenchOf, rl: Any, rest: Any, parts: Any) -> None:
    prompts = ([QUESTION_TURN], "Hi", [QUESTION_TURN, ANSWER, QUESTION_TURN])
    bench = run_prepare(vision_bench_of, rl, [{"prompt": prompt} | rest for prompt in prompts])
    assert [row["pictures"] for row in tokens(bench)] == [[0], [], [0, 0]]
    prompt_ids = tokens(bench)[0]["prompt_ids"]
    assert len(prompt_ids) - len(set(prompt_ids)) >= 3  # a picture repeats one token
    assert bench.read("prepared/1/report.json")["samples"][0] == [
        {
            "trained": False,
            "text": "<bos><start_of_turn>user\n\n\n<start_of_image><image_soft_token>…<end_of_image>\n\n"
            f"{rows.QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        },
        *parts,
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [{"role": "user", "content": [MISSING_PICTURE_PART]}]}, "no picture 'lost.png'"),
        ({"prompt": "Hi <start_of_image>"}, "which stand for a picture"),
        (
            {"prompt": [QUESTION_TURN], "chosen": "<image_soft_token>", "answer": "1 <image_soft_token>"},
            "which stand for",
        ),
        (
            {"prompt": [QUESTION_TURN], "chosen": [{"role": "assistant", "content": [PICTURE_PART]}]},
            "only users can show one",
        ),
    ],
)
@pytest.mark.parametrize("rl", [DPO, grpo(NUMERIC)])
def test_a_row_with_an_unusable_picture_is_refused_by_its_number(
    vision_bench_of: BenchOf, rl: Any, row: dict[str, Any], reason: str
) -> None:
    """GRPO's answers may contain anything, because only rewards read them."""
    rest: dict[str, Any] = {"answer": "1"} if rl is not DPO else {"chosen": "x", "rejected": "y"}
    is_kept, good = rl is not DPO and "chosen" in row, {"prompt": [QUESTION_TURN]} | rest
    bench = run_prepare(vision_bench_of, rl, [good] * 12 + [good | {n: row[n] for n in set(good) & set(row)}])
    refused = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert [entry["row"] for entry in refused] == ([] if is_kept else [13])
    assert all(reason in entry["reason"] for entry in refused)


def test_held_out_rows_take_their_pictures_along(vision_bench_of: BenchOf) -> None:
    pairs = [{"prompt": [QUESTION_TURN], "chosen": f"{number}", "rejected": "y"} for number in range(4)]
    bench = run_prepare(vision_bench_of, DPO, pairs, eval_strategy="epoch")
    assert set(tokens(bench, "eval")[0]) == {*PAIR_COLUMNS, "pictures"}
    assert tokens(bench, "eval")[0]["pictures"] == [0]


def test_an_answer_is_optional_if_no_reward_needs_it(bench_of: BenchOf) -> None:
    bench = run_prepare(bench_of, grpo({"type": "length", "at_most": 5}), [{"prompt": f"{n}?"} for n in range(20)])
    assert {*tokens(bench)[0]} == {"prompt_ids"}


def test_rewards_read_the_answers_of_their_columns(bench_of: BenchOf) -> None:
    rewards = [NUMERIC | {"answer_column": "sums.total"}, NUMERIC | {"name": "again"}]
    content = [
        {"question": f"{n}?", "answer": n, "sums": {"total": f"#### {n + 1}"}, "level": "easy"} for n in range(20)
    ]
    bench = run_prepare(bench_of, grpo(*rewards), content)
    by_column = [(row["answer"], row["answer sums.total"]) for row in tokens(bench)[:2]]
    assert by_column == [("0", "#### 1"), ("1", "#### 2")]
    assert [piece.get("part") for piece in bench.read("prepared/1/report.json")["samples"][0]] == [
        None,
        "answer",
        "sums.total",
    ]


LABELLED = preference_rows.labelled(rows.train_rows(20))
KTO: dict[str, Any] = {"algorithm": "kto"}


def test_labelled_answers_end_their_turn_and_keep_their_label(bench_of: BenchOf) -> None:
    bench = run_prepare(bench_of, KTO, LABELLED)
    assert [row["label"] for row in tokens(bench)] == [row["label"] for row in LABELLED]
    pieces = bench.read("prepared/1/report.json")["samples"][1]
    assert pieces[1] == {
        "trained": True,
        "part": "undesirable answer",
        "text": f"{LABELLED[1]['completion'].strip()}<end_of_turn>\n",
    }
    assert bench.job.warnings == ()


def test_labels_that_the_weights_do_not_balance_are_reported(bench_of: BenchOf) -> None:
    more = [row | {"prompt": f"{row['prompt']} Now?"} for row in LABELLED if row["label"]]
    bench = run_prepare(bench_of, KTO, [*LABELLED, *more])
    (warning,) = bench.job.warnings
    assert warning.code == "labels_unbalanced"
    assert "20 rows have label true and 10 false" in warning.message
    assert warning.hint == "set desirable_weight to a value from 0.5 to 0.667"
    balanced = run_prepare(bench_of, KTO | {"desirable_weight": 0.6}, [*LABELLED, *more])
    assert balanced.job.warnings == ()


@pytest.mark.parametrize("label", [True, False])
def test_labels_that_are_all_the_same_are_refused(bench_of: BenchOf, label: bool) -> None:
    with pytest.raises(StepError, match=f"all 20 rows have label {str(label).lower()}") as caught:
        run_prepare(bench_of, KTO, [row | {"label": label} for row in LABELLED])
    assert caught.value.code == "one_label"


def test_only_the_assistants_turns_of_a_long_answer_are_trained(bench_of: BenchOf) -> None:
    more = {"prompt": "Hi", "chosen": [ANSWER, USER, ANSWER], "rejected": "No"}
    bench = run_prepare(bench_of, DPO, [more, *GOOD_PAIRS])
    pieces = [(piece["trained"], piece["text"]) for piece in bench.read("prepared/1/report.json")["samples"][0]]
    assert pieces == [
        (False, "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"),
        (True, "Captain<end_of_turn>\n"),
        (False, "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"),
        (True, "Captain<end_of_turn>\n"),
        (True, "No<end_of_turn>\n"),
    ]
    row = tokens(bench)[0]
    assert len(row["chosen_gaps"]) > 5
    assert row["rejected_gaps"] == []


@pytest.mark.parametrize("answer", ["chosen", "rejected"])
def test_a_pair_with_a_long_answer_is_dropped_unless_answers_are_to_be_cut(bench_of: BenchOf, answer: str) -> None:
    longer = {"prompt": "Hi", "chosen": "x", "rejected": "No"} | {answer: "boat " * 600}
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, longer], max_seq_length=64)
    report = bench.read("prepared/1/report.json")["train"]
    assert (report["dropped"], report["truncated"], report["refused"]) == (1, 0, 0)


def test_a_prompt_that_leaves_no_room_for_a_completion_is_dropped_with_the_length_that_it_needs(
    bench_of: BenchOf,
) -> None:
    longer = {"prompt": "boat " * 100, "answer": "1"}
    bench = run_prepare(bench_of, grpo(NUMERIC), [*GOOD_PROMPTS, longer], max_seq_length=64)
    assert bench.job.rows is not None
    assert (bench.job.rows.dropped, bench.job.rows.refused) == (1, 0)
    (warning,) = (warning for warning in bench.job.warnings if warning.code == "rows_dropped")
    needed = int(str(warning.hint).split()[3].rstrip(","))
    enough = run_prepare(bench_of, grpo(NUMERIC), [*GOOD_PROMPTS, longer], max_seq_length=needed)
    assert enough.job.rows is not None
    assert enough.job.rows.dropped == 0


def test_a_long_answer_is_cut(bench_of: BenchOf) -> None:
    longer = {"prompt": "Hi", "chosen": "boat " * 600, "rejected": "No"}
    bench = run_prepare(bench_of, DPO, [*GOOD_PAIRS, longer], max_seq_length=64, too_long="cut")
    assert bench.read("prepared/1/report.json")["train"]["truncated"] == 1
    assert max(len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in tokens(bench)) == 64


@pytest.mark.parametrize("rl", [DPO, grpo(NUMERIC)])
def test_a_dataset_for_another_method_fails_and_names_the_first_rows(bench_of: BenchOf, rl: dict[str, Any]) -> None:
    with pytest.raises(StepError) as caught:
        run_prepare(bench_of, rl, rows.train_rows(5))
    assert caught.value.code == "bad_rows"
    assert "row 1, row 2, row 3, row 4, row 5: this is a row for supervised training" in str(caught.value)


def test_rows_are_held_out_for_a_requested_evaluation(bench_of: BenchOf) -> None:
    bench = run_prepare(bench_of, DPO, GOOD_PAIRS, eval_strategy="epoch")
    assert (len(tokens(bench)), len(tokens(bench, "eval"))) == (18, 2)
    assert set(tokens(bench, "eval")[0]) == PAIR_COLUMNS


def test_train_steps_count_whole_groups_of_prompts(bench_of: BenchOf) -> None:
    # Each train_step has 8 * 3 completions, which are 4 per prompt.
    steps = {"max_steps": None, "epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 3}
    bench = run_prepare(bench_of, grpo(NUMERIC), GOOD_PROMPTS, **steps)
    assert bench.read("prepared/1/prepared.json")["total_train_steps"] == 6
    with pytest.raises(StepError) as caught:
        run_prepare(bench_of, grpo(NUMERIC), GOOD_PROMPTS[:5], **steps)
    assert caught.value.code == "too_few_rows"


def test_completions_that_leave_no_room_for_a_prompt_are_refused(bench_of: BenchOf) -> None:
    with pytest.raises(StepError) as caught:
        run_prepare(bench_of, grpo(NUMERIC, max_completion_length=512), GOOD_PROMPTS)
    assert caught.value.code == "completion_too_long"
