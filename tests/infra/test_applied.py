"""Values that are known only after apply: addresses, audiences, conditions.

The stand-ins make up the answers of Google.
"""

from __future__ import annotations

import base64
import json
import re

import pytest

from gemtune.handlers.endpoints import ENDPOINTS
from tests.infra.access_policies import FUNCTION, JOB
from tests.infra.offline import ROOT
from tests.infra.planned import Planned
from tests.infra.settings_needed import needed_by


def address_of(state: Planned, function: str) -> str:
    uri: str = state.one("google_cloudfunctions2_function", function)["service_config"][0]["uri"]
    return uri


@pytest.mark.parametrize(("topic", "function"), [("job-requests", "gemtune-dispatch"), ("webhooks", "gemtune-notify")])
def test_messages_are_pushed_with_their_topic_and_a_token_for_the_function(
    topic: str, function: str, applied: Planned
) -> None:
    (push,) = applied.one("google_pubsub_subscription", f"{topic}-push")["push_config"]
    assert push["push_endpoint"] == f"{address_of(applied, function)}/projects/example-project/topics/{topic}"
    (token,) = push["oidc_token"]
    assert token["audience"] == address_of(applied, function)
    assert token["service_account_email"].startswith("gemtune-push@")


def test_the_sweep_is_called_with_a_token_for_it(applied: Planned) -> None:
    (target,) = applied.one("google_cloud_scheduler_job", "gemtune-sweep")["http_target"]
    (token,) = target["oidc_token"]
    assert target["uri"] == token["audience"] == address_of(applied, "gemtune-sweep")


def test_the_workflow_has_its_environment(applied: Planned) -> None:
    workflow = applied.one("google_workflows_workflow", "fine-tune")
    text = (ROOT / "workflows" / "fine_tune.yaml").read_text()
    assert workflow["source_contents"] == text
    variables = set(re.findall(r'sys\.get_env\("(\w+)"\)', text)) - {"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID"}
    assert set(workflow["user_env_vars"]) == variables
    assert workflow["user_env_vars"]["CONTROL_URL"] == address_of(applied, "gemtune-control")
    assert workflow["user_env_vars"]["RUN_PARENT"] == "projects/example-project/locations/europe-west4"


def test_secrets_are_used_by_name(applied: Planned) -> None:
    """Check the conditions of project-wide roles for secrets."""
    named = re.compile(r'resource\.name\.startsWith\("projects/123456789012/secrets/gemtune-(job|user)-"\)')
    for address, values in applied.resources("google_project_iam_member"):
        if "secret" in values["role"] and not values["role"].endswith(("_make_secrets", "_list_secrets")):
            (condition,) = values["condition"]
            assert named.fullmatch(condition["expression"]), address


def test_roles_that_remove_results_are_limited_to_jobs_and_checks(applied: Planned) -> None:
    bucket = "example-project-gemtune-export"
    removers = [
        values
        for _, values in applied.resources("google_storage_bucket_iam_member")
        if values["bucket"] == bucket and values["role"].endswith("_remove_objects")
    ]
    below = [f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/{kind}/")' for kind in ("checks", "jobs")]
    conditions = sorted([c["expression"] for c in values["condition"]] for values in removers)
    assert conditions == [[each] for each in below for _ in ("api", "sweep")]


def test_optional_settings_are_set_where_needed_and_only_steps_read_secrets(applied: Planned) -> None:
    for component in (*applied.named(FUNCTION), *applied.named(JOB)):
        assert set(applied.settings_of(component)) == needed_by(component, everything=True), component
    readers = [values for _, values in applied.resources("google_secret_manager_secret_iam_member")]
    for name, steps in (("hub-token", ("prepare", "export")), ("wandb-key", ("train",))):
        members = {values["member"].partition("@")[0] for values in readers if values["secret_id"] == name}
        assert members == {f"serviceAccount:gemtune-{step}" for step in steps}


def test_listeners_get_the_events_of_a_job_in_order(applied: Planned) -> None:
    listener = applied.one("google_pubsub_subscription", "ends")
    assert (listener["enable_message_ordering"], listener["filter"]) == (True, 'attributes.status = "completed"')


def test_the_gateway_routes_exactly_the_endpoints_of_the_api(applied: Planned) -> None:
    ((_, config),) = applied.resources("google_api_gateway_api_config")
    document = json.loads(base64.b64decode(config["openapi_documents"][0]["document"][0]["contents"]))
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert routes == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    methods = [(path, method) for path, each in document["paths"].items() for method in each.values()]
    for path, method in methods:
        names = re.findall(r"\{(\w+)\}", path)
        assert method["parameters"] == [
            {"name": name, "in": "path", "required": True, "type": "string"} for name in names
        ]
        assert set(method) == {"operationId", "parameters", "responses"}  # and no rule of its own about who may call
    assert len({method["operationId"] for _, method in methods}) == len(methods)
    assert (document["swagger"], document["produces"]) == ("2.0", ["application/json"])


def test_the_gateway_lets_in_whom_the_issuer_knows_and_waits_as_long_as_the_api(applied: Planned) -> None:
    ((_, config),) = applied.resources("google_api_gateway_api_config")
    document = json.loads(base64.b64decode(config["openapi_documents"][0]["document"][0]["contents"]))
    assert document["security"] == [{"caller": []}]
    assert document["securityDefinitions"]["caller"] == {
        "type": "oauth2",
        "flow": "implicit",
        "authorizationUrl": "",
        "x-google-issuer": "https://issuer.example.com",
        "x-google-jwks_uri": "https://issuer.example.com/keys",
        "x-google-audiences": "gemtune",
    }
    assert document["x-google-backend"] == {
        "address": address_of(applied, "gemtune-api"),
        "path_translation": "APPEND_PATH_TO_ADDRESS",
        "deadline": applied.one(FUNCTION, "gemtune-api")["service_config"][0]["timeout_seconds"],
    }
    assert document["schemes"] == ["https"]


def test_every_alert_has_a_channel_and_a_documentation(applied: Planned) -> None:
    for address, policy in applied.resources("google_monitoring_alert_policy"):
        assert len(policy["notification_channels"]) == 6, address
        assert policy["documentation"][0]["content"], address
    ((_, budget),) = applied.resources("google_billing_budget")
    assert budget["budget_filter"][0]["projects"] == ["projects/123456789012"]
