"""The HTTP client for our own functions: connections are kept and replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gemtune.local_server.delivery import FunctionClient


class CountingServer:
    """HTTP server that keeps connections open and counts them.

    It closes each connection after `answers_each` answers.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.connections, self.answers_each = 0, 1000
        counting_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                counting_server.connections += 1
                self.left = counting_server.answers_each

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                counting_server.requests.append((self.path, self.headers["Authorization"], body))
                self.send_response(204)
                self.end_headers()
                self.left -= 1
                self.close_connection = self.left == 0

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.client = FunctionClient(
            f"http://127.0.0.1:{self.server.server_address[1]}", token="fake", timeout_seconds=60
        )


@pytest.fixture
def counting_server() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_one_connection_serves_many_calls(counting_server: CountingServer) -> None:
    assert [counting_server.client.post(f"/{n}", b"body") for n in range(3)] == [204] * 3
    assert counting_server.requests == [(f"/{n}", "Bearer fake", b"body") for n in range(3)]
    assert counting_server.connections == 1


def test_a_connection_that_the_server_closed_is_replaced(counting_server: CountingServer) -> None:
    counting_server.answers_each = 1
    assert [counting_server.client.post(f"/{n}") for n in range(3)] == [204] * 3
    assert [path for path, _, _ in counting_server.requests] == ["/0", "/1", "/2"]
    assert counting_server.connections == 3


def test_a_server_that_is_down_raises_an_error_each_time() -> None:
    client = FunctionClient("http://127.0.0.1:9", token="fake", timeout_seconds=60)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            client.post("/")
