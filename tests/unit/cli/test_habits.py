"""Habits that people bring from other command lines."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import click
import pytest
from rich.console import Console

from gemtune.cli.connection import follow, starting, text
from gemtune.cli.group import _colours
from gemtune.cli.jobs import train
from gemtune.client.curves import draw
from gemtune.request.spec import ExportConfig
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig
from tests.unit.cli.test_cli import job_body, run
from tests.unit.cli.test_data import ID, JOB, dataset
from tests.unit.conftest import FakeService


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("jobs retrieve x", "gemtune status"),
        ("job cancel x", "gemtune cancel"),
        ("run watch x", "gemtune watch"),
        ("runs list", "gemtune jobs"),
        ("fine-tuning create", "gemtune train"),
        ("fine_tuning.jobs.list", "gemtune jobs"),
        ("fine_tuning.jobs.list_events x", "gemtune events"),
        ("files upload x", "gemtune data upload"),
        ("files.retrieve x", "gemtune data show"),
        ("datasets ls", "gemtune data list"),
        ("models show x", "models"),
        ("logout", "config"),
        ("config get url", "list"),
        ("jobs --format json", "--json"),
        ("jobs --verbose", "--debug"),
        ("delete x --force", "--yes"),
        ("artifacts x --output f", "--download"),
    ],
)
def test_names_of_other_command_lines_lead_to_those_here(arguments: str, meant: str) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, f"Did you mean {meant}" in result.stderr.replace("'", "")) == (2, True), result.stderr


def test_help_takes_a_command_of_a_group_before_and_after_it() -> None:
    usage = run("data", "upload", "--help").stdout
    assert "FILE" in usage
    assert run("help", "data", "upload").stdout == usage
    assert run("data", "help", "upload").stdout == usage
    assert run("data", "help").stdout == run("data", "--help").stdout
    assert run("-V").stdout == run("--version").stdout


@pytest.mark.parametrize("arguments", [["--debug", "jobs"], ["jobs", "--debug"]])
def test_calls_are_printed_on_demand(service: FakeService, arguments: list[str]) -> None:
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    result = run(*arguments, url=service.url)
    assert f"debug: GET {service.url}/jobs?limit=50: HTTP 200, " in result.stderr
    assert "debug" not in run("jobs", url=service.url).stderr
    assert "debug: GET" in run("jobs", url=service.url, GEMTUNE_DEBUG="1").stderr


@pytest.mark.parametrize("command", [("delete", JOB), ("data", "delete", ID)])
def test_what_cannot_be_undone_is_asked_in_a_terminal(
    command: tuple[str, ...], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.other_answer = (200, {"deleted": True})
    assert run(*command, url=service.url).exit_code == 0
    monkeypatch.setattr(starting, "is_interactive", lambda: True)
    count = len(service.requests)
    refused = run(*command, url=service.url, stdin="n\n")
    assert (refused.exit_code, len(service.requests)) == (1, count)
    assert run(*command, url=service.url, stdin="y\n").exit_code == 0
    assert run(*command, "--yes", url=service.url).exit_code == 0


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({}, None),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"CLICOLOR": "0"}, False),
        ({"CLICOLOR": "1"}, None),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"CLICOLOR_FORCE": "0"}, None),
        ({"FORCE_COLOR": "1"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_obey_the_variables_of_all_command_lines(environment: dict[str, str], colours: bool | None) -> None:
    assert _colours(environment) is colours


def test_no_bar_is_drawn_in_a_pipe_that_wants_colours_or_in_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert text.is_redrawn(Console(file=Terminal()))
    monkeypatch.setenv("TERM", "dumb")
    assert not text.is_redrawn(Console(file=Terminal()))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Console(file=io.StringIO()).is_terminal
    assert not text.is_redrawn(Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("reference", "arguments"),
    [("newest", ["--checkpoint", "30"]), ("best", ["--checkpoint", "10"]), ("20", ["--checkpoint", "20"])],
)
def test_a_checkpoint_is_named_by_a_word(
    reference: str, arguments: list[str], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemtune.cli.answers import command

    def stop(_: object, __: object, choice: command.Choice) -> None:
        raise click.UsageError(f"--checkpoint {choice.checkpoint}")

    steps = {"train": {"state": "running", "checkpoint": 30}}
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, {"job_id": JOB, "status": "training", "steps": steps})
    checkpoints = [{"train_step": step, "is_best": step == 10} for step in (30, 20, 10)]
    service.answers["GET", f"/jobs/{JOB}/checkpoints"] = (200, {"checkpoints": checkpoints})
    monkeypatch.setattr(command, "located", stop)
    assert " ".join(arguments) in run("try", JOB, "x", "--checkpoint", reference, url=service.url).stderr
    service.answers["GET", f"/jobs/{JOB}/checkpoints"] = (200, {"checkpoints": []})
    if reference != "20":
        result = run("try", JOB, "x", "--checkpoint", reference, url=service.url)
        assert (result.exit_code, "no_checkpoint: " in result.stderr) == (1, True)


def test_times_are_those_of_the_own_time_zone(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"created_at": "2026-11-24T23:30:00.5Z", "status": "queued", "job_id": JOB, "job_name": "x"}
    service.answers["GET", "/jobs"] = (200, {"jobs": [job], "next_page_token": None})
    try:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        assert run("jobs", url=service.url).stdout.startswith("2026-11-25T00:30:00  queued")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert text.local_time("soon") == "soon"


def test_a_curve_names_its_lines() -> None:
    picture = draw([{"train_step": 1, "loss": 2.0}, {"train_step": 2, "loss": 1.0, "eval_loss": 1.5}], "x")
    assert ">loss</text>" in picture
    assert ">eval_loss</text>" in picture


def test_rows_of_standard_input_are_checked_under_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemtune.cli.check import child

    tasks = []

    def recorded(task: child.CheckTask, folder: Path, *, cwd: Path, **_: object) -> None:
        assert task.source is not None
        tasks.append((task.source.train, (cwd / task.source.train).read_bytes(), folder.name))
        raise click.UsageError("stop here")

    monkeypatch.setattr(child, "run", recorded)
    rows = "prompt,completion\na,b\n"
    arguments = ("data", "check", "-", "--filename", "mine.csv", "--model", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    for _ in range(2):
        run(*arguments, stdin=rows, GEMTUNE_HOME=str(tmp_path / "home"))
    (name, content, folder), again = tasks
    assert (name, content.decode()) == ("mine.csv", rows)
    assert again[2] == folder, "each check would leave a folder"
    misnamed = run("data", "check", "rows.jsonl", "--filename", "x.csv", "--model", "a/b")
    assert (misnamed.exit_code, "--filename" in misnamed.stderr) == (2, True)


def test_a_dataset_that_is_deleted_by_its_name_is_asked_by_its_id(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["GET", "/datasets"] = (200, {"datasets": [dataset("ready")], "next_after": None})
    monkeypatch.setattr(starting, "is_interactive", lambda: True)
    assert ID in run("data", "delete", "rows", url=service.url, stdin="n\n").stderr


def test_a_finished_job_shows_how_long_it_took(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    monkeypatch.setattr(follow, "is_redrawn", lambda console: True)
    body = job_body("completed", finished_at="2026-11-24T13:02:03Z")  # accepted at noon
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, body)
    assert run("watch", JOB, url=service.url).exit_code == 0
    assert "1:02:03" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_clock_goes_on_when_all_train_steps_are_done() -> None:
    console, seconds = Console(file=io.StringIO(), width=60, force_terminal=True), [0.0]
    bar = follow._progress_bar(console)
    bar.get_time = lambda: seconds[0]
    task = bar.add_task("training", total=None, detail="")
    seconds[0] = 100
    bar.update(task, total=30, completed=30)
    seconds[0] = 400
    bar.update(task, description="exporting", total=None, completed=0)
    console.print(bar.get_renderable())
    assert "0:06:40" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "request_part"),
    [
        (["--method", "qlora"], ("training_config", "method", "QLoRA")),
        (["--modality", "Vision"], ("modality", None, "vision")),
        (["--export", "GGUF:Q4_K_M"], ("export_config", "quantization", "q4_k_m")),
        (["--method", "other"], ("training_config", "method", "other")),  # the service answers it
    ],
)
def test_words_are_taken_in_any_case(
    tmp_path: Path, arguments: list[str], request_part: tuple[str, str | None, str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    result = run("train", "--data", str(rows), "--model", "google/gemma-3-1b-it", *arguments, "--print")
    value = json.loads(result.stdout)[request_part[0]]
    assert (value if request_part[1] is None else value[request_part[1]]) == request_part[2]


def test_the_help_of_train_has_the_defaults_of_requests() -> None:
    helps = {option.name: option.help or "" for option in train.params if isinstance(option, click.Option)}
    defaults = {name: field.default for name, field in TrainingConfig.model_fields.items() if field.default}
    stated = {name: default for name, default in defaults.items() if name in helps}
    assert {"method", "epochs", "learning_rate", "batch_size", "lora_rank", "seed"} == stated.keys()
    for name, default in stated.items():
        assert helps[name].endswith(f"(default: {default})."), name
    assert f"(default: {DEFAULT_SEQ_LENGTH})" in helps["max_seq_length"]
    assert f"(default: {ExportConfig().format};" in helps["export_"]


def test_an_export_takes_its_words_in_any_case(service: FakeService) -> None:
    service.answers["POST", f"/jobs/{JOB}/exports"] = (202, {"job_id": "export_1"})
    run("export", JOB, "--format", "GGUF", "--quantization", "Q8_0", url=service.url)
    sent = next(body for method, _, _, body in service.requests if method == "POST")
    assert sent["export_config"] == {"format": "gguf", "quantization": "q8_0"}


def test_the_end_of_a_training_shows_what_it_changed(service: FakeService) -> None:
    metrics = {"train_step": 30, "eval_loss": 1.5, "accuracy": 0.75, "baseline": {"eval_loss": 2.5, "accuracy": 0.25}}
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, job_body("completed", metrics=metrics, adapter_path="/x"))
    shown = run("watch", JOB, url=service.url).stderr
    assert "metrics: eval_loss 1.5000, accuracy 0.7500, after train_step 30\n" in shown
    assert "base model: eval_loss 2.5000, accuracy 0.2500\n" in shown
    assert "metrics" not in run("--quiet", "watch", JOB, url=service.url).stderr


@pytest.mark.parametrize("checkpoint", ["best", "newest", "40"])
def test_an_export_of_a_checkpoint_is_refused_and_says_which_weights_are_exported(checkpoint: str) -> None:
    result = run("export", JOB, "--format", "gguf", "--checkpoint", checkpoint)
    assert result.exit_code == 2
    for field in ("load_best_model_at_end=true", "eval_strategy=epoch", "save_steps"):
        assert field in result.stderr
    assert "checkpoint" not in run("export", "--help").stdout


def test_an_empty_list_says_that_it_is_empty(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    service.answers["GET", "/datasets"] = (200, {"datasets": [], "next_after": None})
    for command, message in {
        "jobs": "No jobs yet. `gemtune train` starts one.\n",
        "jobs --status Failed": "There are no such jobs.\n",
        "data list": "There are no datasets. `gemtune data upload FILE` makes one.\n",
    }.items():
        result = run(*command.split(), url=service.url)
        assert (result.stdout, result.stderr, result.exit_code) == ("", message, 0)
        assert run("--quiet", *command.split(), url=service.url).stderr == ""
    assert "status=failed" in service.requests[2][1]
