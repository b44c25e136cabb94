"""Hub with one repository, as far as huggingface_hub downloads files from it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol, TypeVar

REVISION = "5" * 40
REPOSITORY = "acme/tiny-gemma"


@dataclass
class FakeHub:
    """State of the fake Hub.

    refusal: status and X-Error-Code of the answer to every file request.
    required_token: the only token that is let in.
    fetched: the names of the files that were downloaded. paths: those of all requests.
    lost_revisions: whether no revision can be named. ranges: offset and length of each range that was sent.
    takes_ranges: whether it sends parts of a file; some mirrors do not.
    """

    files: dict[str, bytes]
    refusal: tuple[int, str] | None = None
    required_token: str | None = None
    url: str = ""
    fetched: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lost_revisions: bool = False
    ranges: list[tuple[int, int]] = field(default_factory=list)
    takes_ranges: bool = True

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        self.paths.append(path.split("?")[0])
        if self.lost_revisions and "/revision/" in path:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if self.required_token is not None and authorization != f"Bearer {self.required_token}":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        if path.split("?")[0].removesuffix(f"/revision/{REVISION}") == f"/api/models/{REPOSITORY}":
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": REVISION, "siblings": siblings}).encode()
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/")
        if name not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.refusal is not None:
            return self.refusal[0], {"X-Error-Code": self.refusal[1]}, b""
        if method == "GET":
            self.fetched.append(name)
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION}, content


def hub_of(folder: Path) -> FakeHub:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return FakeHub(files | {"README.md": b"no", "model.gguf": b"no", "original/model.safetensors": b"no"})


class Hub(Protocol):
    """Anything that answers the requests of huggingface_hub."""

    url: str

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]: ...


AnyHub = TypeVar("AnyHub", bound=Hub)


@contextmanager
def serving(hub: AnyHub) -> Iterator[AnyHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.command, self.path, self.headers["Authorization"])
            byte_range = self.headers["Range"] if getattr(hub, "takes_ranges", True) else None
            if self.command == "GET" and status == 200 and byte_range is not None:
                start, end = (int(number) for number in byte_range.removeprefix("bytes=").split("-"))
                status, body = 206, body[start : end + 1]
                hub.ranges.append((start, len(body)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()
