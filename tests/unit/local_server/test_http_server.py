"""Requests that the local HTTP server refuses itself, in JSON like the API."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gemtune import VERSION, VERSION_HEADER
from gemtune.handlers.answers import ErrorAnswer
from gemtune.local_server.http_server import listen


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/broken":
        raise ValueError("a fake secret")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"reached"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = listen(app, port=0, max_body_bytes=1000)
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    yield server.effective_port
    server.close()


def ask(port: int, sent: bytes) -> tuple[int, str, bytes]:
    """Send these bytes; return status, content type and body of the answer."""
    status, headers, body = exchange(port, sent)
    return status, headers["content-type"], body


def exchange(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; return status, headers and body of the answer.

    Names and values of the headers are in small letters.
    """
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields, body


def test_clients_know_gemtune_by_its_answer_to_a_request_that_reaches_no_function(port: int) -> None:
    assert exchange(port, b"nonsense\r\n\r\n")[1][VERSION_HEADER.lower()] == VERSION


def test_a_request_reaches_the_app(port: int) -> None:
    assert ask(port, b"GET / HTTP/1.0\r\n\r\n") == (200, "text/plain", b"reached")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000, 413, "body_too_large"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 262_130 + b"\r\n\r\n", 431, "request_header_fields_too_large"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500, "internal_server_error"),
    ],
)
def test_the_server_refuses_malformed_requests_in_json(port: int, sent: bytes, status: int, code: str) -> None:
    answered, content_type, body = ask(port, sent)
    assert (answered, content_type, json.loads(body)["error"]["code"]) == (status, "application/json", code)
    ErrorAnswer.model_validate_json(body)
    assert b"fake" not in body
