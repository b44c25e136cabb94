"""Error answers: always valid JSON, whatever they contain."""

from __future__ import annotations

import json
from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException

from gemtune.bootstrap import Services
from gemtune.errors import CannotStore, GemtuneError, JobNotFound, Problem, RequestRefused, UnsafeName
from gemtune.handlers import error_answers
from gemtune.handlers.answers import ErrorAnswer
from tests.fakes import request
from tests.handlers.conftest import embedded_only

ANY_TEXT = st.text(st.characters(), max_size=50)  # including half surrogate pairs


@given(ANY_TEXT, ANY_TEXT, st.none() | ANY_TEXT, st.none() | st.lists(st.tuples(ANY_TEXT, st.integers())))
def test_an_error_answer_with_any_text_is_valid(code: str, message: str, hint: str | None, locs: Any) -> None:
    problems = None if locs is None else [Problem(loc, message, code, hint) for loc in locs]
    body = error_answers.body(code, message, hint, problems)
    answer = ErrorAnswer.model_validate_json(body)
    assert set(json.loads(body)) == ({"error"} if locs is None else {"error", "problems"})
    assert answer.problems is None or len(answer.problems) == len(locs)


@pytest.mark.parametrize(
    ("reason", "code"),
    [("Not Found", "not_found"), ("Bad Request", "bad_request"), ("Request Entity Too Large", "body_too_large")],
)
def test_the_code_of_an_http_error_comes_from_its_name_or_the_table(reason: str, code: str) -> None:
    assert error_answers.code_for_reason(reason) == code
    says_how = "in parts" in error_answers.hint_for_reason(reason)
    assert says_how is (code == "body_too_large")


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\U0010ffff", "<script>", "hf_fakefakefakefake", "\x1b[31m"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (lambda text: UnsafeName(text, hint=text), 404),
        (lambda text: JobNotFound(text), 404),
        (lambda text: RequestRefused([Problem((text, 1), text, text, text)]), 422),
        (lambda text: CannotStore(text, text), 507),
        (lambda text: GemtuneError(text), 500),
        (lambda text: ValueError(text), 500),
    ],
)
@embedded_only
def test_every_exception_is_answered_in_json(
    api: Any, services: Services, monkeypatch: pytest.MonkeyPatch, error: Any, status: int, text: str
) -> None:
    def broken(*arguments: Any, **more: Any) -> None:
        raise error(text)

    monkeypatch.setattr(type(services.store), "page", broken)
    answer = api.get("/jobs")
    assert answer.status_code == status
    ErrorAnswer.model_validate_json(answer.data)
    assert "hf_fake" not in answer.text
    assert status != 500 or answer.json["error"]["message"] == "the service failed"


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO", "get")
PATHS = (
    "/nope",
    "/%0a",
    "/jobs/%0a/status",
    "/jobs/a%0Ab/status",
    "/jobs//status",
    "/static/x",
    "/robots.txt",
    "/favicon.ico",
    "/%ff",
    "/%00",
    "/jobs/%ed%a0%80/status",
    "/jobs/..%2F..%2Fx/status",
    "/..",
    "/%2e%2e/x",
    "/" + "x" * 5000,
    "/jobs/%f0%9f%98%80/status",
    "/?%ff=%00",
    "/*",
)


@embedded_only
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30])
def test_an_unknown_path_is_answered_in_json(api: Any, path: str) -> None:
    for method in METHODS:
        answer = api.open(path, method=method)
        assert (answer.status_code, answer.mimetype) in ((404, "application/json"), (405, "application/json")), method
        ErrorAnswer.model_validate_json(answer.data)


@embedded_only
def test_an_unsupported_method_is_answered_in_json(api: Any) -> None:
    for method in METHODS[2:]:
        answer = api.open("/train", method=method)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method
        assert answer.json["error"]["code"] == "method_not_allowed"
    head = api.head("/jobs")
    assert (head.status_code, head.mimetype, head.data) == (200, "application/json", b"")
    head = api.head("/nope")
    assert (head.status_code, head.mimetype, head.data) == (404, "application/json", b"")


@embedded_only
@pytest.mark.parametrize("target", ["dispatch", "notify", "ingest", "fan_out"])
def test_the_answer_to_an_invalid_event_repeats_nothing_of_it(client_of: Any, target: str) -> None:
    answer = client_of(target).post("/", data=b"hf_fakefakefakefake", headers={"Authorization": "Bearer fake-token"})
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "unsupported_media_type")
    assert "fake" not in answer.text


@embedded_only
def test_a_full_disk_is_answered_with_507(api: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise CannotStore("/home/gemtune", "No space left on device")

    monkeypatch.setattr(type(services.buckets.config), "create", full)
    answer = api.post("/train", json=request())
    assert (answer.status_code, answer.json["error"]) == (
        507,
        {
            "code": "cannot_store",
            "message": "/home/gemtune cannot be written: No space left on device",
            "hint": "make room there, or let the service write there",
        },
    )


def test_an_error_of_the_framework_without_a_status_is_a_500() -> None:
    with flask.Flask("test").test_request_context("/jobs", method="GET"):
        answer = error_answers.routing_error(flask.request, HTTPException())
    assert (answer.status_code, answer.mimetype) == (500, "application/json")
