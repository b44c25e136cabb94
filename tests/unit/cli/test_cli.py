"""The command line against a fake service: requests, output and exit codes."""

from __future__ import annotations

import errno
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from gemtune.bootstrap import services
from gemtune.cli.connection import INTERRUPTED, Connection, follow, job_lines, plans
from gemtune.cli.group import main
from gemtune.jobs.parts.results import RowsSummary, UnreadField
from gemtune.machines import choice
from tests.fakes import request
from tests.unit.conftest import FakeService

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"


def run(*arguments: str, url: str = "", stdin: str | None = None, **environment: str) -> Result:
    first = ["--url", url] if url else []
    return CliRunner().invoke(main, [*first, *arguments], input=stdin, env=environment, catch_exceptions=False)


def job_body(status: str, **more: Any) -> dict[str, Any]:
    step = {"state": "done", "attempt": 1, "seconds": 1.0, "cause": None}
    body = {
        "job_id": "training_d_m_0123456789ab",
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


def test_train_sends_the_request_of_a_file_and_prints_the_job(service: FakeService, tmp_path: Path) -> None:
    service.answers["POST", "/train"] = (202, {"job_id": "training_d_m_0123456789ab"})
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(request()))
    result = run("train", str(file), "--idempotency-key", "k", url=service.url)
    assert (result.exit_code, result.stdout) == (0, "training_d_m_0123456789ab\n")
    _, _, headers, body = service.requests[0]
    assert (headers["Idempotency-Key"], body) == ("k", request())
    assert run("train", "-", url=service.url, stdin=json.dumps(request())).stdout == "training_d_m_0123456789ab\n"


def test_a_refusal_names_every_problem_and_exits_1(service: FakeService) -> None:
    problems = [
        {"loc": ["training_config", "epochs"], "msg": "too few", "code": "x", "hint": "use more"},
        {"loc": [], "msg": "bad", "code": "y", "hint": None},
    ]
    error = {"code": "request_refused", "message": "m", "hint": None}
    service.answers["POST", "/train"] = (422, {"error": error, "problems": problems})
    result = run("train", "-", url=service.url, stdin="{}")
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


LOCAL_COMMANDS = {
    "listen": ["--once"],
    "secret": ["x"],
    "webhook-key": [],
    "publish": ["-"],
    "up": [],
    "down": [],
    "demo": ["--examples", str(EXAMPLES)],
}


def error_with_home(command: str, home: Path) -> str:
    """Run a command with a home that it cannot use; return what it prints."""
    services.cache_clear()
    stdin = json.dumps(request()) if command == "publish" else "fake-token\n"
    result = run(command, *LOCAL_COMMANDS[command], stdin=stdin, GEMTUNE_HOME=str(home))
    assert result.exit_code == 1
    assert result.stderr.startswith("unusable_file: ")
    assert f"GEMTUNE_HOME is {home}" in result.stderr
    return result.stderr


