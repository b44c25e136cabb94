"""Downloads that are interrupted go on where they ended."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gemtune.client import downloads
from gemtune.client.errors import BadDownload, Unreachable
from gemtune.handlers.answers import ArtifactLink

CONTENT = bytes(range(256)) * 64


class FileServer:
    """Server of one file, which ends some answers too early.

    cuts: bytes after which the next answers end; an answer after the last one is whole. ranges: the Range headers of
    the requests so far. takes_ranges: whether it sends parts of the file. refuses: whether the link is expired.
    """

    def __init__(self) -> None:
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.takes_ranges = True
        self.refuses = False
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if files.refuses:
                    self.send_error(403)
                    return
                wanted_range = self.headers.get("Range")
                files.ranges.append(wanted_range)
                start = 0 if wanted_range is None or not files.takes_ranges else int(wanted_range[6:-1])
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(CONTENT) - start))
                self.end_headers()
                end = start + files.cuts.pop(0) if files.cuts else len(CONTENT)
                self.wfile.write(CONTENT[start:end])

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def link(self, content: bytes = CONTENT) -> ArtifactLink:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/file"
        digest = hashlib.sha256(content).hexdigest()
        return ArtifactLink(name="file", bytes=len(CONTENT), sha256=digest, url=url, path=None)


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_an_attempt_continues_the_one_before(files: FileServer, tmp_path: Path) -> None:
    files.cuts, sizes = [1000, 500], list[int]()
    path = downloads.download(files.link(), tmp_path, show=sizes.append)
    assert path.read_bytes() == CONTENT
    assert files.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert (sizes == sorted(sizes), sizes[-1]) == (True, len(CONTENT))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_another_program_continues_an_interrupted_download(files: FileServer, tmp_path: Path) -> None:
    files.cuts = [1000] * downloads.ATTEMPTS
    with pytest.raises(Unreachable):
        downloads.download(files.link(), tmp_path)
    assert downloads.download(files.link(), tmp_path).read_bytes() == CONTENT
    assert files.ranges[-1] == f"bytes={1000 * downloads.ATTEMPTS}-"


def test_a_link_that_expires_loses_nothing(files: FileServer, tmp_path: Path) -> None:
    files.cuts = [1000] * downloads.ATTEMPTS
    with pytest.raises(Unreachable):
        downloads.download(files.link(), tmp_path)
    files.refuses = True
    with pytest.raises(BadDownload, match="HTTP 403; links expire after an hour"):
        downloads.download(files.link(), tmp_path)
    files.refuses = False
    assert downloads.download(files.link(), tmp_path).read_bytes() == CONTENT
    assert files.ranges[-1] == f"bytes={1000 * downloads.ATTEMPTS}-"


def test_a_server_without_ranges_sends_the_file_from_its_beginning(files: FileServer, tmp_path: Path) -> None:
    files.takes_ranges, files.cuts = False, [1000]
    assert downloads.download(files.link(), tmp_path).read_bytes() == CONTENT


def test_what_was_there_of_another_file_is_noticed(files: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.unfinished").write_bytes(b"another")
    with pytest.raises(BadDownload, match="SHA-256"):
        downloads.download(files.link(), tmp_path)
    assert downloads.download(files.link(), tmp_path).read_bytes() == CONTENT
