"""What Terraform does with a project: plan, apply, destroy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import images
from deploy.tools import ROOT, Refused, need, outputs, read, terraform

# What `destroy` leaves unless it is told to delete data, by Terraform's addresses: records, buckets with the users'
# data and results, and the APIs, without which they could not be read.
DATA = re.compile(
    r'google_storage_bucket\.gemtune\["(config|data|uploads|export)"\]|google_firestore_(database|field|index)\.'
    r"|google_project_service\.|data\."
)


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

    def images_or_none(self) -> Sequence[str]:
        return self.variables(None if self.images_file.is_file() else images.placeholders())


def _yes(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "no"
    if value not in ("yes", "no"):
        raise Refused(f"{name} is {value!r}; use yes or no")
    return value == "yes"


def plan(deployment: Deployment) -> None:
    """What apply would change; before the first build its images are placeholders."""
    need("terraform")
    terraform("init", "-input=false")
    terraform("plan", *deployment.images_or_none())


def apply(deployment: Deployment) -> None:
    """Build images if their sources changed, and make the project what terraform/ says."""
    need("gcloud", "terraform")
    if images.are_built(deployment):
        terraform("init", "-input=false")
    else:
        images.build(deployment)
    terraform("apply", *deployment.variables(), *deployment.approval)
    found = outputs()
    print(f"\ngemtune serves {found['api_url']}\n")
    print(f"  export GEMTUNE_URL={found['api_url']}")
    print("  export GEMTUNE_ID_TOKEN=$(gcloud auth print-identity-token)")
    print("  make smoke")


def destroy(deployment: Deployment) -> None:
    """Remove the service, and with DELETE_DATA=yes also its buckets and records. Asks before."""
    need("terraform")
    _ask(deployment)
    terraform("init", "-input=false")
    variables = deployment.images_or_none()
    if deployment.delete_data:
        # The state has to know that they may be deleted before they are.
        protected = ("google_storage_bucket.gemtune", "google_firestore_database.records")
        terraform("apply", *variables, "-auto-approve", *(f"-target={address}" for address in protected))
        terraform("destroy", *variables, "-auto-approve")
        return
    there = read("terraform", "-chdir=terraform", "state", "list").splitlines()
    gone = [address for address in there if not DATA.match(address)]
    if not gone:
        raise Refused("there is nothing left but data; DELETE_DATA=yes deletes it too")
    terraform("destroy", *variables, "-auto-approve", *(f"-target={address}" for address in gone))
    print("\nthe buckets and the records are still there; DELETE_DATA=yes deletes them too:")
    for address in there:
        if DATA.match(address) and not address.startswith(("google_project_service.", "data.")):
            print(f"  {address}")


def _ask(deployment: Deployment) -> None:
    """Raises Refused unless the project's name is typed, or YES=yes says that nobody can."""
    what = "the service, its buckets, all results and all records" if deployment.delete_data else "the service"
    if deployment.sure:
        return
    try:
        typed = input(f"This deletes {what} of {deployment.project_id}. Type the project's name to go on: ")
    except EOFError:
        typed = ""
    if typed.strip() != deployment.project_id:
        raise Refused("that is not the project's name; nothing was deleted")
