"""Terraform commands on a project: plan, apply, destroy."""

from __future__ import annotations

import json
import re

from deploy import images, quotas
from deploy.deployment import Deployment
from deploy.terraform import Terraform
from deploy.tools import Refused, need, run

# Terraform addresses that `destroy` leaves without DELETE_DATA=yes: records, buckets with users' data and results, and
# the APIs, without which they could not be read.
DATA = re.compile(
    r'google_storage_bucket\.gemtune\["(config|data|uploads|export)"\]|google_firestore_(database|field|index)\.'
    r"|google_project_service\.|data\."
)
# APIs that Terraform and the check of quotas need before they can enable the others.
FIRST_APIS = tuple(f"{name}.googleapis.com" for name in ("serviceusage", "cloudresourcemanager", "iam", "cloudquotas"))


def plan(deployment: Deployment) -> None:
    """Print what apply would change. Before the first build, images are fake."""
    need("terraform")
    terraform = Terraform(deployment)
    terraform.init()
    variables = deployment.variables(images.placeholders(deployment))
    terraform.planned_outputs(variables)  # refuses names that nothing reads
    terraform("plan", *variables)


def build_images(deployment: Deployment) -> None:
    """Build the images of the machines of the deployment."""
    need("gcloud", "terraform")
    terraform = Terraform(deployment)
    terraform.init()
    capacity = _capacity(deployment, terraform)
    images.build(deployment, terraform, images.needed(capacity))


def apply(deployment: Deployment) -> None:
    """Check quotas, build changed images, and apply terraform/."""
    need("gcloud", "terraform")
    _enable_first_apis(deployment)
    terraform = Terraform(deployment)
    terraform.init()
    capacity = _capacity(deployment, terraform)
    quotas.check(deployment, capacity)
    needed = images.needed(capacity)
    if not images.are_built(deployment, needed):
        images.build(deployment, terraform, needed)
    terraform.apply(*deployment.variables())
    api_url = terraform.outputs()["api_url"]
    print(f"\ngemtune is deployed at {api_url}\n")
    print(f"  export GEMTUNE_URL={api_url}")
    print("  export GEMTUNE_ID_TOKEN=$(gcloud auth print-identity-token)")
    print("  make smoke")


def destroy(deployment: Deployment) -> None:
    """Remove the service, after a confirmation.

    With DELETE_DATA=yes also its buckets and records.
    """
    need("terraform")
    _ask(deployment)
    terraform = Terraform(deployment)
    terraform.init()
    variables = deployment.variables(images.placeholders(deployment))
    if deployment.delete_data:
        # Terraform deletes them only after an apply has recorded that they may be deleted.
        protected = ("google_storage_bucket.gemtune", "google_firestore_database.records")
        terraform("apply", *variables, "-auto-approve", *(f"-target={address}" for address in protected))
        terraform("destroy", *variables, "-auto-approve")
        return
    addresses = terraform.read_state()
    targets = [address for address in addresses if not DATA.match(address)]
    if not targets:
        raise Refused("only data is left; DELETE_DATA=yes deletes it too")
    terraform("destroy", *variables, "-auto-approve", *(f"-target={address}" for address in targets))
    print("\nthese buckets and records were not deleted; DELETE_DATA=yes deletes them too:")
    for address in addresses:
        if DATA.match(address) and not address.startswith(("google_project_service.", "data.")):
            print(f"  {address}")


def output(deployment: Deployment, name: str) -> None:
    """Print an output of Terraform: text as it is, a map as NAME=VALUE lines.

    Raises Refused if there is no such output, and if the state belongs to another project or region.
    """
    need("terraform")
    terraform = Terraform(deployment)
    terraform.init(quiet=True)  # the last command may have been for a state elsewhere
    outputs = terraform.outputs()
    if name not in outputs:
        listed = f"one of {', '.join(sorted(outputs))}" if outputs else "`make deploy` first"
        raise Refused(f"there is no output {name!r}; use {listed}")
    value = outputs[name]
    if isinstance(value, dict):
        for key, item in value.items():
            print(f"{key}={item if isinstance(item, str) else json.dumps(item)}")
    else:
        print(value)


def _enable_first_apis(deployment: Deployment) -> None:
    run("gcloud", "services", "enable", *FIRST_APIS, f"--project={deployment.project_id}")


def _capacity(deployment: Deployment, terraform: Terraform) -> dict[str, dict[str, dict[str, object]]]:
    """Return the planned output `capacity`. Raises Refused."""
    planned = terraform.planned_outputs(deployment.variables(images.placeholders(deployment)))
    capacity: dict[str, dict[str, dict[str, object]]] = planned["capacity"]
    return capacity


def _ask(deployment: Deployment) -> None:
    """Ask for confirmation, unless YES=yes. Raises Refused without it."""
    losses = "the service, its buckets, all results and all records" if deployment.delete_data else "the service"
    if deployment.sure:
        return
    try:
        typed = input(f"This deletes {losses} of {deployment.project_id}. Type the project's name to continue: ")
    except EOFError:
        typed = ""
    if typed.strip() != deployment.project_id:
        raise Refused("that is not the project's name; nothing was deleted")
