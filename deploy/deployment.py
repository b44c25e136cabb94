"""The deployment that the environment asks for: a project, a region, and what may be done with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.tools import ROOT, Refused


@dataclass(frozen=True, slots=True)
class Deployment:
    project_id: str
    region: str
    delete_data: bool = False  # destroy the data too
    sure: bool = False  # nobody is there to be asked
    unsloth: bool = False  # build the images with provider unsloth, and accept its jobs

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Deployment:
        """Raises Refused, with what to write."""
        project_id, region = environment.get("PROJECT_ID") or "", environment.get("REGION") or ""
        for name, value, form in (
            ("PROJECT_ID", project_id, r"[a-z][a-z0-9-]{4,28}[a-z0-9]"),
            ("REGION", region, r"[a-z]+-[a-z]+[0-9]+"),
        ):
            if not value:
                raise Refused(f"say where, as in: PROJECT_ID=my-project REGION=us-central1 ({name} is not set)")
            if not re.fullmatch(form, value):
                raise Refused(f"{name} is {value!r}, which is none")
        yes = {name: _yes(environment, name) for name in ("DELETE_DATA", "YES", "UNSLOTH")}
        return cls(project_id, region, yes["DELETE_DATA"], yes["YES"], yes["UNSLOTH"])

    @property
    def images_file(self) -> Path:
        """The digests of the images that were built last for this project, as Terraform reads variables."""
        return ROOT / "build" / self.project_id / "images.tfvars.json"

    @property
    def tag_file(self) -> Path:
        return self.images_file.with_name("images.tag")

    @property
    def gcloud(self) -> Sequence[str]:
        return (f"--project={self.project_id}", f"--region={self.region}")

    @property
    def approval(self) -> Sequence[str]:
        return ("-auto-approve",) if self.sure else ()

    def variables(self, of_images: Sequence[str] | None = None) -> Sequence[str]:
        """Everything else may stand in terraform/terraform.tfvars."""
        where = ("-var", f"project_id={self.project_id}", "-var", f"region={self.region}")
        switches = {"delete_data": self.delete_data, "unsloth": self.unsloth}
        told = (f"{name}={'true' if switch else 'false'}" for name, switch in switches.items())
        more = [word for each in told for word in ("-var", each)]
        return (*where, *more, *(of_images or (f"-var-file={self.images_file}",)))


def _yes(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "no"
    if value not in ("yes", "no"):
        raise Refused(f"{name} is {value!r}; use yes or no")
    return value == "yes"
