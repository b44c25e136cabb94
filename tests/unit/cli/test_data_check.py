"""`gemtune data check`: page, options, and one run of the whole command."""

from __future__ import annotations

import fcntl
import json
import stat
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from gemtune.checks.report import CheckReport
from gemtune.cli.check import command, page
from gemtune.cli.connection.hints import as_commands
from gemtune.process import parent_death
from tests import rows, tiny_gemma
from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService

REPORT: dict[str, Any] = {
    "trains": True,
    "error": None,
    "base_model_id": "google/gemma-3-1b-it",
    "method": "LoRA",
    "max_seq_length": 2048,
    "chat_template": "chat_template.jinja",
    "train": {
        "files": ["rows.csv"],
        "used": 12_000,
        "refused": 11,
        "dropped": 0,
        "truncated": 0,
        "cut_ends": 0,
        "tokens": 900,
        "trained_tokens": 400,
        "formats": {"alpaca": 12_000},
        "columns": [{"name": "instruction", "rows": 12_011, "read_as": "instruction"}],
        "lengths": {"least": 3, "median": 9, "most": 70, "rows_up_to": {"4": 1, "16": 11_000, "128": 999}},
        "refused_rows": [{"file": "rows.csv", "row": row, "reason": "no answer"} for row in range(1, 12)],
        "dropped_rows": [],
    },
    "held_out": None,
    "workload": {"train_steps": 2250, "tokens": 2700, "longest_row": 70},
    "samples": [[{"trained": False, "text": "Hi\x1b[31m\u202e"}, {"trained": True, "text": "Hello<end_of_turn>\n"}]],
    "rows_left_out": "/home/me/rows_left_out.jsonl",
}


def lines(*, colours: bool, **more: Any) -> list[str]:
    report = CheckReport.model_validate(REPORT | more)
    return list(page.format_report(report, colours=colours))


def test_the_page_fits_a_narrow_terminal_and_names_the_file_of_all_rows() -> None:
    text = lines(colours=False)
    assert max(len(line) for line in text) <= 60
    assert "  all of them, with reasons: /home/me/rows_left_out.jsonl" in text
    assert "  refused: and 1 more" in text
    assert f"             9-16 {'#' * 24} 11,000" in text
    assert "            17-32                          0" in text
    assert f"           65-128 {'###':24} 999" in text


def test_a_training_without_held_out_rows_is_told_how_to_hold_some_out() -> None:
    rows: dict[str, Any] = {"train": 300, "held_out": 0, "tokens": 900, "trained_tokens": 400}
    advice = "eval_strategy=epoch"
    assert any(advice in line for line in lines(colours=False, rows=rows))
    assert not any(advice in line for line in lines(colours=False, rows=rows | {"held_out": 30}))
    assert not any(advice in line for line in lines(colours=False, rows=rows | {"train": 0}))


def test_errors_and_warnings_break_between_words() -> None:
    long = "a word " * 12
    text = lines(
        colours=False,
        trains=False,
        error={"code": "bad_rows", "message": long, "hint": long},
        warnings=[{"code": "x", "message": long, "hint": long}],
    )
    assert max(len(line) for line in text) <= 60


def test_equal_reasons_are_shown_once_and_in_options_of_the_command_line() -> None:
    reason = "the row has Frage: set dataset_columns, such as {prompt: …, completion: …}"
    refused = [{"file": "rows.csv", "row": row, "reason": reason} for row in (1, 2, 7)]
    train = REPORT["train"] | {"refused": 3, "refused_rows": refused, "dropped_rows": []}
    text = lines(colours=False, train=train)
    option = "use --column prompt=COLUMN --column completion=COLUMN"
    shown = f"refused: rows 1, 2, 7 of rows.csv: the row has Frage: {option}"
    assert " ".join(line.strip() for line in text).count(shown) == 1
    hint = "to ignore them, add {messages.name: null, Team: null} to dataset_columns"
    added = "add --ignore messages.name --ignore Team"
    assert as_commands(hint) == f"to ignore them, {added}"
    hint = "set dataset_columns, such as {prompt: A b, …: null}, with null for each field to ignore"
    assert as_commands(hint) == "use --column 'prompt=A b', and --ignore COLUMN for each one to ignore"
    assert as_commands("say in dataset_columns what it is") == "say what it is with --column FIELD=COLUMN"
    hint = "keep one, or ignore the other in dataset_columns, such as {a.b: null}"
    assert as_commands(hint) == "keep one, or ignore the other with --ignore a.b"
    assert as_commands("set dataset_columns to {prompt: text}, and more") == "use --column prompt=text, and more"
    hint = "if question is the prompt, set dataset_columns to {prompt: question}"
    assert as_commands(hint) == "if question is the prompt, use --column prompt=question"
    assert as_commands("add {Name, first: null} to dataset_columns") == "add {Name, first: null} to dataset_columns"


