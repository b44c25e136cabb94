"""Policies of every plan: its components fit the code and each other.

Each policy yields a message for everything that breaks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from gemtune.gcp.firestore_documents import EVENTS, JOBS
from gemtune.jobs.status import Step
from gemtune.machines.choice import WITH_MORE_MEMORY
from gemtune.ports import Topic
from tests.infra.access_policies import ACCESS, FUNCTION, JOB
from tests.infra.offline import ROOT
from tests.infra.planned import Planned
from tests.infra.settings_needed import needed_by

Policy = Callable[[Planned], Iterator[str]]
ENTRY_POINTS = ("api", "dispatch", "ingest", "fan_out", "notify", "control", "sweep")
PUSHED = {Topic.JOB_REQUESTS: "gemtune-dispatch", Topic.WEBHOOKS: "gemtune-notify"}
SUBSCRIPTION = "google_pubsub_subscription"


def every_trigger_retries(plan: Planned) -> Iterator[str]:
    for name, function in plan.named(FUNCTION).items():
        for trigger in function["event_trigger"]:
            if trigger["retry_policy"] != "RETRY_POLICY_RETRY":
                yield f"{name} loses events whose first delivery fails"
    for name, subscription in plan.named(SUBSCRIPTION).items():
        if subscription["push_config"] and not subscription["retry_policy"]:
            yield f"{name} retries its pushes without a delay"


def every_message_is_kept(plan: Planned) -> Iterator[str]:
    """Check that pushed messages become dead letters, which are kept.

    No subscription may expire.
    """
    subscriptions = plan.named(SUBSCRIPTION)
    for name, subscription in subscriptions.items():
        if [policy["ttl"] for policy in subscription["expiration_policy"]] != [""]:
            yield f"{name} expires when it is not used"
    for topic in PUSHED:
        pushed = subscriptions.get(f"{topic}-push")
        if pushed is None or not pushed["dead_letter_policy"]:
            yield f"messages of {topic} get lost"
        if f"{topic}-dead" not in subscriptions:
            yield f"nothing keeps dead letters of {topic}"
        agents = {address for address, _ in plan.resources() if f'dead_letters["{topic}"]' in address}
        kinds = {address.partition(".")[0] for address in agents}
        if kinds != {"google_pubsub_topic_iam_member", "google_pubsub_subscription_iam_member"}:
            yield f"Pub/Sub may not move dead letters of {topic}"


def redelivery_waits_for_the_function(plan: Planned) -> Iterator[str]:
    for topic, name in PUSHED.items():
        seconds = plan.one(FUNCTION, name)["service_config"][0]["timeout_seconds"]
        if plan.one(SUBSCRIPTION, f"{topic}-push")["ack_deadline_seconds"] < seconds:
            yield f"{name} gets a message twice, while it works on it"


def every_component_has_its_settings_and_no_others(plan: Planned) -> Iterator[str]:
    for component in (*plan.named(FUNCTION), *plan.named(JOB)):
        present, needed = set(plan.settings_of(component)), needed_by(component)
        if present != needed:
            missing, idle = ", ".join(sorted(needed - present)), ", ".join(sorted(present - needed))
            yield f"{component} lacks [{missing}], does not need [{idle}]"


def every_topic_bucket_and_job_exists(plan: Planned) -> Iterator[str]:
    topics = set(plan.named("google_pubsub_topic"))
    yield from (f"there is no topic {topic}" for topic in Topic if topic not in topics)
    buckets = set(plan.named("google_storage_bucket"))
    for component in (*plan.named(FUNCTION), *plan.named(JOB)):
        settings = plan.settings_of(component)
        named = {value for variable, value in settings.items() if variable.startswith("GCS_")}
        yield from (f"{component} names {bucket}, which is no bucket" for bucket in sorted(named - buckets))
    machines = plan.settings_of("gemtune-control")["GEMTUNE_MACHINES"].split(",")
    trains = [f"gemtune-{Step.TRAIN}-{machine}" for machine in machines]
    exports = [f"gemtune-{Step.EXPORT}-{machine}" for machine in machines if machine in WITH_MORE_MEMORY]
    expected = {f"gemtune-{Step.PREPARE}", f"gemtune-{Step.EXPORT}", *trains, *exports}
    if expected != set(plan.named(JOB)):
        yield f"control needs the jobs {sorted(expected)}; there are {sorted(plan.named(JOB))}"
    workflows = set(plan.named("google_workflows_workflow"))
    if {plan.settings_of("gemtune-dispatch").get("GEMTUNE_WORKFLOW")} != workflows:
        yield f"dispatch starts another workflow than {workflows}"


def every_entry_point_is_a_function(plan: Planned) -> Iterator[str]:
    functions = plan.named(FUNCTION)
    entries = {name: function["build_config"][0]["entry_point"] for name, function in functions.items()}
    expected = {f"gemtune-{entry.replace('_', '-')}": entry for entry in ENTRY_POINTS}
    if entries != expected:
        yield f"functions are {entries}"


def fan_out_receives_events(plan: Planned) -> Iterator[str]:
    (trigger,) = plan.one(FUNCTION, "gemtune-fan-out")["event_trigger"]
    filters = {each["attribute"]: each["value"] for each in trigger["event_filters"]}
    path = re.sub(r"\{\w+\}", "*", filters.get("document", ""))
    if trigger["event_type"] != "google.cloud.firestore.document.v1.created" or path != f"{JOBS}/*/{EVENTS}/*":
        yield f"fan_out receives {trigger['event_type']} of {path}"


def ingest_receives_events_of_uploads_and_only_if_asked_of_data(plan: Planned) -> Iterator[str]:
    received = {each["value"] for each in plan.one(FUNCTION, "gemtune-ingest")["event_trigger"][0]["event_filters"]}
    for _, trigger in plan.resources("google_eventarc_trigger"):
        if trigger["destination"][0]["cloud_run_service"][0]["service"] == "gemtune-ingest":
            received |= {each["value"] for each in trigger["matching_criteria"] if each["attribute"] == "bucket"}
    settings = plan.settings_of("gemtune-ingest")
    uploads, both = (
        {settings["GCS_UPLOADS_BUCKET_NAME"]},
        {settings["GCS_UPLOADS_BUCKET_NAME"], settings["GCS_DATA_BUCKET_NAME"]},
    )
    if received not in (uploads, both):
        yield f"ingest receives events of {sorted(received)}"


def only_the_workflow_retries_steps(plan: Planned) -> Iterator[str]:
    for name, job in plan.named(JOB).items():
        template = job["template"][0]
        if template["template"][0]["max_retries"] != 0 or template["task_count"] != 1:
            yield f"{name} runs a step more than once"


def timeouts_are_the_same_everywhere(plan: Planned) -> Iterator[str]:
    for component in ("gemtune-control", "gemtune-sweep"):
        settings = plan.settings_of(component)
        for name, job in plan.named(JOB).items():
            step = name.split("-")[1]
            seconds = settings.get(f"GEMTUNE_{step.upper()}_TIMEOUT_SECONDS")
            if job["template"][0]["template"][0]["timeout"] != f"{seconds}s":
                yield f"{component} expects a timeout of {seconds} seconds of {name}"


def queries_have_their_indexes(plan: Planned) -> Iterator[str]:
    file = json.loads((ROOT / "functions" / "gemtune" / "gcp" / "firestore_indexes.json").read_text())
    expected = [(index["collection"], _fields(index)) for index in file["indexes"]]
    indexes = [(index["collection"], _fields(index)) for _, index in plan.resources("google_firestore_index")]
    if sorted(expected) != sorted(indexes):
        yield f"indexes are {indexes}"


def _fields(index: Any) -> list[tuple[str, str]]:
    return [(field["field_path"], field["order"]) for field in index["fields"]]


def every_used_service_is_enabled(plan: Planned) -> Iterator[str]:
    enabled = {service["service"] for _, service in plan.resources("google_project_service")}
    for address, _ in plan.resources():
        prefix = next((prefix for prefix in SERVICES if address.startswith(f"google_{prefix}")), None)
        if address.startswith("time_sleep."):
            continue
        if prefix is None:
            yield f"{address}: add its service to SERVICES"
        elif not {f"{service}.googleapis.com" for service in SERVICES[prefix].split()} <= enabled:
            yield f"{address} needs {SERVICES[prefix]}"


# Prefix of resource types -> the services that they need. The first match counts.
SERVICES = {
    "artifact_registry": "artifactregistry",
    "billing_budget": "billingbudgets",
    "cloud_run": "run",
    "cloud_scheduler": "cloudscheduler",
    "cloudfunctions2": "cloudfunctions cloudbuild run",
    "api_gateway": "apigateway",
    "eventarc": "eventarc pubsub",
    "firestore": "firestore",
    "logging": "logging",
    "monitoring": "monitoring",
    "project_service": "serviceusage",
    "project_iam": "cloudresourcemanager iam",
    "pubsub": "pubsub",
    "secret_manager": "secretmanager",
    "service_account": "iam iamcredentials",
    "storage": "storage",
    "workflows": "workflows workflowexecutions",
}

POLICIES: tuple[Policy, ...] = (
    *ACCESS,
    every_trigger_retries,
    every_message_is_kept,
    redelivery_waits_for_the_function,
    every_component_has_its_settings_and_no_others,
    every_topic_bucket_and_job_exists,
    every_entry_point_is_a_function,
    fan_out_receives_events,
    ingest_receives_events_of_uploads_and_only_if_asked_of_data,
    only_the_workflow_retries_steps,
    timeouts_are_the_same_everywhere,
    queries_have_their_indexes,
    every_used_service_is_enabled,
)
