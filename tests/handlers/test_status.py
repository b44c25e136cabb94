"""The status of a job as its user sees it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from gemtune.handlers.answers import JobStatus, StepStatus
from gemtune.jobs import changes
from gemtune.jobs.record import Claim, Failure, Job, StepRecord
from gemtune.jobs.status import Step
from tests.fakes import World, request

FAILURE = Failure(code="bad_rows", message="row 3: not JSON", step=Step.PREPARE, hint="fix it")


# Fields of records that only the service needs: its own bookkeeping, and what may contain secrets.
NOT_SHOWN = {
    "admission",
    "base_model_folder",
    "base_weights",
    "claim",
    "export_machine",
    "idempotency_key",
    "last_seq",
    "launch",
    "pause_after",
    "published_seq",
    "relaunches",
    "request_hash",
    "secret_names",
    "secrets_renewed_at",
    "spec_name",
    "spec_uri",
    "version",
    "webhook_url",
    "workload",
}
NOT_SHOWN_OF_STEPS = {"checkpoint_at_last_assessment", "fruitless", "interruptions", "last_assessed_report"}
# Fields of the status that are made from others.
MADE = {"cost_usd", "error_detail", "plan_error", "spent"}


def gaps(record: type[BaseModel], status: type[BaseModel], not_shown: set[str], computed: set[str]) -> list[str]:
    """Return what to decide about fields that only one of two models has."""
    recorded, shown = set(record.model_fields), set(status.model_fields)
    decisions = {
        f"of {record.__name__}: show it in {status.__name__}, or list it among those not shown": recorded
        - shown
        - not_shown,
        f"of {status.__name__}: add it to {record.__name__}, or list it among those computed": shown
        - recorded
        - computed,
        "is listed as not shown, but it is shown or not recorded": not_shown - (recorded - shown),
        "is listed as computed, but it is recorded or not shown": computed - (shown - recorded),
    }
    return [f"{name} {decision}" for decision, names in decisions.items() for name in sorted(names)]


def test_every_field_of_a_record_is_in_the_status_or_in_the_list_of_those_that_are_not_shown() -> None:
    missing = gaps(Job, JobStatus, NOT_SHOWN, MADE) + gaps(StepRecord, StepStatus, NOT_SHOWN_OF_STEPS, set())
    assert not missing, "\n".join(missing)


def test_a_field_that_only_one_of_two_models_has_is_named() -> None:
    assert gaps(Job, JobStatus, NOT_SHOWN - {"claim"} | {"owner"}, MADE - {"spent"} | {"x"}) == [
        "claim of Job: show it in JobStatus, or list it among those not shown",
        "spent of JobStatus: add it to Job, or list it among those computed",
        "owner is listed as not shown, but it is shown or not recorded",
        "x is listed as computed, but it is recorded or not shown",
    ]


@pytest.fixture
def job_id(api: Any) -> str:
    return str(api.post("/train", json=request()).json["job_id"])


def test_the_status_of_a_failed_job_contains_the_error(api: Any, backend: World, job_id: str) -> None:
    now = backend.clock.now()
    backend.services.store.update(job_id, lambda job: changes.fail_job(job, FAILURE, at=now))
    shown = api.get(f"/jobs/{job_id}/status").json
    assert (shown["status"], shown["error"]) == ("failed", "row 3: not JSON")
    assert {name: shown["error_detail"][name] for name in ("code", "message", "step", "hint")} == {
        "code": "bad_rows",
        "message": "row 3: not JSON",
        "step": "prepare",
        "hint": "fix it",
    }
    assert shown["finished_at"] is not None


def test_the_status_contains_the_state_of_each_step(api: Any, backend: World, job_id: str) -> None:
    services = backend.services
    services.dispatch.launch(job_id)
    services.control.claim(job_id, Claim(launch=1, execution="e"))
    services.advance.begin(job_id, Step.PREPARE, Claim(launch=1, execution="e"), execution="run")
    steps = api.get(f"/jobs/{job_id}/status").json["steps"]
    assert {step: (record["state"], record["attempt"], record["execution"]) for step, record in steps.items()} == {
        "prepare": ("running", 1, "run"),
        "train": ("pending", 0, None),
        "export": ("pending", 0, None),
    }


def test_a_body_of_more_than_a_mebibyte_is_refused(api: Any) -> None:
    mebibyte = b" " * 1024 * 1024
    assert api.post("/train", data=mebibyte).status_code == 422
    assert api.post("/train", data=mebibyte + b" ").status_code == 413
