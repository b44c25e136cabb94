from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import memory, rows, tiny_gemma
from tests.e2e.service import Service
from tests.forking_python import ForkingPython

tmp_path = memory.tmp_path
# Modules that a training and the comparison of its export import, and the clients of Google's that each step does.
IMPORTED = (
    "gemtune.bootstrap",
    "google.cloud.firestore",
    "google.cloud.pubsub_v1",
    "google.cloud.secretmanager_v1",
    "google.cloud.storage",
    "trainer.certificate.comparison",
    "trainer.training.sft",
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "tiny-gemma3")


@pytest.fixture(scope="session")
def forking() -> Iterator[ForkingPython]:
    """Yield a Python that forks trainers.

    test_hub.py starts each step, and the comparison of its export, as the server of a workstation does without it;
    test_gcp.py does so for the first execution of each Cloud Run job.
    """
    forking = ForkingPython(IMPORTED, os.environ | {"HF_HUB_OFFLINE": "1"}, forks_children=True)
    yield forking
    forking.stop()


@pytest.fixture
def service(tmp_path: Path, forking: ForkingPython) -> Iterator[Service]:
    with Service(tmp_path, forking) as running:
        running.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
        yield running


@pytest.fixture(scope="session")
def request_of(tiny: Path):
    """Return a factory of requests for the tiny model.

    Its keyword arguments go into training_config.
    """

    def make(**training: Any) -> dict[str, Any]:
        config = {"base_model_id": str(tiny), "learning_rate": 5e-3, "batch_size": 4, "gradient_accumulation_steps": 1}
        return {
            "processed_dataset_id": "chats",
            "training_config": config | {"max_steps": 12, "save_steps": 3} | training,
        }

    return make
