"""Options that every command takes, names of jobs, and near matches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gemtune import VERSION
from gemtune.bootstrap import services
from gemtune.cli.connection import Connection, follow
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.group import main
from gemtune.client.errors import BadUse
from gemtune.client.profiles import url_of
from gemtune.client.references import WHOLE_ID
from gemtune.error_codes import CATALOGUE
from gemtune.jobs import ids
from tests.fakes import request
from tests.unit.cli.test_cli import job_body
from tests.unit.conftest import FakeService


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin, catch_exceptions=False)


def list_of(*jobs: tuple[str, str]) -> dict[str, Any]:
    listed = [
        {"job_id": job_id, "job_name": name, "status": "training", "created_at": "2026-11-24T12:00:00Z"}
        for job_id, name in jobs
    ]
    return {"jobs": listed, "next_page_token": None}


JOBS = [("training_d_m_0123456789ab", "tickets"), ("training_d_m_ba9876543210", "chats"), ("export_d_m_ffff", "chats")]


def test_common_options_are_taken_after_the_command(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, list_of(*JOBS))
    result = run("jobs", "--json", "--url", service.url)
    assert json.loads(result.stdout)["jobs"][0]["job_name"] == "tickets"


@pytest.mark.parametrize("command", sorted(main.list_commands(click.Context(main))))  # type: ignore[attr-defined]
def test_every_command_describes_the_common_options(command: str) -> None:
    described = run(command, "--help").stdout
    for option in ("--url", "--profile", "--json", "--quiet"):
        assert option in described, command


@pytest.mark.parametrize("reference", ["tickets", "0123456789ab", "training_d_m_01"])
def test_a_job_is_found_by_its_name_or_a_part_of_its_id(service: FakeService, reference: str) -> None:
    service.answers["GET", "/jobs"] = (200, list_of(*JOBS))
    service.answers["POST", f"/jobs/{JOBS[0][0]}/cancel"] = (200, job_body("cancelled"))
    assert run("cancel", reference, "--url", service.url).exit_code == 0
    assert service.requests[-1][:2] == ("POST", f"/jobs/{JOBS[0][0]}/cancel")


def test_jobs_are_searched_page_by_page(service: FakeService) -> None:
    first = list_of(JOBS[1]) | {"next_page_token": "next"}
    service.answers["GET", "/jobs"] = [(200, first), (200, list_of(JOBS[0]))]
    service.answers["GET", f"/jobs/{JOBS[0][0]}/events"] = (200, {"events": []})
    assert run("events", "tickets", "--url", service.url).exit_code == 0
    assert "page_token=next" in service.requests[1][1]


def test_an_ambiguous_name_lists_the_candidates_and_changes_nothing(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, list_of(*JOBS))
    result = run("delete", "chats", "--url", service.url)
    assert result.exit_code == 1
    assert "2 jobs" in result.stderr
    assert all(job_id in result.stderr for job_id, name in JOBS if name == "chats")
    assert {method for method, *_ in service.requests} == {"GET"}
    unknown = run("status", "nothing", "--url", service.url)
    assert (unknown.exit_code, "gemtune jobs" in unknown.stderr) == (1, True)


def test_ids_of_new_jobs_need_no_search() -> None:
    for kind in ("training", "export"):
        for key_hash in (None, "f" * 64):
            assert WHOLE_ID.fullmatch(ids.new_job_id("Ein Ding", "a/B-c.d", key_hash=key_hash, kind=kind))  # type: ignore[arg-type]


@pytest.mark.parametrize(("typed", "meant"), [("job", "jobs"), ("stat", "status"), ("canel", "cancel")])
def test_an_unknown_command_names_near_ones(typed: str, meant: str) -> None:
    result = run(typed)
    assert result.exit_code == 2
    assert f"Did you mean {meant}" in result.stderr


def test_an_unknown_option_names_a_near_one() -> None:
    result = run("jobs", "--limits", "3")
    assert (result.exit_code, "--limit" in result.stderr) == (2, True)


def test_help_is_a_command_too() -> None:
    assert run("help").stdout == run("--help").stdout
    assert "Usage: main train" in run("help", "train").stdout


@pytest.mark.parametrize("arguments", [[], ["data"], ["config"], ["secret"], ["completion"]])
def test_the_help_text_has_the_whole_sentence_of_each_command(arguments: list[str]) -> None:
    text = run(*arguments, "--help").stdout
    assert "..." not in text.replace("[ARGS]...", "")
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_text_begins_with_what_one_does_first() -> None:
    names = main.list_commands(click.Context(main))  # type: ignore[attr-defined]
    assert names[:7] == ["demo", "up", "down", "models", "data", "plan", "train"]


def test_a_url_without_a_scheme_means_this_machine_only() -> None:
    assert url_of("127.0.0.1:8080") == "http://127.0.0.1:8080"
    assert url_of("localhost:1/x") == "http://localhost:1/x"
    assert url_of("https://api.example") == "https://api.example"
    for text in ("api.example", "ftp://api.example"):
        with pytest.raises(BadUse, match="http"):
            url_of(text)


def test_hints_about_jobs_name_commands() -> None:
    assert as_commands("list the jobs with GET /jobs") == "list the jobs with `gemtune jobs`"
    assert as_commands("cancel it first: POST /jobs/a_b/cancel") == "cancel it first: `gemtune cancel a_b`"
    assert as_commands("then `POST /jobs/{job_id}/exports`") == "then `gemtune export {job_id}`"
    assert (
        as_commands(f"POST /jobs/{JOB}/resume with max_hours above 2")
        == "`gemtune resume 0123456789ab --max-hours` above 2"
    )
    for chapter in CATALOGUE:
        for code, entry in chapter.codes.items():
            assert "/jobs" not in as_commands(entry.remedy), code


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["status", ""], "Usage: main status [OPTIONS] JOB"),
        (["data", "show", ""], "Usage: main data show [OPTIONS] DATASET"),
        (["data", "upload", "-", "--filename", "rows"], "Usage: main data upload [OPTIONS] FILE"),
        (["train"], "Usage: main train [OPTIONS] [FILE]"),
        (["config", "use", "nothing"], "Usage: main config use [OPTIONS]"),
        (["jobs", "--limit", "no"], "Usage: main jobs [OPTIONS]"),
    ],
)
def test_wrong_use_shows_the_usage_of_the_command(service: FakeService, arguments: list[str], usage: str) -> None:
    result = run("--url", service.url, *arguments)
    assert (result.exit_code, result.stderr.startswith(usage)) == (2, True), result.stderr


def test_ctrl_c_says_that_the_job_goes_on(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    job_id = JOBS[0][0]
    service.answers["GET", f"/jobs/{job_id}/status"] = (200, job_body("training"))
    service.answers["GET", f"/jobs/{job_id}/events"] = (200, {"events": []})
    for following in (follow.follow, follow.follow_events):
        assert following(Connection(service.url, as_json=False), job_id, sleep=interrupt) == 130
        printed = capsys.readouterr().err
        assert f"gemtune watch {job_id[-12:]}" in printed
        assert f"gemtune cancel {job_id[-12:]}" in printed


def test_each_phase_of_a_step_is_named(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    def running(status: str, step: str, phase: str, **more: Any) -> dict[str, Any]:
        return job_body(status, steps={step: {"state": "running", "phase": phase}}, **more)

    progress = {"progress": {"train_step": 4, "total_steps": 4, "eta_seconds": 0.0}}
    answers = [
        running("preparing", "prepare", "tokenizing the rows"),
        running("training", "train", "evaluating the base model"),
        running("training", "train", "training", **progress),
        running("training", "train", "saving the trained weights", **progress),
        job_body("completed"),
    ]
    service.answers["GET", "/jobs/x/status"] = [(200, answer) for answer in answers]
    follow.follow(Connection(service.url, as_json=False), "x", sleep=lambda _: None)
    assert capsys.readouterr().err.splitlines()[:4] == [
        "preparing tokenizing the rows",
        "training evaluating the base model",
        "training 4/4, 0 s left",
        "training saving the trained weights",
    ]


def test_without_a_terminal_a_line_is_printed_every_few_seconds(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    def training(step: int) -> tuple[int, dict[str, Any]]:
        progress = {"train_step": step, "total_steps": 99, "loss": 1.5}
        return (200, job_body("training", progress=progress))

    polls = int(follow.LINE_SECONDS / follow.POLL_SECONDS)
    answers = [(200, job_body("queued")), *map(training, range(1, 2 * polls + 1)), (200, job_body("completed"))]
    service.answers["GET", "/jobs/x/status"] = answers
    assert follow.follow(Connection(service.url, as_json=False), "x", sleep=lambda _: None) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "queued",
        "training 1/99, loss 1.5000",
        f"training {polls + 1}/99, loss 1.5000",
        "completed",
    ]
    service.answers["GET", "/jobs/x/status"] = answers
    follow.follow(Connection(service.url, as_json=False, quiet=True), "x", sleep=lambda _: None)
    assert capsys.readouterr().err == ""


def test_wait_prints_the_result_only(service: FakeService) -> None:
    service.answers["GET", f"/jobs/{JOBS[0][0]}/status"] = (200, job_body("completed", adapter_path="/adapter"))
    result = run("wait", JOBS[0][0], "--url", service.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "completed: /adapter\n", "")


def test_metrics_are_printed_line_by_line(service: FakeService) -> None:
    entries = [{"train_step": 1, "loss": 2.0, "learning_rate": 0.0001}, {"train_step": 1, "eval_loss": 1.5}]
    service.answers["GET", f"/jobs/{JOBS[0][0]}/metrics"] = (200, {"metrics": entries})
    lines = run("metrics", JOBS[0][0], "--url", service.url).stdout.splitlines()
    assert lines == ["train_step 1  loss 2  learning_rate 0.0001", "train_step 1  eval_loss 1.5"]
    service.answers["GET", f"/jobs/{JOBS[0][0]}/metrics"] = (200, {"metrics": []})
    none = run("metrics", JOBS[0][0], "--url", service.url)
    assert (none.stdout, none.stderr) == ("", f"Job {JOBS[0][0]} has no metrics\n")


def test_version_names_client_and_service(service: FakeService) -> None:
    service.answers["GET", "/health"] = (200, {"status": "healthy", "version": "9.9"})
    assert run("version", "--url", service.url).stdout == f"gemtune {VERSION}\nservice 9.9 at {service.url}\n"
    assert "does not answer" in run("version", "--url", "http://127.0.0.1:9").stdout


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.yaml", "", "is empty"),
        ("rows.jsonl", '{"messages": []}\n{"messages": []}\n', "holds rows, not a request"),
        ("rows.json", '{"messages": []}\n{"messages": []}\n', "holds rows, not a request"),
        ("array.json", '[{"messages": []}]', "holds rows, not a request"),
        ("broken.json", '{"a": ', "is not JSON"),
    ],
)
def test_a_file_that_is_no_request_is_recognized(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    result = run("train", str(tmp_path / name), "--url", "http://127.0.0.1:9")
    assert (result.exit_code, expected in result.stderr) == (2, True), result.stderr


def test_relative_folders_of_base_models_become_absolute(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    service.answers["POST", "/train"] = (202, {"job_id": "x"})
    for written in ("~/model", "./model"):
        body = request()
        body["training_config"]["base_model_id"] = written
        run("train", "-", "--url", service.url, stdin=json.dumps(body))
        assert service.requests[-1][3]["training_config"]["base_model_id"] == str(tmp_path / "model")


def test_a_request_that_would_be_rejected_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemtune.bootstrap import services

    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    services.cache_clear()
    try:
        result = run("publish", "-", stdin=json.dumps(request(job_nam="x")))
        assert (result.exit_code, "job_nam" in result.stderr) == (1, True)
        missing = run("publish", "-", stdin=json.dumps(request(processed_dataset_id="not-there")))
        assert (missing.exit_code, "dataset_not_found" in missing.stderr) == (1, True)
        assert services().bus.lease(["dispatch"], 9) == []
    finally:
        services.cache_clear()


def test_groups_have_all_their_commands() -> None:
    groups = {
        "data": ["check", "delete", "download", "list", "rows", "show", "upload"],
        "config": ["delete", "list", "set", "use"],
        "secret": ["delete", "list", "set"],
        "completion": ["install", "show"],
    }
    for group, commands in groups.items():
        listed = run(group, "--help").stdout.split("Commands:")[1].splitlines()
        assert sorted(line.split()[0] for line in listed if line.startswith("  ") and line[2] != " ") == commands


JOB = "training_d_m_0123456789ab"


@pytest.mark.parametrize("command", ["watch", "wait"])
def test_the_end_of_a_job_is_json_if_asked_for(service: FakeService, command: str) -> None:
    completed = job_body("completed", adapter_path="/home/export/1", finished_at="2026-11-24T12:00:00Z")
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, completed)
    assert json.loads(run(command, JOB, "--json", "--url", service.url).stdout) == completed
    result = run(command, JOB, "--url", service.url)
    assert result.stdout == "completed: /home/export/1\n"
    assert (f"gemtune try {JOB[-12:]}" in result.stderr) == (command == "watch")


def test_a_key_is_json_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services.cache_clear()
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path))
    key = run("webhook-key").stdout.strip()
    assert json.loads(run("webhook-key", "--json").stdout) == {"webhook_key": key}


def test_a_job_that_is_not_there_is_a_json_error_if_asked_for(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    result = run("status", "nowhere", "--json", "--url", service.url)
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["code"] == "job_not_found"


def test_an_empty_prompt_is_no_question() -> None:
    result = run("try", JOB, " ")
    assert result.exit_code == 2
    assert "PROMPT is empty" in result.stderr


@pytest.mark.parametrize("command", [["delete"], ["data", "delete"]])
def test_an_empty_variable_means_neither_the_only_job_nor_the_only_dataset(
    service: FakeService, command: list[str]
) -> None:
    dataset = {"dataset_id": "dataset_0123456789abcdef", "name": "tickets"}
    service.answers["GET", "/jobs"] = (200, list_of(JOBS[0]))
    service.answers["GET", "/datasets"] = (200, {"datasets": [dataset], "next_after": None})
    result = run(*command, "", "--url", service.url)
    assert result.exit_code == 2
    assert "is empty" in result.stderr
    assert service.requests == []


@pytest.mark.parametrize("verb", ["show", "delete", "rows"])
def test_a_reference_to_a_dataset_cannot_name_a_job(service: FakeService, verb: str) -> None:
    result = run("data", verb, f"../jobs/{JOB}", "--url", service.url)
    assert result.exit_code == 2
    assert "is not the id or name of a dataset" in result.stderr
    assert service.requests == []
