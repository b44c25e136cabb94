"""The documentation's shell snippets run, in order, against one server.

The server runs on this workstation with a tiny model. Commands that take minutes or belong to another machine are
replaced by programs that do nothing; tests/unit/docs checks that the real ones exist.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import snippets
from tests.e2e.service import Service
from tests.forking_python import ForkingPython
from tests.snippets import ROOT, Snippet

RUN = [snippet for snippet in snippets.of_language("sh") if snippet.reason is None]
# Targets of make that snippets name, and why they are not run here.
NOT_RUN: Mapping[str, str] = {
    "up": "a server runs already",
    "demo": "takes minutes; tests/unit/cli/test_demo.py tests its parts",
    "test": "runs this test",
    "check": "takes a minute, and runs in every change",
    "unsloth": "downloads an environment; tests/trainer/test_unsloth_environment.py tests it",
    "docs": "tests/unit/docs/test_reference.py compares what it writes",
}
SECONDS = 240
PYTHON = """#!/bin/sh
case "$*" in
    *examples.build_base_model*) echo "{base}" ;;
    *pytest*) for tests in "$@"; do :; done; [ -e "$tests" ] ;;
    *) exec "{python}" "$@" ;;
esac
"""
GEMTUNE = """#!/bin/sh
exec "{python}" -P -c 'import os, sys
sys.executable = os.environ["STARTED"]
from gemtune.cli import main
main()' "$@"
"""
MAKE = """#!/bin/sh
for target in "$@"; do
    case "$target" in {targets}) ;; *) echo "make $target is not run here" >&2; exit 1 ;; esac
done
"""
GIT = """#!/bin/sh
[ "$1" = clone ] && mkdir "$3"
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Make a folder that looks like a checkout in which `make demo` has run.

    Its `gemtune` starts programs with the Python that the environment variable STARTED names.
    """
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    write_program(folder / ".venv/bin/python", PYTHON.format(base=tiny, python=sys.executable))
    write_program(folder / ".venv/bin/gemtune", GEMTUNE.format(python=sys.executable))
    write_program(folder / "programs/make", MAKE.format(targets="|".join(NOT_RUN)))
    write_program(folder / "programs/git", GIT)
    return folder


@pytest.fixture(scope="module")
def service(checkout: Path, forking: ForkingPython) -> Iterator[Service]:
    home = checkout / ".gemtune"
    home.mkdir()
    with Service(home, forking) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_a_snippet_does_what_its_page_says(
    snippet: Snippet, service: Service, checkout: Path, forking: ForkingPython
) -> None:
    """Run a snippet.

    Commands of README.md start programs as they do without tests; those of later pages fork them.
    """
    python = sys.executable if snippet.page == "README.md" else str(forking.executable)
    text = snippet.text.replace("127.0.0.1:8080", f"127.0.0.1:{service.port}")
    path = f"{checkout / 'programs'}:{service.environment['PATH']}"
    completed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=checkout,
        env={**service.environment, "PATH": path, "HF_TOKEN": "hf_of_no_account", "STARTED": python},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
