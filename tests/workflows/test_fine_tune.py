"""The workflow file, run with scripted control and Cloud Run jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gemtune.local_server.workflow_engine.errors import WorkflowError, WorkflowFailed
from gemtune.local_server.workflow_engine.interpreter import execute
from gemtune.local_server.workflow_engine.reader import load
from gemtune.services.control import FOR_PLATFORM, FOR_SLOTS

FILE = Path(__file__).parent.parent.parent / "workflows" / "fine_tune.yaml"
ENVIRONMENT = {
    "CONTROL_URL": "https://control.example",
    "RUN_PARENT": "projects/p/locations/l",
    "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": "exec-1",
}
PLAN = {
    step: {"job": f"gemtune-{step}", "timeout_seconds": 60, "args": [step, "--job-id", "j"]}
    for step in ("prepare", "train", "export")
}
Verdicts = Mapping[str, list[str]]


class Script:
    """Scripted answers of control and behaviour of the Cloud Run jobs.

    Records all calls. verdicts: answers of control to the end of each step. admissions: its answers before a step, in
    order; without any, the step may run.
    """

    def __init__(self, verdicts: Verdicts, *, claim: str = "go", run: Callable[[str], None] = lambda job: None):
        self.verdicts = {step: list(answers) for step, answers in verdicts.items()}
        self.claim, self.on_run, self.plan = claim, run, PLAN
        self.admissions: dict[str, list[tuple[str, float]]] = {step: [] for step in PLAN}
        self.endings: list[Mapping[str, Any]] = []
        self.ran: list[str] = []
        self.jobs: list[str] = []
        self.reports: list[tuple[str, int, bool]] = []
        self.errors: list[str | None] = []
        self.calls: list[Mapping[str, Any]] = []
        self.slept: list[float] = []
        self.failures: list[WorkflowError] = []

    def post(self, args: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(args)
        if self.failures:
            raise self.failures.pop(0)
        body = args["body"]
        assert (body["job_id"], body["launch"], body["execution"]) == ("j", 1, "exec-1")
        if args["url"] == "https://control.example/claim":
            return {"code": 200, "body": {"verdict": self.claim}}
        if args["url"] == "https://control.example/admit":
            verdict, seconds = (self.admissions[body["step"]] or [("run", 0.0)]).pop(0)
            plan = self.plan[body["step"]] if verdict == "run" else None
            return {"code": 200, "body": {"verdict": verdict, "wait_seconds": seconds, "plan": plan}}
        self.endings.append(body)
        assert args["url"] == "https://control.example/step_ended"
        self.reports.append((body["step"], body["round"], body["error"] is not None))
        self.errors.append(body["error"])
        return {"code": 200, "body": {"verdict": self.verdicts[body["step"]].pop(0), "wait_seconds": 7}}

    def run(self, args: Mapping[str, Any]) -> dict[str, Any]:
        assert args["name"].startswith("projects/p/locations/l/jobs/gemtune-")
        (override,) = args["body"]["overrides"]["containerOverrides"]
        assert args["body"]["overrides"]["timeout"] == "60s"
        assert args["connector_params"]["timeout"] > 60
        self.ran.append(override["args"][0])
        self.jobs.append(args["name"].rpartition("/")[2])
        self.on_run(override["args"][0])
        return {}

    def execute(self) -> object:
        calls = {"http.post": self.post, "googleapis.run.v2.projects.locations.jobs.run": self.run}
        return execute(
            load(FILE), {"job_id": "j", "launch": 1}, calls=calls, environment=ENVIRONMENT, sleep=self.slept.append
        )


DONE: Verdicts = {"prepare": ["done"], "train": ["done"], "export": ["done"]}


def test_the_steps_run_in_order_and_each_end_is_reported() -> None:
    script = Script(DONE)
    assert script.execute() == "done"
    assert script.ran == ["prepare", "train", "export"]
    assert script.reports == [("prepare", 1, False), ("train", 1, False), ("export", 1, False)]
    for_control = {"type": "OIDC", "audience": ENVIRONMENT["CONTROL_URL"]}
    assert all(args["auth"] == for_control for args in script.calls)


def test_an_execution_without_a_claim_runs_nothing() -> None:
    script = Script(DONE, claim="quit")
    script.execute()
    assert (script.ran, script.reports) == ([], [])


def test_train_runs_on_the_machine_that_prepare_chose() -> None:
    script = Script(DONE)

    def choose_machine(step: str) -> None:
        if step == "prepare":
            script.plan = PLAN | {"train": PLAN["train"] | {"job": "gemtune-train-large"}}

    script.on_run = choose_machine
    assert script.execute() == "done"
    assert script.jobs == ["gemtune-prepare", "gemtune-train-large", "gemtune-export"]


def test_a_step_that_is_not_admitted_any_more_ends_the_execution() -> None:
    script = Script(DONE)
    script.admissions["train"] = [("stop", 0)]
    script.execute()
    assert script.ran == ["prepare"]


def test_a_step_that_is_done_is_not_started() -> None:
    script = Script(DONE)
    script.admissions |= {step: [("done", 0)] for step in ("prepare", "train")}
    assert script.execute() == "done"
    assert script.ran == ["export"]


def test_a_step_that_has_to_wait_asks_again_until_it_may_run() -> None:
    script = Script(DONE)
    script.admissions["train"] = [("wait", 10.0), ("wait", 12.5), ("run", 0)]
    assert script.execute() == "done"
    assert script.slept == [10, 12.5]
    assert script.reports == [("prepare", 1, False), ("train", 1, False), ("export", 1, False)]


def test_a_week_of_waiting_fits_into_one_execution() -> None:
    """Google ends an execution after 100,000 steps, and so does the engine."""
    script, waited = Script(DONE), 0.0
    for intervals in (FOR_SLOTS, FOR_PLATFORM):
        waited = 0.0
        while waited < 7 * 86400:
            script.admissions["train"].append(("wait", intervals.after(timedelta(seconds=waited))))
            waited += script.admissions["train"][-1][1]
    assert len(script.admissions["train"]) < 4000
    script.admissions["train"].append(("run", 0))
    assert script.execute() == "done"


def test_a_step_is_repeated_as_often_as_control_says() -> None:
    script = Script(DONE | {"train": ["again", "again", "done"]})
    assert script.execute() == "done"
    assert script.ran == ["prepare", "train", "train", "train", "export"]
    assert [report for report in script.reports if report[0] == "train"] == [
        ("train", 1, False),
        ("train", 2, False),
        ("train", 3, False),
    ]
    assert script.slept == [7, 7]


@pytest.mark.parametrize("step", ["prepare", "train", "export"])
def test_nothing_runs_after_a_stop(step: str) -> None:
    script = Script(DONE | {step: ["stop"]})
    script.execute()
    assert script.ran[-1] == step


@pytest.mark.parametrize("error", [{"message": "boom", "tags": ["OperationError"]}, {}, {"code": 500}])
def test_an_error_of_the_platform_is_reported_to_control_which_decides(error: dict[str, Any]) -> None:
    def fails(job: str) -> None:
        raise WorkflowError(error)

    script = Script(DONE, run=fails)
    assert script.execute() == "done"
    assert script.reports == [("prepare", 1, True), ("train", 1, True), ("export", 1, True)]
    assert script.errors == [error.get("message", json.dumps(error))] * 3
    for body in script.endings:
        assert (body["code"], body["tags"]) == (error.get("code"), error.get("tags"))


def test_control_is_told_what_the_platform_says_of_the_operation() -> None:
    operation = {"name": "operations/x", "error": {"code": 8, "message": "no GPU"}}

    def fails(job: str) -> None:
        raise WorkflowError({"message": "failed", "tags": ["OperationError"], "operation": operation})

    script = Script(DONE | {"train": ["again", "done"]}, run=fails)
    assert script.execute() == "done"
    assert [body["operation"] for body in script.endings] == [operation] * 4


def test_a_later_success_is_reported_without_the_earlier_error() -> None:
    script = Script(DONE | {"prepare": ["again", "done"]})

    def fails_once(job: str) -> None:
        if len(script.ran) == 1:
            raise WorkflowError({"message": "boom", "code": 503, "tags": ["HttpError"], "operation": {}})

    script.on_run = fails_once
    assert script.execute() == "done"
    names = ("error", "code", "tags", "operation")
    assert [[body[name] is None for name in names] for body in script.endings[:2]] == [[False] * 4, [True] * 4]


@pytest.mark.parametrize(
    "error", [{"code": 503}, {"code": 429}, {"tags": ["ConnectionError"]}, {"tags": ["TimeoutError"]}]
)
def test_calls_of_control_are_retried_with_a_backoff(error: dict[str, Any]) -> None:
    script = Script(DONE)
    script.failures = [WorkflowError(error)] * 8
    assert script.execute() == "done"
    assert script.slept == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_execution_fails_when_control_stays_down() -> None:
    script = Script(DONE)
    script.failures = [WorkflowError({"code": 503, "message": "away"})] * 100
    with pytest.raises(WorkflowFailed, match="away"):
        script.execute()
    assert len(script.slept) == 20


def test_a_refusal_of_control_is_not_repeated() -> None:
    script = Script(DONE)
    script.failures = [WorkflowError({"code": 400, "message": "bad call"})]
    with pytest.raises(WorkflowFailed, match="bad call"):
        script.execute()
    assert script.slept == []


def test_an_exception_of_the_host_is_not_caught_by_the_workflow() -> None:
    class GivenUp(Exception):
        pass

    def stops(job: str) -> None:
        raise GivenUp

    script = Script(DONE, run=stops)
    with pytest.raises(GivenUp):
        script.execute()
    assert script.reports == []
