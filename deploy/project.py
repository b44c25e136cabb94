"""Terraform commands on a project: plan, apply, destroy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy import images
from deploy.deployment import Deployment
from deploy.tools import Refused, need, outputs, read, terraform

# Terraform addresses that `destroy` leaves without DELETE_DATA=yes: records, buckets with users' data and results, and
# the APIs, without which they could not be read.
DATA = re.compile(
    r'google_storage_bucket\.gemtune\["(config|data|uploads|export)"\]|google_firestore_(database|field|index)\.'
    r"|google_project_service\.|data\."
)


def plan(deployment: Deployment) -> None:
    """Print what apply would change. Before the first build, images are fake."""
    need("terraform")
    terraform("init", "-input=false")
    terraform("plan", *_variables(deployment))


def apply(deployment: Deployment) -> None:
    """Build images if their sources changed, and apply terraform/."""
    need("gcloud", "terraform")
    if images.are_built(deployment):
        terraform("init", "-input=false")
    else:
        images.build(deployment)
    terraform("apply", *deployment.variables(), *deployment.approval)
    api_url = outputs()["api_url"]
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
    terraform("init", "-input=false")
    variables = _variables(deployment)
    if deployment.delete_data:
        # Terraform deletes them only after an apply has recorded that they may be deleted.
        protected = ("google_storage_bucket.gemtune", "google_firestore_database.records")
        terraform("apply", *variables, "-auto-approve", *(f"-target={address}" for address in protected))
        terraform("destroy", *variables, "-auto-approve")
        return
    addresses = read("terraform", "-chdir=terraform", "state", "list").splitlines()
    targets = [address for address in addresses if not DATA.match(address)]
    if not targets:
        raise Refused("only data is left; DELETE_DATA=yes deletes it too")
    terraform("destroy", *variables, "-auto-approve", *(f"-target={address}" for address in targets))
    print("\nthese buckets and records were not deleted; DELETE_DATA=yes deletes them too:")
    for address in addresses:
        if DATA.match(address) and not address.startswith(("google_project_service.", "data.")):
            print(f"  {address}")


def _variables(deployment: Deployment) -> Sequence[str]:
    """Return the variables' options; before the first build images are fake."""
    return deployment.variables(None if deployment.images_file.is_file() else images.placeholders())


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
