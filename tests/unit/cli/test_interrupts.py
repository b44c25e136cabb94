"""Ctrl-C during commands, and what each of them says, keeps and ends."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from gemtune.cli import watching
from gemtune.cli.connection import Connection, downloading, starting
from gemtune.cli.group import main
from gemtune.cli.workstation import demo
from gemtune.client import downloads
from gemtune.client.calls import Call
from gemtune.client.transport import Transport
from tests.unit.cli.servers import running_servers
from tests.unit.cli.test_cli import job_body, run
from tests.unit.cli.test_data import ID, JOB, ROWS, dataset
from tests.unit.conftest import FakeService

GOES_ON = ("The job goes on", f"gemtune watch {JOB[-12:]}", f"gemtune cancel {JOB[-12:]}")
TRAIN = ("train", "--model", "a/b", "--dataset", ID)
UPLOADING = (200, dataset("uploading", missing_parts={"0": [0, 1]}))
LINKS = [{"name": "train.jsonl", "bytes": len(ROWS), "sha256": "", "url": None, "path": "/nowhere"}]
RUNNING_CHECK = {
    "check_id": "c",
    "dataset_id": ID,
    "status": "running",
    "created_at": "2026-11-29T12:00:00Z",
    "report": None,
    "error": None,
    "rows_left_out": None,
}
# Arguments, the call that Ctrl-C interrupts, and what is sentences.
CASES: list[tuple[tuple[str, ...], tuple[str, str], tuple[str, ...]]] = [
    (TRAIN, ("POST", "/train"), ("may have accepted the training", "gemtune jobs")),
    ((*TRAIN, "--follow"), ("GET", f"/jobs/{JOB}/status"), GOES_ON),
    (("export", JOB, "--format", "gguf"), ("POST", f"/jobs/{JOB}/exports"), ("may have accepted the export",)),
    (("watch", JOB), ("GET", f"/jobs/{JOB}/status"), GOES_ON),
    (("wait", JOB), ("GET", f"/jobs/{JOB}/status"), GOES_ON),
    (("logs", JOB, "--follow"), ("GET", f"/jobs/{JOB}/status"), GOES_ON),
    (("logs", JOB, "--follow"), ("GET", f"/jobs/{JOB}/logs"), GOES_ON),
    (("events", JOB, "--follow"), ("GET", f"/jobs/{JOB}/events"), GOES_ON),
    (("data", "check", ID, "--model", "a/b"), ("GET", f"/datasets/{ID}/checks/c"), ("goes on with the check",)),
    (("jobs",), ("GET", "/jobs"), ("Interrupted",)),
    (("cancel", JOB), ("POST", f"/jobs/{JOB}/cancel"), ("Interrupted",)),
]


def interrupt_call(monkeypatch: pytest.MonkeyPatch, method: str, path: str, *, first: int = 1) -> None:
    """Let Ctrl-C interrupt a call, and all like it from the `first` one on."""
    send, calls = Transport.send, 0

    def interrupted(self: Transport, call: Call[Any]) -> Any:
        nonlocal calls
        calls += (call.method, call.path) == (method, path)
        if calls >= first:
            raise KeyboardInterrupt
        return send(self, call)

    monkeypatch.setattr(Transport, "send", interrupted)


@pytest.mark.parametrize(("arguments", "call", "sentences"), CASES)
def test_ctrl_c_says_what_goes_on(
    arguments: tuple[str, ...],
    call: tuple[str, str],
    sentences: tuple[str, ...],
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.answers["POST", "/train"] = (202, {"job_id": JOB, "warnings": []})
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, job_body("training"))
    service.answers["GET", f"/jobs/{JOB}/logs"] = (200, {"lines": [], "next_after": None, "more": False})
    service.answers["POST", f"/datasets/{ID}/check"] = (202, RUNNING_CHECK)
    interrupt_call(monkeypatch, *call)
    result = run(*arguments, url=service.url)
    assert result.exit_code == 130, result.stderr
    assert [text for text in sentences if text not in result.stderr] == []


def test_a_list_of_jobs_that_is_watched_ends_as_everything_that_ctrl_c_ends(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_call(monkeypatch, "GET", "/jobs")
    monkeypatch.setattr(watching, "is_redrawn", lambda console: True)
    assert run("watch", url=service.url).exit_code == 130


@pytest.mark.parametrize("command", [("data", "upload"), ("train", "--model", "a/b", "--follow", "--data")])
def test_an_interrupted_upload_says_that_its_parts_are_kept(
    command: tuple[str, ...], service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    service.answers["POST", "/datasets"] = UPLOADING
    service.answers["PUT", f"/datasets/{ID}/parts"] = (200, {"file": 0, "part": 0})
    interrupt_call(monkeypatch, "PUT", f"/datasets/{ID}/parts", first=2)
    result = run(*command, str(tmp_path / "rows.jsonl"), url=service.url)
    assert (result.exit_code, "parts that were sent are kept" in result.stderr) == (130, True)
    assert "may have accepted" not in result.stderr


@pytest.mark.parametrize("command", [("data", "download", ID), ("artifacts", JOB, "--download", ".")])
def test_an_interrupted_download_says_that_it_is_kept_and_goes_on(
    command: tuple[str, ...], service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    links = [link | {"sha256": "0" * 64} for link in LINKS]
    service.answers["GET", f"/datasets/{ID}/files"] = (200, {"files": links, "next_after": None})
    service.answers["GET", f"/datasets/{ID}"] = (200, dataset("ready"))
    service.answers["GET", f"/jobs/{JOB}/artifacts"] = (200, {"artifacts": links})

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(downloading, "download_to", interrupted)
    result = run(*command, url=service.url)
    assert (result.exit_code, "the same command goes on there" in result.stderr) == (130, True)
    piped = run("data", "download", ID, "--output", "-", url=service.url)
    assert (piped.exit_code, "is kept" in piped.stderr) == (130, False)


def test_an_interrupted_copy_of_a_local_file_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"0123456789"
    (tmp_path / "source").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    linked = downloads.ArtifactLink(
        name="copy", bytes=len(content), sha256=digest, url=None, path=str(tmp_path / "source")
    )
    sizes: list[int] = []

    def interrupt_at_six(size: int) -> None:
        sizes.append(size)
        if size == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "BLOCK_BYTES", 3)
    with pytest.raises(KeyboardInterrupt):
        downloads.download(linked, tmp_path, show=interrupt_at_six)
    assert not (tmp_path / "copy").exists()
    assert downloads.download(linked, tmp_path, show=sizes.append).read_bytes() == content
    assert sizes == [3, 6, 9, 10]


def test_ctrl_c_while_a_service_starts_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(connection: Connection, server: subprocess.Popen[bytes], log: Path) -> None:
        assert server.poll() is None
        raise KeyboardInterrupt

    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(starting, "is_interactive", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: True)
    monkeypatch.setattr(starting, "wait_until_healthy", press)
    with pytest.raises(KeyboardInterrupt):
        starting.offer_service(Connection("http://127.0.0.1:9", as_json=False))
    assert running_servers() == []


def test_a_build_that_ctrl_c_ends_tidies_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is pressed once the program has begun, which says so."""
    examples = tmp_path / "examples"
    examples.mkdir()
    (examples / "__init__.py").touch()
    (examples / "build_base_model.py").write_text(
        "import time\nfrom pathlib import Path\nPath('half').touch()\n"
        "try:\n    print('begun', flush=True); time.sleep(60)\nfinally:\n    Path('half').unlink()\n"
    )
    communicate, programs = subprocess.Popen.communicate, []

    def press(program: subprocess.Popen[str]) -> tuple[str, str]:
        programs.append(program)
        if len(programs) == 1:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            raise KeyboardInterrupt
        return communicate(program)

    monkeypatch.setattr(subprocess.Popen, "communicate", press)
    with pytest.raises(KeyboardInterrupt):
        demo._base_model(examples)
    assert not (tmp_path / "half").exists()
    assert programs[-1].returncode != 0, "the program was waited for, and not ended"


def test_every_command_that_follows_a_job_is_interrupted_here() -> None:
    context = click.Context(main)
    commands = {name: main.get_command(context, name) for name in main.list_commands(context)}
    assert all(commands.values())
    following = {
        name
        for name, command in commands.items()
        if command is not None and any("--follow" in parameter.opts for parameter in command.params)
    }
    tested = {arguments[0] for arguments, _, sentences in CASES if sentences is GOES_ON}
    assert following - {"export"} <= tested | {"train"}
