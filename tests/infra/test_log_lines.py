"""Log-based metrics count the lines that the services actually write."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from gemtune.jobs.record import Failure
from gemtune.jobs.status import Step
from gemtune.log_lines import JsonFormatter
from gemtune.ports import ExecutionState
from tests.fakes import World
from tests.infra.planned import Planned
from tests.services.test_running import Running


def counted(plan: Planned, metric: str, records: list[logging.LogRecord]) -> list[str]:
    """Return the messages that a metric counts, as Cloud Logging gets them."""
    filters = plan.one("google_logging_metric", f"gemtune/{metric}")["filter"]
    service = re.search(r'service_name=~"\^gemtune-\(([a-z|-]+)\)\$"', filters)
    assert service is not None
    assert all(f"gemtune-{name}" in plan.named("google_cloudfunctions2_function") for name in service[1].split("|"))
    line = re.search(r'jsonPayload\.message=~"(.*)"', filters)
    assert line is not None
    messages = [json.loads(JsonFormatter("%(message)s").format(record))["message"] for record in records]
    return [message for message in messages if re.search(line[1], message)]


@pytest.fixture
def running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Running:
    caplog.set_level(logging.INFO)
    return Running(World(tmp_path / "home"))


def test_a_failed_job_is_counted_once(running: Running, plan: Planned, caplog: pytest.LogCaptureFixture) -> None:
    fence = running.begin(Step.PREPARE)
    running.services.advance.fail(running.job_id, fence, Failure(code="bad_data", message="job x: job_failed"))
    running.services.fan_out(running.job_id)
    assert counted(plan, "failed_jobs", caplog.records) == [f"job {running.job_id}: job_failed"]


def test_a_job_that_is_launched_again_is_counted(
    running: Running, plan: Planned, caplog: pytest.LogCaptureFixture
) -> None:
    running.world.launcher.states[running.claim.execution] = ExecutionState.FAILED
    running.services.sweep()
    assert len(counted(plan, "relaunched_jobs", caplog.records)) == 1
    assert counted(plan, "unmended", caplog.records) == []


def test_a_failed_recovery_by_the_sweep_is_counted(
    running: Running, plan: Planned, caplog: pytest.LogCaptureFixture
) -> None:
    running.world.launcher.states[running.claim.execution] = ExecutionState.FAILED
    running.world.launcher.broken = ConnectionError("away")
    running.services.sweep()
    assert len(counted(plan, "unmended", caplog.records)) == 1
