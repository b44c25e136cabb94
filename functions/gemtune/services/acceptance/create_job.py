"""Creation of a job: its secrets, its spec and its record, all or nothing."""

from __future__ import annotations

import secrets as randomness
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from gemtune.errors import BadIdempotencyKey, JobNotFound, JobWasDeleted, KeyReused
from gemtune.jobs.changes import accept_job
from gemtune.jobs.record import Job, key_hash
from gemtune.jobs.secret_names import OWN_PREFIX, REFERENCE, SECRET_TTL, job_secret_name
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status
from gemtune.ports import Buckets, Clock, JobStore, Secrets
from gemtune.redaction import contains_token
from gemtune.request.parsing import Reading, Request
from gemtune.request.spec import Spec

# Folders of the config bucket: of the specs, and of an empty object for each new spec, which `sweep` checks once.
SPECS, NEW_SPECS = "specs/", "new-specs/"


@dataclass(frozen=True, slots=True)
class Submission(Generic[Request]):
    """Request as it was read, with its source, owner and idempotency key."""

    reading: Reading[Request]
    source: Source
    owner: str
    idempotency_key: str | None = None

    @property
    def key_hash(self) -> str | None:
        """Return the hash of the idempotency key; None without one.

        Raises BadIdempotencyKey for a key that cannot be stored or that looks like a token.
        """
        key = self.idempotency_key
        if key is None:
            return None
        # Pub/Sub limits the attributes of a message to 1024 bytes.
        if not 0 < len(key.encode(errors="replace")) <= 1024 or not key.isprintable() or contains_token(key):
            raise BadIdempotencyKey()
        return key_hash(self.source, self.owner, key)


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Service that creates the job of an accepted request."""

    store: JobStore
    buckets: Buckets
    secrets: Secrets
    clock: Clock

    def __call__(
        self,
        new_id: str,
        spec: Spec,
        tokens: Mapping[str, str],
        submission: Submission[Any],
        *,
        request_hash: str,
        **more: Any,
    ) -> Job:
        """Create the job, or return the one that has the same idempotency key.

        Secrets come first, then the spec, then the record, so that a record never names what does not exist. Their
        names end in a random nonce, so that two requests with the same key never share them. The request that comes
        second removes its own.

        new_id: id for the new job.
        tokens: role -> token or reference to a stored secret.
        more: further fields of the record.
        Raises KeyReused, JobWasDeleted, and JobNotFound when the parent was deleted.
        """
        now, nonce = self.clock.now(), randomness.token_hex(8)
        file = f"{new_id}-{nonce}.json"
        spec_name = f"{SPECS}{file}"
        names = self._store_secrets(tokens, new_id, nonce)
        self.buckets.config.create(f"{NEW_SPECS}{file}", b"")
        self.buckets.config.create(spec_name, spec.model_dump_json(indent=2).encode())
        job = Job(
            job_id=new_id,
            job_name=spec.job_name,
            status=Status.QUEUED,
            modality=spec.modality,
            base_model_id=spec.training_config.base_model_id,
            processed_dataset_id=spec.processed_dataset_id,
            spec_uri=self.buckets.config.uri(spec_name),
            spec_name=spec_name,
            secret_names=names,
            source=submission.source,
            owner=submission.owner,
            idempotency_key=submission.idempotency_key,
            request_hash=request_hash,
            webhook_url=None if spec.notify is None else spec.notify.webhook_url,
            created_at=now,
            updated_at=now,
            **more,
        )
        job, (event,) = accept_job(job)
        try:
            created = self.store.create(job, event)
        except (JobWasDeleted, JobNotFound):
            self._remove_own(names, spec_name)
            raise
        # After any other error the record may exist or not, so nothing is removed here: `sweep` finds out later.
        if not created.is_new:
            self._remove_own(names, spec_name)
            return check_same_request(created.job, request_hash)
        return job

    def _store_secrets(self, tokens: Mapping[str, str], new_id: str, nonce: str) -> dict[str, str]:
        """Store the tokens as secrets of the job.

        Returns role -> name of the secret. For a reference that is the name of the user's secret.
        """
        names = {}
        for role, value in tokens.items():
            if value.startswith(REFERENCE):
                names[role] = value.removeprefix(REFERENCE)
                continue
            names[role] = job_secret_name(new_id, role, nonce)
            self.secrets.create(names[role], value, ttl=SECRET_TTL)
        return names

    def _remove_own(self, names: Mapping[str, str], spec_name: str) -> None:
        """Remove the spec and the secrets that this request stored.

        Secrets of the user stay.
        """
        for name in names.values():
            if name.startswith(OWN_PREFIX):
                self.secrets.delete(name)
        self.buckets.config.delete(spec_name)


def check_same_request(job: Job, request_hash: str) -> Job:
    """Return the job if it was created by the same request.

    Raises KeyReused when its idempotency key belongs to a different request.
    """
    if job.request_hash != request_hash:
        raise KeyReused()
    return job
