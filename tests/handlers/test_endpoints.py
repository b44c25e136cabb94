"""The table of endpoints, compared with the router, OpenAPI and the answers."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import flask.testing
import functions_framework
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemtune import errors
from gemtune.handlers.description.endpoint import EVERYWHERE, STATUSES, Endpoint
from gemtune.handlers.description.parameters import argument_name
from gemtune.handlers.endpoints import ENDPOINTS
from tests.fakes import World, request
from tests.handlers.conftest import MAIN
from tests.handlers.schema_values import ANYTHING, TEXT, values

ROOT = Path(__file__).parent.parent.parent
PAGE, GATEWAY = ROOT / "docs" / "http-api.md", ROOT / "terraform" / "api_gateway.tf"
# A second copy, as clients know the interface: parameters with bounds, status of success, statuses of errors.
STATUS = ["queued", "preparing", "training", "exporting", "paused", "completed", "failed", "cancelled", "unknown"]
LARGEST = 9007199254740991
ALWAYS = [403, 413, 422, 500, 507]
KEY = {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[!-~]([ -~]*[!-~])?$"}
TOKEN = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9_-]+={0,2}$"}
AFTER_ID = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "[!-~]([ -~]*[!-~])?"}
AFTER = {"type": "integer", "minimum": 0, "maximum": LARGEST}
FILE_KINDS = [
    f"{ending}{compression}"
    for ending in ("jsonl", "ndjson", "json", "csv", "tsv")
    for compression in ("", ".gz", ".zst")
] + ["parquet"]
INTERFACE: dict[tuple[str, str], tuple[dict[str, dict[str, Any]], int, list[int]]] = {
    ("POST", "/train"): (
        {"dry_run": {"type": "string", "enum": ["true", "false"]}, "Idempotency-Key": KEY},
        202,
        [409],
    ),
    ("GET", "/jobs/{job_id}/plan"): ({}, 200, [404, 409]),
    ("GET", "/jobs/{job_id}/request"): ({}, 200, [404, 409]),
    ("GET", "/jobs"): (
        {
            "status": {"type": "string", "enum": STATUS},
            "modality": {"type": "string", "enum": ["text", "vision", "audio"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
            "page_token": TOKEN,
        },
        200,
        [],
    ),
    ("GET", "/jobs/{job_id}/status"): ({}, 200, [404, 409]),
    ("GET", "/jobs/{job_id}/events"): ({"after": AFTER | {"default": 0}}, 200, [404]),
    ("GET", "/jobs/{job_id}/metrics"): ({"after": AFTER}, 200, [404, 409]),
    ("GET", "/jobs/{job_id}/checkpoints"): ({}, 200, [404, 409]),
    ("GET", "/jobs/{job_id}/logs"): (
        {
            "step": {"type": "string", "enum": ["prepare", "train", "export"]},
            "after": {"type": "string", "minLength": 1, "maxLength": 400, "pattern": "[!-~]+"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500},
        },
        200,
        [404, 409, 501, 503],
    ),
    ("GET", "/jobs/{job_id}/artifacts"): ({}, 200, [404, 409, 501]),
    ("POST", "/jobs/{job_id}/exports"): ({"Idempotency-Key": KEY}, 202, [404, 409]),
    ("POST", "/jobs/{job_id}/pause"): ({}, 202, [404, 409]),
    ("POST", "/jobs/{job_id}/resume"): ({}, 202, [404, 409]),
    ("POST", "/jobs/{job_id}/cancel"): ({}, 202, [404, 409]),
    ("DELETE", "/jobs/{job_id}"): ({}, 200, [404, 409]),
    ("GET", "/account"): ({}, 200, []),
    ("POST", "/datasets"): ({}, 200, [409]),
    ("POST", "/datasets/file"): (
        {
            "kind": {"type": "string", "enum": FILE_KINDS},
            "name": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\x00-\x1f\x7f]*$"},
        },
        200,
        [409],
    ),
    ("PUT", "/datasets/{dataset_id}/parts"): (
        {
            "file": {"type": "integer", "minimum": 0, "maximum": 999, "default": 0},
            "part": {"type": "integer", "minimum": 0, "maximum": 131072, "default": 0},
        },
        200,
        [404, 409],
    ),
    ("POST", "/datasets/{dataset_id}/part-links"): ({}, 200, [404, 409, 501]),
    ("POST", "/datasets/{dataset_id}/complete"): ({}, 200, [404, 409]),
    ("GET", "/datasets"): (
        {"limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "after": AFTER_ID},
        200,
        [],
    ),
    ("GET", "/datasets/{dataset_id}"): ({}, 200, [404, 409]),
    ("GET", "/datasets/{dataset_id}/files"): (
        {"limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "after": AFTER | {"default": 0}},
        200,
        [404, 409, 501],
    ),
    ("DELETE", "/datasets/{dataset_id}"): ({}, 200, [404, 409]),
    ("GET", "/models"): ({}, 200, []),
    ("GET", "/datasets/{dataset_id}/rows"): (
        {
            "split": {"type": "string", "enum": ["train", "held_out"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 20},
            "after": {"type": "string", "minLength": 1, "maxLength": 40, "pattern": "[a-z0-9-]+"},
            "check_id": {"type": "string", "minLength": 1, "maxLength": 40, "pattern": "[a-z0-9_]+"},
        },
        200,
        [404, 409],
    ),
    ("POST", "/datasets/{dataset_id}/check"): ({}, 202, [404, 409]),
    ("GET", "/datasets/{dataset_id}/checks/{check_id}"): ({}, 200, [404, 501]),
    ("GET", "/health"): ({}, 200, []),
    ("GET", "/openapi.json"): ({}, 200, []),
}
BODIES = {
    ("POST", "/train"): "TrainRequest",
    ("POST", "/jobs/{job_id}/exports"): "ExportRequest",
    ("POST", "/jobs/{job_id}/resume"): "ResumeRequest",
    ("POST", "/datasets"): "DatasetUpload",
    ("POST", "/datasets/{dataset_id}/part-links"): "PartLinksRequest",
    ("POST", "/datasets/{dataset_id}/check"): "CheckRequest",
    ("POST", "/datasets/file"): None,
    ("PUT", "/datasets/{dataset_id}/parts"): None,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[flask.testing.FlaskClient]:
    """Yield a client of the API for all tests of this file."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("gemtune.bootstrap.services", lambda: world.services)
        client = functions_framework.create_app(target="api", source=str(MAIN)).test_client()
        client.environ_base["HTTP_HOST"] = "127.0.0.1:8080"
        yield client


