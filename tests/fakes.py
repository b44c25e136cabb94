"""Test doubles: a clock that stands still and a launcher with scripted states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gemtune.bootstrap import Services
from gemtune.embedded.sqlite_bus import ACK_DEADLINE
from gemtune.jobs.sources import Source
from gemtune.machines.cost import Prices
from gemtune.ports import ExecutionState, Objects, ReceivedMessage, Topic
from gemtune.request import rules
from gemtune.request.facts import DatasetFiles, Deployment, Facts
from gemtune.request.parsing import Reading, read
from gemtune.request.spec import TrainRequest
from gemtune.services.acceptance.create_job import Submission
from gemtune.settings import Settings


def upload_folder(objects: Objects, folder: Path, prefix: str) -> None:
    """Copy every file below `folder` to `prefix/…`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            objects.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}")


class FakeClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
        self.passed = timedelta()

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 1000.0 + self.passed.total_seconds()

    def advance(self, **by: float) -> None:
        """Let time pass."""
        self.time += timedelta(**by)
        self.passed += timedelta(**by)

    def set_back(self, **by: float) -> None:
        """Correct the time of day; no time passes."""
        self.time -= timedelta(**by)


class ScriptedLauncher:
    """Launcher whose execution states the test sets.

    Executions are named by job and launch.
    """

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.stopped: list[str] = []
        self.stopped_steps: list[str] = []
        self.stopped_jobs: list[tuple[str, str]] = []  # (Cloud Run job, job id)
        self.states: dict[str, ExecutionState] = {}
        self.broken: Exception | None = None

    def start(self, job_id: str, launch: int) -> str:
        if self.broken is not None:
            raise self.broken
        self.started.append((job_id, launch))
        return f"{job_id}#{launch}"

    def state(self, execution: str) -> ExecutionState:
        return self.states.get(execution, ExecutionState.ACTIVE)

    def stop(self, execution: str) -> None:
        self.stopped.append(execution)

    def stop_step(self, execution: str) -> None:
        self.stopped_steps.append(execution)

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        self.stopped_jobs.append((cloud_run_job, job_id))


class World:
    """Services on the ports of a backend, with a fake clock and launcher."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None):
        self.clock, self.launcher = FakeClock(), ScriptedLauncher()
        self.services = Services(Settings.from_environment({"GEMTUNE_HOME": str(home), **(settings or {})}))
        self.services.__dict__["clock"] = self.clock
        self.services.__dict__["launcher"] = self.launcher
        self.services.buckets.data.write("processed_datasets/chats/train.jsonl", b"{}\n")
        self.services.bus.subscribe("requests", Topic.JOB_REQUESTS)

    def submit(self, key: str | None = None, **fields: Any) -> str:
        return self.services.submit(Submission(reading(**fields), Source.HTTP, "local", key)).job_id

    def messages(self, subscription: str) -> list[dict[str, Any]]:
        """Pull and acknowledge all messages of a subscription."""
        messages = []
        while received := self.services.bus.pull(subscription, 1000):
            self.services.bus.ack(subscription, [message.ack_id for message in received])
            messages += [json.loads(message.message) for message in received]
        return messages

    def stored_secrets(self) -> list[str]:
        return [stat.name for stat in self.services.secrets.list("")]

    def stored_specs(self) -> list[str]:
        return [stat.name for stat in self.services.buckets.config.list("specs/")]

    def record(self, job_id: str) -> dict[str, Any]:
        """Return a record as it is stored."""
        query = "SELECT record FROM jobs WHERE job_id = ?"
        row = self.services.database.read().execute(query, (job_id,)).fetchone()
        fields: dict[str, Any] = json.loads(row["record"])
        return fields

    def write_record(self, job_id: str, fields: Mapping[str, Any]) -> None:
        """Store a record as another version of gemtune would, or a broken one."""
        status = fields["status"] if isinstance(fields.get("status"), str) else "queued"
        with self.services.database.write() as connection:
            update = "UPDATE jobs SET record = ?, status = ? WHERE job_id = ?"
            connection.execute(update, (json.dumps(fields, default=str), status, job_id))

    def write_event(self, job_id: str, seq: int, fields: Mapping[str, Any]) -> None:
        """Store an event as another version would."""
        with self.services.database.write() as connection:
            update = "UPDATE events SET body = ? WHERE job_id = ? AND seq = ?"
            connection.execute(update, (json.dumps(fields), job_id, seq))

    def make_unreadable(self, job_id: str) -> None:
        """Make a record unreadable."""
        self.write_record(job_id, self.record(job_id) | {"launch": "?"})

    def pass_ack_deadline(self, subscription: str, received: Sequence[ReceivedMessage]) -> None:
        """Let the acknowledgement deadline of the messages received pass."""
        self.clock.advance(seconds=ACK_DEADLINE)


def request(**fields: Any) -> dict[str, Any]:
    """Return a request that is accepted; `training` goes into training_config."""
    training = {"base_model_id": "google/gemma-3-270m-it"} | fields.pop("training", {})
    return {"processed_dataset_id": "chats", "training_config": training} | fields


def reading(**fields: Any) -> Reading[TrainRequest]:
    return read(json.dumps(request(**fields)), Source.HTTP)


# A workstation with everything installed, and the dataset that every request names.
FACTS = Facts(
    Deployment(
        machines=("local",),
        local_folders=True,
        webhooks_to_loopback=True,
        has_hf_token=True,
        has_unsloth=True,
        may_have_gpu=True,
        has_timm=True,
        wandb_needs_key=False,
        prices=Prices({"local": 0.4}),
    ),
    dataset=DatasetFiles("the dataset's folder", exists=True),
)


def checked(body: Any, source: Source = Source.HTTP, facts: Facts = FACTS) -> Reading[TrainRequest]:
    """Read a request, given as JSON text or as an object, and check all rules."""
    return rules.check(read(body if isinstance(body, str) else json.dumps(body), source), facts)
