"""Order of creation in an empty project, from Terraform's own graph."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from deploy import images
from tests.infra.grants import granted
from tests.infra.offline import Terraform
from tests.infra.planned import Planned

APIS = "google_project_service.enabled"
AGENTS = "time_sleep.agents"
BUILD_ROLES = "time_sleep.build_roles"
METRICS = "time_sleep.log_metrics"


@pytest.fixture(scope="module")
def before(terraform: Terraform) -> Mapping[str, set[str]]:
    """Return the resources that exist before each resource is created."""
    graph = terraform("graph").stdout
    direct: dict[str, set[str]] = {name: set() for name in re.findall(r'"([\w.]+)" \[label', graph)}
    for name, needed in re.findall(r'"([\w.]+)" -> "([\w.]+)"', graph):
        direct[name].add(needed)

    def closure(name: str, ancestors: set[str]) -> set[str]:
        for needed in direct[name] - ancestors:
            ancestors.add(needed)
            closure(needed, ancestors)
        return ancestors

    return {name: closure(name, set()) for name in direct}


def test_every_resource_waits_for_its_api(before: Mapping[str, set[str]]) -> None:
    assert len(before) > 50
    offline = {"data.archive_file.functions", APIS}
    assert [name for name, needed in before.items() if APIS not in needed and name not in offline] == []


@pytest.mark.parametrize(
    "name",
    [
        "google_cloudfunctions2_function.gemtune",
        "google_eventarc_trigger.data_bucket",
        "google_workflows_workflow.fine_tune",
    ],
)
def test_what_uses_an_agent_of_google_waits_until_it_is_known(name: str, before: Mapping[str, set[str]]) -> None:
    assert AGENTS in before[name]


def test_the_wait_for_agents_of_google_begins_when_all_of_them_have_their_roles(
    before: Mapping[str, set[str]], applied: Planned
) -> None:
    roles = {address.partition("[")[0] for address, grant in granted(applied) if grant.who.startswith("agent ")}
    of_project = {name for name in roles if name.startswith("google_project_")}
    assert of_project == {"google_project_iam_member.agents", "google_project_iam_member.storage_events"}
    assert {"google_project_service_identity.agent", *of_project} <= before[AGENTS]


def test_dead_letters_are_for_an_agent_that_exists(before: Mapping[str, set[str]]) -> None:
    for kind in ("topic", "subscription"):
        assert "google_project_service_identity.agent" in before[f"google_pubsub_{kind}_iam_member.dead_letters"]


def test_alerts_on_our_metrics_wait_until_the_metrics_are_known(before: Mapping[str, set[str]]) -> None:
    assert {METRICS, "google_logging_metric.gemtune"} <= before["google_monitoring_alert_policy.gemtune"]


def test_what_is_built_waits_for_every_role_of_the_account_that_builds(
    before: Mapping[str, set[str]], applied: Planned
) -> None:
    roles = {address.partition("[")[0] for address, grant in granted(applied) if grant.who == "build"}
    assert len(roles) == 4
    assert roles <= before[BUILD_ROLES]
    assert BUILD_ROLES in before["google_cloudfunctions2_function.gemtune"]
    assert images.BUILD_RESOURCES == (BUILD_ROLES,)  # before the images are built
    assert not {name for name in before[BUILD_ROLES] if "function" in name or "run_v2" in name}


def test_roles_are_granted_before_what_needs_them_runs(before: Mapping[str, set[str]]) -> None:
    functions = before["google_cloudfunctions2_function.gemtune"]
    assert {
        "google_artifact_registry_repository_iam_member.build",
        "google_project_iam_member.gemtune",
        "google_storage_bucket_iam_member.gemtune",
    } <= functions
    invoker = "google_cloud_run_v2_service_iam_member.invoker"
    callers = ("pubsub_subscription.push", "cloud_scheduler_job.sweep", "eventarc_trigger.data_bucket")
    for caller in (f"google_{name}" for name in callers):
        assert invoker in before[caller]
    custom = "google_project_iam_custom_role.gemtune"
    for grant in (name for name in before if "_iam_member." in name):
        if grant.endswith((".gemtune", ".secrets", ".end", ".signer")) and "google_project_service" not in grant:
            assert custom in before[grant] or "artifact" in grant, grant