@pytest.fixture(scope="module")
def document(client: flask.testing.FlaskClient) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.json is not None
    return answer.json


def differences(named: set[tuple[str, str]], place: str) -> list[str]:
    """Return the operations that only a place or only ENDPOINTS has."""
    ours = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    missing = [f"{method} {path} is not in {place}: add it" for method, path in sorted(ours - named)]
    return missing + [f"{method} {path} is in {place}, but no endpoint" for method, path in sorted(named - ours)]


def test_an_operation_that_only_one_place_has_is_named() -> None:
    ours = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert differences(ours - {("GET", "/models")} | {("GET", "/model")}, "a page") == [
        "GET /models is not in a page: add it",
        "GET /model is in a page, but no endpoint",
    ]


def test_the_document_matches_the_interface(document: dict[str, Any]) -> None:
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert differences(set(operations), "the OpenAPI document") == []
    assert differences(set(INTERFACE), "INTERFACE, the second copy in this test") == []
    for (method, path), (parameters, success, refusals) in INTERFACE.items():
        operation = operations[method, path]
        sent = [parameter for parameter in operation["parameters"] if parameter["in"] != "path"]
        assert {parameter["name"]: parameter["schema"] for parameter in sent} == parameters
        assert {parameter["name"]: parameter["in"] for parameter in sent} == {
            name: "header" if name == "Idempotency-Key" else "query" for name in parameters
        }
        assert [parameter for parameter in operation["parameters"] if parameter["in"] == "path"] == [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ]
        assert {parameter["required"] for parameter in sent} <= {False}
        assert sorted(operation["responses"]) == sorted(str(status) for status in [success, *refusals, *ALWAYS])
        assert ("requestBody" in operation) is ((method, path) in BODIES)
        if (method, path) in BODIES:
            model = BODIES[method, path]
            kind = "application/octet-stream" if model is None else "application/json"
            binary = {"type": "string", "format": "binary"}
            schema = binary if model is None else {"$ref": f"#/components/schemas/{model}"}
            assert operation["requestBody"]["content"] == {kind: {"schema": schema}}
            assert operation["requestBody"]["required"] is (model != "ResumeRequest")


