"""The benchmark of plans, with jobs that take a scripted time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import plans
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.record import StepRecord
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status, Step
from gemtune.machines.cost import LIST_PRICES
from gemtune.request.parsing import read
from tests.fakes import World
from tests.unit.jobs.test_job import new

# Shares of the planned time that the jobs of each kind take, in the order of SIZES. The last one is a repetition.
SHARES = (9.0, 1.0, 1.0, 1.1, 0.85, 1.3, 1.0)


@dataclass
class ScriptedJobs:
    """Service whose jobs take a share of their plan.

    ends: status of all jobs.
    """

    world: World
    ends: Status = Status.COMPLETED
    trained: Counter[str] = field(default_factory=Counter)

    def plan(self, request: Mapping[str, Any]) -> Plan:
        spec, facts = self.world.services.submit.rehearse(read(json.dumps(request), Source.HTTP), owner="local")
        return self.world.services.planner.of_request(spec, facts)

    def train(self, request: Mapping[str, Any]) -> ScriptedJob:
        plan = self.plan(request)
        key = plan.steps["train"].key
        number = self.trained[key]
        self.trained[key] += 1
        steps = {name: step.model_copy(update={"jobs": number}) for name, step in plan.steps.items()}
        seconds = {name: SHARES[number] * step.seconds for name, step in steps.items()}
        update: dict[str, Any] = {
            "status": self.ends,
            "plan": plan.model_copy(update={"steps": steps}),
            "steps": {step: StepRecord(state="done", seconds=seconds[step]) for step in Step},
            "processed_dataset_id": request["processed_dataset_id"],
        }
        return ScriptedJob(JobStatus.of(new().model_copy(update=update), LIST_PRICES))


@dataclass
class ScriptedJob:
    shown: JobStatus

    def wait(self) -> None:
        pass

    def status(self) -> JobStatus:
        return self.shown


@pytest.fixture
def requests(tmp_path: Path, world: World) -> list[tuple[str, dict[str, Any]]]:
    base = tmp_path / "tiny"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "gemma3_text", "dtype": "bfloat16"}')
    (base / "model.safetensors").write_bytes(b"x" * 1000)
    return [*plans.write_requests(tmp_path / "home" / "data" / "processed_datasets", base)]


def test_every_kind_is_one_kind_to_the_planner_and_three_of_its_jobs_are_judged(
    world: World, requests: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = ScriptedJobs(world)
    plans.print_table(plans.run(jobs, requests))
    assert [*jobs.trained.values()] == [len(plans.SIZES)] * len(plans.KINDS)
    *rows, _, good, spread = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(requests)
    ratios = [float(row.split(" | ")[6]) for row in rows[2 :: len(plans.KINDS)]]
    assert ratios == pytest.approx(SHARES, rel=0.03)  # plans round minutes
    counted, right = (count * len(plans.KINDS) for count in (4, 3))
    assert good == f"{right} of {counted} plans after 3 jobs of the kind were right within 20%"
    assert spread == "the same job, run again, took 0.91 to 0.91 times as long (median 0.91)"


def test_a_dry_run_plans_every_job_and_runs_none(
    world: World, requests: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = ScriptedJobs(world)
    plans.print_plans(jobs, requests)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {kind}" for kind, _ in requests]
    assert not any("unknown" in row for row in rows)
    assert not jobs.trained


def test_a_failed_job_ends_the_benchmark(world: World, requests: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(RuntimeError, match="is failed"):
        [*plans.run(ScriptedJobs(world, ends=Status.FAILED), requests)]