def test_rows_that_are_all_refused_do_not_tell_what_is_not_read() -> None:
    columns = [{"name": "Frage", "rows": 11, "read_as": "prompt"}, {"name": "Nr", "rows": 11, "read_as": None}]
    refused = REPORT["train"] | {"columns": columns, "used": 0}
    fields = [line.split(maxsplit=1)[1] for line in lines(colours=False, train=refused) if "field:" in line]
    assert fields == ["Frage: read as prompt", "Nr"]
    used = refused | {"used": 3, "refused": 8}
    assert any(line.endswith("Nr: not read") for line in lines(colours=False, train=used))


def test_a_dataset_is_not_blamed_for_what_kept_it_from_being_read() -> None:
    error = {"code": "hub_unreachable", "message": "the Hub cannot be reached", "hint": "check network"}
    text = lines(colours=False, train=None, samples=(), trains=False, error=error)
    assert text == ["hub_unreachable: the Hub cannot be reached", "  check network", "The rows were not checked."]


def test_trained_text_has_marks_or_colours_and_nothing_in_it_controls_the_terminal() -> None:
    plain, coloured = "\n".join(lines(colours=False)), "\n".join(lines(colours=True))
    assert "[+Hello<end_of_turn>\n+]" in plain
    assert "Hi\\x1b[31m\\u202e" in plain
    assert "\x1b" not in plain
    assert "\x1b[32mHello<end_of_turn>\n\x1b[0m" in coloured
    assert "\x1b[31m" not in coloured


def test_pipes_have_no_colours_unless_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not page.has_colours()
    with click.Context(command.check, color=True):
        assert page.has_colours()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert page.has_colours()
    with click.Context(command.check, color=False):
        assert not page.has_colours()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl"], "there is no file nothing.jsonl"),
        (["~/nothing.jsonl"], "there is no file /"),
        (["notes.txt"], "notes.txt holds no rows"),
        (["rows.jsonl", "--eval", "nothing.csv", "--model", "a/b"], "Path 'nothing.csv' does not exist"),
        ([".", "--eval", "rows.jsonl"], "--eval goes with a file of rows"),
        (["rows.jsonl", "--model", "/nowhere"], "this folder does not exist"),
        (["rows.jsonl", "--model", "a/b", "--set", "training_config.epoch=1"], "did you mean 'epochs'?"),
        (["rows.jsonl", "--model", "a/b", "--method", "RL"], "these have completion, prompt"),
        (["rows.jsonl"], "--model ID"),
    ],
)
def test_wrong_uses_are_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("notes.txt").write_text("")
    result = run("data", "check", *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output


def test_the_whole_command_tells_by_its_exit_code_whether_the_rows_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny_gemma.build(tmp_path / "base")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.train_rows(20)))
    Path("bad.jsonl").write_text('{"a": 1}\n' * 3)
    for name in ("trainer.py", "datasets.py"):  # of a project in whose folder the command is used
        Path(name).write_text("raise SystemExit('not this one')")
    own_file = tmp_path / "results" / "work" / "notes.txt"
    own_file.parent.mkdir(parents=True)
    own_file.write_text("mine")
    good = run("data", "check", "rows.jsonl", "--model", str(base), "--epochs", "2", "--json", "--output", "results")
    report = json.loads(good.stdout)
    assert (good.exit_code, report["trains"], report["rows"]["train"]) == (0, True, 20)
    assert report["workload"]["train_steps"] == 4
    assert json.loads(Path("results/report.json").read_text()) == report
    assert sorted(path.name for path in Path("results").iterdir()) == [
        "report.json",
        "rows_left_out.jsonl",
        "task.json",
        "work",
    ]
    assert own_file.read_text() == "mine"
    bad = run("data", "check", "bad.jsonl", "--model", "./base", "--output", "private")
    assert stat.S_IMODE(Path("private").stat().st_mode) == 0o700
    assert bad.exit_code == 1
    assert "refused: rows 1, 2, 3 of bad.jsonl:" in bad.output
    assert bad.output.endswith("This dataset cannot be trained on as it is.\n")


def test_a_check_that_prints_much_and_crashes_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = "import sys; sys.stderr.write('a warning\\n' * 100_000); sys.exit('the reason')"
    monkeypatch.setattr(parent_death, "command", lambda arguments, number: [sys.executable, "-c", program])
    monkeypatch.chdir(tmp_path)
    base = tiny_gemma.build(tmp_path / "base")
    Path("rows.csv").write_text("prompt,completion\na,b\n")
    result = run("data", "check", "rows.csv", "--model", str(base), "--output", "results")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("check_crashed: ")
    assert "the reason" in result.stderr


