"""`gemtune try` against a fake service and a fake process with the model."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner

from gemtune.cli.answers.display import Display
from gemtune.cli.answers.rows import RowsFile, training_columns
from gemtune.cli.answers.session import Session
from gemtune.cli.connection import Connection
from gemtune.cli.group import main
from gemtune.process import parent_death
from tests.unit.cli.test_cli import job_body, run
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"
# Answers each question with its last message, reversed, in pieces of four characters.
PROGRAM = """
import json, sys, time, signal
def say(**fields): print(json.dumps(fields), flush=True)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
if "cannot" in sys.argv:
    say(type="error", code="base_changed", message="other weights", hint="put them back")
    sys.exit(1)
if "crash" in sys.argv: sys.exit("Traceback: broken")
say(type="ready", runtime="transformers", context_length=9)
for line in sys.stdin:
    question = json.loads(line)
    if "file" in question:
        rows = iter([{"number": 1, "text": "one", "expected": "eno", "refusal": None},
                {"number": 2, "text": "", "expected": None, "refusal": "it is empty"},
                {"number": 3, "text": "too long", "expected": None, "refusal": None},
                {"number": None}])
    if "file" in question or "next" in question:
        row = next(rows)
        say(type="row", **row)
        continue
    if "of_row" in question:
        question["messages"] = [{"content": row["text"]}]
    last = question["messages"][-1]["content"]
    if isinstance(last, list): last = " ".join(part.get("path", part.get("text")) for part in last)
    if last == "too long":
        say(type="error", code="prompt_too_long", message="9 tokens", hint="shorten it")
        continue
    text = ("base " if question["by_base"] else "") + last[::-1] + f" ({len(question['messages'])})"
    if last == "think": say(type="text", text="Hm.", is_thought=True)
    for at in range(0, len(text), 4): say(type="text", text=text[at:at + 4], is_thought=False)
    while last == "forever" and not stopped: time.sleep(0.01)
    print(json.dumps(question), file=sys.stderr, flush=True)
    say(type="end", tokens=[1, 2], text=text, thinking="Hm." if last == "think" else "", thought_tokens=1,
        prompt_tokens=3, ended="stopped" if stopped else "length", first_seconds=0.5, seconds=1.0)
"""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the program with the model; return the arguments of each start."""
    started: list[list[str]] = []

    def command(arguments: Sequence[str], signal_number: int) -> list[str]:
        assert signal_number == signal.SIGKILL
        started.append(list(arguments))
        return [sys.executable, "-c", PROGRAM, *arguments]

    monkeypatch.setattr(parent_death, "command", command)
    return started


@pytest.fixture
def job(service: FakeService) -> dict[str, Any]:
    body = job_body("completed")
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body)
    service.answers["GET", f"/jobs/{JOB}/request"] = (200, {"request": {}, "path": "/train", "left_out": []})
    return body


