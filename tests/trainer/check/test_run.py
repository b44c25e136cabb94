"""Check of rows in files of this machine, and in the data bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemtune.checks.report import CheckReport
from gemtune.checks.task import ROWS_LEFT_OUT, CheckTask, LocalSource
from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from tests import rows
from tests.trainer.conftest import Bench
from trainer.check.run import Check, run


def written(path: Path, content: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def checked(
    tmp_path: Path,
    tiny: Path,
    source: LocalSource | None,
    bench: Bench | None = None,
    columns: dict[str, str | None] | None = None,
    **training: Any,
) -> CheckReport:
    config = {"base_model_id": str(tiny), "gradient_accumulation_steps": 1} | training
    fields = {} if columns is None else {"dataset_columns": columns}
    spec = Spec.model_validate({"processed_dataset_id": "chats", "training_config": config, **fields})
    work = tmp_path / "work"
    work.mkdir()
    task = CheckTask(spec=spec, source=source, samples=4)

    def buckets() -> Any:
        assert bench is not None
        return bench.services.buckets

    return run(Check(task, tmp_path, work, lambda name: str(tmp_path / name), buckets, lambda: None))


def left_out(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / ROWS_LEFT_OUT).read_text().splitlines()]


def test_the_report_says_what_prepare_would_record(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    bench.run(Step.PREPARE)
    job = bench.services.store.get(bench.job_id)
    training = {name: value for name, value in bench.training.items() if name != "base_model_id"}
    report = checked(tmp_path, tiny, None, bench, **training)
    assert job.rows is not None
    assert report.trains
    assert report.workload == job.workload
    assert report.rows == job.rows.model_copy(update={"report": None})
    assert report.warnings == job.warnings
    samples = bench.read("prepared/1/report.json")["samples"]
    shown = [[piece.model_dump(exclude_none=True) for piece in sample] for sample in report.samples]
    assert (len(shown), shown[:3]) == (4, samples)


def test_every_row_that_is_left_out_is_named_with_its_reason(tmp_path: Path, tiny: Path) -> None:
    good = rows.train_rows(48)
    bad = [{"prompt": "a", "compeltion": "b"}, *({"messages": [{"role": "user", "content": "x"}]} for _ in range(2))]
    report = checked(tmp_path, tiny, LocalSource(train=written(tmp_path / "mine.jsonl", [*good, *bad])))
    assert report.trains
    assert report.train is not None
    assert (report.train.used, report.train.refused, report.train.files) == (48, 3, (str(tmp_path / "mine.jsonl"),))
    named = left_out(tmp_path)
    assert [row["row"] for row in named] == [49, 50, 51]
    assert "compeltion" in named[0]["reason"]
    assert "dataset_columns" in named[0]["reason"]
    assert report.rows_left_out == str(tmp_path / ROWS_LEFT_OUT)
    columns = {column.name: column for column in report.train.columns}
    assert (columns["messages"].read_as, columns["messages"].rows) == ("messages", 50)
    assert columns["compeltion"].read_as is None


def test_a_mapped_column_is_read_also_if_all_rows_are_refused(tmp_path: Path, tiny: Path) -> None:
    source = LocalSource(train=written(tmp_path / "mine.jsonl", [{"Frage": "a", "Nr": 1, "Rest": 2}] * 3))
    report = checked(tmp_path, tiny, source, columns={"prompt": "Frage", "Nr": None})
    assert report.train is not None
    assert {column.name: column.read_as for column in report.train.columns} == {
        "Frage": "prompt",
        "Nr": None,
        "Rest": None,
    }


@pytest.mark.parametrize(
    ("columns", "row", "hint"),
    [
        ({"question": "prompt"}, {"question": "a", "answer": "b"}, "set dataset_columns to {prompt: question}"),
        ({"question": "prompt"}, {"question": "a", "reply": "b"}, "set dataset_columns to {prompt: question}"),
        ({"prompt": "Frage"}, {"prompt": "a", "completion": "b"}, "name a column that the rows have"),
    ],
)
def test_a_column_that_no_row_has_is_refused(
    tmp_path: Path, tiny: Path, columns: dict[str, str | None], row: dict[str, str], hint: str
) -> None:
    report = checked(tmp_path, tiny, LocalSource(train=written(tmp_path / "mine.jsonl", [row] * 40)), columns=columns)
    assert report.error is not None
    assert (report.error.code, report.trains) == ("no_such_column", False)
    (field, column), names = next(iter(columns.items())), ", ".join(sorted(row))
    assert report.error.message == f"no row has the column {column} for the field {field}; the first row has {names}"
    assert hint in (report.error.hint or "")


@pytest.mark.parametrize(
    ("columns", "unseen"),
    [
        ({"Preis": None, "nr": None}, ["Preis", "nr"]),
        ({"Topic": None, "source": None}, []),
        ({"prompt.name": None, "messages.name": None}, ["messages.name"]),
    ],
)
def test_a_column_to_ignore_that_no_row_has_is_warned_of(
    tmp_path: Path, tiny: Path, columns: dict[str, str | None], unseen: list[str]
) -> None:
    row = {"Frage": "a", "completion": "b", "Nr": 1, "Topic": "c", "SOURCE": "d"}
    content = [{"Frage": "a", "completion": "b"}, *([row] * 40)]
    source = LocalSource(train=written(tmp_path / "mine.jsonl", content))
    report = checked(tmp_path, tiny, source, columns={"prompt": "Frage", "Nr": None, **columns})
    assert report.trains
    warnings = [warning for warning in report.warnings if warning.code == "nothing_to_ignore"]
    first = "the first row has Frage, completion"
    assert [warning.message for warning in warnings] == [
        f"no row has the column {name} to ignore; {first}" for name in unseen
    ]


def test_a_column_that_few_rows_have_is_read(tmp_path: Path, tiny: Path) -> None:
    content = [{"prompt": "a", "completion": "b"}] * 40 + [{"Frage": "a", "completion": "b"}]
    source = LocalSource(train=written(tmp_path / "mine.jsonl", content))
    assert checked(tmp_path, tiny, source, columns={"prompt": "Frage", "x": None}).trains


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "empty_dataset"), ('{"nothing": "known"}\n', "bad_rows"), ("[1", "bad_dataset"), ("[[", "bad_dataset")],
)
def test_a_hint_of_a_check_is_not_about_submitting(tmp_path: Path, tiny: Path, content: str, code: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    report = checked(tmp_path, tiny, LocalSource(train=str(tmp_path / "mine.json")))
    assert report.error is not None
    assert (report.error.code, "submit" in (report.error.hint or "submit")) == (code, False)


def test_rows_that_cannot_be_trained_on_are_reported_and_not_raised(tmp_path: Path, tiny: Path) -> None:
    source = LocalSource(train=written(tmp_path / "mine.jsonl", [{"nothing": "known"}] * 3))
    report = checked(tmp_path, tiny, source)
    assert not report.trains
    assert report.error is not None
    assert report.error.code == "bad_rows"
    assert report.train is not None
    assert [row.row for row in report.train.refused_rows] == [1, 2, 3]
    assert report.workload is None


def test_equal_and_nearly_equal_rows_of_both_splits_are_told_apart(tmp_path: Path, tiny: Path) -> None:
    train, words = rows.train_rows(40), "the quick brown fox jumps over a lazy dog while seven wizards box all day long"
    messages = [{"role": "user", "content": words}, {"role": "assistant", "content": words[::-1]}]
    near = [messages[0] | {"content": words.replace("long", "short")}, messages[1]]
    source = LocalSource(
        train=written(tmp_path / "a.jsonl", [*train, {"messages": messages}]),
        held_out=written(tmp_path / "b.jsonl", [{"messages": near}, train[5]]),
    )
    report = checked(tmp_path, tiny, source)
    assert report.rows is not None
    assert report.rows.held_out_duplicates == 1
    assert report.near_duplicates is not None
    assert report.near_duplicates.rows == 1
    example = report.near_duplicates.examples[0]
    assert (example.held_out, example.train) == ("row 1", "row 41")


@pytest.mark.parametrize("packing", [False, True])
def test_rows_are_held_out_as_by_prepare(bench: Bench, tiny: Path, tmp_path: Path, packing: bool) -> None:
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.training |= {"eval_strategy": "epoch", "packing": packing}
    bench.run(Step.PREPARE)
    job = bench.services.store.get(bench.job_id)
    training = {name: value for name, value in bench.training.items() if name != "base_model_id"}
    report = checked(tmp_path, tiny, None, bench, **training)
    assert (report.workload, report.rows is not None) == (job.workload, True)
    assert report.near_duplicates is not None
    assert (report.packs is not None) is packing


def test_a_folder_without_rows_to_train_on_and_a_model_that_is_none_are_named(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "test.jsonl").write_text("{}")
    report = checked(tmp_path, tiny, LocalSource(train=str(folder)))
    assert report.error is not None
    assert (report.error.code, report.train) == ("dataset_not_found", None)
    (tmp_path / "work").rmdir()
    (folder / "train.jsonl").write_text("{}")
    report = checked(tmp_path, tmp_path, LocalSource(train=str(folder)))
    assert report.error is not None
    assert report.error.code == "bad_base_model"
