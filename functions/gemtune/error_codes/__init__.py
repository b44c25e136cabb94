"""Error codes: the cause of each, what to do, and where it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemtune.error_codes.answers import ANSWERS, HTTP_NAMES
from gemtune.error_codes.entry import ErrorCode
from gemtune.error_codes.failures import FAILURES
from gemtune.error_codes.operation import COMMAND_LINE, INTERNAL
from gemtune.error_codes.problems import DOCUMENTS, REQUESTS, VALUES
from gemtune.error_codes.trying import TRYING
from gemtune.error_codes.warnings import WARNINGS


@dataclass(frozen=True, slots=True)
class Chapter:
    """Codes that occur in one place.

    place: where users meet them, in whole sentences.
    """

    title: str
    place: str
    codes: Mapping[str, ErrorCode]


CATALOGUE: Sequence[Chapter] = (
    Chapter(
        "Error answers of the HTTP API",
        "`error.code` of every answer with a status of 400 or above. The command line prints the same code and exits "
        "with 1.",
        ANSWERS,
    ),
    Chapter(
        "Errors of HTTP itself",
        "`error.code` of a request that reaches no operation. The code is HTTP's own name of the status.",
        HTTP_NAMES,
    ),
    Chapter(
        "A request that cannot be read",
        "`problems[].code` of a 422 answer, of the message `job_rejected` and of a file `….rejected.json`. A base "
        "model's files and a dataset's rows are read by the same reader.",
        DOCUMENTS,
    ),
    Chapter(
        "A field with a wrong value",
        "The same places. Except for the first four these are pydantic's names; the message says the bound.",
        VALUES,
    ),
    Chapter(
        "A request that cannot be done",
        "The same places. These rules look at several fields, at the dataset, the base model and the deployment.",
        REQUESTS,
    ),
    Chapter(
        "A job that failed",
        "`error_detail.code` of `GET /jobs/{job_id}/status` and `details.code` of the event `job_failed`; the command "
        "line prints it when it follows the job, and exits with 3.",
        FAILURES,
    ),
    Chapter(
        "A job with warnings",
        "`warnings[].code` of `GET /jobs/{job_id}/status` and of the event `prepare_done`. The job goes on.",
        WARNINGS,
    ),
    Chapter(
        "The command line and the start of a service",
        "Printed to standard error as `code: message`; the exit code is 1.",
        COMMAND_LINE,
    ),
    Chapter(
        "Asking a model",
        "Printed to standard error by `gemtune try` as `code: message`; the exit code is 1. It also prints codes of a "
        "job that failed, such as `base_changed` and `out_of_memory`.",
        TRYING,
    ),
    Chapter(
        "Inside the service",
        "Never an answer to a user: the service handles these, repeats what it did, or logs them. An operator meets "
        "them in logs and among dead letters.",
        INTERNAL,
    ),
)
