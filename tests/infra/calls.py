"""Permissions that recorded calls of an identity need.

Sources: https://cloud.google.com/storage/docs/access-control/iam-json, https://cloud.google.com/run/docs/reference/iam/roles,
https://cloud.google.com/secret-manager/docs/access-control, https://cloud.google.com/pubsub/docs/access-control,
https://cloud.google.com/workflows/docs/access-control and https://cloud.google.com/firestore/docs/security/iam
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.cloud.secretmanager_v1 import types as secret_types
from google.pubsub_v1 import types as pubsub_types

from tests.emulators.gateways import Call
from tests.infra.grants import PROJECT, Grant, Reason, Target

# Prefix of the test buckets' names, which stands for the project's.
BUCKETS = "gemtune-test-"


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """A permission that a call needs.

    name: what conditions of grants look at; empty for a whole resource.
    """

    who: str
    permission: str
    on: Target
    name: str = ""


def needs_of(call: Call) -> Iterator[Need]:
    """Yield the permissions that a call needs.

    Raises ValueError for a call that this module does not know.
    """
    if call.method.startswith("/"):
        yield from (Need(call.who, *need) for need in _of_grpc(call))
    elif call.path.startswith("/v2/"):
        yield from (Need(call.who, *need) for need in _of_cloud_run(call))
    else:
        yield from (Need(call.who, *need) for need in _of_storage(call))


def calls_without_grant(calls: Iterable[Call], table: Mapping[Grant, Reason]) -> list[Need]:
    """Return what identities did without a grant that permits it."""
    return sorted(need for need in _needs(calls) if not _permitting(need, table))


def grants_without_call(calls: Iterable[Call], table: Mapping[Grant, Reason]) -> list[Grant]:
    """Return the grants that no call needs.

    Without those whose calls the end-to-end test does not make, as the table says.
    """
    needed = {grant for need in _needs(calls) for grant in _permitting(need, table)}
    return sorted(grant for grant, reason in table.items() if not reason.unseen and grant not in needed)


def _needs(calls: Iterable[Call]) -> set[Need]:
    return {need for call in calls for need in needs_of(call)}


def _permitting(need: Need, table: Mapping[Grant, Reason]) -> list[Grant]:
    return [grant for grant in table if grant.who == need.who and grant.permits(need.permission, need.on, need.name)]


def _of_grpc(call: Call) -> Iterator[tuple[str, Target, str]]:
    service, _, method = call.method[1:].rpartition("/")
    if service == "google.firestore.v1.Firestore":
        yield "datastore.entities", PROJECT, ""
    elif method == "Publish":
        topic = pubsub_types.PublishRequest.deserialize(call.message).topic
        yield "pubsub.topics.publish", ("topic", topic.rpartition("/")[2]), ""
    elif service == "google.cloud.workflows.executions.v1.Executions":
        yield f"workflows.executions.{method.removesuffix('Execution').removesuffix('Executions').lower()}", PROJECT, ""
    elif method in _SECRETS:
        permission, name_in = _SECRETS[method]
        name = name_in(call.message)
        yield permission, ("secret", name), name
    else:
        raise ValueError(f"unknown method {call.method}")


def _secret(path: str) -> str:
    return path.split("/")[3]


_SECRETS: Mapping[str, tuple[str, Callable[[bytes], str]]] = {
    # Creating and listing happen on the project, which has no conditions on names.
    "CreateSecret": ("secretmanager.secrets.create", lambda message: ""),
    "ListSecrets": ("secretmanager.secrets.list", lambda message: ""),
    "UpdateSecret": (
        "secretmanager.secrets.update",
        lambda message: _secret(secret_types.UpdateSecretRequest.deserialize(message).secret.name),
    ),
    "DeleteSecret": (
        "secretmanager.secrets.delete",
        lambda message: _secret(secret_types.DeleteSecretRequest.deserialize(message).name),
    ),
    "AddSecretVersion": (
        "secretmanager.versions.add",
        lambda message: _secret(secret_types.AddSecretVersionRequest.deserialize(message).parent),
    ),
    "AccessSecretVersion": (
        "secretmanager.versions.access",
        lambda message: _secret(secret_types.AccessSecretVersionRequest.deserialize(message).name),
    ),
}


def _of_cloud_run(call: Call) -> Iterator[tuple[str, Target, str]]:
    path, _, verb = call.path.partition(":")
    if "/operations/" in path:
        yield "run.operations.get", PROJECT, ""
        return
    job: Target = ("job", path.partition("/jobs/")[2].partition("/")[0])
    if verb == "run":
        yield ("run.jobs.runWithOverrides" if _json(call).get("overrides") else "run.jobs.run"), job, ""
    elif verb == "cancel":
        yield "run.executions.cancel", job, ""
    elif call.method == "GET":
        is_list = path.endswith("/executions")
        yield ("run.executions.list" if is_list else "run.executions.get"), job, ""
    else:
        raise ValueError(f"unknown call {call.method} {call.path}")


def _of_storage(call: Call) -> Iterator[tuple[str, Target, str]]:
    matched = re.fullmatch(r"(?:/(upload|download))?/storage/v1/b/([^/]+)/o(?:/(.+))?", call.path)
    if matched is None:
        raise ValueError(f"unknown call {call.method} {call.path}")
    kind, bucket, quoted = matched.groups()
    target: Target = ("bucket", bucket.removeprefix(BUCKETS))
    name = unquote(quoted or "")
    if kind == "upload":
        if call.method == "POST":  # later parts of an upload are sent to its own address, which needs no permission
            yield "storage.objects.create", target, call.uploaded_name()
            if call.overwrites:
                yield "storage.objects.delete", target, call.uploaded_name()
    elif not name:
        yield "storage.objects.list", target, ""
    elif call.method in ("GET", "HEAD"):
        yield "storage.objects.get", target, name
    elif call.method == "DELETE":
        yield "storage.objects.delete", target, name
    elif call.method == "PATCH":
        yield "storage.objects.update", target, name
    elif call.method == "POST" and name.endswith("/compose"):
        yield from _of_compose(call, target, name.removesuffix("/compose"))
    else:
        raise ValueError(f"unknown call {call.method} {call.path}")


def _of_compose(call: Call, target: Target, name: str) -> Iterator[tuple[str, Target, str]]:
    yield "storage.objects.create", target, name
    yield "storage.objects.delete", target, name  # the target may exist already
    for source in _json(call)["sourceObjects"]:
        yield "storage.objects.get", target, source["name"]


def _json(call: Call) -> Any:
    return json.loads(call.message or b"{}")
