"""Rows of each format go through prepare as the request says."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench

QUESTION, ANSWER = "What colour is the red lamp?", "Captain, the lamp is red."
SAMPLE = {
    "openai": {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "vertex": {
        "contents": [
            {"role": "user", "parts": [{"text": QUESTION}]},
            {"role": "model", "parts": [{"text": ANSWER}]},
        ]
    },
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "question_answer": {"question": QUESTION, "answer": ANSWER},
    "prompt_completion": {"prompt": QUESTION, "response": ANSWER},
}
TEXT = f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n"


def prepared(bench: Bench, *content: dict[str, Any]) -> Any:
    """Return the report's counts and samples of the train split."""
    bench.put("train", [*content])
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")
    return report["train"] | {"samples": report["samples"]}


def test_rows_of_several_formats_are_learned_alike_and_counted(bench: Bench) -> None:
    bench.training["max_steps"] = 1
    counts = prepared(bench, *list(SAMPLE.values())[:3], *list(SAMPLE.values())[3:])
    assert counts["formats"] == dict.fromkeys(SAMPLE, 1)
    assert counts["rows_trained_whole"] == 0
    expected = [{"trained": False, "text": TEXT}, {"trained": True, "text": f"{ANSWER}<end_of_turn>\n"}]
    assert counts["samples"] == [expected] * 3
    assert counts["trained_tokens"] % len(SAMPLE) == counts["tokens"] % len(SAMPLE) == 0


def test_every_token_of_a_plain_text_is_learned_and_the_report_says_so(bench: Bench) -> None:
    counts = prepared(bench, *({"text": f"{QUESTION} {ANSWER} {number}"} for number in range(8)))
    assert (counts["formats"], counts["rows_trained_whole"]) == ({"text": 8}, 8)
    assert counts["tokens"] == counts["trained_tokens"]
    assert counts["samples"][0] == [{"trained": True, "text": f"<bos>{QUESTION} {ANSWER} 0<eos>"}]


@pytest.mark.parametrize(
    ("fields", "training", "row"),
    [
        ({"dataset_format": "alpaca", "dataset_columns": {"text": None}}, {}, SAMPLE["alpaca"] | {"text": "x"}),
        ({"dataset_columns": {"messages": "chat"}}, {}, {"chat": SAMPLE["openai"]["messages"]}),
        (
            {},
            {"same_role": "merge"},
            {
                "messages": [
                    {"role": "user", "content": QUESTION},
                    {"role": "assistant", "content": "Captain,"},
                    {"role": "assistant", "content": ANSWER},
                ]
            },
        ),
        (
            {},
            {"train_on": "last_turn"},
            {"messages": [*SAMPLE["openai"]["messages"], *rows.train_rows(1)[0]["messages"]]},
        ),
    ],
    ids=["format", "columns", "same_role", "train_on"],
)
def test_options_of_the_request_are_honoured(
    bench: Bench, fields: dict[str, Any], training: dict[str, Any], row: dict[str, Any]
) -> None:
    bench.fields, bench.training = fields, bench.training | training
    bench.put("eval", [row] * 2)
    counts = prepared(bench, *[row] * 8)
    trained = "".join(piece["text"] for piece in counts["samples"][0] if piece["trained"])
    last = rows.train_rows(1)[0]["messages"][1]["content"]
    answer = {"same_role": f"Captain,\n\n{ANSWER}", "train_on": last}.get(next(iter(training), ""), ANSWER)
    assert trained == f"{answer}<end_of_turn>\n"
