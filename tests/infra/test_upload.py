"""The archive of the functions that Terraform uploads.

Each function runs in a bare environment with the requirements of the archive, served by functions-framework with the
settings that Terraform gives it. Without credentials, functions that need Google end with an error that says so.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.emulators.children import Child, free_port, wait_for_port
from tests.infra.environments import cached, make_environment
from tests.infra.offline import ROOT, Terraform
from tests.infra.planned import Planned
from tests.infra.policies import ENTRY_POINTS

EVENTS = ROOT / "tests" / "events"
NO_GOOGLE = "DefaultCredentialsError"


@pytest.fixture(scope="module")
def upload(terraform: Terraform, plan: Planned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the archive that the plan has written."""
    folder = tmp_path_factory.mktemp("upload")
    with zipfile.ZipFile(terraform.folder / ".build" / "functions.zip") as archive:
        archive.extractall(folder)
    return folder


def test_the_upload_has_the_files_that_gcloudignore_leaves(upload: Path, tmp_path: Path) -> None:
    """Let git read the file, whose syntax it shares."""
    copy = tmp_path / "functions"
    shutil.copytree(ROOT / "functions", copy)
    (copy / "gemtune" / "__pycache__").mkdir(exist_ok=True)
    (copy / "gemtune" / "__pycache__" / "x.pyc").touch()
    subprocess.run(["git", "init", "--quiet", str(copy)], check=True)
    listing = ["git", "-C", str(copy), "ls-files", "--others", "--exclude-from=.gcloudignore"]
    expected = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    uploaded = sorted(path.relative_to(upload).as_posix() for path in upload.rglob("*") if path.is_file())
    assert uploaded == sorted(expected)
    assert {"main.py", "requirements.txt", "gemtune/bootstrap.py"} <= set(uploaded)
    assert not [name for name in uploaded if re.match(r"gemtune/(embedded|cli)/|.*\.pyc$", name)]


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    log: Path


@pytest.fixture(scope="module")
def served(upload: Path, plan: Planned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Serve every function in its own process, at its own address."""
    requirements = upload / "requirements.txt"
    tools = cached("functions", [requirements.read_text()], lambda into: _install(into, requirements))
    logs = tmp_path_factory.mktemp("logs")
    functions, children = {}, []
    for entry in ENTRY_POINTS:
        port, log = free_port(), logs / f"{entry}.log"
        command = [str(tools / "env" / "bin" / "functions-framework"), "--source", str(upload / "main.py")]
        settings = plan.settings_of(f"gemtune-{entry.replace('_', '-')}")
        platform = {"FUNCTION_TARGET": entry, "PORT": str(port), "PATH": os.environ["PATH"], "HOME": str(logs)}
        no_credentials = {"GOOGLE_APPLICATION_CREDENTIALS": str(logs / "none.json")}
        children.append((port, Child(entry, command, log, settings | platform | no_credentials)))
        functions[entry] = Served(f"http://127.0.0.1:{port}", log)
    for port, child in children:
        wait_for_port(port, child)
    yield functions
    with ThreadPoolExecutor(len(children)) as pool:
        list(pool.map(lambda started: started[1].stop(), children))


def _install(folder: Path, requirements: Path) -> None:
    make_environment(folder / "env", requirements)


def recorded(name: str, **changed: str) -> dict[str, Any]:
    """Return a request as Google sends it."""
    event = json.loads((EVENTS / f"{name}.json").read_text())
    body = base64.b64decode(event["body"])
    if changed:
        body = json.dumps(json.loads(body) | changed).encode()
    return {"method": "POST", "url": event["path"], "headers": event["headers"], "content": body}


def ask(served: Served, request: dict[str, Any]) -> httpx2.Response:
    with httpx2.Client(base_url=served.url, trust_env=False, timeout=240) as client:
        return client.request(**request)


def test_the_api_answers(served: dict[str, Served]) -> None:
    answer = ask(served["api"], {"method": "GET", "url": "/health"})
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert "/train" in ask(served["api"], {"method": "GET", "url": "/openapi.json"}).json()["paths"]


def test_control_answers(served: dict[str, Served]) -> None:
    assert ask(served["control"], {"method": "POST", "url": "/claim", "json": {}}).status_code == 400
    claim = {"job_id": "j", "launch": 1, "execution": "e"}
    assert ask(served["control"], {"method": "POST", "url": "/claim", "json": claim}).status_code == 503
    assert NO_GOOGLE in served["control"].log.read_text()


@pytest.mark.parametrize(
    ("entry", "request_"),
    [
        ("dispatch", recorded("pubsub_push")),
        ("notify", recorded("webhooks_push")),
        ("ingest", recorded("storage_finalized", bucket="example-project-gemtune-uploads")),
        ("fan_out", recorded("firestore_created")),
        ("sweep", {"method": "POST", "url": "/"}),
    ],
    ids=["dispatch", "notify", "ingest", "fan_out", "sweep"],
)
def test_functions_that_need_google_fail_only_for_its_credentials(
    entry: str, request_: dict[str, Any], served: dict[str, Served]
) -> None:
    assert ask(served[entry], request_).status_code == 500
    log = served[entry].log.read_text()
    assert NO_GOOGLE in log
    assert "ImportError" not in log
    assert "ModuleNotFoundError" not in log
