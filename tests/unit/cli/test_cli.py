"""The command line against a service that the test plays: what it asks, prints, and exits with."""

from __future__ import annotations

import errno
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from gemtune.bootstrap import services
from gemtune.cli import follow, main
from gemtune.cli.connection import Connection
from tests.fakes import request
from tests.unit.conftest import Played

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"


def run(*arguments: str, url: str = "", stdin: str | None = None, **environment: str) -> Result:
    first = ["--url", url] if url else []
    return CliRunner().invoke(main, [*first, *arguments], input=stdin, env=environment, catch_exceptions=False)


def shown(status: str, **more: Any) -> dict[str, Any]:
    step = {"state": "done", "attempt": 1, "seconds": 1.0, "cause": None}
    body = {
        "job_id": "training_x",
        "parent_job_id": None,
        "job_name": "x",
        "status": status,
        "base_model_id": "a/b",
        "processed_dataset_id": "d",
        "created_at": "2026-11-24T12:00:00Z",
        "adapter_path": None,
        "progress": None,
        "wandb_url": "https://wandb.example/run",
        "finished_at": None,
        "metrics": None,
        "error": None,
        "error_detail": None,
        "steps": {"train": step},
    }
    return body | more


def test_train_sends_the_request_of_a_file_and_prints_the_job(played: Played, tmp_path: Path) -> None:
    played.answers["POST", "/train"] = (202, {"job_id": "training_x"})
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(request()))
    result = run("train", str(file), "--idempotency-key", "k", url=played.url)
    assert (result.exit_code, result.stdout) == (0, "training_x\n")
    _, _, headers, body = played.asked[0]
    assert (headers["Idempotency-Key"], body) == ("k", request())
    assert run("train", "-", url=played.url, stdin=json.dumps(request())).stdout == "training_x\n"


def test_a_refusal_names_every_problem_and_exits_1(played: Played) -> None:
    problems = [
        {"loc": ["training_config", "epochs"], "msg": "too few", "code": "x", "hint": "use more"},
        {"loc": [], "msg": "bad", "code": "y", "hint": None},
    ]
    error = {"code": "request_refused", "message": "m", "hint": None}
    played.answers["POST", "/train"] = (422, {"error": error, "problems": problems})
    result = run("train", "-", url=played.url, stdin="{}")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["training_config.epochs: too few (x)", "  use more", "request: bad (y)"]


@pytest.mark.parametrize("command", [["jobs"], ["status", "x"], ["events", "x"], ["cancel", "x"], ["delete", "x"]])
def test_without_a_service_every_command_says_so_and_exits_5(command: list[str]) -> None:
    result = run(*command, url="http://127.0.0.1:9")
    assert result.exit_code == 5
    assert "gemtune up" in result.stderr


def test_wrong_usage_exits_2(tmp_path: Path) -> None:
    assert run("train", str(tmp_path / "none.json"), url="http://127.0.0.1:9").exit_code == 2
    assert run("train", "-", url="http://127.0.0.1:9", stdin="a: [").exit_code == 2
    assert run("secret", "no/name", stdin="x").exit_code == 2
    assert run("unheard-of").exit_code == 2


OF_THIS_MACHINE = {
    "listen": ["--once"],
    "secret": ["x"],
    "webhook-key": [],
    "publish": ["-"],
    "up": [],
    "demo": ["--examples", str(EXAMPLES)],
}


def problem_of_home(command: str, home: Path) -> str:
    """What a command says of a home that it cannot use."""
    services.cache_clear()
    stdin = json.dumps(request()) if command == "publish" else "fake-token\n"
    result = run(command, *OF_THIS_MACHINE[command], stdin=stdin, GEMTUNE_HOME=str(home))
    assert result.exit_code == 1
    assert result.stderr.startswith("unusable_file: ")
    assert f"GEMTUNE_HOME is {home}" in result.stderr
    return result.stderr


@pytest.mark.parametrize("command", OF_THIS_MACHINE)
def test_a_home_that_cannot_be_made_is_told_in_a_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in problem_of_home(command, tmp_path / "file" / "home")


