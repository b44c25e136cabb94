"""The demo: its server, its progress and the sentences with which it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import psutil
import pytest

from gemtune.cli.connection import Connection
from gemtune.cli.connection.follow import follow
from gemtune.cli.workstation import demo
from tests.unit.cli.servers import running_servers
from tests.unit.cli.test_cli import job_body
from tests.unit.conftest import FakeService

PROGRAM = """
import time
from gemtune.cli.workstation.demo import _service
from gemtune.settings import Settings
with _service(Settings.from_environment()):
    print("serves", flush=True)
    time.sleep(600)
"""


def server_process(home: Path) -> psutil.Process:
    (server,) = running_servers()
    assert server.environ()["GEMTUNE_HOME"] == str(home)
    return server


def test_the_server_of_a_demo_that_was_killed_stops(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PORT"}
    demo = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment | {"GEMTUNE_HOME": str(tmp_path)}, stdout=subprocess.PIPE
    )
    try:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"serves\n"
        server = server_process(tmp_path)
        demo.kill()
        _, alive = psutil.wait_procs([server], timeout=60)
        if alive:
            server.kill()
        assert not alive, "the server of a killed demo goes on"
        assert (
            "Stopping gemtune" in (tmp_path / "server.log").read_text()
        )  # it stopped as on SIGTERM, which stops its trainers too
    finally:
        demo.kill()
        demo.wait()


def add_program(folder: Path, name: str, source: str) -> Path:
    """Add a program for the demo to run to `examples` in a folder.

    Returns the folder `examples`.
    """
    examples = folder / "examples"
    examples.mkdir(exist_ok=True)
    (examples / "__init__.py").touch()
    (examples / f"{name}.py").write_text(source)
    (examples / demo.DATASET).mkdir(exist_ok=True)
    row = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    (examples / demo.DATASET / "eval.jsonl").write_text(f"{json.dumps(row)}\n")
    return examples


def test_progress_of_the_base_model_is_shown_while_it_is_built(tmp_path: Path) -> None:
    """Let the program continue only after its first line has been read."""
    os.mkfifo(tmp_path / "read")
    source = (
        "import sys; print('a minute', file=sys.stderr, flush=True)\n"
        f"open({str(tmp_path / 'read')!r}).read(); print('/the/model')"
    )
    examples = add_program(tmp_path, "build_base_model", source)
    call = f"demo._base_model(Path({str(examples)!r}))"
    code = f"from pathlib import Path; from gemtune.cli.workstation import demo; print({call})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "a minute\n"
        (tmp_path / "read").write_text("yes")
        assert process.communicate()[0] == "/the/model\n"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("end", "cause"),
    [("sys.exit(3)", "exit code 3"), ("os.kill(os.getpid(), 9)", "ended by SIGKILL, probably out of memory")],
)
def test_a_program_of_the_demo_that_dies_is_reported_in_a_sentence(
    end: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("build_base_model", "sample_answers"):
        examples = add_program(tmp_path, name, f"import os, sys; {end}")
    with pytest.raises(click.ClickException, match=f"could not build the base model .{cause}"):
        demo._base_model(examples)
    with pytest.raises(
        click.ClickException,
        match=f"could not generate sample answers .{cause}.; the adapter itself is complete: /the/adapter",
    ):
        demo._print_samples(examples, "/the/model", "/the/adapter")
    assert "Answering 3 held-out questions" in capsys.readouterr().out


def demo_job(job_id: str, status: str, name: str = "gemtune demo") -> dict[str, str]:
    return {"job_id": job_id, "status": status, "job_name": name}


def test_the_next_demo_goes_on_with_the_job_of_one_that_was_killed(service: FakeService) -> None:
    connection = Connection(service.url, as_json=False)
    listed = [demo_job("new", "paused"), demo_job("old", "queued"), demo_job("done", "completed")]
    service.answers["GET", "/jobs"] = (200, {"jobs": [demo_job("mine", "queued", "mine"), *listed]})
    service.answers["GET", "/jobs/new/status"] = (200, demo_job("new", "paused"))
    service.answers["POST", "/jobs/old/cancel"] = service.answers["POST", "/jobs/new/resume"] = (202, {})
    assert demo._unfinished_job(connection) == "new"
    changes = [path for method, path, *_ in service.requests if method == "POST"]
    assert changes == ["/jobs/old/cancel", "/jobs/new/resume"]
    service.answers["GET", "/jobs"] = (200, {"jobs": [demo_job("done", "failed")]})
    assert demo._unfinished_job(connection) is None


def test_ctrl_c_cancels_the_job_of_the_demo(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    def press(_: float) -> None:
        raise KeyboardInterrupt

    service.answers["GET", "/jobs/mine/status"] = (200, job_body("training"))
    service.answers["POST", "/jobs/mine/cancel"] = (202, {})
    connection = Connection(service.url, as_json=False)
    code = follow(connection, "mine", sleep=press, interrupt=lambda job_id: demo._cancel(connection, job_id))
    assert (code, service.requests[-1][:2]) == (130, ("POST", "/jobs/mine/cancel"))
    assert "goes on" not in capsys.readouterr().err


def test_ctrl_c_among_the_sample_answers_says_that_the_adapter_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> tuple[int, str]:
        raise KeyboardInterrupt

    (tmp_path / demo.DATASET).mkdir()
    (tmp_path / demo.DATASET / "eval.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    monkeypatch.setattr(demo, "_run_example", interrupt)
    with pytest.raises(click.exceptions.Exit) as ended:
        demo._print_samples(tmp_path, "/the/model", "/the/adapter")
    assert ended.value.exit_code == 130
    assert "The adapter: /the/adapter" in capsys.readouterr().err


def test_a_base_model_that_cannot_be_written_is_reported_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    built = subprocess.run(
        [sys.executable, "-m", "examples.build_base_model", str(tmp_path / "file" / "model")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 1
    assert built.stderr.startswith("cannot build Gemma 3 270M: ")
    assert "Traceback" not in built.stderr
