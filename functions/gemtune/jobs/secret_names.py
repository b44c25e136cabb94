"""Names of secrets.

Prefixes distinguish secrets that a job owns from those that a user stored.
"""

from __future__ import annotations

from datetime import timedelta

from gemtune.jobs.record import Job
from gemtune.secret_name import NAME

OWN_PREFIX = "gemtune-job-"
USER_PREFIX = "gemtune-user-"
# Prefix of a reference to a stored secret, in place of a token in a request.
REFERENCE = "secret:"

# Lifetime of a job's secrets: much longer than the longest step, and renewed at the beginning of every step.
SECRET_TTL = timedelta(days=8)


def job_secret_name(job_id: str, role: str, nonce: str) -> str:
    """Return the name for the secret that holds one of a job's tokens.

    role: `hf_token` or `wandb_api_key`. nonce: makes the names of two requests with the same key differ.
    """
    return f"{OWN_PREFIX}{job_id}-{role}-{nonce}"


def job_of_secret(secret_name: str) -> str:
    """Return the id of the job that owns a secret. Inverts `job_secret_name`."""
    return secret_name.removeprefix(OWN_PREFIX).rsplit("-", 2)[0]


def job_secrets(job: Job) -> list[str]:
    """Return the names of the secrets that the job owns.

    Secrets of the user that it refers to are not among them, nor names in a damaged record that no secret can have.
    """
    return [name for name in job.secret_names.values() if name.startswith(OWN_PREFIX) and NAME.fullmatch(name)]