def test_a_prompt_is_answered_on_standard_output(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    result = run("try", JOB, "hello", url=service.url)
    assert (result.exit_code, result.stdout) == (0, "olleh (1)\n")
    assert "ends after 2 tokens; --max-tokens allows more" in result.stderr
    assert commands == [["-P", "-m", "trainer.answers", JOB]]
    quiet = run("try", JOB, "hello", "--quiet", url=service.url)
    assert (quiet.stdout, quiet.stderr) == ("olleh (1)\n", "")


def test_styles_are_for_terminals_without_no_color(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    for variable, has_styles in (("", True), ("1", False)):
        arguments = ["--url", service.url, "try", JOB, "hello", "--base"]
        result = CliRunner().invoke(main, arguments, color=True, env={"NO_COLOR": variable})
        assert ("\x1b" in result.stdout, "\x1b" in result.stderr) == (has_styles, has_styles)


def test_the_base_model_answers_first(service: FakeService, job: dict[str, Any], commands: list[list[str]]) -> None:
    result = run("try", JOB, "hello", "--base", url=service.url)
    assert result.stdout == "base model:\nbase olleh (1)\ntrained model:\nolleh (1)\n"


def test_json_has_every_answer_with_its_numbers(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    result = run("try", JOB, "think", "--base", "--json", url=service.url)
    line = json.loads(result.stdout)
    assert (line["prompt"], line["base"]["answer"], line["trained"]["answer"]) == (
        "think",
        "base kniht (1)",
        "kniht (1)",
    )
    assert line["trained"] == {
        "answer": "kniht (1)",
        "thinking": "Hm.",
        "ended": "length",
        "tokens": 2,
        "prompt_tokens": 3,
        "first_token_seconds": 0.5,
        "seconds": 1.0,
    }


def test_thoughts_are_shown_on_standard_error_or_mentioned(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    hidden = run("try", JOB, "think", url=service.url)
    assert (hidden.stdout, "Hm." in hidden.stderr, "--thinking shows it" in hidden.stderr) == (
        "kniht (1)\n",
        False,
        True,
    )
    shown = run("try", JOB, "think", "--thinking", url=service.url)
    assert (shown.stdout, "Hm." in shown.stderr) == ("kniht (1)\n", True)


def test_lines_are_turns_of_a_conversation(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    result = run("try", JOB, "--system", "Be brief.", url=service.url, stdin="one\n\ntoo long\ntwo\n")
    assert result.stdout == "eno (2)\nowt (4)\n"
    assert (result.exit_code, "prompt_too_long: 9 tokens\n  shorten it" in result.stderr) == (1, True)
    assert result.stderr.endswith("1 prompt was not answered\n")


def test_base_and_trained_model_have_conversations_of_their_own(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    result = run("try", JOB, "--base", "--json", url=service.url, stdin="one\ntwo\n")
    second = json.loads(result.stdout.splitlines()[1])
    assert (second["base"]["answer"], second["trained"]["answer"]) == ("base owt (3)", "owt (3)")


def test_errors_of_the_process_are_those_of_the_command(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    result = run("try", JOB, "too long", url=service.url)
    assert (result.exit_code, result.stderr.splitlines()[-2:]) == (1, ["prompt_too_long: 9 tokens", "  shorten it"])


@pytest.mark.parametrize(("argument", "code"), [("cannot", "base_changed"), ("crash", "answering_failed")])
def test_a_model_that_cannot_be_loaded_is_explained(
    service: FakeService, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, argument: str, code: str
) -> None:
    monkeypatch.setattr(parent_death, "command", lambda *_: [sys.executable, "-c", PROGRAM, argument])
    result = run("try", JOB, "hello", url=service.url)
    assert (result.exit_code, f"\n{code}: " in result.stderr) == (1, True)
    assert code != "answering_failed" or "Traceback: broken" in result.stderr


def test_an_unfinished_training_is_not_asked(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    job |= {"status": "training", "steps": {"train": {"state": "running", "checkpoint": 20}}}
    result = run("try", JOB, "hello", url=service.url)
    assert (result.exit_code, commands) == (1, [])
    assert "not_trained: the training of job" in result.stderr
    assert f"gemtune try {JOB[-12:]} --checkpoint 20" in result.stderr
    job["steps"]["train"]["checkpoint"] = 0
    assert f"gemtune watch {JOB[-12:]}" in run("try", JOB, "hello", url=service.url).stderr
    run("try", JOB, "hello", "--checkpoint", "20", url=service.url)
    assert commands == [["-P", "-m", "trainer.answers", JOB, "--checkpoint", "20"]]


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "1"),
        ("--seed", "1", "--temperature", "0"),
        ("--temperature", "0", "--top-p", "0.5"),
        ("--temperature", "-1"),
        ("--top-p", "0"),
        ("--max-tokens", "0"),
        ("--checkpoint", "0"),
        ("--format", "onnx"),
    ],
)
def test_options_without_an_effect_are_refused(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], options: tuple[str, ...]
) -> None:
    result = run("try", JOB, "hello", *options, url=service.url)
    assert (result.exit_code, commands) == (2, [])


def test_files_are_found_where_the_service_keeps_them(
    service: FakeService, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "home" / "exports" / "jobs" / JOB / "prepared" / "1" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    job["rows"] = {"report": str(report)}
    environments: list[dict[str, str]] = []
    popen = subprocess.Popen

    def recording(*arguments: Any, **more: Any) -> Any:
        environments.append(more["env"])
        return popen(*arguments, **more)

    monkeypatch.setattr(parent_death, "command", lambda *_: [sys.executable, "-c", PROGRAM])
    monkeypatch.setattr(subprocess, "Popen", recording)
    run("try", JOB, "hello", url=service.url)
    environment = environments[0]
    assert environment["GEMTUNE_HOME"] == str(tmp_path / "home")
    assert environment["GCS_EXPORT_BUCKET_NAME"] == "exports"


def test_each_line_of_a_text_file_is_a_prompt(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntoo long\ntwo\n")
    result = run("try", JOB, "--file", str(file), url=service.url)
    assert result.stdout == "> one\neno (1)\n> too long\n> two\nowt (1)\n"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "1 prompt was not answered")
    as_json = run("try", JOB, "--file", str(file), "--json", url=service.url)
    answers = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.exit_code, as_json.stderr) == (1, f"Loading a/b as {JOB} trained it …\n")
    assert [answer["prompt"] for answer in answers] == ["one", "too long", "two"]
    assert answers[1] == {
        "prompt": "too long",
        "error": {"code": "prompt_too_long", "message": "9 tokens", "hint": "shorten it"},
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompts_of_other_systems_are_read_as_they_are_meant(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("éa\u2028b\r\ntwo\r\n".encode(encoding))
    result = run("try", JOB, "--file", str(file), "--json", url=service.url)
    assert [json.loads(line)["prompt"] for line in result.stdout.split("\n")[:-1]] == ["éa\u2028b", "two"]


def test_what_is_not_text_is_refused_before_the_model_is_loaded(
    service: FakeService,
    job: dict[str, Any],
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "prompts.xlsx"
    file.write_bytes(b"PK\x03\x04\xe9\n")
    result = run("try", JOB, "--file", str(file), url=service.url)
    assert (result.exit_code, "neither text in UTF-8" in result.stderr, commands) == (2, True, [])
    monkeypatch.setattr("builtins.input", lambda prompt: b"\xe9".decode())
    result = run("try", JOB, url=service.url)
    assert (result.exit_code, "standard input is not text in UTF-8" in result.stderr) == (2, True)


def test_ctrl_c_ends_many_prompts_at_once_and_only_the_answer_of_a_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    end = {"ended": "stopped", "text": "", "thinking": "", "tokens": [], "thought_tokens": 0}
    process = Mock(ask=Mock(return_value=end))
    process.rows.return_value = [{"number": each, "text": "x", "expected": None, "refusal": None} for each in (1, 2)]
    session = Session(process, Display(as_json=False, quiet=True, with_thoughts=False), {}, with_base=True)
    lines = iter(["one", "two"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    for number, asking in enumerate(
        (
            lambda: session.ask_once("one"),
            lambda: session.ask_lines(["one", "two"]),
            lambda: session.ask_rows(RowsFile(tmp_path, {})),
            session.converse,
        ),
        start=1,
    ):
        with pytest.raises(KeyboardInterrupt):
            asking()
        assert process.ask.call_count == number
    answers = iter(["one", "two"])

    def read(prompt: str) -> str:
        for line in answers:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    assert session.converse() == 0
    assert process.ask.call_count == 4 + 2 * 2


def test_each_row_of_a_file_is_asked_and_compared(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    result = run("try", JOB, "--file", str(file), url=service.url)
    assert result.stdout == "> one\neno (1)\n(the row has: eno)\n> too long\n"
    assert [path for _, path, *_ in service.requests if path.endswith("request")] == [f"/jobs/{JOB}/request"]
    assert "row 2 is not asked: it is empty" in result.stderr
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "2 prompts were not answered")
    as_json = run("try", JOB, "--file", str(file), "--json", "--base", url=service.url).stdout
    answered, *failed = map(json.loads, as_json.splitlines())
    assert (answered["row"], answered["expected"], answered["base"]["answer"]) == (1, "eno", "base eno (1)")
    assert [(line["row"], line["error"]["code"]) for line in failed] == [(2, "bad_prompt"), (3, "prompt_too_long")]


def test_rows_of_a_file_are_read_with_the_columns_of_the_training(service: FakeService) -> None:
    connection = Connection(service.url, as_json=False)
    exports = {"request": {"export_config": {}}, "path": f"/jobs/{JOB}/exports", "left_out": []}
    columns = {"prompt": "question", "id": None}
    trained = {"request": {"dataset_columns": columns}, "path": "/train", "left_out": []}
    service.answers["GET", "/jobs/export_x/request"] = (200, exports)
    gone, broken = (
        {"error": {"code": code, "message": "Why.", "hint": "Wait."}, "problems": []}
        for code in ("spec_unreadable", "internal_error")
    )
    service.answers["GET", f"/jobs/{JOB}/request"] = [(200, trained), (200, trained), (409, gone), (500, broken)]
    assert training_columns(connection, {"job_id": JOB}) == columns
    assert training_columns(connection, {"job_id": "export_x"}) == columns
    assert training_columns(connection, {"job_id": JOB}) == {}
    with pytest.raises(click.exceptions.Exit):  # rows are not asked as if they had no columns
        training_columns(connection, {"job_id": JOB})


@pytest.mark.parametrize("option", ["--image", "--audio"])
def test_pictures_and_audio_come_with_the_first_prompt(
    option: str, service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path
) -> None:
    medium = tmp_path / "a"
    medium.write_bytes(b"x")
    result = run("try", JOB, option, str(medium), url=service.url, stdin="one\ntwo\n")
    assert result.stdout == f"{f'{medium} one'[::-1]} (1)\nowt (3)\n"
    for arguments in (("--file", str(medium), "hi"), ("--file", str(medium), option, str(medium))):
        assert run("try", JOB, *arguments, url=service.url).exit_code == 2


def served(service: FakeService, *files: tuple[str, Any]) -> None:
    """Serve files of the job by links; FakeService encodes them as JSON."""
    links = []
    for name, content in files:
        raw = json.dumps(content).encode()
        service.answers["GET", f"/{name}"] = (200, content)
        digest = hashlib.sha256(raw).hexdigest()
        link = {"name": name, "bytes": len(raw), "sha256": digest, "url": f"{service.url}/{name}", "path": None}
        links.append(link)
    service.answers["GET", f"/jobs/{JOB}/artifacts"] = (200, {"artifacts": links})


def test_files_of_another_machine_are_downloaded_once(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path
) -> None:
    job |= {"rows": {"report": "gs://exports/jobs/x/report.json"}, "modality": "vision"}
    served(service, ("adapter_config.json", {"r": 4}), ("adapter_model.safetensors", "weights"))
    cache = {"GEMTUNE_CACHE": str(tmp_path)}
    for _ in range(2):
        result = run("try", JOB, "hello", url=service.url, **cache)
        assert (result.exit_code, result.stdout) == (0, "olleh (1)\n")
    folder = tmp_path / "tried" / JOB
    assert (folder / "adapter_model.safetensors").read_bytes() == b'"weights"'
    arguments = ["--folder", str(folder), "--base-model", "a/b", "--format", "adapter", "--modality", "vision"]
    assert commands[0] == ["-P", "-m", "trainer.answers", JOB, *arguments]
    assert [path for _, path, _, _ in service.requests].count("/adapter_model.safetensors") == 1
    run("try", JOB, "hello", "--base-model", "c/d", url=service.url, **cache)
    assert commands[-1][commands[-1].index("--base-model") + 1] == "c/d"
    wrong = run("try", JOB, "hello", "--format", "gguf", url=service.url, **cache)
    assert (wrong.exit_code, "not_exported: the files of job" in wrong.stderr) == (1, True)
    assert run("try", JOB, "hello", "--checkpoint", "3", url=service.url, **cache).exit_code == 2


def test_a_download_that_fails_or_has_nothing_is_explained(
    service: FakeService, job: dict[str, Any], commands: list[list[str]], tmp_path: Path
) -> None:
    job["rows"] = {"report": "gs://exports/jobs/x/report.json"}
    served(service)
    result = run("try", JOB, "hello", url=service.url, GEMTUNE_CACHE=str(tmp_path))
    assert (result.exit_code, "nothing_to_download: " in result.stderr) == (1, True)
    served(service, ("model.safetensors", "weights"))
    service.answers["GET", "/model.safetensors"] = (403, "expired")
    result = run("try", JOB, "hello", url=service.url, GEMTUNE_CACHE=str(tmp_path))
    assert (result.exit_code, "download_failed: model.safetensors: the link answered" in result.stderr) == (1, True)
    assert commands == []


def test_the_base_model_of_this_machine_is_not_replaced(
    service: FakeService, job: dict[str, Any], commands: list[list[str]]
) -> None:
    assert run("try", JOB, "hello", "--base-model", "c/d", url=service.url).exit_code == 2


def test_nothing_temporary_is_left_of_the_process_that_is_killed(
    service: FakeService,
    job: dict[str, Any],
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", f"import tempfile; tempfile.mkdtemp()\n{PROGRAM}")
    assert run("try", JOB, "hello", url=service.url).exit_code == 0
    assert list(tmp_path.iterdir()) == []