@pytest.mark.parametrize("command", LOCAL_COMMANDS)
def test_a_home_that_cannot_be_created_is_reported_without_a_traceback(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in error_with_home(command, tmp_path / "file" / "home")


@pytest.mark.parametrize("command", [command for command in LOCAL_COMMANDS if command != "demo"])
def test_an_unusable_file_in_the_home_is_reported_without_a_traceback(command: str, tmp_path: Path) -> None:
    names = {
        "secret": "secrets/gemtune-user-x",
        "webhook-key": "secrets/gemtune-webhook-key",
        "up": "server.lock",
        "down": "server.lock",
    }
    name = names.get(command, "gemtune.db")
    (tmp_path / name).mkdir(parents=True)
    assert str((tmp_path / name).parent) in error_with_home(command, tmp_path)


def test_a_full_disk_is_reported_without_a_traceback_and_other_errors_are_raised(
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


def test_an_error_of_the_service_is_explained(service: FakeService) -> None:
    error = {"code": "job_is_over", "message": "it is over", "hint": "submit another"}
    service.answers["POST", "/jobs/training_d_m_0123456789ab/cancel"] = (409, {"error": error})
    result = run("cancel", "training_d_m_0123456789ab", url=service.url)
    assert (result.exit_code, result.stderr) == (1, "job_is_over: it is over\n  submit another\n")


def test_the_option_json_prints_the_answer_of_the_service(service: FakeService) -> None:
    body = {"jobs": [], "next_page_token": None}
    service.answers["GET", "/jobs"] = (200, body)
    assert json.loads(run("--json", "jobs", "--status", "failed", url=service.url).stdout) == body
    assert service.requests[0][1] == "/jobs?status=failed&limit=50"


def test_jobs_beyond_one_page_are_listed_too(service: FakeService) -> None:
    job = {"job_id": "training_d_m_0123456789ab", "job_name": "x", "status": "failed", "created_at": "2026-11-24"}
    pages = [{"jobs": [job] * 200, "next_page_token": "next"}, {"jobs": [job] * 50, "next_page_token": "more"}]
    service.answers["GET", "/jobs"] = [(200, page) for page in pages]
    result = run("jobs", "--limit", "250", url=service.url)
    assert len(result.stdout.splitlines()) == 250
    assert "There are more jobs" in result.stderr
    assert [path for _, path, *_ in service.requests] == ["/jobs?limit=200", "/jobs?limit=50&page_token=next"]


def test_the_request_of_a_job_can_be_piped_into_train(service: FakeService) -> None:
    left_out = ["hf_token", "notify.webhook_url"]
    body = {"request": {"processed_dataset_id": "chats"}, "path": "/train", "left_out": left_out}
    service.answers["GET", "/jobs/training_d_m_0123456789ab/request"] = (200, body)
    result = run("request", "training_d_m_0123456789ab", url=service.url)
    assert json.loads(result.stdout) == body["request"]
    assert result.stderr == "left out: hf_token, notify.webhook_url; give them again to submit it\n"


def test_the_request_of_an_export_says_that_it_does_not_train(service: FakeService) -> None:
    body = {"request": {"export_config": {}}, "path": "/jobs/training_d_m_1/exports", "left_out": []}
    service.answers["GET", "/jobs/export_d_m_0123456789ab/request"] = (200, body)
    result = run("request", "export_d_m_0123456789ab", url=service.url)
    assert json.loads(result.stdout) == body["request"]
    assert "POST /jobs/training_d_m_1/exports, not for training" in result.stderr


def test_an_identity_token_goes_to_https_only(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    run("jobs", url=service.url, GEMTUNE_ID_TOKEN="fake-identity")
    assert "Authorization" not in service.requests[0][2]


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 3), ("cancelled", 4), ("expired", 3)])
def test_follow_ends_with_the_job_and_survives_a_restart_of_the_service(
    service: FakeService, status: str, code: int
) -> None:
    progress = {"train_step": 3, "total_steps": 9, "loss": 1.5, "tokens_per_second": 80.0, "eta_seconds": 12.0}
    failed = {"error": "boom", "error_detail": {"code": "x", "hint": None}} if status == "failed" else {}
    ended = failed | {"finished_at": "2026-11-24T12:00:00Z"}
    service.answers["GET", "/jobs/training_d_m_0123456789ab/status"] = [
        (200, job_body("queued")),
        (200, job_body("training", progress=progress)),
        None,
        (503, {}),
        (200, job_body("paused")),
        (200, job_body(status, **ended)),
    ]
    slept: list[float] = []
    connection = Connection(service.url, as_json=False)
    assert follow.follow(connection, "training_d_m_0123456789ab", sleep=slept.append) == code
    assert len(slept) == 5


WARNING = {"code": "ends_cut_off", "message": "2 of 9 rows are cut", "hint": "raise max_seq_length to 80"}
WARNING_LINE = "2 of 9 rows are cut (raise max_seq_length to 80)"


