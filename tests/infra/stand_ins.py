"""Fake gcloud and terraform for tests of `make deploy`.

They are executables that record their calls and print scripted answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PROJECT, REGION = "my-project", "us-central1"
REPOSITORY = f"{REGION}-docker.pkg.dev/{PROJECT}/gemtune-trainer"
OUTPUTS = {
    "image_repository": REPOSITORY,
    "build_service_account": f"projects/{PROJECT}/serviceAccounts/gemtune-build@{PROJECT}.iam.gserviceaccount.com",
    "buckets": {"source": f"{PROJECT}-gemtune-source", "export": f"{PROJECT}-gemtune-export"},
    "api_url": "https://gemtune-api-x-uc.a.run.app",
}
STATE = [
    "data.google_project.this",
    'google_project_service.enabled["run"]',
    "google_firestore_database.records",
    'google_storage_bucket.gemtune["source"]',
    'google_storage_bucket.gemtune["data"]',
    'google_storage_bucket.gemtune["export"]',
    'google_cloudfunctions2_function.gemtune["api"]',
    "google_workflows_workflow.fine_tune",
]
CAPACITY = {
    "jobs": {
        "gemtune-prepare": {"cpus": 4, "memory_gib": 16, "accelerator": None, "image": "cpu"},
        "gemtune-train-l4": {"cpus": 8, "memory_gib": 32, "accelerator": "nvidia-l4", "image": "cu126"},
        "gemtune-export": {"cpus": 8, "memory_gib": 32, "accelerator": None, "image": "cpu"},
    },
    "functions": {
        "gemtune-api": {"instances": 3, "memory": "512Mi"},
        "gemtune-sweep": {"instances": 1, "memory": "1Gi"},
    },
}
LARGE = {
    "gemtune-train-rtx-pro-6000": {"cpus": 20, "memory_gib": 80, "accelerator": "nvidia-rtx-pro-6000", "image": "cu130"}
}
SCRIPT = """#!{python}
import json, sys
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
folder = Path(__file__).parent
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
if "apply" in sys.argv:
    (folder / "applied").touch()
answers = json.loads((folder / "answers").read_text())
for number, (words, answer, code, after_apply, errors, times) in enumerate(answers):
    used = folder / f"used-{{number}}"
    count = len(used.read_text()) if used.exists() else 0
    ready = (not after_apply or (folder / "applied").exists()) and (times == 0 or count < times)
    if all(any(fnmatch(argument, word) for argument in sys.argv[1:]) for word in words) and ready:
        used.write_text("x" * (count + 1))
        sys.stdout.write(answer)
        sys.stderr.write(errors)
        sys.exit(code)
"""


def digest(image: str) -> str:
    """Return a made-up SHA-256 of an image."""
    return hashlib.sha256(image.encode()).hexdigest()


def linked_checkout(folder: Path) -> Path:
    """Return a new checkout of links to this one's files.

    It has no builds and states. A deployment writes into build/ and terraform/ of its checkout, and tests in other
    processes deploy the same project.
    """
    (folder / "terraform").mkdir(parents=True)
    for name in ("Makefile", "LICENSE", "constraints.txt", "deploy", "functions", "setup", "trainer", "workflows"):
        (folder / name).symlink_to(ROOT / name)
    for file in (ROOT / "terraform").iterdir():
        if file.suffix in (".tf", ".hcl") and not file.name.endswith("_override.tf"):
            (folder / "terraform" / file.name).symlink_to(file)
    return folder


class StandIns:
    """Both programs in a folder that is the PATH, and a checkout to deploy.

    An answer is given to calls that contain all of its words, the first one that fits.
    """

    def __init__(self, folder: Path, capacity: Mapping[str, Any] = CAPACITY):
        self.folder = folder
        self.checkout = linked_checkout(folder / "checkout")
        self.answers: list[tuple[list[str], str, int, bool, str, int]] = []
        self.capacity = capacity
        self.variables: dict[str, Any] = {}
        for name in ("gcloud", "terraform"):
            self.install(name)

    def install(self, name: str) -> None:
        path = self.folder / name
        path.write_text(SCRIPT.format(python=sys.executable, name=name))
        path.chmod(0o755)

    def answer(
        self,
        *words: str,
        with_: Any = "",
        code: int = 0,
        after_apply: bool = False,
        errors: str = "",
        times: int = 0,
    ) -> None:
        """Add an answer.

        errors: what goes to standard error. times: how often it is given; 0 is always.
        """
        text = with_ if isinstance(with_, str) else json.dumps(with_)
        self.answers.append((list(words), text, code, after_apply, errors, times))

    def write_answers(self) -> None:
        """Make the answers known to the programs."""
        variables = {name: {"value": value} for name, value in self.variables.items()}
        outputs = {"capacity": {"value": self.capacity}}
        planned = {"variables": variables, "planned_values": {"outputs": outputs}}
        always = (["show"], json.dumps(planned), 0, False, "", 0)
        (self.folder / "answers").write_text(json.dumps([*self.answers, always]))

    def quotas(self, **values: int) -> None:
        """Let gcloud list these quotas, by quota ID."""
        listed = [
            {"quotaId": name, "dimensionsInfos": [{"applicableLocations": [REGION], "details": {"value": str(value)}}]}
            for name, value in values.items()
        ]
        self.answer("quotas", with_=listed)

    def deployed(self, *, after_apply: bool = False) -> None:
        """Give Terraform outputs, from the start or once it has applied."""
        outputs = {name: {"value": value} for name, value in OUTPUTS.items()}
        self.answer("output", with_=outputs, after_apply=after_apply)

    def builds(self, status: str = "SUCCESS", images: tuple[str, ...] = ("cpu", "cu126", "cu130")) -> None:
        self.answer("submit", with_="build-1\n")
        self.answer("builds", "describe", with_={"status": status})
        for name in images:
            self.answer("describe", f"{REPOSITORY}/{name}:*", with_=f"sha256:{digest(name)}")

    def make(
        self, target: str, *variables: str, typed: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `make TARGET VARIABLE=…` with these programs only."""
        self.write_answers()
        ours = (
            "PROJECT_ID",
            "REGION",
            "YES",
            "DELETE_DATA",
            "UNSLOTH",
            "BUILD_REGION",
            "STATE_BUCKET",
            "IGNORE_QUOTAS",
            "NAME",
            "REQUEST",
            "GEMTUNE_URL",
            "GEMTUNE_ID_TOKEN",
            "MAKEFLAGS",
        )
        process_environment = {name: value for name, value in os.environ.items() if name not in ours}
        process_environment |= {"PATH": f"{self.folder}:{self._tools()}"} | dict(environment or {})
        command = ["make", "--no-print-directory", target, f"PYTHON={sys.executable}", *variables]
        return subprocess.run(
            command,
            cwd=self.checkout,
            env=process_environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )

    def _tools(self) -> Path:
        """Return a folder with the programs that the Makefile itself calls."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        for name in ("make", "sh", "sed", "cat", "rm"):
            program = shutil.which(name)
            assert program is not None
            (tools / name).unlink(missing_ok=True)
            (tools / name).symlink_to(program)
        return tools

    @property
    def calls(self) -> list[list[str]]:
        """Return the calls of both programs, in order."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
