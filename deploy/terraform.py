"""Terraform on the state of one project.

The state and the plugins are in build/PROJECT_ID/, or the state in the bucket STATE_BUCKET. So several projects can be
deployed from one checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import known_errors
from deploy import variables as deploy_variables
from deploy.deployment import Deployment
from deploy.tools import ROOT, Failed, Refused, read, run

# Before each project had a state of its own, it was here.
OLD_STATE = ROOT / "terraform" / "terraform.tfstate"
# A file of this name replaces the backend of versions.tf.
BACKEND = ROOT / "terraform" / "backend_override.tf"
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Terraform:
    """Terraform's commands in terraform/, for one deployment."""

    deployment: Deployment

    def __call__(self, *arguments: str) -> None:
        """Run a command. Raises Failed."""
        run("terraform", "-chdir=terraform", *arguments, environment=self._environment)

    def init(self, *, quiet: bool = False) -> None:
        """Prepare the project's folder and state, and check whose state it is.

        quiet: print nothing, for commands whose output is read by a shell. Raises Refused if the state belongs to
        another project or region.
        """
        prepare = self._read if quiet else self
        self.deployment.folder.mkdir(parents=True, exist_ok=True)
        self._check_place()
        self._adopt_old_state()
        bucket, local = self.deployment.state_bucket, self._local_state
        if bucket is None:
            BACKEND.unlink(missing_ok=True)
            prepare("init", "-input=false", "-lockfile=readonly", f"-backend-config=path={local}")
        else:
            BACKEND.write_text('terraform {\n  backend "gcs" {}\n}\n')
            moves = ["-migrate-state", "-force-copy"] if local.exists() else []
            place = (f"-backend-config=bucket={bucket}", f"-backend-config=prefix={self._prefix}")
            prepare("init", "-input=false", "-lockfile=readonly", *place, *moves)
            self._place_file.write_text(bucket)
            if local.exists():
                local.rename(local.with_suffix(".moved"))
                moved = f"the state is now in gs://{bucket}/{self._prefix}; pass STATE_BUCKET={bucket} every time"
                print(moved, file=sys.stderr)
        self._check_owner()

    def outputs(self) -> dict[str, Any]:
        """Return Terraform's outputs by name; {} before the first apply."""
        described = json.loads(self._read("output", "-json") or "{}")
        return {name: output["value"] for name, output in described.items()}

    def planned_outputs(self, variables: Sequence[str]) -> dict[str, Any]:
        """Return the outputs that a plan knows, without changing anything.

        Raises Refused for names of variables that nothing reads.
        """
        plan = self.deployment.folder / "capacity.tfplan"
        try:
            options = ("-input=false", "-no-color", "-refresh=false", "-lock=false", f"-out={plan}")
            printed = self._read("plan", *options, *variables)
            planned = json.loads(self._read("show", "-json", str(plan)) or "{}")
        finally:
            plan.unlink(missing_ok=True)
        values = {name: variable.get("value") for name, variable in planned.get("variables", {}).items()}
        deploy_variables.check(values, printed)
        outputs = planned.get("planned_values", {}).get("outputs", {})
        return {name: output["value"] for name, output in outputs.items() if "value" in output}

    def apply(self, *arguments: str) -> None:
        """Apply, and repeat what ended by an error that passes by itself.

        Such errors are those of new projects, in which Google's own accounts, roles and metrics take minutes to be
        known everywhere. Raises Failed, or Refused with what to do about a known error.
        """
        approval = self.deployment.approval
        for attempt in range(REPEATS + 1):
            try:
                self("apply", *approval, *arguments)
                return
            except Failed as failed:
                lasting, passing = known_errors.find(failed.errors)
                if lasting or not passing:
                    raise known_errors.explained(failed) from failed
                if attempt == REPEATS:
                    message = f"the same error after {REPEATS} repetitions: {passing[0].cause}; {passing[0].remedy}"
                    raise Refused(message, exit_code=1) from failed
                wait = max(error.wait_seconds for error in passing)
                print(f"\nThe apply stopped at an error of new projects: {passing[0].cause}.")
                print(f"It is repeated in {wait} seconds ({attempt + 1} of {REPEATS}).", flush=True)
                time.sleep(wait)
                approval = ("-auto-approve",)  # the rest of what was approved

    def read_state(self) -> list[str]:
        """Return the addresses of the resources in the state."""
        return self._read("state", "list").splitlines()

    @property
    def _environment(self) -> Mapping[str, str]:
        return os.environ | {"TF_DATA_DIR": str(self.deployment.folder / ".terraform")}

    @property
    def _local_state(self) -> Path:
        return self.deployment.folder / "terraform.tfstate"

    @property
    def _place_file(self) -> Path:
        """File with the name of the bucket that has the state."""
        return self.deployment.folder / "state_bucket"

    @property
    def _prefix(self) -> str:
        return f"gemtune/{self.deployment.project_id}"

    def _read(self, *arguments: str) -> str:
        return read("terraform", "-chdir=terraform", *arguments, environment=self._environment)

    def _check_place(self) -> None:
        """Raise Refused if the state is in another bucket than the one given."""
        bucket = self._place_file.read_text().strip() if self._place_file.exists() else None
        if bucket is not None and bucket != self.deployment.state_bucket:
            raise Refused(
                f"the state of {self.deployment.project_id} is in gs://{bucket}; set STATE_BUCKET={bucket}. "
                f"If you have moved it, delete {self._place_file.relative_to(ROOT)}"
            )

    def _adopt_old_state(self) -> None:
        """Move a state of this project from its place of older versions."""
        if self._local_state.exists() or not OLD_STATE.exists():
            return
        if _owner(json.loads(OLD_STATE.read_text() or "{}")) == self._names:
            shutil.move(OLD_STATE, self._local_state)
            print(f"moved terraform/{OLD_STATE.name} to {self._local_state.relative_to(ROOT)}", file=sys.stderr)

    def _check_owner(self) -> None:
        """Raise Refused if the state is of another project or region."""
        owner = _owner(json.loads(self._read("state", "pull") or "{}"))
        if owner not in (None, self._names):
            project_id, region = owner
            place = self.deployment.state_bucket or self._local_state.relative_to(ROOT)
            raise Refused(
                f"the state in {place} belongs to project {project_id} in {region}, not to "
                f"{self.deployment.project_id} in {self.deployment.region}; nothing was changed. Use that project's "
                "name and region, or remove that deployment first"
            )

    @property
    def _names(self) -> tuple[str, str]:
        return self.deployment.project_id, self.deployment.region


def _owner(state: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the project and region of a state; None if it is empty.

    A state after the first part of a deployment has no outputs that name them, but a bucket.
    """
    outputs = {name: output["value"] for name, output in state.get("outputs", {}).items()}
    if "project_id" in outputs:
        return outputs["project_id"], outputs["region"]
    if "settings" in outputs:
        return outputs["settings"]["PROJECT_ID"], outputs["settings"]["REGION"]
    for resource in state.get("resources", ()):
        if resource["type"] == "google_storage_bucket":
            for instance in resource["instances"]:
                bucket = instance["attributes"]
                return bucket["name"].rpartition("-gemtune-")[0], bucket["location"].lower()
    return None
