"""Names of stored objects and documents, which all versions share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any
from zlib import crc32

from gemtune.checks.request import CheckRequest
from gemtune.jobs.status import Step
from gemtune.machines.throughput import Observation
from gemtune.request.parsing import Reading
from gemtune.request.uploads.dataset import DatasetUpload
from tests.fakes import World
from tests.handlers.conftest import embedded_only
from tests.services.test_running import Running

pytestmark = embedded_only  # names are the same on both backends

CONTENT = b"{}\n"
FILE = {"path": "train.jsonl", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


class IdleRunner:
    """Runner of checks that runs none."""

    def start(self, dataset_id: str, check_id: str) -> None:
        """Start nothing."""


def without_ids(names: Iterable[str], **ids: str) -> set[str]:
    """Return the names with words in place of ids and random parts."""
    shown = set()
    for name in names:
        for word, value in ids.items():
            name = name.replace(value, word)
        shown.add(re.sub(r"check_[0-9a-f]{12}", "CHECK", re.sub(r"[0-9a-f]{16}(?=\.json|$)", "NONCE", name)))
    return shown


def objects(bucket: Any) -> list[str]:
    return [stat.name for stat in bucket.list("")]


def test_the_names_of_objects_and_documents_are_those_of_other_versions(world: World) -> None:
    services = world.services
    services.__dict__["check_runner"] = IdleRunner()
    running = Running(world, hf_token="hf_fakefakefake")
    job_id = running.job_id
    services.control.admit(job_id, running.claim, Step.PREPARE)
    running.begin(Step.PREPARE)
    world.clock.advance(seconds=10)
    services.advance.heartbeat(job_id, running.begin(Step.PREPARE))
    services.budgets.enter(running.job)
    services.planner.speeds.record("l4", "train x", Observation(tokens=1, seconds=1))
    dataset = services.upload_dataset.begin(DatasetUpload.model_validate({"name": "n", "files": [FILE]})).dataset_id
    services.upload_dataset.store_part(dataset, 0, 0, CONTENT)
    services.check_dataset.begin("chats", Reading(CheckRequest(base_model_id="google/gemma-3-270m-it"), ()))

    assert without_ids(objects(services.buckets.config), JOB=job_id) == {
        "specs/JOB-NONCE.json",
        "new-specs/JOB-NONCE.json",
    }
    assert without_ids(objects(services.buckets.data), DATASET=dataset) == {
        "processed_datasets/chats/train.jsonl",
        "datasets/records/DATASET.json",
        "datasets/uploading/DATASET/begun",
        "datasets/uploading/DATASET/0/000000",
        "datasets/checks/chats/CHECK.json",
    }
    owner = hashlib.sha256(b"local").hexdigest()[:32]
    assert set(services.shared.names("")) == {
        "slots/prepare",
        f"accounts/2026-11/{owner}/{crc32(job_id.encode()) % 8}",
        "throughput/l4",
    }
    assert without_ids(world.stored_secrets(), JOB=job_id) == {"gemtune-job-JOB-hf_token-NONCE"}
