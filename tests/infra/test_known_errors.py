"""Messages to the user when a first deployment ends with a known error.

The messages are those that people have reported of Google's providers and of gcloud.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import known_errors, terraform
from deploy.deployment import Deployment
from deploy.known_errors import KNOWN_ERRORS
from deploy.terraform import REPEATS, Terraform
from deploy.tools import Refused
from tests.infra.stand_ins import PROJECT, REGION, ROOT, STATE, StandIns

DEPLOYMENT = Deployment(PROJECT, REGION, sure=False)
# An excerpt of each message -> part of what the user reads.
PASSING = {
    """╷
│ Error: Error creating function: googleapi: Error 400: Validation failed for trigger
│ projects/p/locations/l/triggers/gemtune-fan-out-1: Invalid resource state for "": Permission denied while using
│ the Eventarc Service Agent. If you recently started to use Eventarc, it may take a few minutes before all
│ necessary permissions are propagated to the Service Agent.
╵
""": "Google's account for Eventarc is new",
    """│ Error: Error creating AlertPolicy: googleapi: Error 404: Cannot find metric(s) that match type =
│ "logging.googleapis.com/user/gemtune/failed_jobs". If a metric was created recently, it could take up to 10
│ minutes to become available. Please try again soon.
""": "an alert uses a metric that is new",
    """│ Error: Error creating Topic: googleapi: Error 403: Cloud Pub/Sub API has not been used in project 123 before or
│ it is disabled. Enable it by visiting …
""": "an API was enabled a moment ago",
    """ERROR: (gcloud.services.list) PERMISSION_DENIED: Service Usage API has not been used in project 123 before or
it is disabled. reason: SERVICE_DISABLED
""": "an API was enabled a moment ago",  # in the words of a general refusal
    """│ Error: Error creating Trigger: googleapi: Error 400: The Cloud Storage service account for your bucket is
│ unable to publish to Cloud Pub/Sub topics in the specified project.
""": "the role of Google's account for Cloud Storage is new",
    """│ Error: Error waiting to create function: Error waiting for Creating function: Error code 13, message:
│ Build failed with status: FAILURE and message: failed to Fetch: failed to download archive
│ gs://gcf-v2-sources-123-europe-west1/gemtune-api/function-source.zip: Access to bucket
│ gcf-v2-sources-123-europe-west1 denied. You must grant Storage Object Viewer permission to gemtune-build@p.
""": "the roles of the account that builds are new",
    """│ Error: Error waiting to create function: Error code 3, message: Could not build the function due to a missing
│ permission on the build service account.
""": "the roles of the account that builds are new",
    """│ Error: Request `Create IAM Members roles/run.invoker` returned error: Error 400: Service account
│ gemtune-push@p.iam.gserviceaccount.com does not exist., badRequest
""": "a service account is new",
}
LASTING = {
    "ERROR: (gcloud.builds.submit) FAILED_PRECONDITION: failed precondition: due to quota restrictions, cannot run "
    "builds in this region": "BUILD_REGION=us-central1",
    """│ Error: Error creating Job: googleapi: Error 400: Max instances must be set to 0 or fewer to set the requested
│ total memory. Quota violated: MemAllocPerProjectRegion requested: 85899345920 allowed: 42949672960
""": "leave large machines out of `machines`",
    "You do not have quota for using GPUs without zonal redundancy.": "the project has no quota for this GPU",
    """│ Error: Error applying IAM policy for cloudrun service "v1/projects/p/locations/l/services/gemtune-api": Error
│ setting IAM policy: googleapi: Error 400: User me@exmaple.com does not exist., badRequest
""": "a member of `callers`, `publishers` or `uploaders` does not exist",
    """│ Error: Error retrieving IAM policy for secretmanager secret "projects/p/secrets/hub-token": googleapi: Error
