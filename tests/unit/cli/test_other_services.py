"""Every command against a service on the port that is not gemtune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from gemtune.cli.connection import groups as command_groups
from gemtune.cli.connection.groups import OTHER_OPTIONS
from gemtune.cli.group import OTHER_NAMES, main
from gemtune.client.errors import NotAnAnswer
from gemtune.client.request import FIELDS
from gemtune.client.sync import Client
from gemtune.request.training_config import TrainingConfig
from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService

JOB = "training_d_m_0123456789ab"
MODEL = ("--model", "google/gemma-3-1b-it")
# Fields without an option of their own, as far as no option is another's name for them.
WITHOUT_OPTION = sorted(TrainingConfig.model_fields.keys() - {place[-1] for place in FIELDS.values()})
# Commands that send no request.
WITHOUT_SERVICE = {"up", "down", "demo", "completion", "config", "secret", "publish", "listen", "webhook-key"}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "models": (),
    "data upload": ("rows.jsonl",),
    "data list": (),
    "data show": ("tickets",),
    "data rows": ("tickets",),
    "data download": ("tickets",),
    "data check": ("tickets", *MODEL),
    "data delete": ("tickets",),
    "plan": ("request.json",),
    "train": ("--data", "rows.jsonl", *MODEL),
    "jobs": (),
    "status": (JOB,),
    "request": (JOB,),
    "watch": (JOB,),
    "wait": (JOB,),
    "metrics": (JOB,),
    "checkpoints": (JOB,),
    "logs": (JOB,),
    "events": (JOB,),
    "pause": (JOB,),
    "resume": (JOB,),
    "cancel": (JOB,),
    "delete": (JOB,),
    "account": (),
    "try": (JOB, "Hi"),
    "artifacts": (JOB,),
    "export": (JOB, "--format", "merged"),
    "version": (),
}
# Answers of a health check, of a list, and of llama.cpp's server, which has the same port by default.
ANSWERS: list[tuple[int, Any]] = [
    (200, {"status": "UP", "jobs": 3}),
    (200, []),
    (404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}),
    (404, {"error": {"code": "404", "message": "File Not Found"}}),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "request.json").write_text("{}")
    return tmp_path


def test_names_that_commands_have_elsewhere_lead_to_ours() -> None:
    assert set(OTHER_NAMES) <= commands() | WITHOUT_SERVICE
    for own, others in OTHER_NAMES.items():
        for name in others.split():
            assert name not in main.list_commands(click.Context(main))  # type: ignore[attr-defined]
            assert own in run(name).stderr


def test_names_that_commands_of_groups_have_elsewhere_lead_to_ours() -> None:
    named = {name.split()[1] for name in commands() if " " in name} | {"set", "use"}
    assert set(command_groups.OTHER_NAMES) <= named
    for group in ("data", "config", "completion"):
        assert f"`main {group} --help`" in run(group, "nothing-like-it").stderr
    words = {"ls": "list", "rm": "delete", "pull": "download", "validate": "check", "uplaod": "upload"}
    for name, own in words.items():
        assert f"Did you mean {own}?" in run("data", name, "x").stderr
    for name, own in {"ls": "list", "rm": "delete", "create": "set"}.items():  # and not a secret of that name
        assert f"Did you mean {own}?" in run("secret", name, stdin="x").stderr
    assert "Did you mean use?" in run("config", "switch", "x").stderr


def test_options_by_their_names_elsewhere_lead_to_ours() -> None:
    train = {option for parameter in command_of("train").params for option in parameter.opts}
    commands = ("jobs", "data download", "delete", "artifacts")
    options = {option for name in commands for each in command_of(name).params for option in each.opts}
    elsewhere = {"--limit": ("jobs",), "--yes": ("delete", "x"), "--download": ("artifacts", "x")}
    for own, other in [(own, other) for own, others in OTHER_OPTIONS.items() for other in others.split()]:
        assert own in train | options
        assert other not in train
        command = ("train",) if own in train else elsewhere.get(own, ("data", "download", "x"))
        assert f"Did you mean '{own}'" in run(*command, other, "1").stderr, other


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        *((f"--{name.replace('_', '-')}", f"training_config.{name}=VALUE") for name in WITHOUT_OPTION),
        ("--lora_alpha", "training_config.lora_alpha=VALUE"),
        ("--priority", "priority=VALUE"),
        ("--accept-loss", "export_config.accept_loss=VALUE"),
        ("--val-split", "training_config.eval_strategy=epoch"),
        ("--hf-token", "hf_token=secret:gemtune-user-NAME"),
        ("--wandb", "wandb_config.project=NAME"),
    ],
)
def test_an_option_that_is_a_field_elsewhere_leads_to_the_field(option: str, meant: str) -> None:
    for command in (("train",), ("plan",), ("data", "check", "x")):
        assert f"Did you mean '--set {meant}'" in run(*command, option, "1").stderr
    assert "--set" not in run("jobs", option, "1").stderr


@pytest.mark.parametrize("share", ["0.1", "30", "10%"])
def test_a_share_of_rows_to_evaluate_on_leads_to_what_holds_rows_out(share: str) -> None:
    for command in (["train", *MODEL, "--data"], ["plan", *MODEL, "--data"], ["data", "upload"], ["data", "check"]):
        error = run(*command, __file__, "--eval", share)
        assert (error.exit_code, "training_config.eval_strategy=epoch" in error.stderr) == (2, True)
        assert "eval_strategy" not in run(*command, __file__, "--eval", "held.csv").stderr


def test_a_filter_that_the_service_refuses_is_called_as_the_option(service: FakeService) -> None:
    problem = {"loc": ["query", "page_token"], "msg": "this is not known", "code": "not_one_of", "hint": None}
    body = {"error": {"code": "request_refused", "message": "no", "hint": None}, "problems": [problem]}
    service.answers["GET", "/jobs"] = (422, body)
    assert run("jobs", "--status", "x", url=service.url).stderr == "--page-token: this is not known (not_one_of)\n"
    assert run("jobs", "--json", url=service.url).stderr == json.dumps(body) + "\n"


def test_to_view_means_one_job_if_it_is_named() -> None:
    assert run("run", "view", "x").stderr.endswith("Did you mean gemtune status?\n")
    assert run("run", "view").stderr.endswith("Did you mean gemtune jobs?\n")


def test_only_options_that_a_command_has_are_suggested() -> None:
    for words in (("data", "upload", "x", "--file", "y"), ("status", JOB, "--watch"), ("jobs", "--lr", "1")):
        error = run(*words)
        assert (error.exit_code, "No such option" in error.stderr) == (2, True)
        assert not any(f"'{own}'" in error.stderr for own in ("--data", "--follow", "--learning-rate"))


def command_of(name: str) -> click.Command:
    command: click.Command | None = main
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
    assert command is not None
    return command


def test_lists_may_be_called_so(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    for words in (("jobs", "list"), ("jobs", "ls", "-n", "3"), ("jobs",)):
        assert run(*words, url=service.url).exit_code == 0
    assert "limit=3" in service.requests[1][1]


def commands() -> set[str]:
    """Return the names of all commands, those of groups included."""
    assert isinstance(main, click.Group)
    context = click.Context(main)
    names = set()
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        inner = command.commands if isinstance(command, click.Group) else None
        names |= {name} if inner is None or name in WITHOUT_SERVICE else {f"{name} {each}" for each in inner}
    return names


def test_every_command_that_sends_a_request_is_tried() -> None:
    assert commands() - WITHOUT_SERVICE == set(ARGUMENTS)


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_command_says_that_something_else_answers(
    service: FakeService, folder: Path, answer: tuple[int, Any]
) -> None:
    service.is_gemtune, service.other_answer = False, answer
    for command, arguments in ARGUMENTS.items():
        result = run(*command.split(), *arguments, url=service.url)
        cause = f"{service.url} does not answer as a gemtune service does (HTTP {answer[0]})"
        assert (command, result.exit_code, cause in result.stderr) == (command, 1, True), result.output


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "wants a valid token"), (401, "wants a valid token"), (200, "an older gemtune")]
)
def test_the_advice_follows_from_the_status(service: FakeService, status: int, advice: str) -> None:
    service.is_gemtune, service.other_answer = False, (status, {"message": "Jwt is missing", "code": status})
    assert advice in run("jobs", url=service.url).stderr


def test_a_client_reports_that_something_else_answers(service: FakeService) -> None:
    service.is_gemtune, service.other_answer = False, (200, {"status": "ok", "version": "1"})
    with Client(service.url) as client, pytest.raises(NotAnAnswer, match="does not answer as a gemtune service does"):
        client.health()