def test_a_check_does_not_touch_the_folder_of_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny_gemma.build(tmp_path / "base")
    Path("rows.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.json").write_text("of the other check")
    arguments = ["rows.csv", "--model", str(base), "--output", "results"]
    with Path("results/task.json").open("w") as running:
        running.write("its task")
        running.flush()
        fcntl.flock(running, fcntl.LOCK_EX)
        refused = run("data", "check", *arguments)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("check_folder_in_use: ")
    assert "--output" in refused.stderr
    assert Path("results/report.json").read_text() == "of the other check"
    assert Path("results/task.json").read_text() == "its task"
    after = run("data", "check", *arguments)
    assert json.loads(Path("results/task.json").read_text())
    assert json.loads(Path("results/report.json").read_text())["rows"]["train"] == 1, after.output


def test_files_of_one_name_in_two_folders_have_two_folders_for_results(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "rows.csv", tmp_path / "b" / "rows.csv"
    names = {command._folder_name(str(file), str(file)) for file in (one, other)}
    assert len(names) == 2
    assert all(name.startswith("rows.csv-") for name in names)


# A check as the service answers it, without its status.
BEGUN = {
    "check_id": "check_1",
    "dataset_id": "tickets",
    "created_at": "2026-11-24T12:00:00Z",
    "report": None,
    "error": None,
    "rows_left_out": None,
}


def test_a_dataset_of_the_service_is_checked_by_it(service: FakeService, tmp_path: Path) -> None:
    service.answers["GET", "/datasets"] = (200, {"datasets": [], "next_after": None})
    body = BEGUN | {"status": "running"}
    link = {"url": None, "path": "/home/there/rows_left_out.jsonl"}
    done = body | {"status": "done", "report": REPORT, "rows_left_out": link}
    service.answers["POST", "/datasets/tickets/check"] = (202, body)
    service.answers["GET", "/datasets/tickets/checks/check_1"] = [(200, body), (200, done)]
    options = ["--model", "google/gemma-3-1b-it", "--epochs", "2", "--samples", "1", "--set", "dataset_format=alpaca"]
    result = run("data", "check", "tickets", *options, url=service.url)
    assert result.exit_code == 0
    assert service.requests[1][3] == {
        "base_model_id": "google/gemma-3-1b-it",
        "training_config": {"epochs": 2},
        "dataset_format": "alpaca",
        "samples": 1,
    }
    assert "all of them, with reasons: /home/there/rows_left_out.jsonl" in result.output
    assert "`gemtune data rows tickets --check check_1`" in result.output


def test_a_check_that_crashes_or_is_refused_is_said_in_commands(service: FakeService) -> None:
    service.answers["GET", "/datasets"] = (200, {"datasets": [], "next_after": None})
    error = {"code": "check_crashed", "message": "it ended", "hint": "begin one with POST /datasets/tickets/check"}
    body = BEGUN | {"status": "failed", "error": error}
    service.answers["POST", "/datasets/tickets/check"] = (202, body)
    result = run("data", "check", "tickets", "--model", "a/b", url=service.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "check_crashed: it ended\n  begin one with `gemtune data check tickets`\n"
    as_json = run("data", "check", "tickets", "--model", "a/b", "--json", url=service.url)
    assert (as_json.exit_code, as_json.stdout) == (1, "")
    hint = "begin one with `gemtune data check tickets`"
    assert json.loads(as_json.stderr) == {"error": {"code": "check_crashed", "message": "it ended", "hint": hint}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tickets", "--filename", "rows.csv"], "--filename names rows on standard input"),
        (["hf://datasets/a/b", "--filename", "rows.csv"], "--filename names rows on standard input"),
        (["tickets", "--output", "results"], "--output goes with rows that are checked here"),
    ],
)
def test_options_without_a_use_for_the_rows_are_refused(arguments: list[str], message: str) -> None:
    result = run("data", "check", *arguments, "--model", "a/b")
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_rows_are_printed_one_per_line(service: FakeService) -> None:
    service.answers["GET", "/datasets"] = (200, {"datasets": [], "next_after": None})
    rows_of_page = [
        {"file": "a", "row": 1, "content": {"text": "\u00e4"}, "reason": None, "text": None, "tokens": None},
        {"file": "a", "row": 2, "content": None, "reason": "too long", "text": None, "tokens": None},
    ]
    service.answers["GET", "/datasets/tickets/rows"] = (200, {"rows": rows_of_page, "next_after": "0-9-2-0"})
    result = run("data", "rows", "tickets", "--split", "held_out", "--limit", "2", url=service.url)
    assert service.requests[-1][1] == "/datasets/tickets/rows?split=held_out&limit=2"
    first, second = result.stdout.splitlines()
    assert first == '{"text": "\u00e4"}'
    assert json.loads(second)["reason"] == "too long"
    assert "--after 0-9-2-0" in result.stderr
