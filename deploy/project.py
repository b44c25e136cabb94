"""What Terraform does with a project: plan, apply, destroy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy import images
from deploy.deployment import Deployment
from deploy.tools import Refused, need, outputs, read, terraform

# What `destroy` leaves unless it is told to delete data, by Terraform's addresses: records, buckets with the users'
# data and results, and the APIs, without which they could not be read.
DATA = re.compile(
    r'google_storage_bucket\.gemtune\["(config|data|uploads|export)"\]|google_firestore_(database|field|index)\.'
    r"|google_project_service\.|data\."
)


def plan(deployment: Deployment) -> None:
    """What apply would change; before the first build its images are placeholders."""
    need("terraform")
    terraform("init", "-input=false")
    terraform("plan", *_variables(deployment))


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
    variables = _variables(deployment)
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


def _variables(deployment: Deployment) -> Sequence[str]:
    """The deployment's variables, with placeholders for images before the first build."""
    return deployment.variables(None if deployment.images_file.is_file() else images.placeholders())


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
