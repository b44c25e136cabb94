"""Values of Terraform that must agree with each other and with the code."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from gemtune.client import uploads
from gemtune.gcp.firestore_documents import EVENT_RETENTION, EVENTS, JOBS, event_document_of
from gemtune.jobs.events import Event
from gemtune.jobs.record import Job
from gemtune.request.base_model import COPIES
from gemtune.services import sweep
from gemtune.services.cleanup import leftovers
from gemtune.services.control import MARGIN_SECONDS
from gemtune.services.dispatch import LEASE
from tests.infra.conftest import Applied
from tests.infra.offline import ROOT, Terraform
from tests.infra.planned import Planned
from tests.infra.settings_needed import EVERY
from trainer.store.checkpoints import REQUIRED_FILES
from trainer.store.manifest import NAME as MANIFEST

FIELD, BUCKET = "google_firestore_field", "google_storage_bucket"
# Names of a finished job's files that must stay; results of every format and what the API reads.
KEPT = [
    f"jobs/training_x/{name}"
    for name in (
        f"export/1/{MANIFEST}",
        "export/1/adapter_model.safetensors",
        "export/1/model-00001-of-00002.safetensors",
        "export/1/model.gguf",
        "export/1/tokenizer.json",
        "adapter/1/adapter_model.safetensors",
        "model/1/model.safetensors",
        "metrics/1.jsonl",
        "prepared/1/report.json",
        "checkpoints/1/checkpoint-8/adapter_model.safetensors",
        "checkpoints/1/checkpoint-8/trainer_state.json",
    )
]


def deletes(rule: dict[str, Any], name: str) -> bool:
    """Return whether a lifecycle rule deletes an old object."""
    (condition,) = rule["condition"]
    prefixes, suffixes = condition.get("matches_prefix") or [""], condition.get("matches_suffix") or [""]
    is_delete = rule["action"][0]["type"] == "Delete"
    return is_delete and any(map(name.startswith, prefixes)) and any(map(name.endswith, suffixes))


def test_nothing_that_a_job_leaves_is_ever_deleted_by_its_age(applied: Planned) -> None:
    export = applied.one(BUCKET, "example-project-gemtune-export")
    assert [name for name in KEPT for rule in export["lifecycle_rule"] if deletes(rule, name)] == []


def test_an_old_checkpoint_becomes_incomplete_so_that_it_is_not_resumed(applied: Planned) -> None:
    export = applied.one(BUCKET, "example-project-gemtune-export")
    gone = {
        name
        for name in REQUIRED_FILES
        if any(deletes(rule, f"jobs/x/checkpoints/1/checkpoint-8/{name}") for rule in export["lifecycle_rule"])
    }
    assert gone == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


def test_only_copies_of_models_expire_and_only_when_unused(applied: Planned) -> None:
    export = applied.one(BUCKET, "example-project-gemtune-export")
    (rule,) = [
        rule for rule in export["lifecycle_rule"] if deletes(rule, f"{COPIES}/owner--name/rev/model.safetensors")
    ]
    (condition,) = rule["condition"]
    assert condition["matches_prefix"] == [f"{COPIES}/"]
    assert condition["days_since_custom_time"] >= 14
    assert not condition["age"]


def test_documents_expire_by_a_field_that_the_store_writes(applied: Planned) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    document = event_document_of(Event(job_id="x", seq=1, type="job_queued", status="queued", at=at))
    ((_, field),) = [each for each in applied.resources(FIELD) if each[1]["ttl_config"]]
    assert field["collection"] == EVENTS
    assert document[field["field"]] == at + EVENT_RETENTION


def test_fields_without_an_index_are_those_that_rise_and_none_that_a_query_needs(applied: Planned) -> None:
    unindexed = {(field["collection"], field["field"]) for _, field in applied.resources(FIELD)}
    tree = ast.parse((ROOT / "functions" / "gemtune" / "gcp" / "firestore_store.py").read_text())
    filtered = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "FieldFilter"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"parent_job_id", "lagging", "seq", "until", "status"} <= filtered
    assert {name for _, name in unindexed} & filtered == set()
    rising = {name for name, field in Job.model_fields.items() if "datetime" in str(field.annotation)}
    assert {(JOBS, name) for name in rising} <= unindexed
    assert {collection for collection, _ in unindexed} <= {JOBS, EVENTS}


def test_the_sweep_runs_within_the_lease_of_a_launch(applied: Planned) -> None:
    job = applied.one("google_cloud_scheduler_job", "gemtune-sweep")
    minutes = int(re.fullmatch(r"\*/(\d+) \* \* \* \*", job["schedule"])[1])  # type: ignore[index]
    assert minutes * 60 <= LEASE.total_seconds()
    function = applied.one("google_cloudfunctions2_function", "gemtune-sweep")["service_config"][0]
    assert int(job["attempt_deadline"].removesuffix("s")) >= function["timeout_seconds"]
    assert function["timeout_seconds"] <= 1800  # Cloud Scheduler's longest deadline
    assert leftovers.ORPHAN_AGE > LEASE
    # The last part may end with one long call.
    assert function["timeout_seconds"] - 60 >= sweep.SWEEP_LIMIT + sweep.PART_SECONDS


def test_the_workflow_waits_longer_than_control_may_take(applied: Planned) -> None:
    text = (ROOT / "workflows" / "fine_tune.yaml").read_text()
    seconds = applied.one("google_cloudfunctions2_function", "gemtune-control")["service_config"][0]["timeout_seconds"]
    assert f"timeout: {seconds}" in text
    for _, job in applied.resources("google_cloud_run_v2_job"):
        timeout = int(job["template"][0]["template"][0]["timeout"].removesuffix("s"))
        assert timeout > 2 * MARGIN_SECONDS


def test_clients_wait_for_the_last_call_of_an_upload_longer_than_it_may_take(applied: Planned) -> None:
    seconds = applied.one("google_cloudfunctions2_function", "gemtune-api")["service_config"][0]["timeout_seconds"]
    assert seconds < uploads.COMPLETION_SECONDS
    assert seconds <= 600  # API Gateway's longest deadline


def test_deliveries_of_pub_sub_outlast_the_functions(applied: Planned) -> None:
    for topic, function in (("job-requests", "dispatch"), ("webhooks", "notify")):
        subscription = applied.one("google_pubsub_subscription", f"{topic}-push")
        service = applied.one("google_cloudfunctions2_function", f"gemtune-{function}")["service_config"][0]
        assert service["timeout_seconds"] <= subscription["ack_deadline_seconds"] <= 600


def test_by_default_pictures_of_datasets_call_no_function(plan: Planned) -> None:
    assert list(plan.resources("google_eventarc_trigger")) == []
    (trigger,) = plan.one("google_cloudfunctions2_function", "gemtune-ingest")["event_trigger"]
    assert [each["value"] for each in trigger["event_filters"]] == ["example-project-gemtune-uploads"]


@pytest.mark.parametrize("provider", ["google", "google-beta"])
def test_calls_count_against_the_project_itself(provider: str, applied_plan: Applied) -> None:
    """The budget API, and a gcloud login without a default project, need this."""
    expressions = applied_plan.plan["configuration"]["provider_config"][provider]["expressions"]
    assert expressions["user_project_override"] == {"constant_value": True}
    for name in ("project", "billing_project"):
        assert expressions[name] == {"references": ["var.project_id"]}
    assert expressions["region"] == {"references": ["var.region"]}


def test_a_gateway_is_replaced_before_its_configuration_is_deleted(terraform: Terraform) -> None:
    text = (terraform.folder / "api_gateway.tf").read_text()
    assert re.search(r"lifecycle \{\s+create_before_destroy = true\s+\}", text)
    others = [path for path in terraform.folder.glob("*.tf") if path.name != "api_gateway.tf"]
    assert [
        path.name for path in others if re.search(r"lifecycle \{|ignore_changes|prevent_destroy", path.read_text())
    ] == []


def test_outputs_tell_the_command_line_where_things_are(applied: Planned) -> None:
    outputs = {name: output["value"] for name, output in applied.shown["values"]["outputs"].items()}
    assert outputs["api_url"] == "made-up-uri-of-gemtune-api"
    assert outputs["topics"] == {name: f"made-up-id-of-{name}" for name in applied.named("google_pubsub_topic")}
    names = ("config", "data", "uploads", "export", "source")
    assert outputs["buckets"] == {name: f"example-project-gemtune-{name}" for name in names}
    assert outputs["image_repository"] == "europe-west4-docker.pkg.dev/example-project/gemtune-trainer"
    assert outputs["build_service_account"] == "made-up-id-of-gemtune-build"
    assert outputs["workflow"] == "made-up-id-of-fine-tune"
    assert outputs["gateway_url"].startswith("https://made-up-default_hostname")
    assert (outputs["project_id"], outputs["region"]) == ("example-project", "europe-west4")
    settings = applied.settings_of("gemtune-dispatch")
    assert outputs["settings"] == {name: settings[name] for name in (*EVERY, "GEMTUNE_WORKFLOW")}
    assert set(outputs["service_accounts"].values()) == {
        values["email"] for _, values in applied.resources("google_service_account")
    }


def test_the_capacity_that_is_compared_with_quotas_is_that_of_the_deployment(applied: Planned) -> None:
    capacity = applied.shown["values"]["outputs"]["capacity"]["value"]
    functions = applied.named("google_cloudfunctions2_function")
    assert capacity["functions"] == {
        name: {"instances": config["max_instance_count"], "memory": config["available_memory"]}
        for name, config in ((name, function["service_config"][0]) for name, function in functions.items())
    }
    jobs = applied.named("google_cloud_run_v2_job")
    assert set(capacity["jobs"]) == set(jobs)
    for name, job in jobs.items():
        task = job["template"][0]["template"][0]
        (container,), size = task["containers"], capacity["jobs"][name]
        limits = container["resources"][0]["limits"]
        assert (str(size["cpus"]), f"{size['memory_gib']}Gi") == (limits["cpu"], limits["memory"])
        assert [size["accelerator"]] == ([each["accelerator"] for each in task["node_selector"] or []] or [None])
        assert f"/{size['image']}@sha256:" in container["image"]