@pytest.mark.parametrize("command", [command for command in OF_THIS_MACHINE if command != "demo"])
def test_a_file_of_the_home_that_cannot_be_used_is_told_in_a_sentence(command: str, tmp_path: Path) -> None:
    names = {"secret": "secrets/gemtune-user-x", "webhook-key": "secrets/gemtune-webhook-key", "up": "server.lock"}
    name = names.get(command, "gemtune.db")
    (tmp_path / name).mkdir(parents=True)
    assert str((tmp_path / name).parent) in problem_of_home(command, tmp_path)


def test_a_full_disk_is_told_in_a_sentence_and_other_errors_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("gemtune.embedded.sqlite_bus.SqliteBus.pull", pull)
    services.cache_clear()
    result = run("listen", "--once", GEMTUNE_HOME=str(tmp_path))
    assert result.stderr.startswith("unusable_file: No space left on device\n")
    for error in (OSError("not about a file"), sqlite3.OperationalError("no such table")):
        pull.side_effect = error
        with pytest.raises(type(error), match=str(error)):
            run("listen", "--once", GEMTUNE_HOME=str(tmp_path))


def test_an_error_of_the_service_is_explained(played: Played) -> None:
    error = {"code": "job_is_over", "message": "it is over", "hint": "submit another"}
    played.answers["POST", "/jobs/x/cancel"] = (409, {"error": error})
    result = run("cancel", "x", url=played.url)
    assert (result.exit_code, result.stderr) == (1, "job_is_over: it is over\n  submit another\n")


def test_scripts_get_json(played: Played) -> None:
    body = {"jobs": [], "next_page_token": None}
    played.answers["GET", "/jobs"] = (200, body)
    assert json.loads(run("--json", "jobs", "--status", "failed", url=played.url).stdout) == body
    assert played.asked[0][1] == "/jobs?status=failed&limit=50"


def test_an_identity_token_goes_to_https_only(played: Played) -> None:
    played.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    run("jobs", url=played.url, GEMTUNE_ID_TOKEN="fake-identity")
    assert "Authorization" not in played.asked[0][2]


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 3), ("cancelled", 4), ("expired", 3)])
def test_follow_ends_with_the_job_and_lives_through_a_restart(played: Played, status: str, code: int) -> None:
    progress = {"train_step": 3, "total_steps": 9, "loss": 1.5, "tokens_per_second": 80.0, "eta_seconds": 12.0}
    failed = {"error": "boom", "error_detail": {"code": "x", "hint": None}} if status == "failed" else {}
    ended = failed | {"finished_at": "2026-11-24T12:00:00Z"}
    played.answers["GET", "/jobs/training_x/status"] = [
        (200, shown("queued")),
        (200, shown("training", progress=progress)),
        None,
        (503, {}),
        (200, shown("paused")),
        (200, shown(status, **ended)),
    ]
    slept: list[float] = []
    connection = Connection(played.url, as_json=False)
    assert follow.follow(connection, "training_x", sleep=slept.append) == code
    assert len(slept) == 5


WARNING = {"code": "ends_cut_off", "message": "2 of 9 rows are cut", "hint": "raise max_seq_length to 80"}
SAID = "2 of 9 rows are cut (raise max_seq_length to 80)"


