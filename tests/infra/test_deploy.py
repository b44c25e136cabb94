"""`make images|plan|deploy|destroy`: their calls in order, and their refusals."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from deploy import images, project, tools
from deploy.cloud_build import IMAGES, configuration
from deploy.deployment import OPEN_BUILD_REGIONS, Deployment, open_build_region
from gemtune.machines.choice import MACHINES
from tests.infra.planned import Planned
from tests.infra.stand_ins import CAPACITY, LARGE, OUTPUTS, PROJECT, REGION, REPOSITORY, ROOT, STATE, StandIns, digest

PROJECT_AND_REGION = (f"PROJECT_ID={PROJECT}", f"REGION={REGION}")
DEPLOYMENT = Deployment(PROJECT, REGION)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    cloud = StandIns(tmp_path)
    monkeypatch.setattr("deploy.deployment.ROOT", cloud.checkout)
    return cloud


def built(tag: str | None = None) -> None:
    """Write the files that an earlier build of images left."""
    DEPLOYMENT.folder.mkdir(parents=True, exist_ok=True)
    names = {image: f"{REPOSITORY}/{image}@sha256:{digest(image)}" for image in ("cpu", "cu126")}
    DEPLOYMENT.images_file.write_text(json.dumps({"images": names}))
    DEPLOYMENT.tag_file.write_text(images.tag(DEPLOYMENT) if tag is None else tag)


def steps(cloud: StandIns) -> list[str]:
    """Return the calls without their options."""
    return [
        " ".join([call[0], *(word for word in call[1:] if word[0] not in "-./" and not set("=:.") & set(word))])
        for call in cloud.calls
    ]


BEFORE_IMAGES = [
    "gcloud services enable",
    "terraform init",
    "terraform state pull",
    "terraform plan",
    "terraform show",
    "gcloud beta quotas info list",
]


def test_deploy_creates_the_registry_then_images_then_everything(cloud: StandIns) -> None:
    cloud.builds()
    cloud.deployed(after_apply=True)
    ran = cloud.make("deploy", *PROJECT_AND_REGION, "YES=yes")
    assert ran.returncode == 0, ran.stderr
    assert steps(cloud) == [
        *BEFORE_IMAGES,
        "terraform output",
        "terraform apply",
        "terraform output",
        "gcloud builds submit",
        "gcloud builds describe build-1",
        "gcloud artifacts docker images describe",
        "gcloud artifacts docker images describe",
        "terraform apply",
        "terraform output",
    ]
    assert OUTPUTS["api_url"] in ran.stdout
    # Terraform needs these to enable the others and to read the project; cloudquotas is for the list of quotas.
    first = ("serviceusage", "cloudresourcemanager", "iam", "cloudquotas")
    assert cloud.calls[0] == [
        *("gcloud", "services", "enable", *(f"{name}.googleapis.com" for name in first)),
        f"--project={PROJECT}",
    ]


def test_an_empty_project_first_gets_the_resources_that_a_build_needs(cloud: StandIns) -> None:
    ran = cloud.make("images", *PROJECT_AND_REGION, "YES=yes")
    assert "did not create the registry" in ran.stderr  # the fake Terraform creates none
    apply = next(call for call in cloud.calls if "apply" in call)
    assert [word for word in apply if word.startswith("-target=")] == [
        f"-target={address}" for address in images.BUILD_RESOURCES
    ]
    assert "-auto-approve" in apply
    (placeholder,) = [word for word in apply if word.startswith("images=")]
    assert set(json.loads(placeholder.removeprefix("images="))) == set(images.IMAGES)


def test_the_resources_that_a_build_needs_exist_by_these_names() -> None:
    """Check the names: Terraform only warns of an unknown target."""
    text = "".join(path.read_text() for path in (ROOT / "terraform").glob("*.tf"))
    for address in images.BUILD_RESOURCES:
        kind, _, rest = address.partition(".")
        assert f'resource "{kind}" "{rest.partition("[")[0]}"' in text
    assert '{ who = "build", role = "roles/logging.logWriter" }' in text
    assert '{ bucket = "source", who = "build", role = "viewer" }' in text


def test_a_build_uses_its_account_and_bucket_and_its_digests_go_to_terraform(cloud: StandIns) -> None:
    cloud.deployed()
    cloud.builds()
    ran = cloud.make("deploy", *PROJECT_AND_REGION)
    assert ran.returncode == 0, ran.stderr
    (submit,) = [call for call in cloud.calls if "submit" in call]
    assert f"--service-account={OUTPUTS['build_service_account']}" in submit
    assert f"--gcs-source-staging-dir=gs://{PROJECT}-gemtune-source/builds" in submit
    assert {f"--project={PROJECT}", f"--region={REGION}"} <= set(submit)
    config = DEPLOYMENT.folder / "cloudbuild.json"
    assert f"--config={config}" in submit
    tag = images.tag(DEPLOYMENT)
    assert json.loads(config.read_text()) == configuration(["cpu", "cu126"], REPOSITORY, tag, unsloth=False)
    variables = json.loads(DEPLOYMENT.images_file.read_text())
    assert variables == {"images": {name: f"{REPOSITORY}/{name}@sha256:{digest(name)}" for name in ("cpu", "cu126")}}
    apply = cloud.calls[-2]
    assert f"-var-file={DEPLOYMENT.images_file}" in apply
    assert f"project_id={PROJECT}" in apply
    assert "-auto-approve" not in apply  # Terraform asks for approval
    assert all(image in ran.stdout for image in variables["images"].values())


def test_only_images_of_the_chosen_machines_are_built(cloud: StandIns) -> None:
    cloud.capacity = CAPACITY | {"jobs": CAPACITY["jobs"] | LARGE}
    cloud.deployed()
    cloud.builds()
    built()  # without cu130, which the new machine needs
    assert cloud.make("deploy", *PROJECT_AND_REGION).returncode == 0
    config = json.loads((DEPLOYMENT.folder / "cloudbuild.json").read_text())
    assert [step["id"] for step in config["steps"]] == ["builder", "cpu", "cu126", "cu130"]
    assert set(json.loads(DEPLOYMENT.images_file.read_text())["images"]) == {"cpu", "cu126", "cu130"}


@pytest.mark.parametrize(
    ("region", "build_region"),
    [
        ("europe-west1", "europe-west1"),
        ("europe-west4", "europe-west1"),
        ("asia-southeast1", "asia-east1"),
        ("us-east4", "us-central1"),
        ("me-west1", "us-central1"),
    ],
)
def test_images_are_built_where_cloud_build_is_open_to_every_project(region: str, build_region: str) -> None:
    assert open_build_region(region) == build_region
    assert build_region in OPEN_BUILD_REGIONS


def test_the_region_of_builds_can_be_chosen(cloud: StandIns) -> None:
    cloud.deployed()
    cloud.builds()
    assert cloud.make("images", *PROJECT_AND_REGION, "BUILD_REGION=europe-west2").returncode == 0
    (submit,) = [call for call in cloud.calls if "submit" in call]
    assert "--region=europe-west2" in submit


def test_every_machine_has_an_image_that_can_be_built() -> None:
    assert set(IMAGES) == {machine.image for machine in MACHINES.values()} | {"cpu"}


@pytest.mark.parametrize("unsloth", [False, True])
def test_a_build_caches_all_stages_and_has_the_time_and_the_disk_for_images_with_cuda(unsloth: bool) -> None:
    docker = "gcr.io/cloud-builders/docker"

    def build(image: str) -> dict[str, object]:
        cache = f"type=registry,ref={REPOSITORY}/cache:{image}"
        args = [
            *("buildx", "build", "--file=trainer/Dockerfile", f"--build-arg=TORCH={image}"),
            *(f"--build-arg=UNSLOTH={'yes' if unsloth else 'no'}", f"--cache-from={cache}"),
            f"--cache-to={cache},mode=max,image-manifest=true,ignore-error=true",
            *(f"--tag={REPOSITORY}/{image}:t", "--provenance=false", "--push", "."),
        ]
        return {"id": image, "name": docker, "args": args}

    builder = ["buildx", "create", "--name=gemtune", "--driver=docker-container", "--use"]
    assert configuration(["cpu", "cu126"], REPOSITORY, "t", unsloth=unsloth) == {
        "steps": [{"id": "builder", "name": docker, "args": builder}, build("cpu"), build("cu126")],
        "timeout": "7200s",  # llama.cpp, and two images of 10 GB to push
        "options": {"logging": "CLOUD_LOGGING_ONLY", "machineType": "E2_HIGHCPU_8", "diskSizeGb": 200},
    }


def test_a_change_of_whatever_an_image_copies_builds_it_again() -> None:
    text = (ROOT / "trainer" / "Dockerfile").read_text()
    copied = [
        name
        for words in re.findall(r"^COPY (?!--from)(.+)", text, re.MULTILINE)
        for name in words.split()[:-1]
        if not name.startswith("--")
    ]
    assert len(copied) > 8
    missing = [name for name in copied if not any(Path(name).is_relative_to(source) for source in images.SOURCES)]
    assert missing == []
    assert "deploy/cloud_build.py" in images.SOURCES
    assert all((ROOT / source).exists() for source in images.SOURCES)


def test_images_are_built_again_only_if_their_sources_changed(cloud: StandIns) -> None:
    cloud.deployed()
    built()
    assert cloud.make("deploy", *PROJECT_AND_REGION).returncode == 0
    assert "gcloud builds submit" not in steps(cloud)
    built_before = DEPLOYMENT.tag_file
    built_before.write_text("other sources")
    cloud.builds()
    assert cloud.make("deploy", *PROJECT_AND_REGION).returncode == 0
    assert "gcloud builds submit" in steps(cloud)


@pytest.mark.parametrize(
    ("status", "pushed", "message"),
    [("FAILURE", ("cpu", "cu126"), "ended as FAILURE"), ("SUCCESS", ("cpu",), f"no image {REPOSITORY}/cu126")],
)
def test_a_failed_or_incomplete_build_ends_the_deployment(
    cloud: StandIns, status: str, pushed: tuple[str, ...], message: str
) -> None:
    cloud.deployed()
    cloud.builds(status, pushed)
    ran = cloud.make("deploy", *PROJECT_AND_REGION)
    assert ran.returncode != 0
    assert message in ran.stderr
    assert "terraform apply" not in steps(cloud)
    assert not DEPLOYMENT.images_file.exists()


def test_a_build_is_awaited_and_the_address_of_its_log_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = iter(["QUEUED", "WORKING", "WORKING", "SUCCESS"])
    slept: list[float] = []
    monkeypatch.setattr(images, "read", lambda *command: json.dumps({"status": next(states), "logUrl": "https://log"}))
    monkeypatch.setattr("time.sleep", slept.append)
    assert images._wait_for(DEPLOYMENT, "build-1")["status"] == "SUCCESS"
    assert len(slept) == 3
    assert capsys.readouterr().out == "build build-1 is running; its log: https://log\n"


def test_a_failing_tool_ends_the_deployment(cloud: StandIns) -> None:
    built()
    cloud.answer("init", code=1)
    ran = cloud.make("deploy", *PROJECT_AND_REGION)
    assert ran.returncode != 0
    assert "`terraform -chdir=terraform init …` failed with code 1" in ran.stderr
    assert steps(cloud) == ["gcloud services enable", "terraform init"]


@pytest.mark.parametrize(
    ("target", "variables", "message"),
    [
        ("images", (), "PROJECT_ID is not set"),
        ("destroy", (), "PROJECT_ID is not set"),
        ("deploy", (f"PROJECT_ID={PROJECT}",), "REGION is not set"),
        ("deploy", (f"PROJECT_ID={PROJECT}", "REGION=us-central1-a"), "REGION is 'us-central1-a'"),
        ("deploy", ("PROJECT_ID=No Project", f"REGION={REGION}"), "PROJECT_ID is 'No Project'"),
        ("deploy", (*PROJECT_AND_REGION, "YES=1"), "YES is '1'"),
        ("destroy", (*PROJECT_AND_REGION, "DELETE_DATA=true"), "DELETE_DATA is 'true'"),
    ],
)
def test_missing_and_wrong_variables_are_refused(
    cloud: StandIns, target: str, variables: tuple[str, ...], message: str
) -> None:
    ran = cloud.make(target, *variables)
    assert ran.returncode != 0
    assert message in ran.stderr
    assert cloud.calls == []


@pytest.mark.parametrize(("target", "missing"), [("deploy", "gcloud"), ("images", "terraform"), ("plan", "terraform")])
def test_a_missing_program_is_reported_with_its_address(cloud: StandIns, target: str, missing: str) -> None:
    (cloud.folder / missing).unlink()
    ran = cloud.make(target, *PROJECT_AND_REGION)
    assert f"{missing} is not installed: https://" in ran.stderr
    assert cloud.calls == []


def test_with_unsloth_other_images_are_built_and_the_service_knows(cloud: StandIns) -> None:
    cloud.deployed()
    cloud.builds()
    built()
    assert cloud.make("deploy", *PROJECT_AND_REGION, "UNSLOTH=yes").returncode == 0
    assert '"--build-arg=UNSLOTH=yes"' in (DEPLOYMENT.folder / "cloudbuild.json").read_text()
    assert "unsloth=true" in cloud.calls[-2]


def test_plan_changes_nothing_and_needs_no_images(cloud: StandIns) -> None:
    assert cloud.make("plan", *PROJECT_AND_REGION).returncode == 0
    # The first plan is only read.
    assert steps(cloud) == [f"terraform {each}" for each in ("init", "state pull", "plan", "show", "plan")]
    (placeholder,) = [word for word in cloud.calls[-1] if word.startswith("images=")]
    assert "none.invalid/cpu@" in placeholder
    built()
    assert cloud.make("plan", *PROJECT_AND_REGION).returncode == 0
    (placeholder,) = [word for word in cloud.calls[-1] if word.startswith("images=")]
    assert f"{REPOSITORY}/cpu@" in placeholder


def test_output_prints_an_address_or_settings_for_a_shell(cloud: StandIns) -> None:
    cloud.answer("output", with_={"api_url": {"value": "https://x"}, "settings": {"value": {"A": "b", "C": "d"}}})
    assert cloud.make("output", *PROJECT_AND_REGION).stdout == "https://x\n"
    assert cloud.make("output", *PROJECT_AND_REGION, "NAME=settings").stdout == "A=b\nC=d\n"
    ran = cloud.make("output", *PROJECT_AND_REGION, "NAME=nothing")
    assert "use one of api_url, settings" in ran.stderr


def test_a_program_whose_output_is_read_asks_nothing() -> None:
    """Otherwise gcloud waits for an answer to a question that nobody sees.

    It offers to install its component `beta`, and to enable an API.
    """
    code = "import os, sys; print(repr(sys.stdin.read()), os.environ['CLOUDSDK_CORE_DISABLE_PROMPTS'])"
    for environment in (None, dict(os.environ)):
        assert tools.read(sys.executable, "-c", code, environment=environment) == "'' 1"


@pytest.mark.parametrize("typed", ["", "yes\n", "other-project\n"])
def test_destroy_needs_the_name_of_the_project(cloud: StandIns, typed: str) -> None:
    ran = cloud.make("destroy", *PROJECT_AND_REGION, typed=typed)
    assert ran.returncode != 0
    assert "nothing was deleted" in ran.stderr
    assert cloud.calls == []


def test_destroy_keeps_data(cloud: StandIns) -> None:
    cloud.answer("list", with_="\n".join(STATE) + "\n")
    ran = cloud.make("destroy", *PROJECT_AND_REGION, typed=f"{PROJECT}\n")
    assert ran.returncode == 0, ran.stderr
    destroy = cloud.calls[-1]
    assert "delete_data=false" in destroy
    assert [word.removeprefix("-target=") for word in destroy if word.startswith("-target=")] == [
        'google_storage_bucket.gemtune["source"]',
        'google_cloudfunctions2_function.gemtune["api"]',
        "google_workflows_workflow.fine_tune",
    ]
    assert 'google_storage_bucket.gemtune["data"]' in ran.stdout


def test_destroy_keeps_every_bucket_and_record_of_users(applied: Planned) -> None:
    addresses_kept = {address for address, _ in applied.resources() if project.DATA.match(address)}
    buckets = {f'google_storage_bucket.gemtune["{name}"]' for name in ("config", "data", "uploads", "export")}
    kinds = (
        "google_firestore_database.",
        "google_firestore_field.",
        "google_firestore_index.",
        "google_project_service.",
    )
    others = {address for address, _ in applied.resources() if address.startswith(kinds)}
    assert len(others) > 30
    assert addresses_kept == buckets | others
    assert project.DATA.match("data.google_project.this")


def test_destroy_without_anything_but_data_does_nothing(cloud: StandIns) -> None:
    cloud.answer("list", with_="google_firestore_database.records\n")
    ran = cloud.make("destroy", *PROJECT_AND_REGION, "YES=yes")
    assert ran.returncode != 0
    assert "terraform destroy" not in steps(cloud)


def test_destroy_deletes_data_with_delete_data(cloud: StandIns) -> None:
    ran = cloud.make("destroy", *PROJECT_AND_REGION, "DELETE_DATA=yes", typed=f"{PROJECT}\n")
    assert ran.returncode == 0, ran.stderr
    assert "all results and all records" in ran.stdout
    assert steps(cloud) == ["terraform init", "terraform state pull", "terraform apply", "terraform destroy"]
    apply, destroy = cloud.calls[2:]
    assert "delete_data=true" in apply
    assert "delete_data=true" in destroy
    assert not [word for word in destroy if word.startswith("-target=")]
