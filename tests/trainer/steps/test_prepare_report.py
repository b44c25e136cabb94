"""Report of prepare: every row and file that is not used is named, loudly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemtune.datasets.files.kinds import KINDS, FileKind
from gemtune.errors import StepError
from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.dataset.files import written
from trainer.rows.prepared import read_tokens

BenchOf = Callable[..., Bench]
LONG = {"prompt": "Hi", "completion": "boat " * 100}
PAIRS = [
    {"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]}
    for row in rows.train_rows(24)
]
FOLDER = "processed_datasets/chats"


def put(bench: Bench, name: str, content: bytes) -> None:
    bench.services.buckets.data.write(f"{FOLDER}/{name}", content)


def left_out(bench: Bench) -> list[tuple[str, int, str]]:
    """Return split, row and why of each row that is left out."""
    content = bench.services.buckets.export.read(f"jobs/{bench.job_id}/prepared/1/rows_left_out.jsonl").decode()
    entries = [json.loads(line) for line in content.splitlines()]
    assert all(entry["reason"] and entry["file"] for entry in entries)
    return [(entry["split"], entry["row"], entry["why"]) for entry in entries]


def report(bench: Bench) -> Any:
    return bench.read("prepared/1/report.json")


def failure(bench: Bench) -> StepError:
    with pytest.raises(StepError) as caught:
        bench.run(Step.PREPARE)
    return caught.value


def warning_of(bench: Bench, code: str) -> tuple[str, str]:
    (warning,) = (warning for warning in bench.job.warnings if warning.code == code)
    done = next(event for event in bench.services.store.events(bench.job_id) if event.type == "prepare_done")
    assert warning.model_dump() in done.details["warnings"]
    return warning.message, str(warning.hint)


def tokens(bench: Bench, split: str) -> list[dict[str, list[int]]]:
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1")
    return list(read_tokens(Path(folder) / f"{split}.parquet"))


def test_of_two_thousand_rows_with_a_thousand_bad_ones_every_bad_one_is_listed(bench: Bench) -> None:
    good, bad = PAIRS[0], {"prompt": "Hi"}
    bench.put("train", [row for _ in range(1000) for row in (good, bad)])
    error = failure(bench)
    assert error.code == "bad_rows"
    assert "1000 of 2000 rows" in error.message
    assert "rows_left_out.jsonl" in error.message
    assert left_out(bench) == [("train", number, "refused") for number in range(2, 2001, 2)]
    assert report(bench)["error"]["code"] == "bad_rows"
    assert (report(bench)["train"]["kept"], len(report(bench)["train"]["refused_rows"])) == (1000, 100)


def test_rows_that_are_too_long_are_dropped_and_counted_everywhere(bench_of: BenchOf) -> None:
    bench = bench_of(max_seq_length=40)
    bench.put("train", [*rows.train_rows(20), LONG, {"prompt": "Hi"}])
    bench.put("eval", [*rows.held_out_rows(4), LONG])
    bench.run(Step.PREPARE)
    assert max(len(row["input_ids"]) for split in ("train", "eval") for row in tokens(bench, split)) <= 40
    message, hint = warning_of(bench, "rows_refused")
    message, hint = next((w.message, str(w.hint)) for w in bench.job.warnings if w.code == "rows_dropped")
    assert message == "1 of 22 rows of train.jsonl have more tokens than max_seq_length (40) and are left out"
    assert hint.startswith("raise max_seq_length to ")
    assert left_out(bench) == [("train", 21, "too_long"), ("train", 22, "refused"), ("held-out", 5, "too_long")]
    summary = bench.job.rows
    assert summary is not None
    assert (summary.train, summary.held_out, summary.dropped, summary.refused, summary.cut) == (20, 4, 2, 1, 0)
    assert summary.trained_tokens == sum(x != -100 for row in tokens(bench, "train") for x in row["labels"])
    assert summary.tokens == sum(len(row["input_ids"]) for row in tokens(bench, "train"))
    done = next(event for event in bench.services.store.events(bench.job_id) if event.type == "prepare_done")
    assert done.details["rows"] == summary.model_dump(mode="json")
    wide = bench_of(max_seq_length=int(hint.split()[3].rstrip(",")))
    wide.put("train", [*rows.train_rows(20), LONG])
    wide.run(Step.PREPARE)
    assert wide.job.rows is not None
    assert wide.job.rows.dropped == 0


@pytest.mark.parametrize(("option", "train_rows"), [("drop", 20), ("cut", 21)])
def test_a_plain_text_that_is_too_long_follows_the_option(bench_of: BenchOf, option: str, train_rows: int) -> None:
    bench = bench_of(max_seq_length=40, too_long=option)
    bench.put("train", [*({"text": f"Boat {number}"} for number in range(20)), {"text": "boat " * 100}])
    bench.run(Step.PREPARE)
    assert bench.job.rows is not None
    assert (bench.job.rows.train, bench.job.rows.dropped) == (train_rows, 21 - train_rows)


@pytest.mark.parametrize(("option", "count"), [("drop", 1), ("refuse", 20)])
def test_too_long_rows_fail_the_job_if_none_is_left_or_if_asked(bench_of: BenchOf, option: str, count: int) -> None:
    bench = bench_of(max_seq_length=40, too_long=option)
    bench.put("train", [*rows.train_rows(count if option == "refuse" else 0), LONG])
    error = failure(bench)
    assert error.code == "rows_too_long"
    assert str(error.hint).startswith("raise max_seq_length to ")
    assert left_out(bench) == [("train", count + 1 if option == "refuse" else 1, "too_long")]


def test_a_job_that_refuses_long_rows_takes_rows_that_fit(bench_of: BenchOf) -> None:
    bench = bench_of(max_seq_length=40, too_long="refuse")
    bench.run(Step.PREPARE)
    assert bench.job.warnings == ()


def test_files_that_are_not_read_are_named(bench: Bench) -> None:
    put(bench, "test.jsonl", b"{}")
    put(bench, "notes.txt", b"Hi")
    put(bench, "README.md", b"Hi")
    bench.run(Step.PREPARE)
    message, _ = warning_of(bench, "files_not_read")
    assert message == "the dataset has files that are not read: notes.txt, test.jsonl"
    assert report(bench)["files_not_read"] == ["README.md", "notes.txt", "test.jsonl"]
    assert bench.job.rows is not None
    assert bench.job.rows.files_not_read == ("notes.txt", "test.jsonl")
    assert bench.job.rows.files == ("train.jsonl", "eval.jsonl")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.suffix)
def test_the_same_rows_give_the_same_result_in_every_kind_of_file(bench: Bench, kind: FileKind) -> None:
    bench.put("train", [*PAIRS, {"prompt": "Hi", "completion": " "}])
    bench.run(Step.PREPARE)
    expected, count = report(bench)["train"], tokens(bench, "train")
    other = Bench(data_home(bench), bench.base)
    other.services.buckets.data.delete(f"{FOLDER}/train.jsonl")
    put(other, f"train{kind.suffix}", written([*PAIRS, {"prompt": "Hi", "completion": " "}], kind))
    other.run(Step.PREPARE)
    assert tokens(other, "train") == count
    assert normalized(report(other)["train"]) == normalized(expected)


def data_home(bench: Bench) -> Path:
    return Path(bench.services.settings.home).parent / "other"


def normalized(counts: dict[str, Any]) -> dict[str, Any]:
    """Return a report without the names of its files."""
    refused_rows = [{name: row[name] for name in ("row", "reason")} for row in counts["refused_rows"]]
    return counts | {"files": None, "refused_rows": refused_rows}


def test_fields_that_cannot_change_what_is_learned_are_counted_by_name(bench: Bench) -> None:
    bench.put("train", [*PAIRS[:20], *(pair | {"id": number} for number, pair in enumerate(PAIRS[20:]))])
    bench.run(Step.PREPARE)
    assert report(bench)["train"]["fields_not_read"] == {"id": 4}
    assert bench.job.rows is not None
    assert [(field.name, field.rows) for field in bench.job.rows.fields_not_read] == [("id", 4)]


def test_shards_are_read_in_their_order_and_a_bad_row_is_named_with_its_file(bench: Bench) -> None:
    bench.services.buckets.data.delete(f"{FOLDER}/train.jsonl")
    kind = FileKind("parquet")
    parts = [PAIRS[:10], [*PAIRS[10:20], {"prompt": "Hi", "completion": " "}], PAIRS[20:]]
    for number, part in enumerate(parts):
        put(bench, f"data/train-0000{number}-of-00003.parquet", written(part, kind))
    bench.run(Step.PREPARE)
    summary = bench.job.rows
    assert summary is not None
    assert (summary.train, summary.refused) == (24, 1)
    message, _ = warning_of(bench, "rows_refused")
    assert "1 of 25 rows of the 3 files of the train split" in message
    assert "row 11 of data/train-00001-of-00003.parquet" in message
    single = Bench(data_home(bench), bench.base)
    single.put("train", PAIRS)
    single.run(Step.PREPARE)
    assert tokens(single, "train") == tokens(bench, "train")


def test_a_number_of_rows_that_metadata_states_is_compared(bench: Bench) -> None:
    named = [("train", "train.jsonl", 30), ("val", "eval.jsonl", 8)]
    splits = [{"split_name": name, "path": path, "num_rows": count} for name, path, count in named]
    put(bench, "metadata.json", json.dumps({"splits": splits}).encode())
    bench.run(Step.PREPARE)
    message, _ = warning_of(bench, "row_count_differs")
    assert message == "metadata.json states 30 rows for the train split, and it has 24"


def test_repeated_rows_are_counted_and_held_out_rows_that_are_trained_on_too(bench: Bench) -> None:
    bench.put("train", [*PAIRS[:10], PAIRS[2], PAIRS[2], PAIRS[5]])
    bench.put("eval", [*rows.held_out_rows(3), PAIRS[5]])
    bench.run(Step.PREPARE)
    message, _ = warning_of(bench, "rows_repeated")
    assert message == (
        "3 of 13 rows of train.jsonl repeat an earlier one: row 11 is row 3 again; row 12 is row 3 again; "
        "row 13 is row 6 again"
    )
    message, _ = warning_of(bench, "held_out_rows_trained")
    assert message == "1 of 4 rows of eval.jsonl are trained on, too: row 4"
    assert bench.job.rows is not None
    assert (bench.job.rows.duplicates, bench.job.rows.held_out_duplicates) == (3, 1)


@pytest.mark.parametrize(
    ("content", "held_out"),
    [
        ([*PAIRS, *PAIRS[:20]], 4),
        ([*PAIRS[:1], *PAIRS[1:2] * 20], 1),
        ([*PAIRS[:2] * 20], 20),
        ([*PAIRS[:1] * 3, *PAIRS[1:2] * 20], 3),
    ],
)
def test_no_row_that_is_held_out_is_trained_on(bench_of: BenchOf, content: list[Any], held_out: int) -> None:
    bench = bench_of(eval_strategy="epoch")
    bench.services.buckets.data.delete(f"{FOLDER}/eval.jsonl")
    bench.put("train", content)
    bench.run(Step.PREPARE)
    train, evaluation = ([tuple(row["input_ids"]) for row in tokens(bench, split)] for split in ("train", "eval"))
    assert (len(train), len(evaluation)) == (len(content) - held_out, held_out)
    assert not {*train} & {*evaluation}


def test_rows_that_are_all_equal_cannot_be_split(bench_of: BenchOf) -> None:
    bench = bench_of(eval_strategy="epoch")
    bench.services.buckets.data.delete(f"{FOLDER}/eval.jsonl")
    bench.put("train", PAIRS[:1] * 30)
    assert failure(bench).code == "too_few_rows"
