"""What a job's own secrets are called, so that they can be told from the user's."""

from __future__ import annotations

from datetime import timedelta

from gemtune.jobs.record import Job

OWN_PREFIX = "gemtune-job-"
USER_PREFIX = "gemtune-user-"
# Before the name of a secret that a request refers to.
REFERENCE = "secret:"

# A job's secrets outlive the longest step by far; every begin of a step counts again from now.
SECRET_TTL = timedelta(days=8)


def job_secret_name(job_id: str, role: str, nonce: str) -> str:
    return f"{OWN_PREFIX}{job_id}-{role}-{nonce}"


def job_of_secret(own_name: str) -> str:
    """The job that a secret was made for, by its name."""
    return own_name.removeprefix(OWN_PREFIX).rsplit("-", 2)[0]


def job_secrets(job: Job) -> list[str]:
    """Names of the secrets that were made for this job and go with it; a user's secret that it refers to stays."""
    return [name for name in job.secret_names.values() if name.startswith(OWN_PREFIX)]
