from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gemtune import VERSION_HEADER


class FakeService:
    """Fake service of gemtune over HTTP.

    answers: (status, body) by method and path. A list holds successive answers; its last one is repeated. None closes
    the connection without an answer. other_answer: to every other request. is_gemtune: whether answers have the header
    of gemtune.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.other_answer: tuple[int, Any] = (404, {"error": {"code": "not_found", "message": "no"}})
        self.is_gemtune = True
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                content: Any = body or None
                if body and self.headers.get("Content-Type") == "application/json":
                    content = json.loads(body)
                service.requests.append((self.command, self.path, dict(self.headers), content))
                answer = service.answers.get((self.command, path), service.other_answer)
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                if answer is None:
                    self.connection.close()
                    return
                status, content = answer
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                if service.is_gemtune:
                    self.send_header(VERSION_HEADER, "0.1.0")
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_DELETE = do

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.server.shutdown()
    service.server.server_close()