# A second copy: the conflicts that each operation can meet, except an unreadable record.
CONFLICTS = {
    ("POST", "/train"): {"idempotency_key_reused", "job_was_deleted"},
    ("POST", "/jobs/{job_id}/exports"): {
        "idempotency_key_reused",
        "job_was_deleted",
        "job_is_running",
        "nothing_trained",
        "spec_unreadable",
    },
    ("GET", "/jobs/{job_id}/plan"): {"plan_not_made"},
    ("GET", "/jobs/{job_id}/request"): {"spec_unreadable"},
    ("POST", "/jobs/{job_id}/pause"): {"job_is_over", "cannot_pause"},
    ("POST", "/jobs/{job_id}/resume"): {"job_is_over", "job_not_paused", "cap_reached"},
    ("POST", "/jobs/{job_id}/cancel"): {"job_is_over"},
    ("DELETE", "/jobs/{job_id}"): {"job_is_running", "job_has_children"},
    ("POST", "/datasets"): {"dataset_unreadable"},
    ("POST", "/datasets/file"): {"dataset_unreadable"},
    ("GET", "/datasets/{dataset_id}"): {"dataset_unreadable"},
    ("PUT", "/datasets/{dataset_id}/parts"): {"bad_part", "dataset_unreadable"},
    ("POST", "/datasets/{dataset_id}/part-links"): {"bad_part", "dataset_unreadable"},
    ("POST", "/datasets/{dataset_id}/complete"): {"dataset_incomplete", "checksum_mismatch", "dataset_unreadable"},
    ("DELETE", "/datasets/{dataset_id}"): {"dataset_in_use"},
    ("GET", "/datasets/{dataset_id}/files"): {"dataset_incomplete", "dataset_unreadable"},
    ("POST", "/datasets/{dataset_id}/check"): {"dataset_incomplete", "too_many_checks", "dataset_unreadable"},
    ("GET", "/datasets/{dataset_id}/rows"): {"rows_not_readable", "dataset_incomplete", "dataset_unreadable"},
}


def test_each_operation_declares_the_conflicts_it_can_meet() -> None:
    declared = {
        (endpoint.method, endpoint.path): {kind.code for kind in endpoint.errors if issubclass(kind, errors.Conflict)}
        for endpoint in ENDPOINTS
    }
    assert {operation: codes for operation, codes in declared.items() if codes} == CONFLICTS


def test_the_description_of_a_409_names_the_possible_conflicts(document: dict[str, Any]) -> None:
    def mentioning(words: str) -> set[tuple[str, str]]:
        return {
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if words in operation["responses"].get("409", {}).get("description", "")
        }

    posts = {("POST", f"/jobs/{{job_id}}/{what}") for what in ("exports", "pause", "resume", "cancel")}
    changing = posts | {("DELETE", "/jobs/{job_id}")}
    states = {("GET", "/jobs/{job_id}/plan"), ("GET", "/jobs/{job_id}/request")}
    reading = {
        ("GET", f"/jobs/{{job_id}}/{what}") for what in ("status", "metrics", "checkpoints", "logs", "artifacts")
    }
    of_datasets = {operation for operation in CONFLICTS if "/datasets" in operation[1]}
    others = of_datasets | {("POST", "/train"), *states}
    assert mentioning("the request conflicts with the current state") == changing | others
    assert mentioning("`record_unreadable`") == changing | reading | states


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_endpoints_have_no_defaults_and_all_have_a_summary() -> None:
    assert [field.name for field in dataclasses.fields(Endpoint) if field.default is not dataclasses.MISSING] == []
    assert [endpoint.path for endpoint in ENDPOINTS if not endpoint.summary] == []
    assert {
        kind for endpoint in ENDPOINTS for kind in (*endpoint.errors, *EVERYWHERE) if not _has_status(kind)
    } == set()