def test_a_warning_is_shown_with_the_end_of_a_job_and_in_its_status(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.answers["GET", "/jobs/training_x/status"] = (200, shown("completed", warnings=[WARNING]))
    follow.follow(Connection(played.url, as_json=False), "training_x", sleep=lambda _: None)
    assert capsys.readouterr().err == f"warning: {SAID}\n"
    assert SAID in run("status", "training_x", url=played.url).stdout


def test_a_warning_is_read_in_an_event() -> None:
    event = {"seq": 3, "at": "2026-11-24T12:00:00Z", "type": "prepare_done", "details": {"warnings": [WARNING]}}
    assert follow.line_of(event).endswith("prepare_done         warnings: 2 of 9 rows are cut")


def test_follow_gives_up_on_a_service_that_stays_away() -> None:
    slept: list[float] = []
    assert follow.follow(Connection("http://127.0.0.1:9", as_json=False), "x", sleep=slept.append) == 5
    assert sum(slept) >= follow.PATIENCE_SECONDS


def test_events_are_followed_each_once(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    def event(seq: int, status: str) -> dict[str, Any]:
        return {"seq": seq, "at": "2026-11-24T12:00:00Z", "type": f"job_{status}", "status": status, "details": {}}

    played.answers["GET", "/jobs/x/events"] = [
        (200, {"events": [event(1, "queued")]}),
        None,
        (200, {"events": [event(2, "training"), event(3, "failed")]}),
    ]
    assert follow.follow_events(Connection(played.url, as_json=False), "x", sleep=lambda _: None) == 3
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    assert played.asked[-1][1] == "/jobs/x/events?after=1"


def test_status_tells_what_there_is(played: Played) -> None:
    figures = {"eval_loss": 1.0, "accuracy": 0.5, "perplexity": 2.7, "train_step": 8, "baseline": None}
    detail = {"code": "bad_rows", "hint": "mend them"}
    played.answers["GET", "/jobs/x/status"] = (
        200,
        shown("failed", metrics=figures, error="row 3", error_detail=detail),
    )
    text = run("status", "x", url=played.url).stdout
    for said in (
        "failed",
        "eval_loss 1.0000, accuracy 0.5000, perplexity 2.7000, after train_step 8",
        "row 3 (bad_rows)",
        "mend them",
        "attempt 1",
        "wandb.example",
    ):
        assert said in text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    services.cache_clear()
    yield tmp_path / "home"
    services.cache_clear()


def test_a_token_is_not_published(home: Path) -> None:
    body = json.dumps(request(hf_token="hf_fakefakefake"))
    result = run("publish", "-", stdin=body)
    assert result.exit_code == 1
    assert "secret_in_the_open" in result.stderr
    assert not [path for path in home.rglob("*") if path.is_file() and b"hf_fake" in path.read_bytes()]


def test_what_is_published_waits_for_the_service(home: Path) -> None:
    assert run("publish", "-", "--idempotency-key", "k", stdin=json.dumps(request())).exit_code == 0
    (received,) = services().bus.take(["dispatch"], 9)
    assert json.loads(received.message) == request()
    assert received.attributes == {"Idempotency-Key": "k"}


def test_listen_prints_each_message_once(home: Path) -> None:
    from gemtune.bootstrap import services
    from gemtune.ports import Topic

    assert run("listen", "--once").stdout == ""
    services().bus.publish(Topic.JOB_STATUS, b'{"seq": 1}')
    assert run("listen", "--once").stdout == '{"seq": 1}\n'
    assert run("listen", "--once").stdout == ""


def test_a_secret_is_kept_and_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_fakefakefake\n"))
    result = run("secret", "mine", stdin="hf_fakefakefake\n")
    assert result.stdout == "kept; refer to it as secret:gemtune-user-mine\n"
    assert services().secrets.read("gemtune-user-mine") == "hf_fakefakefake"


def test_export_sends_what_was_asked_for_and_nothing_else(played: Played) -> None:
    played.answers["POST", "/jobs/training_x/exports"] = (202, {"job_id": "export_x"})
    played.answers["GET", "/jobs/export_x/status"] = (200, shown("completed", adapter_path="/there"))
    result = run("export", "training_x", "--format", "gguf", "--follow", "--idempotency-key", "k", url=played.url)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "export_x")
    _, _, headers, body = played.asked[0]
    assert (headers["Idempotency-Key"], body) == ("k", {"export_config": {"format": "gguf"}})
    to_the_hub = ["--destination", "hfhub", "--repo", "me/mine", "--token", "hub", "--job-name", "again"]
    run("export", "training_x", "--format", "merged", "--quantization", "q4", *to_the_hub, url=played.url)
    assert played.asked[-1][3] == {
        "export_config": {
            "format": "merged",
            "quantization": "q4",
            "destination": "hfhub",
            "hf_repo_id": "me/mine",
        },
        "hf_token": "secret:gemtune-user-hub",
        "job_name": "again",
    }
