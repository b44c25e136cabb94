"""Deployment: a Google Cloud project, a region, and switches of the Makefile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.tools import ROOT, Refused

# Regions in which Cloud Build works in every project. In other regions it refuses many new ones.
# https://cloud.google.com/build/docs/locations
OPEN_BUILD_REGIONS = (
    "us-central1",
    "us-west2",
    "europe-west1",
    "asia-east1",
    "australia-southeast1",
    "southamerica-east1",
)
FORMS = {
    "PROJECT_ID": r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "REGION": r"[a-z]+-[a-z]+[0-9]+",
    "BUILD_REGION": r"[a-z]+-[a-z]+[0-9]+",
    "STATE_BUCKET": r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]",
}
EXAMPLE = "my-project, europe-west1"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, as the environment describes it.

    delete_data: `destroy` also deletes buckets and records. sure: ask for no confirmation. unsloth: build the images
    with the provider unsloth, and accept its jobs. state_bucket: bucket of Terraform's state; None keeps it in
    `folder`. check_quotas: refuse a deployment that exceeds the project's quotas.
    """

    project_id: str
    region: str
    delete_data: bool = False
    sure: bool = False
    unsloth: bool = False
    build_region: str = "us-central1"
    state_bucket: str | None = None
    check_quotas: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Deployment:
        """Read the deployment from environment variables. Raises Refused."""
        values = {name: _value(environment, name) for name in FORMS}
        for name in ("PROJECT_ID", "REGION"):
            if not values[name]:
                raise Refused(f"{name} is not set; set both, as in: PROJECT_ID=my-project REGION=europe-west1")
        yes = {name: _yes(environment, name) for name in ("DELETE_DATA", "YES", "UNSLOTH", "IGNORE_QUOTAS")}
        return cls(
            values["PROJECT_ID"],
            values["REGION"],
            yes["DELETE_DATA"],
            yes["YES"],
            yes["UNSLOTH"],
            values["BUILD_REGION"] or open_build_region(values["REGION"]),
            values["STATE_BUCKET"] or None,
            check_quotas=not yes["IGNORE_QUOTAS"],
        )

    @property
    def folder(self) -> Path:
        """Folder of this project: state, provider plugins, and images built."""
        return ROOT / "build" / self.project_id

    @property
    def images_file(self) -> Path:
        """Terraform variables with the digests of the images built last."""
        return self.folder / "images.tfvars.json"

    @property
    def tag_file(self) -> Path:
        """File with the tag of the sources of these images."""
        return self.folder / "images.tag"

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


def open_build_region(region: str) -> str:
    """Return a region near this one in which Cloud Build is open to everyone."""
    if region in OPEN_BUILD_REGIONS:
        return region
    continent = region.partition("-")[0]
    return next((each for each in OPEN_BUILD_REGIONS if each.startswith(f"{continent}-")), "us-central1")


def _value(environment: Mapping[str, str], name: str) -> str:
    """Return a variable's value, which may be empty. Raises Refused."""
    value = environment.get(name) or ""
    if value and not re.fullmatch(FORMS[name], value):
        raise Refused(f"{name} is {value!r}, which is not a valid name; use one like {EXAMPLE}")
    return value


def _yes(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "no"
    if value not in ("yes", "no"):
        raise Refused(f"{name} is {value!r}; use yes or no")
    return value == "yes"