def _has_status(kind: type[errors.GemtuneError]) -> bool:
    return any(parent in STATUSES for parent in kind.__mro__)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_a_route_takes_the_parameters_of_its_endpoint(endpoint: Endpoint) -> None:
    arguments = {
        name for name, each in inspect.signature(endpoint.route).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    body = set() if endpoint.body is None else {"body"}
    parameters = {argument_name(parameter) for parameter in endpoint.parameters}
    # Every call has a known caller.
    assert arguments - {"owner"} == {*endpoint.path_parts, *parameters, *body}


@pytest.mark.parametrize(
    "endpoint",
    [endpoint for endpoint in ENDPOINTS if "job_id" in endpoint.path_parts],
    ids=lambda endpoint: f"{endpoint.method} {endpoint.path}",
)
def test_an_endpoint_declares_how_it_answers_for_an_unreadable_record(
    world: World, client: flask.testing.FlaskClient, endpoint: Endpoint
) -> None:
    job_id = world.submit()
    world.make_unreadable(job_id)
    body = {"json": {"export_config": {}} if "exports" in endpoint.path else {}} if endpoint.body is not None else {}
    answer = client.open(endpoint.path.replace("{job_id}", job_id), method=endpoint.method, **body)
    assert answer.json is not None
    code = (answer.json.get("error") or {}).get("code")
    assert code is None or code in {kind.code for kind in (*endpoint.errors, *EVERYWHERE)}


def test_the_page_on_the_http_api_names_every_endpoint() -> None:
    named = re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?\s]*)[^`]*`", PAGE.read_text())
    ids = {"/jobs": "{job_id}", "/datasets": "{dataset_id}"}
    paths = {(method, path.replace("{id}", ids.get(f"/{path.split('/')[1]}", ""))) for method, path in named}
    assert differences(paths, "docs/http-api.md") == []


def test_the_gateway_routes_every_endpoint() -> None:
    routes = re.findall(r'\["(/[^"]*)", "(\w+)", "\w+"\]', GATEWAY.read_text())
    assert differences({(method.upper(), path) for path, method in routes}, "terraform/api_gateway.tf") == []


CODES = {"page_token": "bad_page_token", "after": "bad_page_token", "Idempotency-Key": "bad_idempotency_key"} | {
    "check_id": "bad_form",
    "name": "bad_form",
}
Bound = tuple[tuple[str, str], dict[str, Any], str, bool]


def _bounds() -> Iterator[Bound]:
    """Yield values just within and just beyond the bounds in INTERFACE.

    Each comes as ((method, path), parameter, value, whether it is within the bound).
    """
    for path, (parameters, _, _) in INTERFACE.items():
        for name, schema in parameters.items():
            parameter = {"name": name, "schema": schema}
            if schema["type"] == "integer":
                for value in (schema["minimum"], schema["maximum"]):
                    yield path, parameter, str(value), True
                for value in (schema["minimum"] - 1, schema["maximum"] + 1):
                    yield path, parameter, str(value), False
            elif "enum" in schema:
                yield from ((path, parameter, value, True) for value in schema["enum"])
                yield path, parameter, f"{schema['enum'][0]}x", False
                yield path, parameter, "", False
            else:
                yield path, parameter, "a" * schema["minLength"], True
                yield path, parameter, "a" * schema["maxLength"], True
                yield path, parameter, "a" * (schema["maxLength"] + 1), False
                yield path, parameter, "", False
                outside = {"page_token": "~", "name": "\n"}.get(name, "\u00e9")
                yield path, parameter, f"a{outside}a", False


@pytest.mark.parametrize(
    "bound", list(_bounds()), ids=lambda bound: f"{bound[0][1]} {bound[1]['name']} {bound[2][:25]!r}"
)
def test_the_server_accepts_only_values_within_the_bounds_of_the_document(
    world: World, client: flask.testing.FlaskClient, bound: Bound
) -> None:
    (method, path), parameter, text, is_inside = bound
    url = path.replace("{job_id}", world.submit()).replace("{dataset_id}", "chats")
    if parameter["name"] == "Idempotency-Key":
        answer = client.post(url, json={}, headers={"Idempotency-Key": text})
        loc = ["header", "Idempotency-Key"]
    else:
        body = {"json": {}} if path == "/train" else {}
        answer = client.open(url, method=method, query_string={parameter["name"]: text}, **body)
        loc = ["query", parameter["name"]]
    assert answer.json is not None
    codes = [problem["code"] for problem in answer.json.get("problems", ()) if problem["loc"] == loc]
    is_number = parameter["schema"]["type"] == "integer"
    code = "not_a_number" if is_number else CODES.get(parameter["name"], "not_one_of")
    assert codes == ([] if is_inside else [code])
    assert answer.status_code == 422 or is_inside


def test_a_repeated_parameter_is_refused(client: flask.testing.FlaskClient) -> None:
    answer = client.get("/jobs?limit=5&limit=6")
    assert answer.json is not None
    assert (answer.status_code, answer.json["problems"][0]["code"]) == (422, "repeated_parameter")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_an_unknown_query_parameter_is_refused_and_nothing_is_done(
    world: World, client: flask.testing.FlaskClient, endpoint: Endpoint
) -> None:
    url = re.sub(r"{\w+}", world.submit(), endpoint.path)
    before = world.services.store.page(status=None, modality=None, limit=9, page_token=None)
    answer = client.open(f"{url}?dryrun=true&x=1", method=endpoint.method, json=request())
    assert answer.json is not None
    assert answer.status_code == 422
    problems = answer.json["problems"]
    assert [(each["loc"], each["code"]) for each in problems] == [
        (["query", name], "unknown_parameter") for name in ("dryrun", "x")
    ]
    if endpoint.path == "/train":
        assert problems[0]["hint"] == "did you mean dry_run?"
    assert world.services.store.page(status=None, modality=None, limit=9, page_token=None) == before


OPERATIONS = sorted(INTERFACE)


@settings(suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_answer_is_described_in_the_document(
    world: World, client: flask.testing.FlaskClient, document: dict[str, Any], data: st.DataObject
) -> None:
    job_id = world.submit()
    schemas = document["components"]["schemas"]
    method, path = data.draw(st.sampled_from(OPERATIONS))
    operation = document["paths"][path][method.lower()]
    query, headers, url = {}, {}, path
    for parameter in operation["parameters"]:
        texts = values(parameter["schema"], schemas).map(str) | TEXT
        if parameter["in"] == "path":
            ids = st.just(job_id) | st.just(job_id) | texts.filter(lambda text: text != "" and "/" not in text)
            url = url.replace(f"{{{parameter['name']}}}", quote(data.draw(ids), safe=""))
        elif data.draw(st.booleans()):
            if parameter["in"] == "query":
                query[parameter["name"]] = data.draw(texts)
            else:
                headers[parameter["name"]] = re.sub(r"[^ -~]", "", data.draw(texts))
    body: str | bytes | None = None
    if "requestBody" in operation and "application/json" not in operation["requestBody"]["content"]:
        body = data.draw(st.binary(max_size=20))
    elif "requestBody" in operation:
        good = values(operation["requestBody"]["content"]["application/json"]["schema"], schemas)
        mine = st.just(request(job_name="x") if path == "/train" else {"export_config": {}})
        body = data.draw(st.one_of(good, mine, ANYTHING).map(json.dumps) | TEXT)
    answer = client.open(url, method=method, query_string=query, headers=headers, data=body)
    assert answer.status_code < 500
    assert str(answer.status_code) in operation["responses"]
    schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    assert answer.mimetype == "application/json"
    jsonschema.validate(answer.json, schema | {"components": {"schemas": schemas}})
