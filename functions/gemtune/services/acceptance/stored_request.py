"""The request of an existing job, as the service accepted it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gemtune.errors import ObjectNotFound, SpecUnreadable
from gemtune.jobs.record import Job
from gemtune.jobs.secret_names import OWN_PREFIX, REFERENCE
from gemtune.ports import Buckets
from gemtune.request.spec import SECRET_FIELDS, ExportRequest, Spec, TrainRequest, read_spec


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request that can be sent again.

    path: where it is sent: `/train`, or for another export of what a job trained `/jobs/{job_id}/exports`.
    left_out: its fields that are not shown, because they are or may contain secrets: tokens, and the address of a
    webhook. References to stored secrets are shown.
    """

    request: TrainRequest | ExportRequest
    path: str
    left_out: tuple[str, ...]


def stored_request(buckets: Buckets, job: Job) -> StoredRequest:
    """Return the request of a job.

    Raises SpecUnreadable, also for a secret that only a newer version has a field for.
    """
    spec = stored_spec(buckets, job)
    fields = spec.model_dump(mode="json")
    left_out = []
    for role, secret in job.secret_names.items():
        *parents, name = map(str, SECRET_FIELDS.get(role, (role,)))
        holder = fields
        for parent in parents:
            holder = holder[parent] or {}
        if role not in SECRET_FIELDS or (parents and not holder):
            raise SpecUnreadable(f"{'.'.join((*parents, name))}: this version has no field for this secret")
        if secret.startswith(OWN_PREFIX):
            left_out.append(".".join((*parents, name)))
        else:
            holder[name] = REFERENCE + secret
    if spec.notify is not None and spec.notify.webhook_url is not None:
        fields["notify"] = None
        left_out.append("notify.webhook_url")
    request = TrainRequest.model_validate_json(json.dumps(fields))
    if job.only_exports:  # its spec has the training of its parent, too
        path = f"/jobs/{job.parent_job_id}/exports"
        return StoredRequest(ExportRequest.part_of(request), path, tuple(sorted(left_out)))
    return StoredRequest(request, "/train", tuple(sorted(left_out)))


def stored_spec(buckets: Buckets, job: Job) -> Spec:
    """Return the spec of a job.

    Raises SpecUnreadable, also if its file is missing.
    """
    try:
        return read_spec(buckets.config.read(job.spec_name))
    except ObjectNotFound:
        raise SpecUnreadable("its file is missing") from None
