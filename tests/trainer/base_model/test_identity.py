"""Identity of the base model: a file that changed after prepare is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import StepError
from gemtune.jobs.status import Step
from gemtune.ports import Buckets
from tests.trainer import untrained_results
from tests.trainer.conftest import Bench
from trainer.base_model import folder_contents, identity, location
from trainer.steps import export, train
from trainer.store import manifest

MODEL = {"config.json": b'{"model_type": "gemma3_text"}', "model.safetensors": b"w", "tokenizer.json": b"t"}


@pytest.fixture
def bench(tmp_path: Path, tiny: Path) -> Bench:
    return Bench(tmp_path / "home", Path(shutil.copytree(tiny, tmp_path / "base")), max_steps=1)


def add_noise(base: Path) -> None:
    path = base / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"] += 0.01 * torch.randn(
        weights["model.layers.0.mlp.up_proj.weight"].shape
    )
    save_file(weights, path, metadata={"format": "pt"})


def change_template(base: Path) -> None:
    path = base / "chat_template.jinja"
    path.write_text(path.read_text().replace("\n", "\n\n", 1))


def change_setting(base: Path) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-5}))


CHANGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors has other content": add_noise,
    "chat_template.jinja has other content": change_template,
    "config.json has other content": change_setting,
    "tokenizer.json has other content": lambda base: (base / "tokenizer.json").open("a").write("\n"),
    "tokenizer.model is missing": lambda base: (base / "tokenizer.model").unlink(),
    "chat_template.json was added": lambda base: (base / "chat_template.json").write_text("{}"),
    "adapter_config.json was added": lambda base: (base / "adapter_config.json").write_text("{}"),
    "more.safetensors was added": lambda base: shutil.copyfile(base / "model.safetensors", base / "more.safetensors"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_training_refuses_a_base_model_that_changed_after_prepare(bench: Bench, change: str) -> None:
    bench.run(Step.PREPARE)
    CHANGES[change](bench.base)
    with pytest.raises(StepError) as caught:
        train.run(bench.context(Step.TRAIN))
    assert caught.value.code == "base_changed"
    assert change in str(caught.value)
    assert "put the files of that time back" in str(caught.value.hint)


@pytest.mark.parametrize("export_format", ["adapter", "merged"])
def test_an_export_refuses_a_base_model_that_changed_after_training(bench: Bench, export_format: str) -> None:
    bench.export = {"format": export_format}
    untrained_results.publish_results(bench)
    add_noise(bench.base)
    with pytest.raises(StepError, match=r"model\.safetensors has other content") as caught:
        export.run(bench.context(Step.EXPORT))
    assert caught.value.code == "base_changed"
    assert list(bench.services.buckets.export.list(f"jobs/{bench.job_id}/export/")) == []


def test_files_that_no_step_uses_may_change(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    (bench.base / "README.md").write_text("changed")
    (bench.base / "trainer_state.json").write_text("{}")
    summary = bench.read("prepared/1/prepared.json")
    buckets = bench.services.buckets
    assert location.locate(buckets, summary["base_model"], bench.base, summary["base_digests"]) == bench.base


def test_jobs_that_were_prepared_before_digests_still_run(bench: Bench) -> None:
    untrained_results.publish_results(bench)
    objects, prefix = bench.services.buckets.export, f"jobs/{bench.job_id}/prepared/1"
    folder = manifest.fetch(objects, prefix, bench.base.parent / "into")
    summary = bench.read("prepared/1/prepared.json")
    del summary["base_digests"]
    older = Path(shutil.copytree(folder, bench.base.parent / "older"))
    (older / "prepared.json").write_text(json.dumps(summary))
    manifest.publish(objects, older, prefix)
    add_noise(bench.base)
    export.run(bench.context(Step.EXPORT))
    assert bench.job.status == "completed"


class Counting(FolderObjects):
    """Bucket that counts the files it reads for a digest."""

    def __init__(self, root: Path):
        super().__init__(root, "export")
        self.read_for_digests: list[str] = []

    def digest(self, name: str) -> str:
        self.read_for_digests.append(name)
        return super().digest(name)


def test_a_downloaded_copy_is_not_read_again_to_record_it_and_is_read_to_compare_it(tmp_path: Path) -> None:
    for name, content in MODEL.items():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    objects = Counting(tmp_path / "bucket")
    manifest.publish(objects, tmp_path / "copy", "models/a--b/1")
    others = [FolderObjects(tmp_path / name, name) for name in ("config", "data", "uploads")]
    buckets = Buckets(*others, objects)
    provided = {"kind": "bucket", "id": "a/b", "place": "export/models/a--b/1"}
    recorded = location.identify(buckets, provided, tmp_path / "copy")
    assert set(recorded) == set(MODEL)
    assert objects.read_for_digests == []
    objects.write("models/a--b/1/tokenizer.json", b"other")
    with pytest.raises(StepError, match=r"tokenizer\.json has other content"):
        location.locate(buckets, provided, tmp_path / "work", recorded)
    assert len(objects.read_for_digests) == len(MODEL)


def test_of_weights_in_two_formats_those_of_the_index_count(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    for name in ("part-1.safetensors", "consolidated.safetensors", "config.json", "notes.json"):
        (tmp_path / name).write_bytes(b"x")
    assert set(identity.of_folder(tmp_path)) == {"config.json", "model.safetensors.index.json", "part-1.safetensors"}


def test_one_file_of_weights_counts_before_those_of_an_index(tmp_path: Path) -> None:
    """Expect what transformers reads: it is recorded, and read for exports."""
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    (tmp_path / "part-1.safetensors").write_bytes(b"x")
    assert folder_contents.weight_files(tmp_path) == {tmp_path / "part-1.safetensors"}
    recorded = identity.of_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"y")
    assert folder_contents.weight_files(tmp_path) == {tmp_path / "model.safetensors"}
    assert identity.changes(recorded, identity.of_folder(tmp_path)) == ["model.safetensors was added"]
    recorded = identity.of_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"z")
    assert identity.changes(recorded, identity.of_folder(tmp_path)) == ["model.safetensors has other content"]


def test_digests_of_a_download_count_only_where_the_bucket_has_none_of_its_own(tmp_path: Path) -> None:
    """A CRC32C of Cloud Storage and a SHA-256 would always differ."""
    objects = Counting(tmp_path / "bucket")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_bytes(MODEL["config.json"])
    manifest.publish(objects, tmp_path / "copy", "m")
    assert set(identity.of_download(objects, "m")) == {"config.json"}
    objects.digest_algorithm = "crc32c"
    assert identity.of_download(objects, "m") == {}
