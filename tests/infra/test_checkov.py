"""checkov's rules for Terraform on Google Cloud, and reasoned exceptions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.infra.environments import cached, make_environment
from tests.infra.offline import ROOT

REQUIREMENTS = Path(__file__).parent / "checkov" / "requirements.txt"
EXCEPTIONS = {
    "CKV_GCP_49": "the role of Google's own account for Workflows, which Google grants it in any case",
    "CKV_GCP_62": "access logs of buckets: organisations enable the data access logs of Cloud Audit Logs instead",
    "CKV_GCP_78": "versions of objects: objects are not overwritten, and a deletion by a user must be final",
    "CKV_GCP_83": "customer-managed keys for topics: an organisation decides; by default Google's keys encrypt them",
    "CKV_GCP_84": "customer-managed keys for images: the same",
}


@pytest.mark.usefixtures("program")
def test_checkov_finds_exactly_the_exceptions() -> None:
    """Fail for a new finding, and for an exception without one."""
    tools = cached("checkov", [REQUIREMENTS.read_text()], _install)
    command = [tools / "env" / "bin" / "checkov", "--directory", ROOT / "terraform", "--framework", "terraform"]
    options = ["--skip-download", "--quiet", "--compact", "--output", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tools), "LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=800, env=environment, check=False
    )
    report = json.loads(ran.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 30
    checks = report["results"]["failed_checks"]
    failed = {check["check_id"]: f"{check['check_name']}: {check['resource']}" for check in checks}
    assert {name: text for name, text in failed.items() if name not in EXCEPTIONS} == {}
    assert set(failed) == set(EXCEPTIONS)


def _install(folder: Path) -> None:
    make_environment(folder / "env", REQUIREMENTS, "--no-deps")
