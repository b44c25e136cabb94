"""Prepare: bad data fails here, with row numbers, before any GPU is used."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemtune.datasets.uploads.record import record_name
from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.request.uploads.dataset import DatasetUpload, UploadFile
from gemtune.services.datasets.upload import UploadDataset
from tests import rows
from tests.trainer.conftest import END_OF_TURN, Bench
from trainer.context import StopRequested
from trainer.dataset.rows import read_rows
from trainer.dataset.source import find
from trainer.rows.prepared import read_tokens
from trainer.steps import prepare

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}


def refused_rows(bench: Bench) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    return entries


def tokens(bench: Bench, split: str) -> list[dict[str, list[int]]]:
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1")
    return list(read_tokens(Path(folder) / f"{split}.parquet"))


def export_path(bench: Bench, name: str) -> str:
    return bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1/{name}")


def rows_left_out(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(export_path(bench, "rows_left_out.jsonl")).read_text().splitlines()]


def code_of_failure(bench: Bench) -> tuple[str, str]:
    with pytest.raises(StepError) as caught:
        bench.run(Step.PREPARE)
    return caught.value.code, str(caught.value)


def test_the_report_counts_rows_tokens_and_steps_and_shows_what_is_trained(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")
    assert (report["rows"], report["eval_rows"], report["total_train_steps"]) == (24, 8, 8)
    assert report["train"]["kept"] == 24
    assert report["train"]["tokens"] == sum(len(row["input_ids"]) for row in tokens(bench, "train"))
    assert report["train"]["trained_tokens"] == sum(x != -100 for r in tokens(bench, "train") for x in r["labels"])
    workload = bench.services.store.get(bench.job_id).workload
    assert workload is not None
    all_rows = [row for split in ("train", "eval") for row in tokens(bench, split)]
    assert workload.rows_tokens == sum(len(row["input_ids"]) for row in all_rows)
    first = rows.train_rows(1)[0]["messages"]
    assert report["samples"][0] == [
        {
            "trained": False,
            "text": f"<bos><start_of_turn>user\n{first[0]['content']}<end_of_turn>\n<start_of_turn>model\n",
        },
        {"trained": True, "text": f"{first[1]['content']}<end_of_turn>\n"},
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER]}, "no message of the assistant"),
        ({"messages": [ANSWER, USER]}, "do not alternate"),
        ({"messages": [USER, USER, ANSWER]}, "do not alternate"),
        ({"messages": [USER, {"role": "wizard", "content": "x"}]}, "unknown role 'wizard'"),
        ({"messages": []}, "an empty list"),
        ({"messages": "Hi"}, "not a list of messages"),
        ({"messages": [USER, {"role": "assistant", "content": "  "}]}, "empty message"),
        ({"messages": [USER, {"role": "assistant", "content": 5}]}, "not a text"),
        ({"messages": [USER, {"role": "assistant"}]}, "role and content"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]}, "picture"),
        ({"messages": [{"role": "system", "content": "Be"}, ANSWER]}, "do not alternate"),
        ({"prompt": "Hi", "answer": "x"}, "RL"),
        ({"prompt": "Hi", "chosen": "x", "rejected": "y"}, "RL"),
        ({"texts": "Hi"}, "has texts"),
        ([1], "not a JSON object"),
        ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"prompt": "Hi", "completion": float("nan")}, "prompt and no completion, or an empty one"),
    ],
)
def test_a_bad_row_is_refused_by_number_and_reason(bench: Bench, row: Any, reason: str) -> None:
    bench.put("train", [*rows.train_rows(20), row])
    bench.run(Step.PREPARE)
    (entry,) = refused_rows(bench)
    assert entry["row"] == 21
    assert reason in entry["reason"]


def test_a_broken_or_huge_line_affects_only_itself(bench: Bench) -> None:
    good = [json.dumps(row).encode() for row in rows.train_rows(30)]
    giant = b'{"prompt": "' + b"x" * 50_000_000 + b'"}'
    bench.put("train", b"\n".join([good[0], b"{", giant, b"", b"\xff\xfe", *good[1:]]))
    bench.run(Step.PREPARE)
    assert [(entry["row"], entry["reason"][:11].strip()) for entry in refused_rows(bench)] == [
        (2, "not JSON (l"),
        (3, "longer than"),
        (5, "not UTF-8 t"),
    ]
    assert bench.read("prepared/1/prepared.json")["rows"] == 30


def test_a_split_may_be_a_link_unless_it_leads_out_of_the_bucket(bench: Bench, tmp_path: Path) -> None:
    folder = Path(bench.services.buckets.data.uri("processed_datasets/chats"))
    (folder / "eval.jsonl").rename(folder / "held_out")
    (folder / "eval.jsonl").symlink_to("held_out")
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")
    assert (report["rows"], report["eval_rows"]) == (24, 8)
    (folder / "eval.jsonl").unlink()
    (folder / "held_out").rename(tmp_path / "held_out")
    (folder / "eval.jsonl").symlink_to(tmp_path / "held_out")
    with pytest.raises(StepError, match=r"chats/eval\.jsonl' in data leads out of its bucket") as caught:
        find(bench.services.buckets.data, "chats", tmp_path, token=lambda: None)
    assert caught.value.code == "bad_dataset"


def uploaded(bench: Bench, *splits: str) -> str:
    """Upload a dataset, which the job of the bench will name."""
    content = "".join(json.dumps(row) + "\n" for row in rows.train_rows(24)).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    files = [UploadFile(path=f"{split}.jsonl", bytes=len(content), sha256=sha256) for split in splits]
    dataset_id = bench.services.upload_dataset.begin(DatasetUpload(files=files)).dataset_id
    for number in range(len(files)):
        bench.services.upload_dataset.store_part(dataset_id, number, 0, content)
    bench.services.upload_dataset.complete(dataset_id)
    bench.fields = {"processed_dataset_id": dataset_id}
    return dataset_id


def test_a_job_that_is_accepted_while_its_dataset_is_deleted_fails_and_names_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id, remove = uploaded(bench, "train"), UploadDataset.remove

    def accepted_before(uploads: UploadDataset, removed: str) -> None:
        bench.begin(Step.PREPARE)
        remove(uploads, removed)

    monkeypatch.setattr(UploadDataset, "remove", accepted_before)
    bench.services.datasets.delete(dataset_id)
    code, message = code_of_failure(bench)
    assert (code, f"dataset '{dataset_id}' was deleted" in message) == ("dataset_not_found", True)


@pytest.mark.parametrize("lost", ["train", "eval"])
def test_no_job_trains_on_what_is_left_of_a_dataset_while_it_is_deleted(bench: Bench, lost: str) -> None:
    dataset_id = uploaded(bench, "train", "eval")
    bench.begin(Step.PREPARE)
    bench.services.buckets.data.delete(f"processed_datasets/{dataset_id}/{lost}.jsonl")
    code, message = code_of_failure(bench)
    assert (code, message) == (
        "dataset_not_found",
        f"dataset '{dataset_id}' was deleted: it has no {lost}.jsonl any more",
    )


def test_a_dataset_that_is_deleted_while_it_is_read_is_named(bench: Bench, tmp_path: Path) -> None:
    dataset_id, data = uploaded(bench, "train"), bench.services.buckets.data
    dataset = find(data, dataset_id, tmp_path, token=lambda: None)

    def read() -> None:
        with dataset.open("train.jsonl", tmp_path) as path:
            path.unlink()
            list(read_rows(path, with_media=False, named="train.jsonl"))

    with pytest.raises(StepError, match=rf"{dataset_id} was deleted while it was read") as caught:
        read()
    assert caught.value.code == "dataset_not_found"
    with pytest.raises(StepError, match=rf"{dataset_id} was deleted before it was read"):
        dataset.folder.fetch("train.jsonl", tmp_path)


def test_a_folder_with_the_name_of_an_uploaded_dataset_needs_no_record(bench: Bench) -> None:
    dataset_id, data = uploaded(bench, "train"), bench.services.buckets.data
    data.delete(record_name(dataset_id))
    bench.run(Step.PREPARE)
    data.write(record_name(dataset_id), b"{")
    with pytest.raises(StepError) as caught:
        find(data, dataset_id, bench.services.settings.work, token=lambda: None)
    assert caught.value.code == "bad_dataset"


def test_too_many_bad_rows_fail_the_job_and_the_first_are_named(bench: Bench) -> None:
    bench.put("train", [*rows.train_rows(8), {"messages": [USER]}])
    code, message = code_of_failure(bench)
    assert code == "bad_rows"
    assert "1 of 9 rows of train.jsonl" in message
    assert "row 9: no message of the assistant" in message
    assert message.endswith(f"all of them are in {export_path(bench, 'rows_left_out.jsonl')}")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_dataset_fails(bench: Bench, content: bytes) -> None:
    bench.put("train", content)
    assert code_of_failure(bench)[0] == "empty_dataset"


@pytest.mark.parametrize(("epochs", "fails"), [(1, True), (2, False)])
def test_a_training_that_would_end_during_warmup_is_refused(
    bench_of: Callable[..., Bench], epochs: int, fails: bool
) -> None:
    """24 rows in batches of 24 are one train_step per epoch."""
    bench = bench_of(max_steps=None, epochs=epochs, batch_size=24, warmup_ratio=0.03)
    if not fails:
        bench.run(Step.PREPARE)
        return
    code, message = code_of_failure(bench)
    assert code == "warmup_without_end"
    assert "all train_steps (1)" in message


def test_long_rows_are_cut_and_a_row_without_trained_tokens_is_refused(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(max_seq_length=40, too_long="cut")
    long_answer = {"prompt": "Hi", "completion": "boat " * 10_000}
    long_prompt = {"prompt": "boat " * 10_000, "completion": "Captain"}
    bench.put("train", [*rows.train_rows(20), long_answer, long_prompt])
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")
    assert report["train"]["truncated"] == 1
    assert max(len(row["input_ids"]) for row in tokens(bench, "train")) == 40
    (entry,) = refused_rows(bench)
    assert entry["row"] == 22
    assert "max_seq_length" in entry["reason"]


def warnings(bench: Bench) -> dict[str, str]:
    """Return code -> message, and check that record, event and report agree."""
    done = next(e for e in bench.services.store.events(bench.job_id, after=0) if e.type == "prepare_done")
    recorded = {warning.code: warning.message for warning in bench.job.warnings}
    for place in (done.details.get("warnings", []), bench.read("prepared/1/report.json")["warnings"]):
        assert {warning["code"]: warning["message"] for warning in place} == recorded
    return recorded


LONG = {"prompt": "Hi", "completion": "boat " * 100}
TWO_TURNS = {"messages": [USER, ANSWER, USER, {"role": "assistant", "content": "boat " * 100}]}


def test_rows_whose_end_is_cut_are_counted_and_reported(
    bench_of: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """A row of two turns keeps the end of the first, so it does not count."""
    bench = bench_of(max_seq_length=40, too_long="cut")
    bench.put("train", [*rows.train_rows(20), LONG, TWO_TURNS, LONG | {"prompt": "Ho"}])
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")["train"]
    assert (report["truncated"], report["cut_ends"]) == (3, 2)
    (message,) = warnings(bench).values()
    assert message.startswith("2 of 23 rows of train.jsonl are longer than 40 tokens and are cut before an answer ends")
    assert message in caplog.text
    (warning,) = bench.job.warnings
    assert bench.job.rows is not None
    assert (bench.job.rows.cut, bench.job.rows.dropped) == (3, 0)
    length_in_hint = int(str(warning.hint).split()[3].rstrip(","))
    longer = bench_of(max_seq_length=length_in_hint, too_long="cut")
    longer.put("train", [*rows.train_rows(20), LONG])
    longer.run(Step.PREPARE)
    assert warnings(longer) == {}


def test_a_dataset_whose_rows_all_lose_their_end_is_refused(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(max_seq_length=40, too_long="cut")
    bench.put("train", [LONG, LONG])
    code, message = code_of_failure(bench)
    assert code == "ends_cut_off"
    assert "2 of 2 rows" in message


def test_a_row_cut_after_its_end_of_turn_counts_as_complete(bench_of: Callable[..., Bench]) -> None:
    """Only the line break after the end-of-turn token is cut off."""
    uncut = bench_of()
    uncut.put("train", [LONG])
    uncut.run(Step.PREPARE)
    (row,) = tokens(uncut, "train")
    assert row["input_ids"][-2] == END_OF_TURN
    for missing_tokens, fails in ((1, False), (2, True)):
        bench = bench_of(max_seq_length=len(row["input_ids"]) - missing_tokens, too_long="cut")
        bench.put("train", [LONG])
        if fails:
            assert code_of_failure(bench)[0] == "ends_cut_off"
        else:
            bench.run(Step.PREPARE)
            assert bench.read("prepared/1/report.json")["train"]["truncated"] == 1
            assert warnings(bench) == {}


def test_refused_rows_are_reported(bench: Bench) -> None:
    bench.put("train", [*rows.train_rows(20), {"messages": [USER]}])
    bench.run(Step.PREPARE)
    assert warnings(bench) == {
        "rows_refused": "1 of 21 rows of train.jsonl cannot be used: row 21: no message of the assistant, which is "
        "what is learned; prompts without answers are for method RL with GRPO"
    }


def test_without_a_limit_of_the_model_the_request_decides_the_length_of_rows(
    bench_of: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = bench_of(max_seq_length=3000)
    base = Path(shutil.copytree(bench.base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    assert config.pop("max_position_embeddings") == 512
    (base / "config.json").write_text(json.dumps(config))
    bench.training["base_model_id"] = str(base)
    bench.run(Step.PREPARE)
    assert bench.read("prepared/1/prepared.json")["max_seq_length"] == 3000


def test_every_shape_of_a_row_gives_the_same_tokens(bench: Bench) -> None:
    as_list = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER]
    bench.put(
        "train",
        [
            {"messages": [USER, ANSWER]},
            {"prompt": "Hi", "completion": "Captain"},
            {"messages": as_list},
            {"prompt": [USER], "completion": [ANSWER]},
        ],
    )
    bench.run(Step.PREPARE)
    first, *others = tokens(bench, "train")
    assert all(other == first for other in others)


def test_parquet_splits_named_in_metadata_are_read(bench: Bench, tmp_path: Path) -> None:
    data = bench.services.buckets.data
    for name, content in (("a", rows.train_rows(12)), ("b", rows.held_out_rows(3))):
        pq.write_table(pa.Table.from_pylist(content), tmp_path / f"{name}.parquet")
        data.upload(tmp_path / f"{name}.parquet", f"processed_datasets/chats/{name}.parquet")
    splits = [
        {"split_name": "training", "num_rows": 12, "path": "a.parquet"},
        {"split_name": "validation", "num_rows": 3, "path": "processed_datasets/chats/b.parquet"},
    ]
    data.write("processed_datasets/chats/metadata.json", json.dumps({"splits": splits}).encode())
    bench.run(Step.PREPARE)
    summary = bench.read("prepared/1/prepared.json")
    assert (summary["rows"], summary["eval_rows"]) == (12, 3)


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"[]",
        b'{"splits": 3}',
        b'{"splits": [{"split_name": "train", "path": "none.parquet"}]}',
        b'{"splits": [{"split_name": "train", "path": "../../../secrets/x.jsonl"}]}',
        b'{"splits": [{"split_name": "train", "path": "/etc/passwd"}]}',
        b'{"splits": [{"split_name": "train", "path": "train.csv"}]}',
    ],
)
def test_metadata_with_a_missing_or_outside_path_fails(bench: Bench, metadata: bytes, tmp_path: Path) -> None:
    bench.services.buckets.data.write("processed_datasets/chats/metadata.json", metadata)
    with pytest.raises(StepError) as caught:
        find(bench.services.buckets.data, "chats", tmp_path, token=lambda: None)
    assert caught.value.code == "bad_dataset"


def test_a_file_that_is_not_parquet_fails(bench: Bench) -> None:
    bench.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    bench.put("train", b"PAR1 not really", suffix="parquet")
    assert code_of_failure(bench)[0] == "bad_dataset"


def test_rows_are_held_out_only_on_request_and_depend_on_the_seed(bench_of: Callable[..., Bench]) -> None:
    held_out = []
    for training in ({}, {"eval_strategy": "epoch"}, {"eval_strategy": "epoch"}, {"eval_strategy": "epoch", "seed": 1}):
        bench = bench_of(**training)
        bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
        bench.run(Step.PREPARE)
        summary = bench.read("prepared/1/prepared.json")
        assert (summary["rows"], summary["eval_rows"]) == ((22, 2) if training else (24, 0))
        held_out.append(tokens(bench, "eval") if training else [])
    assert held_out[1] == held_out[2] != held_out[3]


def test_a_single_row_cannot_be_split(bench_of: Callable[..., Bench]) -> None:
    bench = bench_of(eval_strategy="epoch")
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.put("train", rows.train_rows(1))
    assert code_of_failure(bench)[0] == "too_few_rows"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", '{"model_type": "llama"}', "not_a_gemma"),
        ("config.json", "{", "bad_base_model"),
        ("tokenizer.json", "{}", "bad_base_model"),
        ("tokenizer.json", None, "bad_base_model"),
        ("model.safetensors", None, "bad_base_model"),
    ],
)
def test_a_broken_base_model_fails(bench: Bench, tmp_path: Path, name: str, content: str | None, code: str) -> None:
    broken = Path(shutil.copytree(bench.base, tmp_path / "broken"))
    bench.training["base_model_id"] = str(broken)
    context = bench.context(Step.PREPARE)  # the model was complete when the request was accepted
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_text(content)
    with pytest.raises(StepError) as caught:
        prepare.run(context)
    assert caught.value.code == code


def test_a_base_model_without_a_template_gets_gemtunes_own(bench: Bench, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(bench.base, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    bench.training["base_model_id"] = str(bare)
    bench.run(Step.PREPARE)
    assert "gemtune's own" in bench.read("prepared/1/prepared.json")["chat_template"]


def test_a_stop_ends_prepare_without_a_result(bench: Bench) -> None:
    with pytest.raises(StopRequested):
        bench.run(Step.PREPARE, should_stop=lambda: True)
    assert bench.job.steps[Step.PREPARE].state == "running"


def test_prepare_and_export_never_import_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import trainer.__main__, trainer.steps.prepare, trainer.steps.export, trainer.rows.encoder, pyarrow.parquet, tokenizers
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
