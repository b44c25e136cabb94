"""Base models from a folder, a bucket or the Hub, and never an incomplete one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import SecretNotFound, StepError
from gemtune.jobs.record import BaseWeights
from gemtune.ports import Buckets
from tests.fakes import upload_folder
from tests.trainer import fake_hub
from tests.trainer.fake_hub import REPOSITORY, REVISION, FakeHub
from trainer.base_model import continuation, location
from trainer.context import StopRequested
from trainer.store import hub_file, hub_reading, manifest, ranges

PREFIX = f"models/acme--tiny-gemma/{REVISION}"
SMALL = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
}


@pytest.fixture
def buckets(tmp_path: Path) -> Buckets:
    return Buckets(*(FolderObjects(tmp_path / name, name) for name in ("config", "data", "uploads", "export")))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def model_copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copied"))


@pytest.fixture
def hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with fake_hub.serving(fake_hub.hub_of(tiny)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def provide(buckets: Buckets, work: Path, **more: Any) -> dict[str, str]:
    return location.provide(REPOSITORY, buckets, work, **{"token": lambda: None} | more)


def code_of(caught: pytest.ExceptionInfo[StepError]) -> str:
    return caught.value.code


def test_a_model_of_the_hub_is_copied_once_and_completely(
    hub: FakeHub, buckets: Buckets, work: Path, tiny: Path
) -> None:
    provided = provide(buckets, work)
    assert provided == {"kind": "bucket", "id": REPOSITORY, "place": f"export/{PREFIX}"}
    assert set(hub.fetched) == SMALL | {"model.safetensors"}
    copy = manifest.fetch(buckets.export, PREFIX, work / "into")
    assert (copy / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert not list(work.rglob("*.safetensors")), "weights stayed on this machine"
    hub.fetched.clear()
    assert provide(buckets, work) == provided
    assert hub.fetched == []
    assert location.locate(buckets, provided, work).joinpath("model.safetensors").is_file()


def test_a_copy_that_was_deleted_is_made_again_in_the_revision_that_was_trained_on(
    hub: FakeHub, buckets: Buckets, work: Path
) -> None:
    provided = provide(buckets, work)
    buckets.export.write("jobs/before/prepared/1/prepared.json", json.dumps({"base_model": provided}).encode())
    weights = BaseWeights(folder="jobs/before/adapter/1", prepared="jobs/before/prepared/1", is_adapter=True)

    def provide_again(**more: Any) -> dict[str, str]:
        options = {"token": lambda: None, "check_stop": lambda: None} | more
        return continuation.provide(weights, buckets, work, **options)

    hub.paths.clear()
    assert provide_again() == provided
    assert hub.paths == []  # neither for the newest revision, nor for files
    buckets.export.delete_prefix("models/")
    assert provide_again() == provided
    assert f"/api/models/{REPOSITORY}/revision/{REVISION}" in hub.paths
    assert manifest.read_whole(buckets.export, PREFIX) is not None
    buckets.export.delete_prefix("models/")
    hub.lost_revisions = True
    with pytest.raises(StepError, match="lost the revision") as caught:
        provide_again()
    assert code_of(caught) == "base_model_not_found"


def test_an_interrupted_copy_is_repeated(hub: FakeHub, buckets: Buckets, work: Path) -> None:
    calls: list[int] = []

    def stop_at_the_third_file() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StopRequested

    with pytest.raises(StopRequested):
        provide(buckets, work, check_stop=stop_at_the_third_file)
    assert manifest.read_whole(buckets.export, PREFIX) is None
    provide(buckets, work)
    assert manifest.read_whole(buckets.export, PREFIX) is not None


def stored_ranges(buckets: Buckets) -> list[str]:
    return [stat.name for stat in buckets.export.list(f"{PREFIX}/") if ".range-" in stat.name]


def copy_two_of_four_ranges(buckets: Buckets, work: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Begin a copy that is stopped at its third range; return the weights."""
    weights = (tiny / "model.safetensors").read_bytes()
    monkeypatch.setattr(ranges, "RANGE_BYTES", len(weights) // 4 + 1)
    stops = iter([*[False] * (len(SMALL) + 2), True])

    def stop_at_the_third_range() -> None:
        if next(stops, False):
            raise StopRequested

    with pytest.raises(StopRequested):
        provide(buckets, work, check_stop=stop_at_the_third_range)
    return weights


def test_weights_are_copied_in_ranges_and_go_on_where_they_stopped(
    hub: FakeHub, buckets: Buckets, work: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = copy_two_of_four_ranges(buckets, work, tiny, monkeypatch)
    assert [start for start, _ in hub.ranges] == [0, len(weights) // 4 + 1]
    hub.ranges.clear()
    provide(buckets, work)
    assert [start for start, _ in hub.ranges] == [2 * (len(weights) // 4 + 1), 3 * (len(weights) // 4 + 1)]
    copy = manifest.fetch(buckets.export, PREFIX, work / "into")
    assert (copy / "model.safetensors").read_bytes() == weights
    assert not stored_ranges(buckets)


def test_a_mirror_that_knows_no_ranges_sends_a_file_once_and_again_after_a_stop(
    hub: FakeHub, buckets: Buckets, work: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.takes_ranges = False
    weights = copy_two_of_four_ranges(buckets, work, tiny, monkeypatch)
    assert hub.fetched.count("model.safetensors") == 1
    provide(buckets, work)
    assert hub.fetched.count("model.safetensors") == 2  # once more for the ranges that are missing
    copy = manifest.fetch(buckets.export, PREFIX, work / "into")
    assert (copy / "model.safetensors").read_bytes() == weights


def test_a_copy_is_stopped_while_it_skips_what_a_mirror_without_ranges_sends_again(
    hub: FakeHub, buckets: Buckets, work: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.takes_ranges = False
    copy_two_of_four_ranges(buckets, work, tiny, monkeypatch)
    ranges_before = stored_ranges(buckets)

    def stop_once_it_is_sent_again() -> None:
        if hub.fetched.count("model.safetensors") == 2:
            raise StopRequested

    monkeypatch.setattr(hub_file, "SKIPPED_BYTES", 1000)
    with pytest.raises(StopRequested):
        provide(buckets, work, check_stop=stop_once_it_is_sent_again)
    assert stored_ranges(buckets) == ranges_before


def test_weights_that_differ_from_the_hubs_digest_are_not_kept(
    hub: FakeHub, buckets: Buckets, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", 100_000)
    with monkeypatch.context() as damaging:
        damaging.setattr(ranges, "hashlib", SimpleNamespace(sha256=lambda: hashlib.sha256(b"other bytes")))
        with pytest.raises(OSError, match=r"SHA-256 of model\.safetensors"):
            provide(buckets, work)
    assert manifest.read_whole(buckets.export, PREFIX) is None
    provide(buckets, work)
    assert manifest.read_whole(buckets.export, PREFIX) is not None


def test_a_weights_file_larger_than_memory_needs_that_of_one_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy 256 MiB of zeros with 4 MiB at a time."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 4 * 1024 * 1024)
    objects, size = FolderObjects(tmp_path / "export", "export"), 256 * 1024 * 1024
    tracemalloc.start()
    digest = ranges.copy(
        objects, "x", size, lambda start, length: bytes(length), check_stop=lambda: None, check_head=lambda head: None
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024
    assert digest == manifest.sha256(tmp_path / "export" / "x")
    assert [stat.name for stat in objects.list("")] == ["x"]


def test_another_model_than_gemma_is_refused_before_its_weights_are_fetched(
    hub: FakeHub, buckets: Buckets, work: Path
) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'
    with pytest.raises(StepError) as caught:
        provide(buckets, work)
    assert code_of(caught) == "not_a_gemma"
    assert "model.safetensors" not in hub.fetched


def test_the_token_is_sent_only_to_the_hub(hub: FakeHub, buckets: Buckets, work: Path) -> None:
    hub.required_token = "hf_" + "a" * 30
    with pytest.raises(StepError) as caught:
        provide(buckets, work, token=lambda: "hf_" + "b" * 30)
    assert code_of(caught) == "base_model_gated"
    assert "b" * 30 not in f"{caught.value}{caught.value.hint}"
    assert provide(buckets, work, token=lambda: hub.required_token)
    everything = b"".join(buckets.export.read(stat.name) for stat in buckets.export.list(""))
    assert hub.required_token.encode() not in everything


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ((403, "GatedRepo"), "base_model_gated"),
        ((401, ""), "base_model_gated"),
        ((404, "RepoNotFound"), "base_model_not_found"),
        ((403, ""), "base_model_gated"),
    ],
)
def test_refusals_of_the_hub_have_a_hint(
    hub: FakeHub, buckets: Buckets, work: Path, refusal: tuple[int, str], code: str
) -> None:
    hub.refusal = refusal
    with pytest.raises(StepError) as caught:
        provide(buckets, work)
    assert code_of(caught) == code
    assert caught.value.hint
    assert list(buckets.export.list("")) == []


@pytest.mark.parametrize("name", ["acme/none", "acme/tiny--gemma"])
def test_an_unknown_or_invalid_name_is_not_found(hub: FakeHub, buckets: Buckets, work: Path, name: str) -> None:
    with pytest.raises(StepError) as caught:
        location.provide(name, buckets, work, token=lambda: None)
    assert code_of(caught) == "base_model_not_found"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_the_job_fails_and_says_so(
    buckets: Buckets, work: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(hub_reading, "WAITS", (0,))
    with pytest.raises(StepError) as caught:
        provide(buckets, work)
    assert code_of(caught) == "hub_unreachable"
    assert "GET /models" in str(caught.value.hint)


def test_offline_mode_is_named_at_once(buckets: Buckets, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StepError, match="HF_HUB_OFFLINE is set") as caught:
        provide(buckets, work)
    assert code_of(caught) == "hub_unreachable"


def test_the_hub_is_reached_after_a_short_outage() -> None:
    outcomes: list[Exception | str] = [httpx2.ConnectError("down"), httpx2.ReadTimeout("slow"), "answer"]

    def ask() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert hub_reading.reach_hub(ask, "acme/x", sleep=lambda _: None) == "answer"


def test_waiting_for_the_hub_can_be_stopped() -> None:
    def ask() -> str:
        raise httpx2.ConnectError("down")

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        hub_reading.reach_hub(ask, "acme/x", check_stop=stop, sleep=lambda _: None)


def test_an_expired_token_fails_the_job(buckets: Buckets, work: Path) -> None:
    def expired() -> str:
        raise SecretNotFound("there is no such secret")

    with pytest.raises(StepError) as caught:
        provide(buckets, work, token=expired)
    assert code_of(caught) == "secret_not_found"


def test_a_model_in_a_bucket_is_read_without_its_weights(buckets: Buckets, work: Path, tiny: Path) -> None:
    upload_folder(buckets.data, tiny, "models/mine")
    provided = location.provide("gs://data/models/mine/", buckets, work, token=lambda: None)
    described = location.locate_without_weights(buckets, provided, work)
    assert {path.name for path in described.iterdir()} == SMALL
    assert (location.locate(buckets, provided, work) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("data/models/none", "base_model_not_found"),
        ("elsewhere/models/mine", "base_model_not_found"),
        ("data/../export", "bad_base_model"),
        ("data/models//mine", "bad_base_model"),
    ],
)
def test_a_place_without_a_model_or_outside_the_buckets_is_refused(
    buckets: Buckets, work: Path, place: str, code: str
) -> None:
    for find in (location.locate_without_weights, location.locate):
        with pytest.raises(StepError) as caught:
            find(buckets, {"kind": "bucket", "id": "x", "place": place}, work)
        assert code_of(caught) == code


def test_truncated_weights_are_refused(model_copy: Path, buckets: Buckets, work: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StepError, match="damaged") as caught:
        location.locate(buckets, {"kind": "folder", "id": "x", "place": str(model_copy)}, work)
    assert code_of(caught) == "bad_base_model"


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_missing_part_of_the_weights_is_named(model_copy: Path, buckets: Buckets, work: Path, kind: str) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    upload_folder(buckets.data, model_copy, "mine")
    place = str(model_copy) if kind == "folder" else "data/mine"
    with pytest.raises(StepError, match=r"model-2\.safetensors") as caught:
        location.locate_without_weights(buckets, {"kind": kind, "id": "x", "place": place}, work)
    assert code_of(caught) == "bad_base_model"


def test_a_pipe_among_a_models_files_is_refused_without_waiting(model_copy: Path, buckets: Buckets, work: Path) -> None:
    (model_copy / "tokenizer.json").unlink()
    os.mkfifo(model_copy / "tokenizer.json")
    with pytest.raises(StepError, match=r"not a regular file .*: tokenizer\.json") as caught:
        location.locate(buckets, {"kind": "folder", "id": "x", "place": str(model_copy)}, work)
    assert code_of(caught) == "bad_base_model"


def test_a_link_out_of_the_bucket_is_refused_and_one_inside_is_followed(
    model_copy: Path, buckets: Buckets, work: Path, tmp_path: Path
) -> None:
    folder = Path(buckets.data.uri("models/linked"))
    shutil.copytree(model_copy, folder / "files")
    for path in (folder / "files").iterdir():
        (folder / path.name).symlink_to(Path("files") / path.name)
    provided = {"kind": "bucket", "id": "x", "place": f"{buckets.data.bucket}/models/linked"}
    assert (location.locate(buckets, provided, work) / "config.json").is_file()
    (tmp_path / "outside.json").write_text("{}")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to(tmp_path / "outside.json")
    for look in (location.locate, location.locate_without_weights):
        with pytest.raises(StepError, match=r"models/linked/generation_config\.json' in data leads out") as caught:
            look(buckets, provided, work)
        assert code_of(caught) == "bad_base_model"
