"""Imports that must stay absent, and other rules about single lines of source.

Functions work without torch; the API loads no Google client and nothing of the workstation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
PACKAGE = ROOT / "functions" / "gemtune"


def python(code: str, **environment: str) -> str:
    import os

    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_imports_with_torch_blocked() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    ]
    python(f"import sys; sys.modules['torch'] = None\nfor name in {modules!r}: __import__(name)")


def test_the_api_function_imports_only_what_a_route_needs(tmp_path: Path) -> None:
    code = f"""
import sys
from functions_framework import create_app
client = create_app(target="api", source={str(ROOT / "functions" / "main.py")!r}).test_client()
assert client.get("/jobs", headers={{"Host": "127.0.0.1"}}).status_code == 200
print(" ".join(sys.modules))
"""
    loaded = set(python(code, GEMTUNE_HOME=str(tmp_path)).split())
    heavy = {
        "torch",
        "httpx",
        "httpx2",
        "lark",
        "psutil",
        "watchdog",
        "waitress",
        "rich",
        "ruamel.yaml",
        "google.events",
    }
    assert not heavy & loaded
    assert not {name for name in loaded if re.match(r"google\.cloud\.(?!functions)", name)}


def test_the_local_server_listens_before_it_imports_packages_for_jobs(tmp_path: Path) -> None:
    code = """
import sys
from gemtune.local_server import server
class Listening(server.Server):
    def run(self):
        print(" ".join(sys.modules))
server.serve(port=0, kind=Listening)
"""
    loaded = set(python(code, GEMTUNE_HOME=str(tmp_path / "home")).split())
    assert "waitress" in loaded
    heavy = {"torch", "httpx", "httpx2", "lark", "watchdog", "rich", "ruamel.yaml", "google.events", "google.protobuf"}
    assert not heavy & loaded


def test_settings_are_the_only_reader_of_the_environment() -> None:
    allowed = {
        "settings.py",
        "cli/answers/child.py",  # passes it on to the trainer
        "cli/check/child.py",  # passes it on to the trainer
        "local_server/cloud_run_jobs.py",  # passes it on to the trainer
        "embedded/child_checks.py",  # passes it on to the trainer
        "cli/setup/completion.py",  # which shell is in use, and where its files are
        "cli/group.py",  # NO_COLOR
        "gcp/storage_objects.py",  # sets a variable of its library, and reads none
        "client/profiles.py",
        "cli/workstation/demo.py",  # settings of the command line
    }
    readers = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "os.environ" in path.read_text()
    }
    assert readers == allowed


def test_only_settings_read_the_folder_of_caches() -> None:
    """Check all programs, also those outside the service."""
    readers = {
        path.relative_to(ROOT).as_posix()
        for part in ("functions", "trainer", "bench", "examples", "deploy")
        for path in (ROOT / part).rglob("*.py")
        if "GEMTUNE_CACHE" in path.read_text()
    }
    described = {"functions/gemtune/environment/variables.py"}
    assert readers - described == {"functions/gemtune/settings.py"}


def test_only_the_wiring_and_the_server_know_the_backend() -> None:
    allowed = re.compile(r"^backend\.py|^embedded/|^local_server/|^cli/workstation/")
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(from|import) gemtune\.(embedded|local_server)", path.read_text())
    }
    assert {name for name in knowing if not allowed.match(name)} == set()


def test_the_version_is_that_of_the_project() -> None:
    import tomllib

    from gemtune import VERSION

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
