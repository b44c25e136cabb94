"""The gcp backend, end to end: three strangers send a request each, a fourth hears what becomes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import rows
from tests.e2e.api import wait_for
from tests.e2e.cloud_service import MODEL, CloudService
from tests.e2e.test_ways_in import MOVES, loads_in_peft
from tests.emulators.children import Child
from tests.emulators.cloud import BUCKETS, Cloud
from tests.emulators.sdk import NoEmulators

pytestmark = pytest.mark.emulators

PRODUCERS = Path(__file__).parent / "producers.py"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[CloudService]:
    try:
        cloud = Cloud(tmp_path_factory.mktemp("cloud"), {"GEMTUNE_WEBHOOKS_TO_LOOPBACK": "yes"})
    except NoEmulators as error:
        pytest.skip(str(error))
    with cloud:
        found = CloudService(cloud)
        found.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        found.put_model(tiny)
        yield found


@pytest.fixture
def request_of(request_of: Any) -> Any:
    """A request for the tiny model in its bucket."""
    return lambda **training: request_of(base_model_id=MODEL, **training)


def stranger(service: CloudService, *arguments: str) -> str:
    command = [sys.executable, str(PRODUCERS), *arguments]
    ran = subprocess.run(command, env=service.environment | {"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def listener(service: CloudService, tmp_path: Path) -> Iterator[Any]:
    """Everything that a subscriber process of its own has heard so far."""
    name = f"test-{tmp_path.name}"[:60].replace("_", "-")
    stranger(service, "subscribe", name)
    log = tmp_path / "heard.jsonl"
    child = Child("listener", [sys.executable, str(PRODUCERS), "listen", name], log, service.environment)
    yield lambda: [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    child.stop()


def test_a_request_by_each_way_in_becomes_an_adapter_and_a_subscriber_hears_all_of_it(
    service: CloudService, request_of: Any, listener: Any, tmp_path: Path, tiny: Path
) -> None:
    request = request_of(eval_strategy="epoch")
    by_post = service.submit(request)
    (tmp_path / "published.json").write_text(json.dumps(request | {"job_name": "published"}))
    stranger(service, "publish", str(tmp_path / "published.json"))
    (tmp_path / "dropped.job.yaml").write_text(json.dumps(request | {"job_name": "dropped"}))
    stranger(
        service, "upload", BUCKETS["GCS_UPLOADS_BUCKET_NAME"], "in/dropped.job.yaml", str(tmp_path / "dropped.job.yaml")
    )
    answer = wait_for(
        lambda: service.bucket("uploads").get_blob("in/dropped.accepted.json"), seconds=20, what="the answer"
    )
    by_upload = json.loads(answer.download_as_bytes())["job_id"]
    by_message = wait_for(lambda: named(service, "published"), seconds=20, what="the published job")
    for job_id in (by_post, by_message, by_upload):
        job = service.completed(job_id)
        assert job["metrics"]["eval_loss"] < job["metrics"]["baseline"]["eval_loss"]
        assert job["adapter_path"].startswith(f"gs://{BUCKETS['GCS_EXPORT_BUCKET_NAME']}/jobs/{job_id}/")
        assert loads_in_peft(str(download(service, job["adapter_path"], tmp_path / job_id)), str(tiny))
        seqs = [event["seq"] for event in service.events(job_id)]
        assert seqs == list(range(1, len(seqs) + 1))
        curve = service.client.get(f"/jobs/{job_id}/metrics").json()["metrics"]
        assert [entry["train_step"] for entry in curve if "loss" in entry] == list(range(1, 13))

    def heard() -> dict[str, list[dict[str, Any]]]:
        by_job: dict[str, list[dict[str, Any]]] = {}
        for message in listener():
            by_job.setdefault(message["key"], []).append(message)
        return by_job

    ids = {by_post, by_message, by_upload}
    wait_for(
        lambda: {key for key, all in heard().items() if any(m["body"]["type"] == "job_completed" for m in all)} == ids,
        seconds=20,
        what="every job on job-status",
    )
    for job_id, messages in heard().items():
        firsts = {message["body"]["seq"]: message["body"]["type"] for message in messages}
        assert list(firsts) == list(range(1, len(firsts) + 1))
        assert [type for type in firsts.values() if type in MOVES] == MOVES
        assert {message["attributes"]["job_id"] for message in messages} == {job_id}
        assert {message["attributes"]["modality"] for message in messages} == {"text"}


def named(service: CloudService, name: str) -> str | None:
    listed = service.client.get("/jobs").json()["jobs"]
    return next((job["job_id"] for job in listed if job["job_name"] == name), None)


def download(service: CloudService, uri: str, into: Path) -> Path:
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    into.mkdir()
    for blob in service.storage.list_blobs(bucket, prefix=prefix.rstrip("/") + "/"):
        blob.download_to_filename(str(into / blob.name.rpartition("/")[2]))
    return into
