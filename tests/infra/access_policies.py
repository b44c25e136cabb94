"""Policies about access that every plan must keep.

Each policy yields a message for everything that breaks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from gemtune.redaction import contains_token
from tests.infra.planned import Planned

FUNCTION, JOB = "google_cloudfunctions2_function", "google_cloud_run_v2_job"

# Reviewed predefined roles: each has the permissions that its component needs, or few more.
ROLES = {
    "roles/artifactregistry.writer",
    "roles/datastore.user",
    "roles/eventarc.eventReceiver",
    "roles/eventarc.serviceAgent",
    "roles/logging.logWriter",
    "roles/pubsub.publisher",
    "roles/pubsub.serviceAgent",
    "roles/pubsub.subscriber",
    "roles/run.invoker",
    "roles/run.jobsExecutorWithOverrides",
    "roles/secretmanager.secretAccessor",
    "roles/secretmanager.secretVersionAdder",
    "roles/storage.objectCreator",
    "roles/storage.objectUser",
    "roles/storage.objectViewer",
    "roles/workflows.invoker",
    "roles/workflows.serviceAgent",
}


def no_bucket_is_public(plan: Planned) -> Iterator[str]:
    for address, bucket in plan.resources("google_storage_bucket"):
        if bucket["uniform_bucket_level_access"] is not True or bucket["public_access_prevention"] != "enforced":
            yield f"{address} could be made public"


def no_role_is_granted_to_everybody(plan: Planned) -> Iterator[str]:
    for address, _, member in plan.grants():
        if member in ("allUsers", "allAuthenticatedUsers"):
            yield f"{address} is for {member}"


def only_reviewed_roles_are_granted(plan: Planned) -> Iterator[str]:
    for address, role, _ in plan.grants():
        if role not in ROLES and not role.startswith("projects/"):
            yield f"{address} gives {role}"
    for address, _ in plan.resources():
        if re.search(r"_iam_(policy|binding)\b", address):
            yield f"{address} revokes roles of others: use single members"


def custom_roles_hold_single_permissions(plan: Planned) -> Iterator[str]:
    custom_roles = set()
    for address, role in plan.resources("google_project_iam_custom_role"):
        custom_roles.add(f"projects/example-project/roles/{role['role_id']}")
        if len(role["permissions"]) > 3 or any("*" in p or "setIamPolicy" in p for p in role["permissions"]):
            yield f"{address} is wide"
    for address, role_name, _ in plan.grants():
        if role_name.startswith("projects/") and role_name not in custom_roles:
            yield f"{address} gives {role_name}, which is not defined"


def no_secret_has_a_value(plan: Planned) -> Iterator[str]:
    for address, values in plan.resources():
        if address.startswith("google_secret_manager_secret_version"):
            yield f"{address} puts a value into the state"
        if contains_token(json.dumps(values)):
            yield f"{address} holds a token"


def every_component_has_its_own_identity(plan: Planned) -> Iterator[str]:
    """Check for one identity per function and per step, and no defaults."""
    for name, function in plan.named(FUNCTION).items():
        email = function["service_config"][0].get("service_account_email") or ""
        if not email.startswith(f"{name}@"):
            yield f"{name} runs as {email or 'the default account'}"
    for name, job in plan.named(JOB).items():
        email = job["template"][0]["template"][0].get("service_account") or ""
        step = name.removeprefix("gemtune-").partition("-")[0]
        if not email.startswith(f"gemtune-{step}@"):
            yield f"{name} runs as {email or 'the default account'}"


def only_the_api_is_reached_from_outside(plan: Planned) -> Iterator[str]:
    for name, function in plan.named(FUNCTION).items():
        expected = "ALLOW_ALL" if name == "gemtune-api" else "ALLOW_INTERNAL_ONLY"
        if function["service_config"][0]["ingress_settings"] != expected:
            yield f"{name} has the ingress {function['service_config'][0]['ingress_settings']}"


def functions_have_the_right_callers(plan: Planned) -> Iterator[str]:
    called: dict[str, set[str]] = {}
    for _, values in plan.resources("google_cloud_run_v2_service_iam_member"):
        called.setdefault(values["name"], set()).add(values["member"].partition("@")[0])
    callers = {"control": "workflow", "sweep": "scheduler", "dispatch": "push", "notify": "push", "ingest": "events"}
    for name, caller in (callers | {"fan-out": "events"}).items():
        if called.get(f"gemtune-{name}") != {f"serviceAccount:gemtune-{caller}"}:
            yield f"gemtune-{name} is called by {sorted(called.get(f'gemtune-{name}', ()))}"


def destroy_keeps_data(plan: Planned) -> Iterator[str]:
    for address, bucket in plan.resources("google_storage_bucket"):
        if bucket["force_destroy"] and not bucket["name"].endswith("-source"):
            yield f"{address} is deleted with its content"
    for address, database in plan.resources("google_firestore_database"):
        if database["deletion_policy"] != "ABANDON" or database["delete_protection_state"].endswith("DISABLED"):
            yield f"{address} is deleted with the records"


ACCESS = (
    no_bucket_is_public,
    no_role_is_granted_to_everybody,
    only_reviewed_roles_are_granted,
    custom_roles_hold_single_permissions,
    no_secret_has_a_value,
    every_component_has_its_own_identity,
    only_the_api_is_reached_from_outside,
    functions_have_the_right_callers,
    destroy_keeps_data,
)
