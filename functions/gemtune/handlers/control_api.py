"""What the workflow calls: `POST /claim` and `POST /step_ended`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated

import flask
from pydantic import BaseModel, Field, ValidationError

from gemtune.bootstrap import Services
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step

log = logging.getLogger(__name__)


class ClaimCall(BaseModel):
    job_id: str
    launch: Annotated[int, Field(ge=1)]
    execution: str

    @property
    def claim(self) -> Claim:
        return Claim(launch=self.launch, execution=self.execution)


class StepEndedCall(ClaimCall):
    step: Step
    round: Annotated[int, Field(ge=1)]
    error: str | None = None


def respond(request: flask.Request, services: Services) -> tuple[dict[str, object], int]:
    """The answer to one call of the workflow: a verdict, and after a claim what each step needs."""
    try:
        if request.method == "POST" and request.path.rstrip("/") == "/claim":
            return _claim(ClaimCall.model_validate_json(request.get_data()), services), 200
        if request.method == "POST" and request.path.rstrip("/") == "/step_ended":
            return _step_ended(StepEndedCall.model_validate_json(request.get_data()), services), 200
    except ValidationError as error:
        return {"error": {"code": "bad_call", "message": str(error)}}, 400
    except Exception:
        # 503 is what the workflow's retry policy asks again after; 500 would end the execution.
        log.exception("control could not answer")
        return {"error": {"code": "try_again", "message": "control could not answer now"}}, 503
    return {"error": {"code": "not_found", "message": "control knows /claim and /step_ended"}}, 404


def _claim(call: ClaimCall, services: Services) -> dict[str, object]:
    plan = services.control.claim(call.job_id, call.claim)
    if plan is None:
        return {"verdict": "quit"}
    return {"verdict": "go", "steps": {step.value: asdict(job) for step, job in plan.items()}}


def _step_ended(call: StepEndedCall, services: Services) -> dict[str, object]:
    ruling = services.control.step_ended(call.job_id, call.claim, call.step, round_number=call.round, error=call.error)
    return asdict(ruling)
