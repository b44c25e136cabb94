"""RL requests without an algorithm: the columns of the dataset decide."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemtune.errors import KeyReused, RequestRefused
from tests.fakes import World

FOLDER = "processed_datasets/pairs"
DPO = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}
GRPO = {"prompt": "1 + 1", "answer": "2"}
BY_DPO = {"algorithm": "dpo", "beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}
BY_GRPO = {
    "algorithm": "grpo",
    "num_generations": 8,
    "max_completion_length": 256,
    "temperature": 1.0,
    "beta": 0.0,
    "loss_type": "dapo",
    "rewards": [
        {
            "name": None,
            "weight": 1.0,
            "after": None,
            "answer_column": "answer",
            "type": "exact_answer",
            "ignore_case": False,
        }
    ],
}


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(*rows: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), target)
    return target.getvalue()


def metadata(path: str) -> bytes:
    return json.dumps({"splits": [{"split_name": "train", "num_rows": 1, "path": path}]}).encode()


def submitted(world: World, key: str | None = None, **training: Any) -> str:
    return world.submit(key, processed_dataset_id="pairs", training={"method": "RL", "rl_config": None} | training)


def spec_of(world: World, job_id: str) -> Any:
    return json.loads(world.services.buckets.config.read(world.services.store.get(job_id).spec_name))


def refusal(world: World) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        submitted(world)
    (problem,) = caught.value.problems
    return ".".join(map(str, problem.loc)), problem.msg


@pytest.mark.parametrize(
    ("row", "algorithm"),
    [
        *((DPO, BY_DPO), (GRPO, BY_GRPO)),
        ({name.title(): text for name, text in DPO.items()}, BY_DPO),
        ({name.title(): text for name, text in GRPO.items()}, BY_GRPO),
        ({"prompt": "Hi", "response_0": "Hello", "response_1": "No", "better_response_id": "0"}, BY_DPO),
    ],
)
@pytest.mark.parametrize(
    "files",
    [
        {"train.jsonl": jsonl},
        {"train.parquet": parquet},
        {"training.jsonl": jsonl},
        {"my_rows.json": lambda row: json.dumps([row, row], indent=1).encode()},
        {"my_rows.json": lambda row: json.dumps({"version": 1, "data": [row, row]}, indent=1).encode()},
        {"train.jsonl.gz": lambda row: gzip.compress(jsonl(row), mtime=0)},
        {"data/train-00000-of-00002.parquet": parquet, "data/train-00001-of-00002.parquet": parquet},
        {"train.tsv": lambda row: "\n".join(["\t".join(row), "\t".join(row.values())]).encode("utf-16")},
        {"metadata.json": "rows.parquet", "rows.parquet": parquet, "train.jsonl": lambda row: jsonl({"messages": []})},
        {"metadata.json": f"{FOLDER}/rows.jsonl", "rows.jsonl": jsonl},
    ],
)
def test_the_rows_decide_whatever_their_file_is(world: World, files: dict[str, Any], row: Any, algorithm: Any) -> None:
    for name, content in files.items():
        world.services.buckets.data.write(
            f"{FOLDER}/{name}", metadata(content) if name == "metadata.json" else content(row)
        )
    spec = spec_of(world, submitted(world))
    assert spec["training_config"]["rl_config"] == algorithm
    (message,) = world.messages("requests")
    assert message["training_config"]["rl_config"] == algorithm


def test_the_algorithm_of_a_request_overrides_the_rows(world: World) -> None:
    world.services.buckets.data.write(f"{FOLDER}/train.jsonl", jsonl(GRPO))
    spec = spec_of(world, submitted(world, rl_config={"algorithm": "dpo", "beta": 0.5}))
    assert spec["training_config"]["rl_config"] == BY_DPO | {"beta": 0.5}
    assert spec_of(world, submitted(world, method="LoRA"))["training_config"]["rl_config"] is None


@pytest.mark.parametrize(
    ("content", "message_part"),
    [
        (jsonl({"messages": []}), "these have messages"),
        (jsonl({"prompt": "a", "chosen": "b"}), "these have chosen, prompt"),
        (jsonl(DPO | GRPO), "these have answer, chosen, prompt, rejected"),
        (jsonl({"prompt": "a", "answer": None}), "these have prompt"),
        (jsonl({"hf_" + "fAkE" * 8: 1}), "these have [secret]"),
        (b"", "cannot be read"),
        (b'{"prompt": "' + b"a" * 2_000_000, "cannot be read"),
        (b"no JSON\n", "cannot be read"),
    ],
)
def test_rows_that_fit_no_algorithm_or_both_are_refused(world: World, content: bytes, message_part: str) -> None:
    world.services.buckets.data.write(f"{FOLDER}/train.jsonl", content)
    where, message = refusal(world)
    assert where == "training_config.rl_config"
    assert message_part in message


@pytest.mark.parametrize("content", [b"PAR1", b"", b"x" * 100 + b"PAR1", parquet(DPO)[:-9] + b"PAR1"])
def test_a_damaged_parquet_file_is_refused(world: World, content: bytes) -> None:
    world.services.buckets.data.write(f"{FOLDER}/train.parquet", content)
    assert "cannot be read" in refusal(world)[1]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", metadata("../../secrets/x.jsonl"), metadata("nowhere.jsonl"), metadata("a.txt")]
)
def test_metadata_without_a_readable_file_is_refused(world: World, content: bytes) -> None:
    world.services.buckets.data.write(f"{FOLDER}/metadata.json", content)
    where, message = refusal(world)
    assert where == "processed_dataset_id"
    assert message.startswith("metadata.json")


def test_a_split_with_two_candidates_or_none_is_refused_before_a_job_exists(world: World) -> None:
    data = world.services.buckets.data
    data.write(f"{FOLDER}/test.csv", b"prompt,answer\n1 + 1,2\n")
    assert refusal(world) == ("processed_dataset_id", "dataset 'pairs' has no train split; it has test.csv")
    data.write(f"{FOLDER}/train.csv", b"prompt,answer\n1 + 1,2\n")
    submitted(world)
    data.write(f"{FOLDER}/train.jsonl", jsonl(GRPO))
    assert refusal(world)[1] == "there are several candidates for training: train.csv, train.jsonl"


def test_the_rows_of_a_file_in_zstd_are_not_known_before_they_are_prepared(world: World) -> None:
    world.services.buckets.data.write(f"{FOLDER}/train.jsonl.zst", b"")
    assert "cannot be read now" in refusal(world)[1]


def test_a_missing_dataset_is_the_only_problem(world: World) -> None:
    assert refusal(world) == ("processed_dataset_id", "there is no dataset 'pairs'")


def test_a_repeated_key_returns_the_job_even_when_its_dataset_is_gone(world: World) -> None:
    data = world.services.buckets.data
    data.write(f"{FOLDER}/train.jsonl", jsonl(DPO))
    first = submitted(world, "k")
    data.delete(f"{FOLDER}/train.jsonl")
    assert submitted(world, "k") == first
    with pytest.raises(KeyReused):
        submitted(world, "k", rl_config={"algorithm": "dpo", "beta": 0.5})
