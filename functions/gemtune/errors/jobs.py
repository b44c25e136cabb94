"""Errors about a job: its state, its record, and writers that come too late."""

from __future__ import annotations

from collections.abc import Sequence

from gemtune.errors.base import Conflict, GemtuneError, NotFound


class JobNotFound(NotFound):
    """Raised when there is no such job, or it was deleted."""

    code = "job_not_found"

    def __init__(self, job_id: str):
        super().__init__(f"there is no job {job_id!r}", hint="list the jobs with GET /jobs")


class KeyReused(Conflict):
    """Raised when an idempotency key is sent again with another request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "this idempotency key belongs to another request", hint="send a changed request under a new Idempotency-Key"
        )


class JobWasDeleted(Conflict):
    """Raised when an idempotency key belongs to a deleted job."""

    code = "job_was_deleted"

    def __init__(self, job_id: str):
        super().__init__(
            f"this idempotency key belongs to job {job_id!r}, which was deleted",
            hint="send the request under a new Idempotency-Key to train again",
        )


class JobIsOver(Conflict):
    """Raised on an attempt to change a job whose status is final."""

    code = "job_is_over"

    def __init__(self, job_id: str, status: str):
        super().__init__(f"job {job_id!r} is already {status}", hint="submit a new job")


class PlanNotMade(Conflict):
    """Raised when the plan of a job is asked for whose rows are not counted.

    ended: its status if it is over. only_exports: whether it has no rows, because it exports what another one trained.
    """

    code = "plan_not_made"

    def __init__(self, job_id: str, *, ended: str | None = None, only_exports: bool = False):
        dry_run = "plan the request: POST /train?dry_run=true"
        reason, hint = "its rows are not counted", f"wait until prepare is done, or {dry_run}"
        if ended is not None:
            reason, hint = f"it is {ended}, and its rows were not counted", dry_run
        if only_exports:
            reason, hint = "it only exports", f"see what it takes in its status: GET /jobs/{job_id}/status"
        super().__init__(f"job {job_id!r} has no plan: {reason}", hint=hint)


class CannotPause(Conflict):
    """Raised on an attempt to pause a job in its last step."""

    code = "cannot_pause"

    def __init__(self, job_id: str, status: str):
        super().__init__(
            f"job {job_id!r} is {status}, which cannot be paused", hint="wait until it is over, or cancel it"
        )


class JobNotPaused(Conflict):
    """Raised on an attempt to resume a job that is not paused yet or any more."""

    code = "job_not_paused"

    def __init__(self, job_id: str, status: str, *, hint: str = "there is nothing to resume"):
        super().__init__(f"job {job_id!r} is {status}, not paused", hint=hint)


class CapReached(Conflict):
    """Raised on an attempt to resume a job that has spent what it may."""

    code = "cap_reached"

    def __init__(self, job_id: str, field: str, spent: float, cap: float):
        unit = "hours" if field == "max_hours" else "USD"
        message = f"job {job_id!r} has taken {spent:.4g} {unit}, and cannot go on with a {field} of {cap:.4g}"
        hint = f"raise the cap: POST /jobs/{job_id}/resume with {field} above {max(spent, cap):.4g}"
        super().__init__(message, hint=hint)


class JobIsRunning(Conflict):
    """Raised on an attempt to delete or export a job that is still running."""

    code = "job_is_running"

    def __init__(self, job_id: str, status: str):
        hint = f"wait until it is over, or cancel it first: POST /jobs/{job_id}/cancel"
        super().__init__(f"job {job_id!r} is still {status}", hint=hint)


class JobHasChildren(Conflict):
    """Raised on an attempt to delete a job that other jobs still need."""

    code = "job_has_children"

    def __init__(self, job_id: str, *, exporting: Sequence[str] = (), training: Sequence[str] = ()):
        """Name the jobs that export what the job trained, or train on from it.

        training: jobs that are over are among them.
        """
        needs = []
        if exporting:
            needs.append(f"job {', '.join(exporting)} exports what {job_id!r} trained")
        if training:
            needs.append(f"job {', '.join(training)} goes on from what {job_id!r} trained")
        hint = f"wait until it is over, or cancel it first: POST /jobs/{exporting[0]}/cancel" if exporting else ""
        if training:
            hint = f"delete it first: DELETE /jobs/{training[0]}"
        super().__init__("; ".join(needs), hint=hint)


class NothingTrained(Conflict):
    """Raised on an attempt to export a job that ended before its training did."""

    code = "nothing_trained"

    def __init__(self, job_id: str):
        message = f"job {job_id!r} recorded no adapter and no model"
        super().__init__(message, hint="export a job whose train step is done, or train again")


# Writes that come too late. The writer stops at once and changes nothing more.


class Stale(GemtuneError):
    """Raised when a writer no longer owns the record it writes to."""

    code = "stale"


class StaleClaim(Stale):
    """Raised when another execution owns the job, or the job is over."""

    code = "stale_claim"


class StaleAttempt(Stale):
    """Raised when a newer attempt of the same step has begun."""

    code = "stale_attempt"


class VersionConflict(GemtuneError):
    """Raised when a record changed after it was read.

    The caller reads it again and decides again.
    """

    code = "version_conflict"


class IllegalMove(GemtuneError):
    """Raised for a change of status that the table of moves does not allow."""

    code = "illegal_move"

    def __init__(self, job_id: str, status: str, to: str):
        super().__init__(f"job {job_id!r} cannot go from {status} to {to}")


# Errors of a step that fail the job for good.


class StepError(GemtuneError):
    """Raised when a step can never succeed, however often it is tried.

    The code becomes that of the job's `error_detail`.
    """

    code = "step_failed"

    def __init__(self, code: str, message: str, *, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]


class RecordUnreadable(GemtuneError):
    """Raised for a job record that this version cannot read."""

    code = "record_unreadable"

    def __init__(self, job_id: str, faults: str):
        super().__init__(
            f"the record of job {job_id!r} cannot be read by this version: {faults}",
            hint=f"run the version that wrote it, or end and remove the job: "
            f"POST /jobs/{job_id}/cancel, then DELETE /jobs/{job_id}",
        )


class SpecUnreadable(Conflict):
    """Raised for a job's configuration that this version cannot read safely.

    A field that only a newer version knows may change what is trained.
    """

    code = "spec_unreadable"

    def __init__(self, fault: str):
        super().__init__(
            f"the configuration of this job cannot be read by this version: {fault}",
            hint="run the version of the service that accepted the job, or submit it again",
        )


class RecordInvalid(GemtuneError):
    """Raised instead of storing a job that could never be read again."""

    code = "record_invalid"

    def __init__(self, job_id: str, faults: str):
        super().__init__(
            f"job {job_id!r} cannot be stored, because its record would be invalid: {faults}",
            hint="this is a bug: report it",
        )


class NeedsLargerMachine(GemtuneError):
    """Raised if no allowed machine has the memory for a step."""

    code = "needs_larger_machine"
