"""`gemtune logs` against a fake service."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from gemtune.cli.connection import Connection, follow
from gemtune.cli.logs import LogReader
from tests.unit.cli.test_cli import job_body, run
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"
PATH = f"/jobs/{JOB}/logs"


def page(*texts: str, after: str | None = "x:9", more: bool = False, step: str = "train") -> tuple[int, dict[str, Any]]:
    lines = [{"step": step, "attempt": 1, "at": None, "text": text} for text in texts]
    return 200, {"lines": lines, "next_after": after, "more": more}


def test_all_pages_are_printed_below_headings(service: FakeService) -> None:
    service.answers["GET", PATH] = [page("a", "b", more=True, step="prepare"), page("c")]
    result = run("logs", JOB, url=service.url)
    assert (result.stdout, result.stderr) == ("a\nb\nc\n", "--- prepare, attempt 1 ---\n--- train, attempt 1 ---\n")
    assert service.requests[1][1] == f"{PATH}?after=x%3A9"


def test_options_choose_the_step_the_last_lines_and_json(service: FakeService) -> None:
    service.answers["GET", PATH] = page("a", "b", "c")
    result = run("logs", JOB, "--step", "train", "--tail", "2", "--json", url=service.url)
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["b", "c"]
    assert service.requests[0][1] == f"{PATH}?step=train"
    assert run("logs", JOB, "--step", "training", url=service.url).exit_code == 2


def test_following_prints_new_lines_until_the_job_is_over(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers["GET", PATH] = [page("a"), None, page("b")]
    service.answers["GET", f"/jobs/{JOB}/status"] = [
        (200, job_body("training")),
        (200, job_body("training")),
        None,
        (200, job_body("completed", finished_at="2026-11-24T12:00:00Z")),
    ]
    LogReader(Connection(service.url, as_json=False), JOB, None).follow(sleep=lambda _: None)
    assert capsys.readouterr().out.splitlines() == ["a", "b"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.0.0.1:9/behind/a/proxy"])
def test_following_waits_as_long_for_a_service_as_it_says(url: str) -> None:
    """A service on another machine is asked less often."""
    slept: list[float] = []
    with pytest.raises(click.exceptions.Exit):
        LogReader(Connection(url, as_json=False), JOB, None).follow(sleep=slept.append)
    assert follow.PATIENCE_SECONDS <= sum(slept) < follow.PATIENCE_SECONDS + 2 * slept[0]


def test_a_service_that_does_not_answer_is_reported() -> None:
    result = run("logs", JOB, url="http://127.0.0.1:9")
    assert (result.exit_code, "gemtune up" in result.stderr) == (5, True)
