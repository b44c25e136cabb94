from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import memory, rows, tiny_gemma
from tests.e2e.service import Service

tmp_path = memory.tmp_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "tiny-gemma3")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
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
