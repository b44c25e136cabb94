"""Permissions of recorded calls, compared with the table of grants."""

from __future__ import annotations

import json

import pytest
from google.cloud.secretmanager_v1 import types as secret_types
from google.pubsub_v1 import types as pubsub_types

from tests.emulators.gateways import Call
from tests.infra.calls import Need, calls_without_grant, grants_without_call, needs_of
from tests.infra.grants import PROJECT, Grant, Reason

OBJECTS = "/storage/v1/b/gemtune-test-export/o"
EXPORT = ("bucket", "export")
RUN_JOB = "/v2/projects/p/locations/l/jobs/gemtune-export"
CREATED = json.dumps({"name": "jobs/a/b.json"}).encode()


def grpc_call(method: str, message: bytes, who: str = "api") -> Call:
    return Call(who, method, "", (), message)


def http_call(method: str, path: str, message: bytes = b"", *, overwrites: bool = False) -> Call:
    return Call("api", method, path, (), message, overwrites)


SECRET = "projects/p/secrets/gemtune-job-1"
ACCESS = secret_types.AccessSecretVersionRequest(name=f"{SECRET}/versions/1")
PUBLISH = pubsub_types.PublishRequest(topic="projects/p/topics/webhooks")
MULTIPART = b'--x\r\ncontent-type: application/json\r\n\r\n{"name": "jobs/a/b.json"}\r\n--x\r\n\r\n{\xff\r\n--x--'


@pytest.mark.parametrize(
    ("call", "needs"),
    [
        (grpc_call("/google.firestore.v1.Firestore/Commit", b""), [("datastore.entities", PROJECT, "")]),
        (
            grpc_call("/google.pubsub.v1.Publisher/Publish", pubsub_types.PublishRequest.serialize(PUBLISH)),
            [("pubsub.topics.publish", ("topic", "webhooks"), "")],
        ),
        (
            grpc_call(
                "/google.cloud.secretmanager.v1.SecretManagerService/AccessSecretVersion",
                secret_types.AccessSecretVersionRequest.serialize(ACCESS),
            ),
            [("secretmanager.versions.access", ("secret", "gemtune-job-1"), "gemtune-job-1")],
        ),
        (
            grpc_call("/google.cloud.workflows.executions.v1.Executions/ListExecutions", b""),
            [("workflows.executions.list", PROJECT, "")],
        ),
        (
            grpc_call("/google.cloud.workflows.executions.v1.Executions/CreateExecution", b""),
            [("workflows.executions.create", PROJECT, "")],
        ),
        (http_call("GET", OBJECTS), [("storage.objects.list", EXPORT, "")]),
        (http_call("GET", f"{OBJECTS}/jobs%2Fa"), [("storage.objects.get", EXPORT, "jobs/a")]),
        (http_call("GET", f"/download{OBJECTS}/jobs%2Fa"), [("storage.objects.get", EXPORT, "jobs/a")]),
        (http_call("DELETE", f"{OBJECTS}/jobs%2Fa"), [("storage.objects.delete", EXPORT, "jobs/a")]),
        (http_call("PATCH", f"{OBJECTS}/jobs%2Fa"), [("storage.objects.update", EXPORT, "jobs/a")]),
        (http_call("POST", f"/upload{OBJECTS}", MULTIPART), [("storage.objects.create", EXPORT, "jobs/a/b.json")]),
        (
            http_call("POST", f"/upload{OBJECTS}", CREATED, overwrites=True),
            [("storage.objects.create", EXPORT, "jobs/a/b.json"), ("storage.objects.delete", EXPORT, "jobs/a/b.json")],
        ),
        (
            http_call("POST", f"{OBJECTS}/whole/compose", json.dumps({"sourceObjects": [{"name": "part"}]}).encode()),
            [
                ("storage.objects.create", EXPORT, "whole"),
                ("storage.objects.delete", EXPORT, "whole"),
                ("storage.objects.get", EXPORT, "part"),
            ],
        ),
        (
            http_call("POST", f"{RUN_JOB}:run", b'{"overrides": {"timeout": "60s"}}'),
            [("run.jobs.runWithOverrides", ("job", "gemtune-export"), "")],
        ),
        (http_call("GET", f"{RUN_JOB}/executions"), [("run.executions.list", ("job", "gemtune-export"), "")]),
        (
            http_call("POST", f"{RUN_JOB}/executions/e:cancel"),
            [("run.executions.cancel", ("job", "gemtune-export"), "")],
        ),
        (http_call("GET", "/v2/projects/p/locations/l/operations/o"), [("run.operations.get", PROJECT, "")]),
    ],
)
def test_a_call_needs(call: Call, needs: list[tuple[str, tuple[str, str], str]]) -> None:
    assert list(needs_of(call)) == [Need("api", *need) for need in needs]


@pytest.mark.parametrize(
    "call",
    [
        grpc_call("/google.pubsub.v1.Publisher/CreateTopic", b""),
        http_call("GET", "/storage/v1/b/gemtune-test-export"),
        http_call("PUT", f"{OBJECTS}/jobs%2Fa"),
        http_call("POST", RUN_JOB),
    ],
)
def test_a_call_that_nobody_thought_of_is_an_error(call: Call) -> None:
    with pytest.raises(ValueError, match="unknown"):
        list(needs_of(call))


TABLE = {
    Grant("api", "storage.objectViewer", EXPORT): Reason("reads"),
    Grant("api", "gemtune_remove_objects", EXPORT, "begins jobs/"): Reason("deletes a job's results"),
    Grant("sweep", "storage.objectViewer", EXPORT): Reason("lists", "nothing is late"),
}


def test_calls_are_compared_with_grants_in_both_directions() -> None:
    reads, deletes = http_call("GET", f"{OBJECTS}/jobs%2Fa"), http_call("DELETE", f"{OBJECTS}/jobs%2Fa")
    assert calls_without_grant([reads, deletes], TABLE) == []
    assert grants_without_call([reads, deletes], TABLE) == []
    assert grants_without_call([reads], TABLE) == [Grant("api", "gemtune_remove_objects", EXPORT, "begins jobs/")]
    elsewhere = http_call("DELETE", f"{OBJECTS}/checks%2Fa")
    assert calls_without_grant([elsewhere], TABLE) == [Need("api", "storage.objects.delete", EXPORT, "checks/a")]
