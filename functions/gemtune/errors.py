"""Every error gemtune raises on purpose: a code, a sentence, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from gemtune.redaction import redact


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request. It never repeats a value that could be a secret."""

    loc: tuple[str | int, ...]
    msg: str
    code: str
    hint: str | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"loc": list(self.loc)}


class GemtuneError(Exception):
    """The base of all: `code` is for programs, the message for people, `hint` says what to do next."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(redact(message))
        self.message = redact(message)
        self.hint = None if hint is None else redact(hint)


# What a caller did wrong. It can never succeed as it is.


class RequestRefused(GemtuneError):
    """A request with problems, all of them at once."""

    code = "request_refused"

    def __init__(self, problems: Sequence[Problem]):
        first = problems[0]
        where = ".".join(map(str, first.loc)) or "request"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{where}: {first.msg}{more}", hint=first.hint)
        self.problems = tuple(problems)


class NotFound(GemtuneError):
    """Nothing has that name."""

    code = "not_found"


class JobNotFound(NotFound):
    """No such job, or it was deleted."""

    code = "job_not_found"

    def __init__(self, job_id: str):
        super().__init__(f"there is no job {job_id!r}", hint="list the jobs with GET /jobs")


class Conflict(GemtuneError):
    """The request contradicts what is there already."""

    code = "conflict"


class KeyReused(Conflict):
    """An idempotency key came back with another request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "this idempotency key belongs to another request", hint="send a changed request under a new Idempotency-Key"
        )


class JobWasDeleted(Conflict):
    """The idempotency key belongs to a job that was deleted."""

    code = "job_was_deleted"

    def __init__(self, job_id: str):
        super().__init__(
            f"this idempotency key belongs to job {job_id!r}, which was deleted",
            hint="send the request under a new Idempotency-Key to train again",
        )


class JobIsOver(Conflict):
    """A final status stays as it is."""

    code = "job_is_over"

    def __init__(self, job_id: str, status: str):
        super().__init__(f"job {job_id!r} is {status} already", hint="submit a new job")


class JobIsRunning(Conflict):
    """A job that runs cannot be deleted, nor exported again."""

    code = "job_is_running"

    def __init__(self, job_id: str, status: str):
        hint = f"wait for its end, or cancel it first: POST /jobs/{job_id}/cancel"
        super().__init__(f"job {job_id!r} is still {status}", hint=hint)


class JobHasChildren(Conflict):
    """A job whose training result others are exporting cannot be deleted."""

    code = "job_has_children"

    def __init__(self, job_id: str, children: Sequence[str]):
        hint = f"wait for its end, or cancel it first: POST /jobs/{children[0]}/cancel"
        super().__init__(f"job {', '.join(children)} exports what {job_id!r} trained", hint=hint)


class NothingTrained(Conflict):
    """A job that ended before its training did has nothing to export."""

    code = "nothing_trained"

    def __init__(self, job_id: str):
        message = f"job {job_id!r} recorded no adapter and no model"
        super().__init__(message, hint="export a job whose train step is done, or train again")


# A write that came too late. Whoever gets one stops at once and touches nothing more.


class Stale(GemtuneError):
    """The writer no longer owns what it writes to."""

    code = "stale"


class StaleClaim(Stale):
    """Another execution owns the job, or the job is over."""

    code = "stale_claim"


class StaleAttempt(Stale):
    """A newer attempt of the same step has begun."""

    code = "stale_attempt"


class VersionConflict(GemtuneError):
    """The record changed since it was read: read again and decide again."""

    code = "version_conflict"


class IllegalMove(GemtuneError):
    """The table of moves does not know this move."""

    code = "illegal_move"

    def __init__(self, job_id: str, here: str, to: str):
        super().__init__(f"job {job_id!r} cannot go from {here} to {to}")


# What a step finds out. It fails the job for good.


class StepError(GemtuneError):
    """A step cannot succeed, however often it is tried; the code goes into the record."""

    code = "step_failed"

    def __init__(self, code: str, message: str, *, hint: str | None = None):
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]


# What stores say.


class ObjectNotFound(NotFound):
    """No object has that name."""

    code = "object_not_found"


class ObjectExists(Conflict):
    """A create-only write found something there."""

    code = "object_exists"


class UnsafeName(GemtuneError):
    """A name that would leave its folder."""

    code = "unsafe_name"


class NoSignedLinks(GemtuneError):
    """What the service runs as can read an object, but cannot sign a link to it."""

    code = "no_signed_links"


class SecretNotFound(NotFound):
    """No secret has that name, or its time is over."""

    code = "secret_not_found"


class RecordUnreadable(GemtuneError):
    """A job record that this version cannot read."""

    code = "record_unreadable"

    def __init__(self, job_id: str, faults: str):
        super().__init__(
            f"the record of job {job_id!r} cannot be read by this version: {faults}",
            hint=f"run the version that wrote it, or end and remove the job: "
            f"POST /jobs/{job_id}/cancel, then DELETE /jobs/{job_id}",
        )


class SpecUnreadable(Conflict):
    """A job's configuration that this version cannot read, or not as it was meant."""

    code = "spec_unreadable"

    def __init__(self, fault: str):
        super().__init__(
            f"the configuration of this job cannot be read by this version: {fault}",
            hint="run the version of the service that accepted the job, or submit it again",
        )


class RecordInvalid(GemtuneError):
    """A job that was about to be stored and could never be read again. Nothing was written."""

    code = "record_invalid"

    def __init__(self, job_id: str, faults: str):
        super().__init__(
            f"what should be stored of job {job_id!r} is no record: {faults}", hint="this is a bug: report it"
        )


class BadPageToken(GemtuneError):
    """A page token that no page gave out."""

    code = "bad_page_token"

    def __init__(self) -> None:
        super().__init__("this page_token is not one of ours", hint="start again without page_token")


class BadIdempotencyKey(GemtuneError):
    """A key that cannot be one."""

    code = "bad_idempotency_key"

    def __init__(self) -> None:
        super().__init__(
            "this is no idempotency key", hint="use printable characters, at most 1024 bytes, and no token"
        )


class NotFromHere(GemtuneError):
    """A request that reached this machine by another name than its own, or from a web page."""

    code = "not_from_here"

    def __init__(self) -> None:
        super().__init__(
            "this service answers this machine only", hint="call http://127.0.0.1, from no page but its own"
        )


class BodyTooLarge(GemtuneError):
    """A request body over the limit."""

    code = "body_too_large"

    def __init__(self, limit: int):
        super().__init__(f"a request has at most {limit} bytes", hint="put rows into a dataset, not into the request")


class CannotStore(GemtuneError):
    """A write that the disk does not take: it is full, or may not be written to."""

    code = "cannot_store"

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place} cannot be written: {reason}", hint="make room there, or let the service write there")
        self.place, self.reason = place, reason


class NeedsLargerMachine(GemtuneError):
    """A training that fits on no machine it could have."""

    code = "needs_larger_machine"


class BadSetting(GemtuneError):
    """An environment variable that says nothing we know."""

    code = "bad_setting"


class AddressNotAllowed(GemtuneError):
    """A webhook whose host is, or resolves to, an address inside a network."""

    code = "address_not_allowed"

    def __init__(self, host: str):
        super().__init__(f"{host} is inside a network", hint="use a host that the internet knows")


class WebhookRefused(GemtuneError):
    """A webhook's receiver answered with anything but 2xx."""

    code = "webhook_refused"

    def __init__(self, status: int):
        super().__init__(f"the webhook's receiver answered {status}", hint="answer 2xx; it is sent again")
