"""checkov's rules for Terraform on Google Cloud; those that do not hold are here, each with the reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.infra.environments import made_once, make_environment
from tests.infra.offline import ROOT

REQUIREMENTS = Path(__file__).parent / "checkov" / "requirements.txt"
NOT_HERE = {
    "CKV_GCP_62": "access logs of buckets: Cloud Audit Logs has them where an organisation asks for data access logs",
    "CKV_GCP_78": "versions of objects: what is written is not written over, and what a user deletes has to be gone",
    "CKV_GCP_83": "own keys for topics: Google's encrypt them; keys of one's own are an organisation's decision",
    "CKV_GCP_84": "own keys for images: the same",
}


@pytest.mark.usefixtures("program")
def test_what_checkov_finds_is_what_was_decided_on() -> None:
    """Also that no decision has lost its object."""
    made = made_once("checkov", [REQUIREMENTS.read_text()], _install)
    command = [made / "env" / "bin" / "checkov", "--directory", ROOT / "terraform", "--framework", "terraform"]
    options = ["--skip-download", "--quiet", "--compact", "--output", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(made), "LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=800, env=environment, check=False
    )
    found = json.loads(ran.stdout)
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 30
    checks = found["results"]["failed_checks"]
    failed = {check["check_id"]: f"{check['check_name']}: {check['resource']}" for check in checks}
    assert {name: said for name, said in failed.items() if name not in NOT_HERE} == {}
    assert set(failed) == set(NOT_HERE)


def _install(folder: Path) -> None:
    make_environment(folder / "env", REQUIREMENTS, "--no-deps")
