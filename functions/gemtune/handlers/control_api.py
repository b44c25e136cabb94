"""API for the workflow: `POST /claim`, `POST /admit` and `POST /step_ended`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated

import flask
from pydantic import BaseModel, Field, ValidationError

from gemtune.admission.platform import PlatformError
from gemtune.bootstrap import Services
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step

log = logging.getLogger(__name__)


class ClaimCall(BaseModel):
    """Body of `POST /claim`."""

    job_id: str
    launch: Annotated[int, Field(ge=1)]
    execution: str

    @property
    def claim(self) -> Claim:
        """Return the claim of the calling execution."""
        return Claim(launch=self.launch, execution=self.execution)


class AdmitCall(ClaimCall):
    """Body of `POST /admit`."""

    step: Step


class OperationError(BaseModel):
    """Error of an operation, a google.rpc.Status."""

    code: int | None = None
    message: str | None = None


class Operation(BaseModel):
    """Operation of the platform that failed, as far as it is of use here."""

    error: OperationError | None = None


class StepEndedCall(AdmitCall):
    """Body of `POST /step_ended`.

    error: message of the platform; null if the execution succeeded. code, tags, operation: of the error, if there.
    """

    round: Annotated[int, Field(ge=1)]
    error: str | None = None
    code: int | None = None
    tags: tuple[str, ...] | None = None
    operation: Operation | None = None

    @property
    def platform_error(self) -> PlatformError | None:
        """Return the platform's error, if there is one."""
        if self.error is None:
            return None
        failed = None if self.operation is None else self.operation.error
        if failed is None:
            return PlatformError(self.error, self.code, self.tags or ())
        text = self.error if failed.message in (None, self.error) else f"{self.error}: {failed.message}"
        return PlatformError(text, failed.code, self.tags or ())


def respond(request: flask.Request, services: Services) -> tuple[dict[str, object], int]:
    """Answer one call of the workflow, with a body and a status."""
    try:
        if request.method == "POST" and request.path.rstrip("/") == "/claim":
            return _claim(ClaimCall.model_validate_json(request.get_data()), services), 200
        if request.method == "POST" and request.path.rstrip("/") == "/admit":
            call = AdmitCall.model_validate_json(request.get_data())
            return asdict(services.control.admit(call.job_id, call.claim, call.step)), 200
        if request.method == "POST" and request.path.rstrip("/") == "/step_ended":
            return _step_ended(StepEndedCall.model_validate_json(request.get_data()), services), 200
    except ValidationError as error:
        return {"error": {"code": "bad_call", "message": str(error)}}, 400
    except Exception:
        # The workflow repeats a call after 503, but 500 would end the execution.
        log.exception("control could not answer")
        return {"error": {"code": "try_again", "message": "control could not answer now"}}, 503
    return {"error": {"code": "not_found", "message": "control knows /claim, /admit and /step_ended"}}, 404


def _claim(call: ClaimCall, services: Services) -> dict[str, object]:
    """Let an execution claim its job.

    The answer tells it how to run each step, or to quit.
    """
    plan = services.control.claim(call.job_id, call.claim)
    if plan is None:
        return {"verdict": "quit"}
    return {"verdict": "go", "steps": {step.value: asdict(job) for step, job in plan.items()}}


def _step_ended(call: StepEndedCall, services: Services) -> dict[str, object]:
    """Tell an execution what to do after a step has ended."""
    ruling = services.control.step_ended(
        call.job_id, call.claim, call.step, round_number=call.round, error=call.platform_error
    )
    return asdict(ruling)
