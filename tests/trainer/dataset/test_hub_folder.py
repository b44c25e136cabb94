"""Datasets of the Hub, by name and revision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemtune.datasets.files.kinds import FileKind
from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.untrusted import MAX_BYTES
from tests import rows
from tests.trainer import fake_hub
from tests.trainer.conftest import Bench
from tests.trainer.dataset.files import written
from tests.trainer.fake_dataset_hub import COMMIT, REPOSITORY, FakeDatasetHub

PAIRS = [
    {"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]}
    for row in rows.train_rows(24)
]
PARQUET = FileKind("parquet")
ADDRESS = f"hf://datasets/{REPOSITORY}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDatasetHub]:
    files = {
        "README.md": b"Chats",
        ".gitattributes": b"",
        "main/train-00000-of-00002.parquet": written(PAIRS[:12], PARQUET),
        "main/train-00001-of-00002.parquet": written(PAIRS[12:20], PARQUET),
        "main/validation-00000-of-00001.parquet": written(PAIRS[20:], PARQUET),
        "main/test-00000-of-00001.parquet": b"not read",
        "other/train.jsonl": b"not read",
    }
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with fake_hub.serving(FakeDatasetHub(files)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def prepared(bench: Bench, dataset: str, **fields: str) -> Bench:
    bench.fields = {"processed_dataset_id": dataset} | fields
    bench.run(Step.PREPARE)
    return bench


def failure(bench: Bench, dataset: str) -> StepError:
    with pytest.raises(StepError) as caught:
        prepared(bench, dataset)
    return caught.value


@pytest.mark.parametrize("revision", ["", "@v1", "@refs%2Fconvert%2Fparquet", "@refs/convert/parquet", f"@{COMMIT}"])
def test_a_folder_of_a_repository_is_trained_on_at_the_commit_of_its_revision(
    bench: Bench, hub: FakeDatasetHub, revision: str
) -> None:
    prepared(bench, f"{ADDRESS}{revision}/main")
    summary = bench.job.rows
    assert summary is not None
    assert (summary.train, summary.held_out, summary.dataset_revision) == (20, 4, COMMIT)
    assert summary.files_not_read == ("test-00000-of-00001.parquet",)
    assert [name.partition("/")[2][:14] for name in hub.fetched] == [
        "train-00000-of",
        "train-00001-of",
        "validation-000",
    ]
    assert bench.read("prepared/1/report.json")["dataset_revision"] == COMMIT
    assert bench.job_id.startswith("training_chats_")


def test_the_token_of_the_job_reads_a_gated_dataset(bench: Bench, hub: FakeDatasetHub) -> None:
    hub.required_token = "hf_fakefakefake"
    error = failure(bench, f"{ADDRESS}/main")
    assert error.code == "dataset_gated"
    assert REPOSITORY in str(error.hint)
    prepared(
        Bench(Path(bench.services.settings.home).parent / "other", bench.base),
        f"{ADDRESS}/main",
        hf_token="hf_fakefakefake",
    )


@pytest.mark.parametrize(
    ("dataset", "code", "part"),
    [
        ("hf://datasets/acme/nothing", "dataset_not_found", "there is no dataset acme/nothing"),
        (f"{ADDRESS}@v2", "dataset_not_found", "with the revision 'v2'"),
        (f"{ADDRESS}/nowhere", "dataset_not_found", "no folder 'nowhere'"),
        (ADDRESS, "bad_dataset", "several candidates for training"),
    ],
)
def test_what_cannot_be_read_is_refused(bench: Bench, hub: FakeDatasetHub, dataset: str, code: str, part: str) -> None:
    error = failure(bench, dataset)
    assert (error.code, part in error.message) == (code, True), error.message
    assert not hub.fetched


def test_a_file_above_its_limit_is_not_downloaded(bench: Bench, hub: FakeDatasetHub) -> None:
    hub.files["main/metadata.json"] = b" " * MAX_BYTES + b"{}"
    error = failure(bench, f"{ADDRESS}/main")
    assert (error.code, error.message) == ("bad_dataset", f"metadata.json has more than {MAX_BYTES} bytes")
    assert hub.fetched == []


def test_pictures_of_a_repository_are_read_by_their_paths(
    tmp_path: Path, tiny_vision: Path, hub: FakeDatasetHub
) -> None:
    turn = {"role": "user", "content": [{"type": "image", "image": {"path": "pictures/1.png"}}]}
    answer = {"role": "assistant", "content": "red"}
    hub.files = {
        "pictures/1.png": rows.picture("red", 0),
        "pictures/2.png": rows.picture("red", 1),
        "train.jsonl": json.dumps({"messages": [turn, answer]}).encode(),
    }
    bench = prepared(Bench(tmp_path / "vision", tiny_vision), ADDRESS, modality="vision")
    assert bench.read("prepared/1/prepared.json")["pictures"] == 1
    assert bench.job.rows is not None
    assert bench.job.rows.files_not_read == ("pictures/2.png",)
