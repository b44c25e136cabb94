"""Completion of commands, options, ids and values, and its installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from gemtune.cli.group import main
from tests.unit.cli.test_cli import run
from tests.unit.cli.test_common_options import JOBS, list_of
from tests.unit.cli.test_data import ID, dataset
from tests.unit.conftest import FakeService


def completed(*words: str) -> list[str]:
    """Return what completes the last word of a command line."""
    *before, incomplete = words
    items = ShellComplete(main, {}, "gemtune", "_GEMTUNE_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in items]


def test_commands_options_and_words_are_completed() -> None:
    assert completed("st") == ["status"]
    assert completed("config", "u") == ["use"]
    assert "--max-steps" in completed("train", "--max")
    assert completed("train", "--method", "q") == ["QLoRA"]
    assert completed("jobs", "--status", "comp") == ["completed"]
    assert completed("completion", "install", "z") == ["zsh"]


def test_ids_and_names_come_from_the_service_that_the_options_name(service: FakeService) -> None:
    service.answers["GET", "/jobs"] = (200, list_of(*JOBS))
    service.answers["GET", "/datasets"] = (200, {"datasets": [dataset("ready")], "next_after": None})
    service.answers["GET", "/models"] = (200, {"at_hand": [{"base_model_id": "/m", "family": None}], "published": []})
    assert completed("--url", service.url, "cancel", "training_d_m_0") == [JOBS[0][0]]
    assert completed("status", "--url", service.url, "tick") == ["tickets"]
    assert completed("--url", service.url, "data", "show", "data") == [ID]
    assert completed("--url", service.url, "train", "--dataset", "") == [ID]
    assert completed("--url", service.url, "train", "--model", "/") == ["/m"]


def test_without_a_service_nothing_is_completed_and_nothing_fails() -> None:
    assert completed("--url", "http://127.0.0.1:9", "cancel", "") == []
    assert completed("--url", "ftp://x", "cancel", "") == []


def test_profiles_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMTUNE_CONFIG", str(tmp_path / "config.json"))
    run("config", "set", "url", "https://gemtune.example", "--profile", "work")
    assert (
        completed("config", "use", "w") == completed("--profile", "w") == completed("jobs", "--profile", "") == ["work"]
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "ZDOTDIR", "GEMTUNE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("shell", "start_file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_installing_twice_adds_one_line(home: Path, shell: str, start_file: str) -> None:
    own_lines = "# Grüße\r\nalias mine=ls".encode("latin-1")  # neither UTF-8 nor with line ends of this system
    (home / start_file).write_bytes(own_lines)
    for arguments in ([shell], []):
        assert run("completion", "install", *arguments, SHELL=f"/bin/{shell}").exit_code == 0
    assert (home / start_file).read_bytes().startswith(own_lines + b"\n[ ")
    assert (home / start_file).read_bytes().count(b"# completion of gemtune") == 1
    assert "_GEMTUNE_COMPLETE" in (home / ".config" / "gemtune" / f"completion.{shell}").read_text()


def test_fish_needs_no_line(home: Path) -> None:
    assert run("completion", "install", "fish").exit_code == 0
    assert "gemtune" in (home / ".config" / "fish" / "completions" / f"{'gemtune'}.fish").read_text()


def test_fish_shows_descriptions_beyond_their_first_comma(home: Path) -> None:
    script = run("completion", "fish").stdout
    assert script.count("string split") == script.count('string split --max 1 ","') == 1


def test_a_script_can_be_a_file_of_the_function_path_of_zsh(home: Path) -> None:
    script = run("completion", "zsh").stdout
    assert script.startswith("#compdef gemtune\n")  # compinit looks at the first line only
    assert script.count("#compdef") == 1
    assert run("completion", "show", "zsh").stdout == script


def test_a_shell_that_is_not_known_is_asked_for(home: Path) -> None:
    result = run("completion", "install", SHELL="/bin/ksh")
    assert (result.exit_code, "bash, zsh, fish" in result.stderr) == (2, True)
    assert "_GEMTUNE_COMPLETE" in run("completion", "show", "zsh").stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_after_the_installation(home: Path) -> None:
    program = home / "bin" / "gemtune"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom gemtune.cli import main\nmain(prog_name='gemtune')\n")
    program.chmod(0o755)
    assert run("completion", "install", "bash").exit_code == 0
    lines = "COMP_WORDS=(gemtune st); COMP_CWORD=1; _gemtune_completion gemtune; echo ${COMPREPLY[@]}"
    path = f"{program.parent}:{Path(shutil.which('env') or '/usr/bin/env').parent}"
    ran = subprocess.run(
        ["bash", "--norc", "-c", f". {home}/.bashrc; {lines}"],
        env={"HOME": str(home), "PATH": path, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("status\n", "")
