"""Errors that a first deployment is known to end with, and what to do.

Each is recognized by a part of Google's or Terraform's message. docs/deployment.md lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.tools import Failed, Refused


@dataclass(frozen=True, slots=True)
class KnownError:
    """A cause of a failed apply.

    pattern: matches the message. wait_seconds: it passes by itself, and this is how long to wait before the next try;
    0 if the user has to do what `remedy` says.
    """

    pattern: str
    cause: str
    remedy: str
    wait_seconds: int = 0


def _constraint(names: str) -> str:
    """Return the pattern of messages that a policy forbids something.

    names: pattern of the constraint's name. Google's services word such messages in three ways.
    """
    return (
        rf"violates constraint \W?constraints/({names})|[Cc]onstraint \W?constraints/({names})\W? violated|"
        rf"type\W+constraints/({names})"
    )


# Constraints with errors of their own below.
_LOCATIONS, _INGRESS, _MEMBERS = (
    r"gcp\.resourceLocations",
    r"\w+\.allowedIngress\w*",
    r"iam\.(managed\.)?allowedPolicyMember",
)
_LATER = "repeat `make deploy` after ten minutes"
KNOWN_ERRORS = (
    KnownError(
        r"[Pp]ermission denied while using the Eventarc Service Agent",
        "Google's account for Eventarc is new and not known everywhere yet",
        _LATER,
        120,
    ),
    KnownError(
        r"Cannot find metric(\(s\))? that match|metric referenced by the provided filter is unknown",
        "an alert uses a metric that is new and not known everywhere yet",
        _LATER,
        120,
    ),
    KnownError(
        r"SERVICE_DISABLED|has not been used in project \S+ before or it is disabled",
        "an API was enabled a moment ago and does not answer yet",
        _LATER,
        60,
    ),
    KnownError(
        r"unable to publish to Cloud Pub/Sub topics",
        "the role of Google's account for Cloud Storage is new and not in force yet",
        _LATER,
        120,
    ),
    KnownError(
        r"missing permissions? on the build service account|Access to bucket gcf-v2-sources-\S+ denied",
        "the roles of the account that builds are new and not in force yet",
        _LATER,
        120,
    ),
    KnownError(
        r"Service account \S+ (does not exist|was not found)|Error 400: .*service account.* does not exist",
        "a service account is new and not known everywhere yet",
        f"{_LATER}; if it is one of `callers`, `publishers` or `uploaders`, see whether it is written correctly",
        60,
    ),
    KnownError(
        r"Error 400: (User|Group|Domain|Principal) \S+ does not exist",
        "a member of `callers`, `publishers` or `uploaders` does not exist",
        "correct it in terraform/terraform.tfvars",
    ),
    KnownError(
        r"Secret \[?\S+/secrets/\S+ not found",
        "the secret that `hf_token_secret` or `wandb_key_secret` names does not exist",
        "create it first: gcloud secrets create NAME --data-file=-; or correct the name",
    ),
    KnownError(
        r"cannot run builds in this region|no concurrent builds quota available",
        "Cloud Build is not open to this project in this region",
        "deploy to europe-west1 or us-central1, or ask Google to open Cloud Build there; only the images' build can be "
        "moved to another region, with BUILD_REGION=us-central1",
    ),
    KnownError(
        r"(Cpu|Mem)AllocPerProjectRegion|Max instances must be set to",
        "Cloud Run's quota for CPUs or memory in this region is too small",
        "leave large machines out of `machines` in terraform/terraform.tfvars, or ask for more quota",
    ),
    KnownError(
        r"do not have quota for using GPUs|Gpu\w*PerProjectRegion|total allowable count of GPUs",
        "the project has no quota for this GPU in this region",
        "ask in the console, IAM & Admin > Quotas, Cloud Run Admin API, for the GPU's quota without zonal redundancy",
    ),
    KnownError(
        r"[Dd]atabase already exists|database_id",
        "the project has a Firestore database already",
        "use a project of its own for gemtune",
    ),
    KnownError(
        r"BILLING_DISABLED|billing account .*(disabled|not found|absent)|Billing account for project .* is not found",
        "the project has no active billing account",
        "link one at https://console.cloud.google.com/billing/linkedaccount",
    ),
    KnownError(
        r"could not find default credentials|invalid_grant|Reauthentication",
        "Terraform has no credentials",
        "gcloud auth application-default login",
    ),
    KnownError(
        rf"constraints/{_MEMBERS}|do not belong to a permitted customer",
        "a policy of the organization forbids the members of `callers`, `publishers` or `uploaders`",
        "name members of the organization's own domain; if the message names an account of Google's (…@gcp-sa-…), "
        "ask for an exception for this project",
    ),
    KnownError(
        _constraint(_LOCATIONS),
        "a policy of the organization forbids a location",
        "choose a REGION that it allows, with BUILD_REGION and `firestore_location` there too, or ask for an exception "
        "for this project",
    ),
    KnownError(
        _constraint(_INGRESS),
        "a policy of the organization forbids functions that can be called from outside",
        "ask for an exception for this project: the function gemtune-api has the ingress ALLOW_ALL, and IAM decides "
        "who may call it",
    ),
    KnownError(
        _constraint(rf"(?!{_LOCATIONS}|{_INGRESS}|{_MEMBERS})[\w.]+"),
        "a policy of the organization forbids a part of the deployment",
        "ask its policy administrator (roles/orgpolicy.policyAdmin) for an exception for this project from the "
        "constraint that the message names; roles/owner cannot change it",
    ),
    KnownError(
        r"bucket name is not available|BucketNameUnavailable",
        "somebody else has a bucket with this name",
        "use a project with another ID, from which the names are made",
    ),
    KnownError(
        r"(Permission '?\S+'? denied|PERMISSION_DENIED|forbidden: Required)",
        "you lack a right in the project",
        "deploy with roles/owner; if it was granted a moment ago, repeat after some minutes",
    ),
    KnownError(
        r"querying Cloud Storage failed: storage: bucket doesn't exist",
        "the bucket that STATE_BUCKET names does not exist",
        "create it first: gcloud storage buckets create gs://NAME --location=REGION --uniform-bucket-level-access",
    ),
    KnownError(
        r"Error acquiring the state lock",
        "another deployment of this project is running, or was killed",
        "wait for it; if none runs, `terraform force-unlock` with the ID above",
    ),
    KnownError(
        r"doesn't match any of the checksums|does not match configured version constraint",
        "the providers' versions differ from those of terraform/.terraform.lock.hcl",
        "restore that file: git checkout terraform/.terraform.lock.hcl",
    ),
)


def find(errors: str) -> tuple[Sequence[KnownError], Sequence[KnownError]]:
    """Return the known errors in a text: those that last, and those that pass.

    Terraform breaks long lines and frames them. If anything in the text is unknown, the lasting ones may be incomplete.
    """
    text = re.sub(r"[\s│╷╵]+", " ", errors)
    errors_of_text = [error for error in KNOWN_ERRORS if re.search(error.pattern, text)]
    passing = [error for error in errors_of_text if error.wait_seconds]
    lasting = [error for error in errors_of_text if not error.wait_seconds]
    # Google wraps some errors that pass in a general refusal.
    if passing and lasting and all("roles/owner" in error.remedy for error in lasting):
        lasting = []
    return lasting, passing


def explained(failed: Failed) -> Refused:
    """Return the error to show: with a remedy if the cause is known."""
    lasting, passing = find(failed.errors)
    if not lasting and not passing:
        return failed
    lines = "".join(f"\n  {error.cause}: {error.remedy}" for error in (*lasting, *passing))
    return Refused(f"{failed}. This is known:{lines}", exit_code=1)
