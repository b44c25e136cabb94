"""Every role that is granted, with the calls that need it.

The set of grants of a deployment equals this table. `test_grants.py` compares it with Terraform's, and the end-to-end
test on emulators with the calls that each identity makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gemtune.jobs.status import Step
from tests.infra.planned import Planned

# Resource that a role is granted on, as kind and name, such as ("bucket", "export"). The project has no name.
Target = tuple[str, str]
PROJECT: Target = ("project", "")

# Permissions of predefined roles that gemtune uses.
# https://cloud.google.com/iam/docs/understanding-roles
ROLES: Mapping[str, frozenset[str]] = {
    "artifactregistry.writer": frozenset({"artifactregistry.repositories.uploadArtifacts"}),
    "datastore.user": frozenset({"datastore.entities"}),  # all calls on documents
    "eventarc.eventReceiver": frozenset({"eventarc.events.receiveEvent"}),
    "eventarc.serviceAgent": frozenset({"eventarc.agent"}),
    "logging.logWriter": frozenset({"logging.logEntries.create"}),
    "pubsub.publisher": frozenset({"pubsub.topics.publish"}),
    "pubsub.serviceAgent": frozenset({"pubsub.agent"}),
    "pubsub.subscriber": frozenset({"pubsub.subscriptions.consume"}),
    "run.invoker": frozenset({"run.routes.invoke"}),
    "run.jobsExecutorWithOverrides": frozenset({"run.jobs.run", "run.jobs.runWithOverrides"}),
    "secretmanager.secretAccessor": frozenset({"secretmanager.versions.access"}),
    "secretmanager.secretVersionAdder": frozenset({"secretmanager.versions.add"}),
    "storage.objectCreator": frozenset({"storage.objects.create"}),
    "storage.objectUser": frozenset(
        {
            "storage.objects.create",
            "storage.objects.delete",
            "storage.objects.get",
            "storage.objects.list",
            "storage.objects.update",
        }
    ),
    "storage.objectViewer": frozenset({"storage.objects.get", "storage.objects.list"}),
    "workflows.invoker": frozenset(
        {
            "workflows.executions.cancel",
            "workflows.executions.create",
            "workflows.executions.get",
            "workflows.executions.list",
        }
    ),
    "workflows.serviceAgent": frozenset({"workflows.agent"}),
    # Custom roles.
    "gemtune_end_executions": frozenset({"workflows.executions.cancel"}),
    "gemtune_end_steps": frozenset({"run.executions.cancel", "run.executions.list"}),
    "gemtune_watch_steps": frozenset({"run.executions.get", "run.jobs.get", "run.operations.get"}),
    "gemtune_sign_links": frozenset({"iam.serviceAccounts.signBlob"}),
    "gemtune_make_secrets": frozenset({"secretmanager.secrets.create"}),
    "gemtune_list_secrets": frozenset({"secretmanager.secrets.list"}),
    "gemtune_renew_secrets": frozenset({"secretmanager.secrets.update"}),
    "gemtune_remove_secrets": frozenset({"secretmanager.secrets.delete"}),
    "gemtune_read_logs": frozenset({"logging.logEntries.list"}),
    "gemtune_remove_objects": frozenset({"storage.objects.delete"}),
}


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """Role of an identity on a target, for some names or all.

    who: a part of gemtune, an agent of Google, or a member that a variable names. names: the condition, as `begins …`
    or `ends …`; empty without one.
    """

    who: str
    role: str
    on: Target
    names: str = ""

    def permits(self, permission: str, resource: Target, name: str) -> bool:
        """Return whether the grant permits a call on a named resource."""
        if permission not in ROLES[self.role] or self.on not in (resource, PROJECT):
            return False
        kind, _, part = self.names.partition(" ")
        return {"": True, "begins": name.startswith(part), "ends": name.endswith(part)}[kind]


@dataclass(frozen=True, slots=True)
class Reason:
    """The call that needs a grant.

    unseen: why the end-to-end test on emulators does not see the call; empty if it does.
    """

    call: str
    unseen: str = ""


GOOGLE = "Google's own account makes the call, which no emulator does"
LOGGING = "no emulator has logs"
BUILDS = "builds run in Cloud Build only"
ACCEPTING = ("api", "dispatch", "ingest")
BUILT_STEPS = ("prepare", "train-cpu", "train-l4", "train-rtx-pro-6000", "export", "export-rtx-pro-6000")


def _bucket(name: str) -> Target:
    return ("bucket", name)


def _of_buckets() -> Iterator[tuple[Grant, Reason]]:
    for who in ACCEPTING:
        why = "" if who == "api" else "a message or a file that trains on from a job"
        yield Grant(who, "storage.objectViewer", _bucket("config")), Reason("reads the spec of a job to train on", why)
        yield Grant(who, "storage.objectCreator", _bucket("config")), Reason("writes the spec of a new job")
        why = "" if who == "api" else "two requests with one key at the same moment"
        yield (
            Grant(who, "gemtune_remove_objects", _bucket("config")),
            Reason("deletes the spec of a deleted job or a repeated request", why),
        )
        yield Grant(who, "storage.objectViewer", _bucket("data")), Reason("looks for the dataset")
        why = "a base model or a job file there"
        yield (
            Grant(who, "storage.objectViewer", _bucket("uploads")),
            Reason("reads a base model's config.json", "" if who == "ingest" else why),
        )
        why = "" if who == "api" else "a message or a file that trains on from a job"
        reason = Reason("reads results, also of a job to train on", why)
        yield Grant(who, "storage.objectViewer", _bucket("export")), reason
    yield Grant("api", "gemtune_remove_objects", _bucket("export"), "begins jobs/"), Reason("deletes a job's results")
    for who, why in (("api", "datasets are checked by a test of their own"), ("sweep", "checks are a week old")):
        yield (
            Grant(who, "gemtune_remove_objects", _bucket("export"), "begins checks/"),
            Reason("deletes reports about a dataset", why),
        )
    for bucket in ("uploads", "data"):
        for ending in (".accepted.json", ".rejected.json"):
            why = "" if bucket == "uploads" else "job files next to a dataset"
            yield (
                Grant("ingest", "storage.objectUser", _bucket(bucket), f"ends {ending}"),
                Reason("answers a job file, and removes the other answer", why),
            )
    for prefix in ("datasets/", "processed_datasets/"):
        why = "datasets are uploaded by a test of their own"
        yield (
            Grant("api", "storage.objectUser", _bucket("data"), f"begins {prefix}"),
            Reason("uploads and deletes a dataset", why),
        )
    for who, writes in (("prepare", "rows"), ("train", "checkpoints"), ("export", "results")):
        yield Grant(who, "storage.objectViewer", _bucket("config")), Reason("reads the spec")
        yield Grant(who, "storage.objectViewer", _bucket("data")), Reason("reads a base model")
        yield Grant(who, "storage.objectViewer", _bucket("uploads")), Reason("reads a base model", "none is there")
        yield Grant(who, "storage.objectUser", _bucket("export")), Reason(f"writes {writes}")
    yield Grant("build", "storage.objectViewer", _bucket("source")), Reason("reads the sources", BUILDS)


def _of_buckets_to_sweep() -> Iterator[tuple[Grant, Reason]]:
    why = "an upload that was abandoned for a week"
    yield Grant("sweep", "storage.objectViewer", _bucket("data")), Reason("lists uploads of datasets")
    yield (
        Grant("sweep", "gemtune_remove_objects", _bucket("data"), "begins datasets/"),
        Reason("removes abandoned uploads", why),
    )
    yield (
        Grant("sweep", "gemtune_remove_objects", _bucket("data"), "begins processed_datasets/dataset_"),
        Reason("removes what an abandoned upload has put together", why),
    )
    yield Grant("sweep", "storage.objectViewer", _bucket("config")), Reason("lists new specs")
    why = "specs without a job are an hour old"
    yield Grant("sweep", "gemtune_remove_objects", _bucket("config")), Reason("deletes specs without a job", why)
    why = "a step that writes after its job was deleted"
    yield Grant("sweep", "storage.objectViewer", _bucket("export")), Reason("lists late results of deleted jobs", why)
    yield (
        Grant("sweep", "gemtune_remove_objects", _bucket("export"), "begins jobs/"),
        Reason("deletes late results of deleted jobs", why),
    )


def _of_project() -> Iterator[tuple[Grant, Reason]]:
    for who in ("api", "dispatch", "ingest", "fan-out", "control", "sweep", *map(str, Step)):
        yield Grant(who, "datastore.user", PROJECT), Reason("reads and writes records")
    yield Grant("dispatch", "workflows.invoker", PROJECT), Reason("starts the workflow")
    yield Grant("sweep", "workflows.invoker", PROJECT), Reason("reads states, and ends lost executions")
    yield Grant("api", "gemtune_end_executions", PROJECT), Reason("ends a cancelled job's execution")
    yield Grant("api", "gemtune_read_logs", PROJECT), Reason("shows the output of steps", LOGGING)
    yield Grant("workflow", "gemtune_watch_steps", PROJECT), Reason("polls a step's operation")
    yield Grant("workflow", "logging.logWriter", PROJECT), Reason("writes its call log", GOOGLE)
    yield Grant("api", "gemtune_make_secrets", PROJECT), Reason("stores a token")
    yield Grant("sweep", "gemtune_list_secrets", PROJECT), Reason("lists secrets without a job")
    yield Grant("events", "eventarc.eventReceiver", PROJECT), Reason("receives events", GOOGLE)
    yield Grant("build", "logging.logWriter", PROJECT), Reason("writes the log of a build", BUILDS)
    yield (
        Grant("build", "storage.objectViewer", PROJECT, "begins bucket gcf-v2-sources-"),
        Reason("reads the functions' sources in Google's bucket", BUILDS),
    )
    for agent in ("eventarc", "pubsub", "workflows"):
        yield Grant(f"agent {agent}", f"{agent}.serviceAgent", PROJECT), Reason("calls what it delivers to", GOOGLE)
    yield Grant("agent storage", "pubsub.publisher", PROJECT), Reason("publishes that an object is new", GOOGLE)


def _of_secrets() -> Iterator[tuple[Grant, Reason]]:
    job, user = "begins gemtune-job-", "begins gemtune-user-"
    yield Grant("api", "secretmanager.secretVersionAdder", PROJECT, job), Reason("stores a token")
    yield Grant("api", "gemtune_renew_secrets", PROJECT, job), Reason("stores a token again", "a repeated request")
    yield Grant("api", "gemtune_remove_secrets", PROJECT, job), Reason("deletes a deleted job's token")
    for who in ACCEPTING:
        why = "a request with a stored secret"
        yield Grant(who, "secretmanager.secretAccessor", PROJECT, user), Reason("checks that a secret exists", why)
    yield Grant("fan-out", "gemtune_remove_secrets", PROJECT, job), Reason("deletes the token of a job that is over")
    why = "a secret without a job is an hour old"
    yield Grant("sweep", "gemtune_remove_secrets", PROJECT, job), Reason("deletes secrets without a job", why)
    why = "a job that has waited for a day"
    yield Grant("sweep", "gemtune_renew_secrets", PROJECT, job), Reason("postpones the expiry of its token", why)
    why = "the Hub and W&B, which no test calls"
    for step in map(str, Step):
        yield Grant(step, "gemtune_renew_secrets", PROJECT, job), Reason("postpones the expiry of its token")
        yield Grant(step, "secretmanager.secretAccessor", PROJECT, job), Reason("reads its token", why)
        yield Grant(step, "secretmanager.secretAccessor", PROJECT, user), Reason("reads a stored secret", why)
    for who, name in (("prepare", "hub-token"), ("export", "hub-token"), ("train", "wandb-key")):
        yield Grant(who, "secretmanager.secretAccessor", ("secret", name)), Reason("reads the service's own", why)
    key = ("secret", "gemtune-webhook-key")
    yield Grant("notify", "secretmanager.secretVersionAdder", key), Reason("makes the signing key once")
    yield Grant("notify", "secretmanager.secretAccessor", key), Reason("reads the signing key")


def _of_others() -> Iterator[tuple[Grant, Reason]]:
    for function, who in (
        ("control", "workflow"),
        ("sweep", "scheduler"),
        ("dispatch", "push"),
        ("notify", "push"),
        ("ingest", "events"),
        ("fan-out", "events"),
        ("api", "gateway"),
        ("api", "group:team@example.com"),
        ("api", "user:you@example.com"),
    ):
        yield Grant(who, "run.invoker", ("service", f"gemtune-{function}")), Reason(f"calls {function}", GOOGLE)
    checked = Reason("has a dataset checked", "datasets are checked by a test of their own")
    yield Grant("api", "run.jobsExecutorWithOverrides", ("job", "gemtune-prepare")), checked
    for step in BUILT_STEPS:
        job = ("job", f"gemtune-{step}")
        is_run = step in ("prepare", "train-l4", "export")
        why = "" if is_run else "the emulators' deployment has one machine"
        yield Grant("workflow", "run.jobsExecutorWithOverrides", job), Reason("runs a step", why)
        why = "an execution that stays pending"
        yield Grant("control", "gemtune_end_steps", job), Reason("ends a step that does not begin", why)
        why = "" if step == "train-l4" else "the test cancels in training"
        yield Grant("api", "gemtune_end_steps", job), Reason("ends a cancelled job's step", why)
        yield (
            Grant("sweep", "gemtune_end_steps", job),
            Reason("ends a lost execution's step", "depends on what is lost"),
        )
    for who, topic in (
        ("api", "job-requests"),
        ("ingest", "job-requests"),
        ("sweep", "job-requests"),
        ("dispatch", "job-status"),
        ("fan-out", "job-status"),
        ("fan-out", "webhooks"),
        ("sweep", "job-status"),
        ("sweep", "webhooks"),
    ):
        why = "what was lost" if who == "sweep" else ""
        yield Grant(who, "pubsub.publisher", ("topic", topic)), Reason("publishes there", why)
    for topic in ("job-requests", "webhooks"):
        yield (
            Grant("agent pubsub", "pubsub.publisher", ("topic", f"{topic}-dead")),
            Reason("moves dead letters", GOOGLE),
        )
        push = ("subscription", f"{topic}-push")
        yield Grant("agent pubsub", "pubsub.subscriber", push), Reason("acknowledges what it has moved", GOOGLE)
    yield (
        Grant("api", "gemtune_sign_links", ("account", "gemtune-api")),
        Reason("signs links", "there is no IAM API here"),
    )
    for registry in ("trainer", "functions"):
        yield (
            Grant("build", "artifactregistry.writer", ("registry", f"gemtune-{registry}")),
            Reason("pushes images", BUILDS),
        )


def _of_members() -> Iterator[tuple[Grant, Reason]]:
    """Yield grants of members that everything.tfvars names."""
    people = "a member that a variable names"
    me, you = "user:me@example.com", "user:you@example.com"
    producer = "serviceAccount:producer@example-project.iam.gserviceaccount.com"
    for who in (producer, you):
        yield Grant(who, "pubsub.publisher", ("topic", "job-requests")), Reason("publishes requests", people)
    for who in (me, you):
        for bucket, role in (("data", "User"), ("uploads", "User"), ("export", "Viewer")):
            yield Grant(who, f"storage.object{role}", _bucket(bucket)), Reason("uploads, and downloads results", people)
    for who, name in ((me, "ends"), (you, "ends"), (me, "every")):
        yield Grant(who, "pubsub.subscriber", ("subscription", name)), Reason("listens", people)


TABLE: Mapping[Grant, Reason] = dict(
    [*_of_buckets(), *_of_buckets_to_sweep(), *_of_project(), *_of_secrets(), *_of_others(), *_of_members()]
)

PROJECT_ID, NUMBER, REGION = "example-project", "123456789012", "europe-west4"
DOMAIN = f"@{PROJECT_ID}.iam.gserviceaccount.com"
# The stand-ins make it up; Google tells the true one.
STORAGE_AGENT = "made-up-member-of-google_storage_project_service_account"


def granted(state: Planned) -> Iterator[tuple[str, Grant]]:
    """Yield the address and the grant of each IAM resource of a state.

    Raises ValueError for a kind, a project or a condition that this table cannot express.
    """
    for address, values in state.resources():
        if "_iam_" in address.partition(".")[0] and "custom_role" not in address.partition(".")[0]:
            place, _, role = values["role"].rpartition("/")
            if place != (f"projects/{PROJECT_ID}/roles" if role.startswith("gemtune_") else "roles"):
                raise ValueError(f"{address} grants {values['role']}")
            yield address, Grant(_who(values["member"]), role, _target(address, values), _names(address, values))


def _who(member: str) -> str:
    """Return the part of gemtune, or the agent, that a member is."""
    name = member.removeprefix("serviceAccount:")
    if name.startswith("gemtune-") and name.endswith(DOMAIN):
        return name.removeprefix("gemtune-").removesuffix(DOMAIN)
    for agent in ("eventarc", "pubsub", "workflows"):
        if name == f"service-{NUMBER}@gcp-sa-{agent}.iam.gserviceaccount.com":
            return f"agent {agent}"
    return "agent storage" if member == STORAGE_AGENT else member


def _target(address: str, values: Mapping[str, object]) -> Target:
    resource = address.partition(".")[0].removeprefix("google_").partition("_iam_")[0]
    if values.get("project") not in (None, PROJECT_ID) and not str(values.get("project")).startswith("made-up-project"):
        raise ValueError(f"{address} is in project {values['project']}")
    kinds = {
        "storage_bucket": ("bucket", "bucket"),
        "pubsub_topic": ("topic", "topic"),
        "pubsub_subscription": ("subscription", "subscription"),
        "cloud_run_v2_job": ("job", "name"),
        "cloud_run_v2_service": ("service", "name"),
        "secret_manager_secret": ("secret", "secret_id"),
        "artifact_registry_repository": ("registry", "repository"),
        "service_account": ("account", "service_account_id"),
    }
    if resource == "project":
        return PROJECT
    if resource not in kinds:
        raise ValueError(f"{address}: no such kind of grant")
    kind, attribute = kinds[resource]
    name = str(values[attribute])
    if kind == "bucket":
        name = name.removeprefix(f"{PROJECT_ID}-gemtune-")
    if "location" in values and values["location"] != REGION:
        raise ValueError(f"{address} is in {values['location']}")
    return kind, name.rpartition("-of-")[2] if name.startswith("made-up-") else name


def _names(address: str, values: Mapping[str, object]) -> str:
    """Return the condition of a grant. Raises ValueError."""
    conditions = values.get("condition") or []
    if not isinstance(conditions, list) or not conditions:
        return ""
    expression = conditions[0]["expression"]
    own = str(values.get("bucket", ""))
    for form, start, end in (
        ("begins ", f'resource.name.startsWith("projects/_/buckets/{own}/objects/', '")'),
        ("begins bucket ", 'resource.name.startsWith("projects/_/buckets/', '")'),
        ("begins ", f'resource.name.startsWith("projects/{NUMBER}/secrets/', '")'),
        ("ends ", 'resource.name.endsWith("', '")'),
    ):
        if expression.startswith(start) and expression.endswith(end):
            return form + expression[len(start) : -len(end)]
    raise ValueError(f"{address} has the condition {expression}")
