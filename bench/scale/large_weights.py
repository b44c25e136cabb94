"""Benchmark of the copy of a large weights file from the Hub: its memory.

`python -m bench.scale.large_weights [GIB] [without-ranges]` serves a model whose weights file has GIB GiB of zeros,
made as they are sent, and copies it into a bucket on the disk, in a process that may have at most 2 GiB of
addresses. The process is killed with SIGKILL halfway, and a second one goes on. It prints the seconds, the peak memory
of each process, and the bytes that it fetched. Twice the file's size has to be free on the disk.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GIB, REVISION, REPOSITORY = 1024**3, "5" * 40, "acme/large-gemma"
LIMIT = 2 * GIB
WEIGHTS = "model.safetensors"
CHUNK = 1024 * 1024


class Mirror:
    """Hub with one model. sent: bytes of the weights that were sent so far."""

    def __init__(self, size: int, *, takes_ranges: bool):
        self.size, self.takes_ranges, self.sent = size, takes_ranges, 0
        entry = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
        for _ in range(3):  # until the length of the header, which is part of it, no longer changes
            header = json.dumps({"model.embed_tokens.weight": entry}).encode()
            data = size - 8 - len(header)
            header += b" " * (data % 2)
            data = size - 8 - len(header)
            entry = {"dtype": "BF16", "shape": [data // 2], "data_offsets": [0, data]}
        self.header = len(header).to_bytes(8, "little") + header
        config = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 640}
        self.files = {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"}

    def part(self, start: int, end: int) -> bytes:
        """Return the bytes of the weights from `start` to before `end`."""
        head = self.header[start:end]
        return head + bytes(end - start - len(head))


def handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    """Return the request handler of a mirror."""

    class Handler(BaseHTTPRequestHandler):
        """Answers the requests of huggingface_hub."""

        def do_GET(self) -> None:
            """Send the list of files, or a file."""
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                siblings = [{"rfilename": name} for name in (*mirror.files, WEIGHTS)]
                return self._send(json.dumps({"id": REPOSITORY, "sha": REVISION, "siblings": siblings}).encode())
            name = path.rpartition("/")[2]
            if name != WEIGHTS:
                return self._send(mirror.files[name]) if name in mirror.files else self.send_error(404)
            byte_range = self.headers["Range"] if mirror.takes_ranges else None
            start, end = 0, mirror.size
            if byte_range is not None:
                first, last = byte_range.removeprefix("bytes=").split("-")
                start, end = int(first), min(int(last) + 1, mirror.size)
            self._begin(200 if byte_range is None else 206, end - start)
            if self.command == "GET":
                with suppress(ConnectionError):  # the other process was killed
                    for at in range(start, end, CHUNK):
                        part = mirror.part(at, min(at + CHUNK, end))
                        self.wfile.write(part)
                        mirror.sent += len(part)
            return None

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def _send(self, body: bytes) -> None:
            self._begin(200, len(body))
            if self.command == "GET":
                self.wfile.write(body)

        def _begin(self, status: int, length: int) -> None:
            self.send_response(status)
            for header, value in {"ETag": '"x"', "X-Repo-Commit": REVISION, "Content-Length": str(length)}.items():
                self.send_header(header, value)
            self.end_headers()

    return Handler


def main(gib: float, *, takes_ranges: bool) -> None:
    """Copy, kill, and go on; print a row for each process."""
    mirror = Mirror(int(gib * GIB), takes_ranges=takes_ranges)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(mirror)) as server, tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": folder}
        print("| process | seconds | peak memory, MB | fetched, GiB |\n|---|---|---|---|")
        for name, until in (("killed halfway", mirror.size // 2), ("goes on", None)):
            before, began = mirror.sent, time.perf_counter()
            command = [sys.executable, "-m", "bench.scale.large_weights", "copy", folder]
            copying = subprocess.Popen(command, env=environment, preexec_fn=_limit)
            peak = 0
            while copying.poll() is None:
                peak = max(peak, _peak(copying.pid))
                if until is not None and mirror.sent >= until:
                    copying.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
            ended = copying.wait()
            if ended != (0 if until is None else -signal.SIGKILL):
                raise SystemExit(f"the copy ended with {ended}")
            seconds = time.perf_counter() - began
            print(f"| {name} | {seconds:.0f} | {peak / 1e6:.0f} | {(mirror.sent - before) / GIB:.1f} |", flush=True)
        server.shutdown()


def copy(folder: str) -> None:
    """Copy the model into a bucket below `folder`."""
    from gemtune.embedded.folder_objects import FolderObjects
    from trainer.base_model.hub_download import copy_once

    export = FolderObjects(Path(folder) / "export", "export")
    copy_once(REPOSITORY, export, Path(folder) / "work", token=lambda: None, check_stop=lambda: None)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))


def _peak(pid: int) -> int:
    """Return the peak resident set of a process in bytes; 0 if it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["copy"]:
        copy(sys.argv[2])
    else:
        size = next((float(argument) for argument in sys.argv[1:] if argument != "without-ranges"), 12.0)
        main(size, takes_ranges="without-ranges" not in sys.argv)
