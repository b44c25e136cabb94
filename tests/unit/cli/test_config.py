"""Profiles: the file with URLs and tokens, and the service of a call."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from pathlib import Path

import pytest

from gemtune.client import profiles
from gemtune.client.calls import Address
from gemtune.client.errors import BadUse
from gemtune.client.profiles import find_address
from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService

WORK = "https://gemtune.example"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "new" / "config.json"
    for name in ("GEMTUNE_URL", "GEMTUNE_ID_TOKEN", "GEMTUNE_PROFILE", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMTUNE_CONFIG", str(path))
    return path


def write(path: Path, content: object, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)


def test_profiles_are_set_listed_used_and_deleted(file: Path) -> None:
    assert run("config", "set", "url", WORK).exit_code == 0
    assert run("config", "set", "token", stdin="fake-token\n").exit_code == 0
    assert run("config", "set", "url", "localhost:9", "--profile", "here").exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = run("config", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["*", "default", WORK, "token"],
        ["here", "http://localhost:9", "no", "token"],
    ]
    assert find_address() == Address(WORK, "fake-token")
    assert run("config", "use", "here").exit_code == 0
    assert find_address() == Address("http://localhost:9")
    assert run("config", "delete", "here").exit_code == 0
    assert find_address() == Address("http://127.0.0.1:8080")
    assert run("config", "use", "here").exit_code == 2


def test_a_token_is_neither_an_argument_nor_shown(file: Path) -> None:
    assert run("config", "set", "token", "fake-token").exit_code == 2
    run("config", "set", "token", stdin="fake-token\n")
    for listed in (run("config", "list"), run("config", "list", "--json")):
        assert "fake-token" not in listed.output
    assert json.loads(run("config", "list", "--json").stdout)["profiles"]["default"]["has_token"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    write(file, {"current": "a", "profiles": {"a": {"url": WORK}}}, mode)
    result = run("jobs")
    assert (result.exit_code, "chmod 600" in result.stderr) == (2, True)
    assert run("config", "set", "url", WORK).exit_code == 2


@pytest.mark.parametrize("content", ["", "{", {"profiles": {"a": {"tokn": "fake-token"}}}, {"profiles": []}, b"\xff{}"])
def test_a_broken_file_is_reported_without_its_values(file: Path, content: object) -> None:
    write(file, content)
    with pytest.raises(BadUse, match="cannot be read") as caught:
        profiles.load(file)
    assert "fake-token" not in str(caught.value)


def test_arguments_count_before_variables_and_variables_before_profiles(file: Path) -> None:
    write(
        file, {"current": "a", "profiles": {"a": {"url": WORK, "token": "fake-a"}, "b": {"url": "https://b.example"}}}
    )
    env = {"GEMTUNE_CONFIG": str(file)}
    assert find_address(environment=env) == Address(WORK, "fake-a")
    assert find_address(environment=env | {"GEMTUNE_PROFILE": "b"}) == Address("https://b.example")
    assert find_address(profile="b", environment=env) == Address("https://b.example")
    assert find_address(environment=env | {"GEMTUNE_ID_TOKEN": "fake-v"}) == Address(WORK, "fake-v")
    # The token of a profile never goes to another service.
    assert find_address(environment=env | {"GEMTUNE_URL": "https://v.example"}) == Address("https://v.example")
    assert find_address("https://u.example", environment=env | {"GEMTUNE_URL": WORK}) == Address("https://u.example")
    # So does a profile that is an argument, with its own token.
    variables = env | {"GEMTUNE_URL": "https://v.example", "GEMTUNE_ID_TOKEN": "fake-v"}
    assert find_address(profile="a", environment=variables) == Address(WORK, "fake-a")
    assert find_address(profile="b", environment=variables) == Address("https://b.example", "fake-v")
    with pytest.raises(BadUse, match="there are: a, b"):
        find_address(profile="c", environment=env)


def test_the_command_of_a_profile_prints_the_token(file: Path) -> None:
    command = shlex.join([sys.executable, "-c", "print('fake-printed')"])
    write(file, {"current": "a", "profiles": {"a": {"url": WORK, "token_command": command}}})
    assert find_address() == Address(WORK, "fake-printed")
    failing = shlex.join([sys.executable, "-c", "import sys; sys.exit('log in first')"])
    write(file, {"current": "a", "profiles": {"a": {"url": WORK, "token_command": failing}}})
    with pytest.raises(BadUse, match="log in first"):
        find_address()


def test_a_command_that_prints_nothing_is_no_login(file: Path) -> None:
    write(file, {"current": "a", "profiles": {"a": {"url": WORK, "token_command": "true"}}})
    with pytest.raises(BadUse, match="printed nothing: true"):
        find_address()


@pytest.mark.parametrize("token", ["fake-tökén", "fake-a\nfake-b", "fake token"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(file: Path, token: str) -> None:
    result = run("jobs", "--url", "https://127.0.0.1:9", GEMTUNE_ID_TOKEN=token)
    assert (result.exit_code, "copy it again" in result.stderr, "fake" in result.output) == (2, True, False)
    if "\n" not in token:
        assert run("config", "set", "token", stdin=f"{token}\n").exit_code == 2
        assert not file.exists()


def test_a_token_and_a_command_that_prints_one_replace_each_other(file: Path) -> None:
    run("config", "set", "url", WORK)
    run("config", "set", "token", stdin="fake-token\n")
    run("config", "set", "token-command", "echo fake-printed")
    assert find_address() == Address(WORK, "fake-printed")
    assert "fake-token" not in file.read_text()
    run("config", "set", "token", stdin="fake-token\n")
    assert find_address() == Address(WORK, "fake-token")


def test_a_profile_is_chosen_before_and_after_the_command(file: Path, service: FakeService) -> None:
    write(file, {"profiles": {"here": {"url": service.url}}})
    service.answers["GET", "/jobs"] = (200, {"jobs": [], "next_page_token": None})
    assert run("--profile", "here", "jobs").exit_code == run("jobs", "--profile", "here").exit_code == 0
    assert len(service.requests) == 2


def test_commands_that_call_no_service_need_no_readable_file(file: Path) -> None:
    write(file, "{")
    assert run("--help").exit_code == run("config", "--help").exit_code == 0