│ 404: Secret [projects/123/secrets/hub-token] not found.
""": "the secret that `hf_token_secret` or `wandb_key_secret` names does not exist",
    "googleapi: Error 409: Database already exists. Please use another database_id": "use a project of its own",
    "Error waiting to create Service: Quota exceeded for total allowable count of GPUs per project per region.": (
        "the project has no quota for this GPU"
    ),
    """ERROR: (gcloud.services.enable) FAILED_PRECONDITION: Billing account for project '522837608576' is not found.
Billing must be enabled for activation of service(s) 'compute.googleapis.com' to proceed.
""": "the project has no active billing account",
    "googleapi: Error 403: This API method requires billing to be enabled. BILLING_DISABLED": "linkedaccount",
    "Error: google: could not find default credentials.": "gcloud auth application-default login",
    "One or more users named in the policy do not belong to a permitted customer": "the organization's own domain",
    """│ Error: Request `Create IAM Members roles/logging.logWriter` returned error: googleapi: Error 400: Details:
│   {"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [ {
│     "description": "User service-1@gcp-sa-logging.iam.gserviceaccount.com is not in permitted organization.",
│     "type": "constraints/iam.allowedPolicyMemberDomains"
""": "if the message names an account of Google's",
    "Error: googleapi: Error 412: 'us' violates constraint 'constraints/gcp.resourceLocations', conditionNotMet": (
        "choose a REGION that it allows"
    ),
    """The request has violated one or more Org Policies. Constraint constraints/gcp.resourceLocations violated for
projects/p attempting GenerateUploadUrlActionV1 with location set to us-central1.
""": "a policy of the organization forbids a location",
    """Constraint constraints/cloudfunctions.allowedIngressSettings violated for projects/p attempting
CreateFunctionActionV1 with ingress_settings set to INGRESS_SETTINGS_UNSPECIFIED.
""": "gemtune-api has the ingress ALLOW_ALL",
    """│ Error: googleapi: Error 412: Request violates constraint
│ 'constraints/storage.uniformBucketLevelAccess', conditionNotMet
""": "ask its policy administrator",
    """FAILED_PRECONDITION: Key creation is not allowed on this service account.
- '@type': type.googleapis.com/google.rpc.PreconditionFailure
  violations:
  - description: Key creation is not allowed on this service account.
    type: constraints/iam.disableServiceAccountKeyCreation
""": "roles/owner cannot change it",
    "'description': 'Constraint `constraints/iam.disableServiceAccountKeyUpload` violated for service account p'": (
        "the constraint that the message names"
    ),
    "googleapi: Error 409: The requested bucket name is not available.": "a project with another ID",
    "googleapi: Error 403: Permission 'iam.roles.create' denied on resource": "deploy with roles/owner",
    "Error: Failed to get existing workspaces: querying Cloud Storage failed: storage: bucket doesn't exist": (
        "create it first"
    ),
    "Error: Error acquiring the state lock": "terraform force-unlock",
    "the cached package for hashicorp/google doesn't match any of the checksums recorded": "git checkout",
}


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """Return stand-ins that this process calls."""
    cloud = StandIns(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("deploy.deployment.ROOT", cloud.checkout)
    DEPLOYMENT.folder.mkdir(parents=True)
    return cloud


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.mark.parametrize("message", PASSING)
def test_an_apply_that_ended_by_a_passing_cause_is_repeated_and_says_so(
    message: str, cloud: StandIns, slept: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    cloud.answer("apply", code=1, errors=message, times=2)
    cloud.write_answers()
    Terraform(DEPLOYMENT).apply("-var", "x=y")
    shown = capfd.readouterr()
    assert f"The apply stopped at an error of new projects: {PASSING[message]}" in shown.out
    assert f"(1 of {REPEATS})" in shown.out
    assert f"(2 of {REPEATS})" in shown.out
    assert message in shown.err
    assert len(slept) == 2
    assert min(slept) >= 60
    first, second, third = cloud.calls
    assert "-auto-approve" not in first  # Terraform asks; what was approved is continued without asking
    assert "-auto-approve" in second
    assert "-auto-approve" in third


def test_a_passing_cause_that_does_not_pass_ends_the_deployment(cloud: StandIns, slept: list[float]) -> None:
    cloud.answer("apply", code=1, errors=next(iter(PASSING)))
    cloud.write_answers()
    with pytest.raises(Refused, match=f"the same error after {REPEATS} repetitions: .*ten minutes"):
        Terraform(DEPLOYMENT).apply()
    assert len(cloud.calls) == REPEATS + 1


@pytest.mark.parametrize("message", LASTING)
def test_an_error_that_the_user_has_to_mend_comes_with_its_remedy(
    message: str, cloud: StandIns, slept: list[float]
) -> None:
    cloud.answer("apply", code=1, errors=message)
    cloud.write_answers()
    with pytest.raises(Refused) as raised:
        Terraform(DEPLOYMENT).apply()
    assert "This is known:" in str(raised.value)
    assert LASTING[message] in str(raised.value)
    assert slept == []
    assert len(cloud.calls) == 1


def test_nothing_is_repeated_while_there_is_also_something_to_mend(cloud: StandIns, slept: list[float]) -> None:
    to_mend = "You do not have quota for using GPUs without zonal redundancy."
    cloud.answer("apply", code=1, errors=f"{next(iter(PASSING))}│ Error: {to_mend}\n")
    cloud.write_answers()
    with pytest.raises(Refused, match="the project has no quota for this GPU"):
        Terraform(DEPLOYMENT).apply()
    assert slept == []


@pytest.mark.parametrize("message", LASTING)
def test_an_error_has_one_remedy(message: str) -> None:
    lasting, _ = known_errors.find(message)
    assert len(lasting) == 1


def test_an_unknown_error_is_not_repeated(cloud: StandIns, slept: list[float]) -> None:
    cloud.answer("apply", code=1, errors="Error: something new")
    cloud.write_answers()
    with pytest.raises(Refused, match=r"failed with code 1$"):
        Terraform(DEPLOYMENT).apply()
    assert len(cloud.calls) == 1


# First calls of each command, by a word of each.
CALLED = {
    "plan": ("init", "pull", "plan"),
    "images": ("init", "plan", "submit"),
    "deploy": ("enable", "init", "plan", "submit", "apply"),
    "destroy": ("init", "pull", "list", "destroy"),
    "output": ("init", "output"),
}


@pytest.mark.parametrize(("target", "word"), [(target, word) for target, words in CALLED.items() for word in words])
def test_an_error_is_explained_wherever_a_command_fails(target: str, word: str, tmp_path: Path) -> None:
    cloud = StandIns(tmp_path)
    cloud.answer(word, code=1, errors="Error: google: could not find default credentials.\n")
    cloud.answer("list", with_="\n".join(STATE))
    cloud.deployed()
    cloud.builds()
    ran = cloud.make(target, f"PROJECT_ID={PROJECT}", f"REGION={REGION}", "YES=yes")
    assert ran.returncode != 0
    assert f"make {target}: `" in ran.stderr
    assert "Terraform has no credentials: gcloud auth application-default login" in ran.stderr


def test_a_passing_cause_outside_of_an_apply_comes_with_the_advice_to_repeat(tmp_path: Path) -> None:
    cloud = StandIns(tmp_path)
    cloud.answer(
        "submit", code=1, errors="Error 403: Cloud Build API has not been used in project 1 before or it is disabled"
    )
    cloud.deployed()
    ran = cloud.make("images", f"PROJECT_ID={PROJECT}", f"REGION={REGION}")
    assert (
        "an API was enabled a moment ago and does not answer yet: repeat `make deploy` after ten minutes" in ran.stderr
    )


def test_every_known_error_has_an_example_and_is_in_the_documentation() -> None:
    page = " ".join((ROOT / "docs" / "deployment.md").read_text().split())
    for error in KNOWN_ERRORS:
        messages = (*PASSING, *LASTING)
        assert any(error in [*lasting, *passing] for lasting, passing in map(known_errors.find, messages)), error.cause
        assert error.cause in page, error.cause
    assert terraform.REPEATS >= 5
