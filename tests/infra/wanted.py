"""Wanted values of every resource but grants, with everything.tfvars.

Values that follow from the code are taken from it; the others are decisions, with their reasons. A deployment equals
this table: an attribute that Terraform sets differently, or that this table does not have, is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gemtune.gcp.firestore_documents import EVENTS, JOBS
from gemtune.jobs.status import Step
from gemtune.machines.choice import CPU_STEPS, MACHINES, WITH_MORE_MEMORY, Machine
from gemtune.ports import Topic
from tests.infra.grants import DOMAIN, NUMBER, PROJECT_ID, REGION, ROLES
from tests.infra.offline import ROOT
from tests.infra.settings_needed import needed_by
from tests.infra.wanted_monitoring import CHANNELS, monitoring
from trainer.store.checkpoints import REQUIRED_FILES

RECORDS = "eur3"
# The file belongs to the queries, of which tests/gcp/ knows what each needs.
INDEXES = ROOT / "functions" / "gemtune" / "gcp" / "firestore_indexes.json"
WEEK, DAY = 604_800, 86_400
Values = Mapping[str, Any]

# Wanted values of the settings; `needed_by` says which component has which.
SETTINGS = {
    "GEMTUNE_BACKEND": "gcp",
    "PROJECT_ID": PROJECT_ID,
    "REGION": REGION,
    **{
        f"GCS_{name.upper()}_BUCKET_NAME": f"{PROJECT_ID}-gemtune-{name}"
        for name in ("config", "data", "uploads", "export")
    },
    "GEMTUNE_MACHINES": "l4,rtx-pro-6000,cpu",
    "GEMTUNE_AT_ONCE": "cpu=1,l4=3,rtx-pro-6000=2",
    "GEMTUNE_USD_PER_HOUR": "export=0.9,prepare=0.2,rtx-pro-6000=4.25",
    "GEMTUNE_DEFAULT_MAX_COST_USD": "12.5",
    "GEMTUNE_DEFAULT_MAX_HOURS": "10",
    "GEMTUNE_MAX_COST_USD": "50",
    "GEMTUNE_MAX_HOURS": "48",
    "GEMTUNE_OWNER_USD_PER_MONTH": "300",
    "GEMTUNE_OWNER_HOURS_PER_MONTH": "200",
    "GEMTUNE_WITHOUT_GGUF": "yes",
    "GEMTUNE_WORKFLOW": "fine-tune",
    "GEMTUNE_MOUNTS": "/mnt/gemtune",
    **{
        f"GEMTUNE_{step.upper()}_TIMEOUT_SECONDS": seconds
        for step, seconds in zip(Step, ("1800", "43200", "7200"), strict=True)
    },
    "GEMTUNE_GATEWAY": f"gemtune-gateway{DOMAIN}",
    "GEMTUNE_HF_TOKEN_SECRET": "hub-token",
    "GEMTUNE_WANDB_API_KEY_SECRET": "wandb-key",
    "GEMTUNE_UNSLOTH_PYTHON": "/opt/unsloth/current/bin/python",
}
# Memory: twice what the clients and a largest request take. Timeouts: the longest call, below the deadline of whoever
# calls. Sweep has one instance with one request, because two would do the same work.
FUNCTIONS = {
    "api": {"memory": "512Mi", "seconds": 600, "requests": 4, "instances": 20},
    "dispatch": {"memory": "512Mi", "seconds": 120, "requests": 4, "instances": 5},
    "ingest": {"memory": "512Mi", "seconds": 120, "requests": 4, "instances": 6},
    "fan-out": {"memory": "512Mi", "seconds": 300, "requests": 4, "instances": 10},
    "notify": {"memory": "512Mi", "seconds": 60, "requests": 4, "instances": 7},
    "control": {"memory": "512Mi", "seconds": 60, "requests": 4, "instances": 8},
    "sweep": {"memory": "1Gi", "seconds": 540, "requests": 1, "instances": 1},
}
# Function -> type of its event, and filters.
TRIGGERS: Mapping[str, tuple[str, list[Values]]] = {
    # Events are new documents; the job's own document changes far more often.
    "fan-out": (
        "google.cloud.firestore.document.v1.created",
        [
            {"attribute": "database", "value": "(default)"},
            {
                "attribute": "document",
                "operator": "match-path-pattern",
                "value": f"{JOBS}/{{job}}/{EVENTS}/{{seq}}",
            },
        ],
    ),
    # Finalized: new, whole objects.
    "ingest": (
        "google.cloud.storage.object.v1.finalized",
        [{"attribute": "bucket", "value": f"{PROJECT_ID}-gemtune-uploads"}],
    ),
}
PUSHED = {Topic.JOB_REQUESTS: ("dispatch", 20), Topic.WEBHOOKS: ("notify", 50)}
# Days of soft delete: what users upload can be restored; results and specs must be gone when a job is deleted.
SOFT_DELETE = {"config": 0, "data": WEEK, "uploads": WEEK, "export": 0, "source": 0}
APIS = (
    *("artifactregistry", "billingbudgets", "cloudbilling", "cloudbuild", "cloudfunctions", "cloudquotas"),
    *("cloudresourcemanager", "cloudscheduler", "eventarc", "eventarcpublishing", "firestore", "iam", "iamcredentials"),
    *("logging", "monitoring", "pubsub", "run", "secretmanager", "serviceusage", "storage", "workflowexecutions"),
    *("workflows", "apigateway", "servicecontrol", "servicemanagement"),
)
PARTS = (*FUNCTIONS, "workflow", "prepare", "train", "export", "scheduler", "push", "events", "build", "gateway")
# Fields with an index that only a composite one needs, or that rise with time.
UNINDEXED = {
    JOBS: (
        "created_at",
        "updated_at",
        "started_at",
        "finished_at",
        "secrets_renewed_at",
        "launch",
        "steps",
        "progress",
    ),
    EVENTS: ("at", "details"),
}


def email(part: str) -> str:
    return f"gemtune-{part}{DOMAIN}"


def uri(function: str) -> str:
    """Return the address that the stand-in makes up for a function."""
    return f"made-up-uri-of-gemtune-{function}"


def settings(component: str) -> dict[str, str]:
    return {name: SETTINGS[name] for name in sorted(needed_by(component, everything=True))}


def _function(name: str) -> Values:
    size = FUNCTIONS[name]
    values: dict[str, Any] = {
        "name": f"gemtune-{name}",
        "location": REGION,
        "build_config": [
            {
                "runtime": "python311",
                "entry_point": name.replace("-", "_"),
                "service_account": "made-up-id-of-gemtune-build",
                "docker_repository": "made-up-id-of-gemtune-functions",
                "source": [
                    {"storage_source": [{"bucket": f"{PROJECT_ID}-gemtune-source", "object": "functions/HASH.zip"}]}
                ],
            }
        ],
        "service_config": [
            {
                "service_account_email": email(name),
                "available_memory": size["memory"],
                "available_cpu": "1",  # less would forbid concurrent requests
                "timeout_seconds": size["seconds"],
                "max_instance_request_concurrency": size["requests"],
                "min_instance_count": 0,  # nothing runs, and costs, while nobody calls
                "max_instance_count": size["instances"],
                "ingress_settings": "ALLOW_ALL" if name == "api" else "ALLOW_INTERNAL_ONLY",
                "all_traffic_on_latest_revision": True,
                "environment_variables": settings(f"gemtune-{name}"),
            }
        ],
    }
    if name in TRIGGERS:
        event_type, filters = TRIGGERS[name]
        values["event_trigger"] = [
            {
                "trigger_region": RECORDS if name == "fan-out" else REGION,  # where the records, or the buckets, are
                "event_type": event_type,
                "retry_policy": "RETRY_POLICY_RETRY",
                "service_account_email": email("events"),
                "event_filters": filters,
            }
        ]
    return values


def _job(step: str, machine: Machine) -> Values:
    name = step.partition("-")[0]
    gpu = {} if machine.gpu is None else {"nvidia.com/gpu": "1"}
    digest = str({"cpu": 0, "cu126": 1, "cu130": 2}[machine.image]) * 64
    task: dict[str, Any] = {
        "service_account": email(name),
        "timeout": f"{SETTINGS[f'GEMTUNE_{name.upper()}_TIMEOUT_SECONDS']}s",
        "execution_environment": "EXECUTION_ENVIRONMENT_GEN2",
        "max_retries": 0,  # control decides about retries
        "containers": [
            {
                "image": f"us-central1-docker.pkg.dev/{PROJECT_ID}/gemtune-trainer/{machine.image}@sha256:{digest}",
                "args": [name],
                "resources": [{"limits": {"cpu": str(machine.cpus), "memory": f"{machine.memory_gib}Gi"} | gpu}],
                "env": [{"name": key, "value": value} for key, value in settings(f"gemtune-{step}").items()],
            }
        ],
    }
    if name != "prepare":  # it reads no weights; the others have no room for a copy of them
        buckets = ("config", "data", "uploads", "export")
        task["volumes"] = [
            {"name": each, "gcs": [{"bucket": f"{PROJECT_ID}-gemtune-{each}", "read_only": True}]} for each in buckets
        ]
        task["containers"][0]["volume_mounts"] = [
            {"name": each, "mount_path": f"{SETTINGS['GEMTUNE_MOUNTS']}/{PROJECT_ID}-gemtune-{each}"}
            for each in buckets
        ]
    if machine.gpu is not None:
        task |= {"node_selector": [{"accelerator": machine.gpu}], "gpu_zonal_redundancy_disabled": True}
    return {
        "name": f"gemtune-{step}",
        "location": REGION,
        "deletion_protection": False,  # it has no data
        "launch_stage": "GA" if machine.gpu is None else "BETA",
        "template": [{"task_count": 1, "parallelism": 1, "template": [task]}],
    }


def _bucket(name: str) -> Values:
    def rule(action: str, **condition: Any) -> Values:
        return {"action": [{"type": action}], "condition": [condition]}

    rules = [rule("AbortIncompleteMultipartUpload", age=7)]
    if name == "export":
        # Only checkpoints have these files, and no checkpoint is resumed after so long. Nothing of a result matches.
        suffixes = [f"/{file}" for file in REQUIRED_FILES if file != "trainer_state.json"]
        rules.append(rule("Delete", age=45, matches_prefix=["jobs/"], matches_suffix=suffixes))
        rules.append(rule("Delete", days_since_custom_time=90, matches_prefix=["models/"]))
    if name == "source":
        rules.append(rule("Delete", age=14, matches_prefix=["builds/"]))
    return {
        "name": f"{PROJECT_ID}-gemtune-{name}",
        "location": REGION,
        "uniform_bucket_level_access": True,
        "public_access_prevention": "enforced",
        "force_destroy": name == "source",  # the others have data of users
        "soft_delete_policy": [{"retention_duration_seconds": SOFT_DELETE[name]}],
        "lifecycle_rule": rules,
    }


def _push(topic: Topic) -> Values:
    function, attempts = PUSHED[topic]
    return {
        "name": f"{topic}-push",
        "topic": f"made-up-id-of-{topic}",
        "ack_deadline_seconds": FUNCTIONS[function]["seconds"],  # less would deliver twice
        "message_retention_duration": f"{WEEK}s",
        "push_config": [
            {
                "push_endpoint": f"{uri(function)}/projects/{PROJECT_ID}/topics/{topic}",
                "oidc_token": [{"service_account_email": email("push"), "audience": uri(function)}],
            }
        ],
        "retry_policy": [{"minimum_backoff": "10s", "maximum_backoff": "600s"}],
        "dead_letter_policy": [{"dead_letter_topic": f"made-up-id-of-{topic}-dead", "max_delivery_attempts": attempts}],
        "expiration_policy": [{"ttl": ""}],  # never
    }


def _registry(name: str, description: str) -> Values:
    return {
        "repository_id": f"gemtune-{name}",
        "location": REGION,
        "description": description,
        "format": "DOCKER",
        "cleanup_policies": [
            {"id": "delete-the-old", "action": "DELETE", "condition": [{"older_than": f"{14 * DAY}s"}]},
            {"id": "keep-the-newest", "action": "KEEP", "most_recent_versions": [{"keep_count": 3}]},
        ],
    }


def wanted() -> dict[str, Values]:
    """Return the values of each resource, by address."""
    return {
        **_project(),
        **_storage(),
        **_programs(),
        **_messages(),
        **_records(),
        **_gateway(),
        **monitoring([f"{topic}-dead" for topic in PUSHED]),
    }


def _project() -> dict[str, Values]:
    """Return what the project itself has: APIs, accounts, roles, a budget."""
    return {
        **{
            f'google_project_service.enabled["{name}"]': {
                "service": f"{name}.googleapis.com",
                "disable_on_destroy": False,  # others in the project may use it
            }
            for name in APIS
        },
        **{
            f'google_service_account.gemtune["{part}"]': {
                "account_id": f"gemtune-{part}",
                "email": email(part),
                "member": f"serviceAccount:{email(part)}",
            }
            for part in PARTS
        },
        **{
            f'google_project_iam_custom_role.gemtune["{name.removeprefix("gemtune_")}"]': {
                "role_id": name,
                "permissions": sorted(permissions),
            }
            for name, permissions in ROLES.items()
            if name.startswith("gemtune_")
        },
        **{
            f'google_project_service_identity.agent["{name}"]': {
                "project": PROJECT_ID,
                "service": f"{name}.googleapis.com",
            }
            for name in ("eventarc", "pubsub", "workflows")
        },
        # Durations that Google documents for a new account, and for a new metric, to become known everywhere.
        "time_sleep.agents": {"create_duration": "120s"},
        "time_sleep.build_roles": {"create_duration": "120s"},
        "time_sleep.log_metrics": {"create_duration": "600s"},
        "google_billing_budget.gemtune[0]": {
            "billing_account": "012345-6789AB-CDEF01",
            "budget_filter": [{"projects": [f"projects/{NUMBER}"]}],
            "amount": [{"specified_amount": [{"currency_code": "EUR", "units": "100"}]}],
            "threshold_rules": [
                *({"threshold_percent": share} for share in (0.5, 0.9, 1)),
                {"threshold_percent": 1, "spend_basis": "FORECASTED_SPEND"},
            ],
            "all_updates_rule": [{"monitoring_notification_channels": CHANNELS[:5]}],  # it can have no more
        },
    }


def _storage() -> dict[str, Values]:
    """Return buckets and registries."""
    return {
        **{f'google_storage_bucket.gemtune["{name}"]': _bucket(name) for name in SOFT_DELETE},
        "google_storage_bucket_object.functions": {
            "bucket": f"{PROJECT_ID}-gemtune-source",
            "name": "functions/HASH.zip",
            "source": "./.build/functions.zip",
        },
        'google_artifact_registry_repository.images["trainer"]': _registry("trainer", "Images of the steps"),
        'google_artifact_registry_repository.images["functions"]': _registry("functions", "Images of the functions"),
    }


def _programs() -> dict[str, Values]:
    """Return everything that runs code."""
    functions, jobs = "google_cloudfunctions2_function.gemtune", "google_cloud_run_v2_job.step"
    steps = CPU_STEPS | {"prepare": Machine(cpus=2, memory_gib=8)}  # everything.tfvars has other sizes than the default
    trains = {f"train-{name}": machine for name, machine in MACHINES.items()}
    exports = {f"export-{name}": MACHINES[name] for name in WITH_MORE_MEMORY}
    return {
        **{f'{functions}["{name}"]': _function(name) for name in FUNCTIONS},
        **{f'{jobs}["{step}"]': _job(step, machine) for step, machine in (steps | trains | exports).items()},
        "google_eventarc_trigger.data_bucket[0]": {
            "name": "gemtune-ingest-data",
            "location": REGION,
            "service_account": email("events"),
            "matching_criteria": [
                {"attribute": "bucket", "value": f"{PROJECT_ID}-gemtune-data"},
                {"attribute": "type", "value": "google.cloud.storage.object.v1.finalized"},
            ],
            "destination": [{"cloud_run_service": [{"service": "gemtune-ingest", "region": REGION}]}],
        },
        "google_workflows_workflow.fine_tune": {
            "name": SETTINGS["GEMTUNE_WORKFLOW"],
            "region": REGION,
            "service_account": "made-up-id-of-gemtune-workflow",
            "call_log_level": "LOG_ERRORS_ONLY",
            "deletion_protection": False,  # it has no data
            "user_env_vars": {
                "CONTROL_URL": uri("control"),
                "RUN_PARENT": f"projects/{PROJECT_ID}/locations/{REGION}",
            },
        },
        "google_cloud_scheduler_job.sweep": {
            "name": "gemtune-sweep",
            "region": REGION,
            "schedule": "*/3 * * * *",  # the lease of a launch
            "time_zone": "Etc/UTC",
            "attempt_deadline": f"{FUNCTIONS['sweep']['seconds']}s",
            "retry_config": [{"retry_count": 0}],
            "http_target": [
                {
                    "http_method": "POST",
                    "uri": uri("sweep"),
                    "oidc_token": [{"service_account_email": email("scheduler"), "audience": uri("sweep")}],
                }
            ],
        },
    }


def _messages() -> dict[str, Values]:
    """Return topics and their subscriptions."""
    subscriptions = "google_pubsub_subscription"
    return {
        **{
            f'google_pubsub_topic.gemtune["{name}"]': {"name": name, "message_retention_duration": f"{WEEK}s"}
            for name in (*Topic, *(f"{topic}-dead" for topic in PUSHED))
        },
        **{f'{subscriptions}.push["{topic}"]': _push(topic) for topic in PUSHED},
        **{
            f'{subscriptions}.dead["{topic}"]': {
                "name": f"{topic}-dead",
                "topic": f"made-up-id-of-{topic}-dead",
                "message_retention_duration": f"{WEEK}s",
                "expiration_policy": [{"ttl": ""}],
            }
            for topic in PUSHED
        },
        **{
            f'{subscriptions}.status["{name}"]': {
                "name": name,
                "topic": "made-up-id-of-job-status",
                "enable_message_ordering": True,
                "ack_deadline_seconds": 60,
                "message_retention_duration": f"{WEEK}s",
                "expiration_policy": [{"ttl": ""}],
                **filtered,
            }
            for name, filtered in (("ends", {"filter": 'attributes.status = "completed"'}), ("every", {}))
        },
    }


def _index_address(index: Values) -> str:
    fields = (f"{field['field_path']} {field['order'].lower()}" for field in index["fields"])
    return f'google_firestore_index.query["{" ".join((index["collection"], *fields))}"]'


def _index(index: Values) -> Values:
    return {
        "database": "(default)",
        "collection": index["collection"],
        "query_scope": "COLLECTION",  # no query asks several jobs for their events
        "fields": [dict(field) for field in index["fields"]],
    }


def _records() -> dict[str, Values]:
    """Return the database and its secret."""
    return {
        "google_firestore_database.records": {
            "name": "(default)",  # clients open it without a name
            "location_id": RECORDS,
            "type": "FIRESTORE_NATIVE",
            "point_in_time_recovery_enablement": "POINT_IN_TIME_RECOVERY_ENABLED",
            "delete_protection_state": "DELETE_PROTECTION_ENABLED",
            "deletion_policy": "ABANDON",
        },
        "google_firestore_field.event_expiry": {
            "database": "(default)",
            "collection": EVENTS,
            "field": "expire_at",
            "ttl_config": [{}],
            "index_config": [{}],
        },
        **{
            f'google_firestore_field.without_index["{collection} {field}"]': {
                "database": "(default)",
                "collection": collection,
                "field": field,
                "index_config": [{}],
            }
            for collection, fields in UNINDEXED.items()
            for field in fields
        },
        **{_index_address(index): _index(index) for index in json.loads(INDEXES.read_text())["indexes"]},
        "google_secret_manager_secret.webhook_key": {
            "secret_id": "gemtune-webhook-key",
            "replication": [{"auto": [{}]}],
        },
    }


def _gateway() -> dict[str, Values]:
    """Return the gateway of the API."""
    return {
        'google_api_gateway_api.gemtune["this"]': {"api_id": "gemtune"},
        'google_api_gateway_api_config.gemtune["this"]': {
            "api": "gemtune",
            "api_config_id_prefix": "gemtune-",
            "gateway_config": [{"backend_config": [{"google_service_account": email("gateway")}]}],
        },
        'google_api_gateway_gateway.gemtune["this"]': {
            "gateway_id": "gemtune",
            "api_config": "made-up-id-of-google_api_gateway_api_config",
            "region": "europe-west1",
        },
    }


# Attributes without an effect on what the service does: texts for people. Documents are compared elsewhere: the
# workflow's source and the gateway's routes in test_applied.py.
TEXTS = {"description", "display_name", "title", "content"}
ELSEWHERE = {"source_contents", "openapi_documents"}
