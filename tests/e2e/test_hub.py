"""Publishing to the Hub when the trainer is killed during the upload."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests import rows
from tests.e2e.service import Service
from tests.trainer import hub_server
from tests.trainer.hub_server import TOKEN, Answer, HubServer


class SlowHub(HubServer):
    """Hub that holds the first commit until the test has killed the trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.commit_requested, self.go_on = threading.Event(), threading.Event()

    def answer(self, method: str, path: str, headers: object, body: bytes) -> Answer:
        if path.endswith("/commit/main") and not self.go_on.is_set():
            self.commit_requested.set()
            self.go_on.wait(60)
            return Answer(cut=True)
        return super().answer(method, path, headers, body)


def test_a_trainer_killed_while_it_uploads_publishes_everything_at_its_next_attempt(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server.serving(SlowHub()) as hub:
        assert isinstance(hub, SlowHub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (tmp_path / "home").mkdir()
        with Service(tmp_path / "home") as service:
            service.put_dataset("chats", rows.train_rows(32), rows.held_out_rows(8))
            job_id = service.submit(
                {
                    "processed_dataset_id": "chats",
                    "hf_token": TOKEN,
                    "training_config": {"base_model_id": str(tiny), "max_steps": 2},
                    "export_config": {"destination": "hfhub", "hf_repo_id": "me/captain"},
                }
            )
            assert hub.commit_requested.wait(180), service.logs(job_id)
            assert hub.repositories["me/captain"].history[1:] == []
            sent = hub.count("put")
            for trainer in service.trainers():
                trainer.kill()
            hub.go_on.set()
            job = service.completed(job_id)
            repository = hub.repositories["me/captain"]
            assert job["adapter_path"] == f"hf://me/captain@{repository.sha}"
            assert (len(repository.history), repository.private, hub.count("put")) == (2, True, sent)
            assert {name: step["attempt"] for name, step in job["steps"].items()} == {
                "prepare": 1,
                "train": 1,
                "export": 2,
            }
            download = service.cli("artifacts", job_id, "--download", str(tmp_path / "result"))
            assert download.returncode == 0, download.stderr
    downloaded = {path.name: path.read_bytes() for path in (tmp_path / "result").iterdir()}
    # The Hub gets the base model's name instead of its path on this machine.
    assert {name for name in downloaded if downloaded[name] != repository.files[name]} == {
        "README.md",
        "adapter_config.json",
    }
    assert str(tiny).encode() in downloaded["adapter_config.json"]
    assert all(str(tiny).encode() not in content for content in repository.files.values())
    local_files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in local_files if TOKEN.encode() in path.read_bytes()] == []
    assert [path for path in local_files if b"fakesignature" in path.read_bytes()] == []
