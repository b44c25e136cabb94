"""workflows/fine_tune.yaml as Google reads it.

The engine of the workstation refuses unknown syntax, more strictly than Google. The rest is tested here: connectors,
limits and functions of the standard library.

https://cloud.google.com/workflows/docs/reference/syntax  https://cloud.google.com/workflows/quotas
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud import run_v2
from google.cloud.run_v2.services.executions.transports.rest_base import _BaseExecutionsRestTransport
from google.cloud.run_v2.services.jobs.transports.rest_base import _BaseJobsRestTransport
from google.protobuf import json_format
from ruamel.yaml import YAML

from gemtune.local_server.workflow_engine.functions import FUNCTIONS
from gemtune.local_server.workflow_engine.interpreter import execute
from gemtune.local_server.workflow_engine.reader import load
from tests.infra.offline import ROOT

FILE = ROOT / "workflows" / "fine_tune.yaml"
CONNECTOR_PARAMS = {"timeout", "polling_policy", "skip_polling", "scopes"}
# https://cloud.google.com/workflows/docs/reference/stdlib/overview and …/syntax/expressions
LIBRARY = {"sys.get_env", "json.encode_to_string", "string", "int", "len", "default", "map.get", "keys"}


def connectors() -> dict[str, set[str]]:
    """Return the arguments of each connector of the Cloud Run Admin API.

    The name of a connector is `googleapis.run.v2`, the collections of the path and the verb. The paths are those that
    Google's client calls.
    """
    arguments_by_name = {}
    for transport in (_BaseJobsRestTransport, _BaseExecutionsRestTransport):
        for method in vars(transport).values():
            options = getattr(method, "_get_http_options", None)
            for option in options() if options is not None else ():
                path, verb = re.sub(r"\{\w+=([^}]*)\}", r"\1", option["uri"]).removeprefix("/v2/"), option["method"]
                collections = [part for part in re.split(r"[/:]", path) if part != "*"]
                if ":" not in path:
                    listed = "get" if path.endswith("*") else "list"
                    collections.append({"get": listed, "post": "create"}.get(verb, verb))
                arguments = set(re.findall(r"\{(\w+)=", option["uri"])) | ({"body"} if "body" in option else set())
                arguments_by_name["googleapis.run.v2." + ".".join(collections)] = arguments
    return arguments_by_name


def parts(value: Any) -> Iterator[Any]:
    """Yield every map, list and scalar of a document."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


@pytest.fixture(scope="module")
def document() -> Any:
    return YAML(typ="safe", pure=True).load(FILE.read_text())


def test_the_api_has_the_connector_that_google_documents() -> None:
    assert connectors()["googleapis.run.v2.projects.locations.jobs.run"] == {"name", "body"}


def test_every_connector_exists_with_its_arguments(document: Any) -> None:
    arguments_by_name = connectors()
    calls = [part for part in parts(document) if isinstance(part, dict) and "call" in part]
    used = {call["call"]: set(call["args"]) for call in calls if call["call"].startswith("googleapis.")}
    assert used
    for name, arguments in used.items():
        assert arguments - {"connector_params"} <= arguments_by_name.get(name, set()), name
    for part in parts(document):
        if isinstance(part, dict) and "connector_params" in part:
            assert set(part["connector_params"]) <= CONNECTOR_PARAMS


def test_a_job_is_run_with_a_valid_request_of_the_api() -> None:
    """Parse it as a protobuf, which raises for unknown fields and wrong types."""
    sent: list[dict[str, Any]] = []
    plan = {"job": "gemtune-train-l4", "timeout_seconds": 3600, "args": ["train", "--job-id", "j"]}
    verdicts = {"claim": "go", "admit": "run", "step_ended": "done"}

    def answer(args: Any) -> Any:
        verdict = verdicts[args["url"].rpartition("/")[2]]
        return {"code": 200, "headers": {}, "body": {"verdict": verdict, "wait_seconds": 0, "plan": plan}}

    calls = {"http.post": answer, "googleapis.run.v2.projects.locations.jobs.run": lambda args: sent.append(args) or {}}
    environment = {
        "CONTROL_URL": "https://control",
        "RUN_PARENT": "projects/p/locations/l",
        "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": "e",
    }
    started = {"job_id": "j", "launch": 1}
    execute(load(FILE), started, calls=calls, environment=environment, sleep=lambda seconds: None)
    assert len(sent) == 3
    for args in sent:
        request = run_v2.RunJobRequest.pb()()
        json_format.ParseDict(args["body"] | {"name": args["name"]}, request)
        assert request.overrides.timeout.seconds == 3600
        assert list(request.overrides.container_overrides[0].args) == ["train", "--job-id", "j"]
        assert args["connector_params"]["timeout"] > 3600


def test_the_workflow_keeps_the_limits_of_google(document: Any) -> None:
    assert FILE.stat().st_size < 128 * 1024
    for part in parts(document):
        if isinstance(part, str) and part.startswith("${"):
            assert len(part) <= 400
        if isinstance(part, dict):
            assert len(part.get("assign", [])) <= 50
            assert len(part.get("switch", [])) <= 50


def test_expressions_call_functions_of_the_standard_library_only(document: Any) -> None:
    texts = [part for part in parts(document) if isinstance(part, str) and part.startswith("${")]
    called = {name for text in texts for name in re.findall(r"([a-z_][\w.]*)\(", text)}
    assert called
    assert called <= LIBRARY
    assert called <= set(FUNCTIONS)
