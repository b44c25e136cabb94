"""Deployment: a Google Cloud project, a region, and switches of the Makefile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.tools import ROOT, Refused


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, as the environment describes it.

    delete_data: `destroy` also deletes buckets and records. sure: ask for no confirmation. unsloth: build the images
    with the provider unsloth, and accept its jobs.
    """

    project_id: str
    region: str
    delete_data: bool = False
    sure: bool = False
    unsloth: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Deployment:
        """Read the deployment from environment variables. Raises Refused."""
        project_id, region = environment.get("PROJECT_ID") or "", environment.get("REGION") or ""
        for name, value, form in (
            ("PROJECT_ID", project_id, r"[a-z][a-z0-9-]{4,28}[a-z0-9]"),
            ("REGION", region, r"[a-z]+-[a-z]+[0-9]+"),
        ):
            if not value:
                raise Refused(f"{name} is not set; set both, as in: PROJECT_ID=my-project REGION=us-central1")
            if not re.fullmatch(form, value):
                raise Refused(f"{name} is {value!r}, which is not a valid name; use one like my-project, us-central1")
        yes = {name: _yes(environment, name) for name in ("DELETE_DATA", "YES", "UNSLOTH")}
        return cls(project_id, region, yes["DELETE_DATA"], yes["YES"], yes["UNSLOTH"])

    @property
    def images_file(self) -> Path:
        """Terraform variables with the digests of the images built last."""
        return ROOT / "build" / self.project_id / "images.tfvars.json"

    @property
    def tag_file(self) -> Path:
        """File with the tag of the sources of these images."""
        return self.images_file.with_name("images.tag")

    @property
    def gcloud(self) -> Sequence[str]:
        return (f"--project={self.project_id}", f"--region={self.region}")

    @property
    def approval(self) -> Sequence[str]:
        """Options of `terraform apply` that skip its confirmation, if `sure`."""
        return ("-auto-approve",) if self.sure else ()

    def variables(self, of_images: Sequence[str] | None = None) -> Sequence[str]:
        """Return Terraform's options for the variables of the deployment.

        All other variables can be set in terraform/terraform.tfvars. of_images: options for the variable `images`;
        None takes those of `images_file`.
        """
        place = ("-var", f"project_id={self.project_id}", "-var", f"region={self.region}")
        switches = {"delete_data": self.delete_data, "unsloth": self.unsloth}
        assignments = (f"{name}={'true' if switch else 'false'}" for name, switch in switches.items())
        switch_options = [word for each in assignments for word in ("-var", each)]
        return (*place, *switch_options, *(of_images or (f"-var-file={self.images_file}",)))


def _yes(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "no"
    if value not in ("yes", "no"):
        raise Refused(f"{name} is {value!r}; use yes or no")
    return value == "yes"