def test_a_warning_is_shown_with_the_end_of_a_job_and_in_its_status(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers["GET", "/jobs/training_d_m_0123456789ab/status"] = (200, job_body("completed", warnings=[WARNING]))
    follow.follow(Connection(service.url, as_json=False), "training_d_m_0123456789ab", sleep=lambda _: None)
    assert capsys.readouterr().err == f"completed\nwarning: {WARNING_LINE}\n"
    assert WARNING_LINE in run("status", "training_d_m_0123456789ab", url=service.url).stdout


ROWS = RowsSummary(
    train=20,
    held_out=4,
    trained_tokens=99,
    refused=1,
    dropped=2,
    fields_not_read=(UnreadField(name="id", rows=20),),
    files_not_read=("test.csv",),
)
ROWS_LINE = (
    "20 trained on, 4 held out, 1 refused, 2 dropped as too long, 99 tokens trained per epoch, fields not read: "
    "id (20), files not read: test.csv"
)


def test_counts_of_rows_are_shown_with_the_end_of_a_job_in_its_status_and_events(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ROWS.model_dump(mode="json")
    service.answers["GET", "/jobs/training_d_m_0123456789ab/status"] = (200, job_body("completed", rows=rows))
    follow.follow(Connection(service.url, as_json=False), "training_d_m_0123456789ab", sleep=lambda _: None)
    assert capsys.readouterr().err.splitlines()[-1] == f"rows: {ROWS_LINE}"
    assert ROWS_LINE in run("status", "training_d_m_0123456789ab", url=service.url).stdout
    event = {"seq": 3, "at": "2026-11-24T12:00:00Z", "type": "prepare_done", "details": {"rows": rows}}
    assert job_lines.format_event(event).endswith(f"rows: {ROWS_LINE}")


def test_the_line_of_an_event_contains_its_warnings() -> None:
    event = {"seq": 3, "at": "2026-11-24T12:00:00Z", "type": "prepare_done", "details": {"warnings": [WARNING]}}
    assert job_lines.format_event(event).endswith("prepare_done         warnings: 2 of 9 rows are cut")


def test_follow_gives_up_on_a_service_that_stays_away() -> None:
    slept: list[float] = []
    assert follow.follow(Connection("http://127.0.0.1:9", as_json=False), "x", sleep=slept.append) == 5
    assert sum(slept) >= follow.PATIENCE_SECONDS


def test_following_events_prints_each_event_once(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    def event(seq: int, status: str) -> dict[str, Any]:
        return {"seq": seq, "at": "2026-11-24T12:00:00Z", "type": f"job_{status}", "status": status, "details": {}}

    service.answers["GET", "/jobs/x/events"] = [
        (200, {"events": [event(1, "queued")]}),
        None,
        (200, {"events": [event(2, "training"), event(3, "failed")]}),
    ]
    assert follow.follow_events(Connection(service.url, as_json=False), "x", sleep=lambda _: None) == 3
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    assert service.requests[-1][1] == "/jobs/x/events?after=1"


def test_status_prints_metrics_error_attempts_and_the_wandb_url(service: FakeService) -> None:
    metrics = {"eval_loss": 1.0, "accuracy": 0.5, "perplexity": 2.7, "train_step": 8, "baseline": None}
    detail = {"code": "bad_rows", "hint": "fix them"}
    service.answers["GET", "/jobs/training_d_m_0123456789ab/status"] = (
        200,
        job_body("failed", metrics=metrics, error="row 3", error_detail=detail),
    )
    text = run("status", "training_d_m_0123456789ab", url=service.url).stdout
    for part in (
        "failed",
        "eval_loss 1.0000, accuracy 0.5000, perplexity 2.7000, after train_step 8",
        "row 3 (bad_rows)",
        "fix them",
        "attempt 1",
        "wandb.example",
    ):
        assert part in text


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


def test_a_published_request_waits_on_the_bus_for_the_service(home: Path) -> None:
    dataset = home / "data" / "processed_datasets" / request()["processed_dataset_id"]
    dataset.mkdir(parents=True)
    (dataset / "train.jsonl").touch()
    assert run("publish", "-", "--idempotency-key", "k", stdin=json.dumps(request())).exit_code == 0
    (received,) = services().bus.lease(["dispatch"], 9)
    assert json.loads(received.message) == request()
    assert received.attributes == {"Idempotency-Key": "k"}


def test_listen_prints_each_message_once(home: Path) -> None:
    from gemtune.bootstrap import services
    from gemtune.ports import Topic

    assert run("listen", "--once").stdout == ""
    services().bus.publish(Topic.JOB_STATUS, b'{"seq": 1}')
    assert run("listen", "--once").stdout == '{"seq": 1}\n'
    assert run("listen", "--once").stdout == ""


def test_a_secret_is_stored_and_not_printed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_fakefakefake\n"))
    as_json = run("secret", "mine", "--json", stdin="hf_fakefakefake\n")
    assert json.loads(as_json.stdout) == {"name": "mine", "reference": "secret:gemtune-user-mine"}
    result = run("secret", "mine", stdin="hf_fakefakefake\n")
    assert result.stdout == "Stored the token. Use it in requests as secret:gemtune-user-mine\n"
    assert services().secrets.read("gemtune-user-mine") == "hf_fakefakefake"
    assert run("secret", "fetch", stdin="hf_fakefakefake\n").exit_code == 0  # means a command in other groups only


def test_secrets_are_listed_and_deleted_without_their_values(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["mine"], ["set", "list"]):
        assert run("secret", *arguments, stdin="hf_fakefakefake\n").exit_code == 0
    listed = run("secret", "list")
    assert [line.split()[1:] for line in listed.stdout.splitlines()] == [
        ["list", "secret:gemtune-user-list"],
        ["mine", "secret:gemtune-user-mine"],
    ]
    assert "hf_fake" not in listed.output
    assert run("secret", "delete", "mine").exit_code == 0
    assert [secret["name"] for secret in json.loads(run("secret", "list", "--json").stdout)["secrets"]] == ["list"]
    missing = run("secret", "delete", "mine")
    assert (missing.exit_code, "secret_not_found" in missing.stderr) == (1, True)


def test_export_sends_the_options_that_were_used_and_no_others(service: FakeService) -> None:
    service.answers["POST", "/jobs/training_d_m_0123456789ab/exports"] = (202, {"job_id": "export_d_m_0123456789ab"})
    service.answers["GET", "/jobs/export_d_m_0123456789ab/status"] = (
        200,
        job_body("completed", adapter_path="/exported"),
    )
    result = run(
        "export", "training_d_m_0123456789ab", "--format", "gguf", "--follow", "--idempotency-key", "k", url=service.url
    )
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "export_d_m_0123456789ab")
    _, _, headers, body = service.requests[0]
    assert (headers["Idempotency-Key"], body) == ("k", {"export_config": {"format": "gguf"}})
    to_the_hub = ["--destination", "hfhub", "--repo", "me/mine", "--token", "hub", "--job-name", "again"]
    run(
        "export",
        "training_d_m_0123456789ab",
        "--format",
        "merged",
        "--quantization",
        "q4",
        *to_the_hub,
        url=service.url,
    )
    assert service.requests[-1][3] == {
        "export_config": {
            "format": "merged",
            "quantization": "q4",
            "destination": "hfhub",
            "hf_repo_id": "me/mine",
        },
        "hf_token": "secret:gemtune-user-hub",
        "job_name": "again",
    }


def test_a_training_without_a_base_model_is_not_sent(service: FakeService, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,completion\na,b\n")
    result = run("train", "--data", str(rows), url=service.url)
    assert (result.exit_code, service.requests) == (2, [])
    assert "--model MODEL" in result.stderr


def test_a_configuration_that_is_no_object_is_left_to_the_service(service: FakeService, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,completion\na,b\n")
    result = run("train", "--data", str(rows), "--set", "training_config=5", "--print", url=service.url)
    assert (result.exit_code, json.loads(result.stdout)["training_config"]) == (0, 5)


def test_a_failed_job_is_explained_with_options_of_the_command_line(service: FakeService) -> None:
    body = job_body("failed")
    body |= {
        "error": "the row has Frage: set dataset_columns, such as {prompt: Frage, completion: Antwort}",
        "error_detail": {"code": "bad_rows", "message": "", "hint": None},
    }
    service.answers["GET", "/jobs/training_d_m_0123456789ab/status"] = (200, body)
    for command in ("status", "watch"):
        result = run(command, "training_d_m_0123456789ab", url=service.url)
        assert "use --column prompt=Frage --column completion=Antwort" in result.output


def test_ctrl_c_while_the_commands_are_imported_ends_as_later() -> None:
    """The real interrupt would come at a moment that no test can choose."""
    code = """
import sys
import gemtune.cli
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "gemtune.client":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
gemtune.cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout, ended.stderr) == (INTERRUPTED, "", "\nInterrupted\n")


def test_the_machine_of_a_workstation_has_the_same_name_in_plans() -> None:
    assert plans.LOCAL == choice.LOCAL
