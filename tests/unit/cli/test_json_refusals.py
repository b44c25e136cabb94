"""Refusals as JSON: one document on standard error, for every command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gemtune.cli.group import main
from gemtune.error_codes import CATALOGUE
from tests.fakes import request
from tests.unit.conftest import FakeService

NOBODY = ("--url", "http://127.0.0.1:9")
CODES = {code for chapter in CATALOGUE for code in chapter.codes}
JOB = "training_d_m_0123456789ab"


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin, catch_exceptions=False)


def refusal(result: Result) -> dict[str, Any]:
    """Return the error of a refusal, which is all that is printed."""
    assert result.stdout == ""
    document = json.loads(result.stderr)
    error = document["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] in CODES
    assert isinstance(error["message"], str)
    return {**error, "problems": document.get("problems")}


def commands(group: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command below a group."""
    if not isinstance(group, click.Group):
        yield path
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, *path, name)


ALL = sorted(commands(main))


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_wrong_use_of_a_command_is_json_if_asked_for(command: Sequence[str]) -> None:
    for arguments in ([*command, "--nonsense", "--json"], ["--json", *command, "--nonsense"]):
        result = run(*arguments)
        error = refusal(result)
        assert (result.exit_code, error["code"]) == (2, "bad_use")
        assert "--nonsense" in error["message"]
        assert "--help" in error["hint"]
    assert "Usage: " in run(*command, "--nonsense").stderr


@pytest.mark.parametrize("arguments", [["--nonsense", "jobs"], ["nonsense"], ["data"], ["data", "nonsense"]], ids=str)
def test_wrong_use_of_a_group_is_json_if_asked_for(arguments: Sequence[str]) -> None:
    result = run("--json", *arguments)
    assert (result.exit_code, refusal(result)["code"]) == (2, "bad_use")


def test_what_follows_two_dashes_asks_for_nothing() -> None:
    assert run("jobs", "--", "--json").stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "nothing.json"],
        ["train", "empty.yaml"],
        ["train", "list.json"],
        ["train", "rows.jsonl"],
        ["train", "--data", "nothing.csv", "--model", "a/b"],
        ["train", "--data", "notes.txt", "--model", "a/b"],
        ["train", "--data", "rows.jsonl"],
        ["plan"],
        ["plan", "--data", "rows.jsonl", "--dataset", "d", "--model", "a/b"],
        ["publish", "nothing.json"],
        ["data", "upload", "nothing.csv"],
        ["data", "upload", "notes.txt"],
        ["data", "check", "nothing.csv", "--model", "a/b"],
        ["data", "check", "rows.jsonl"],
        ["data", "check", "rows.jsonl", "--model", "a/b", "--column", "prompt"],
        ["try", JOB, ""],
        ["try", JOB, "--file", "nothing.txt"],
        ["jobs", "--limit", "0"],
        ["jobs", "--url", "ftp://api.example"],
        ["status", ""],
        ["export", JOB],
        ["secret", "a b"],
        ["config", "use", "nothing"],
    ],
    ids=" ".join,
)
def test_a_local_mistake_is_json_if_asked_for(
    arguments: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Path("empty.yaml").touch()
    Path("list.json").write_text("[1]")
    Path("notes.txt").write_text("notes")
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    result = run(*arguments, "--json", stdin="token\n")
    assert (result.exit_code, refusal(result)["code"]) == (2, "bad_use")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "-"],
        ["plan", "-"],
        ["jobs"],
        ["models"],
        ["account"],
        *([name, JOB] for name in ("status", "watch", "wait", "metrics", "checkpoints", "logs", "request", "events")),
        *([name, JOB] for name in ("pause", "resume", "cancel", "artifacts")),
        ["delete", JOB, "--yes"],
        ["export", JOB, "--format", "merged"],
        ["try", JOB, "Hello"],
        ["data", "list"],
        *(["data", name, "d" * 20] for name in ("show", "rows", "download")),
        ["data", "delete", "d" * 20, "--yes"],
    ],
    ids=" ".join,
)
def test_a_service_that_does_not_answer_is_json_if_asked_for(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemtune.cli.connection.follow.PATIENCE_SECONDS", 0.0)
    result = run(*arguments, "--json", *NOBODY, stdin=json.dumps(request()))
    assert (result.exit_code, refusal(result)["code"]) == (5, "unreachable")


def test_problems_of_a_request_are_json_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    check = ["data", "check", "rows.jsonl", "--model", "/nowhere", "--epochs", "0", "--json"]
    for result in (run(*check), run("publish", "-", "--json", stdin=json.dumps(request(job_nam="x")))):
        error = refusal(result)
        assert (result.exit_code, error["code"]) == (1, "request_refused")
        assert {problem["code"] for problem in error["problems"]} <= CODES


def test_something_else_that_answers_is_json_if_asked_for(service: FakeService) -> None:
    service.is_gemtune = False
    result = run("jobs", "--json", "--url", service.url)
    assert (result.exit_code, refusal(result)["code"]) == (1, "not_an_answer")
