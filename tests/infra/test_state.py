"""States of Terraform: one per project, and never applied to another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import terraform
from tests.infra.offline import ROOT, Providers
from tests.infra.stand_ins import StandIns, linked_checkout

FIRST, SECOND = "first-example-project", "second-example-project"


@pytest.fixture
def cloud(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


def init_of(cloud: StandIns) -> list[str]:
    (init,) = [call for call in cloud.calls if "init" in call]
    return init


def test_a_local_state_is_in_the_folder_of_the_project(cloud: StandIns) -> None:
    assert cloud.make("plan", f"PROJECT_ID={FIRST}", "REGION=europe-west1").returncode == 0
    assert f"-backend-config=path={cloud.checkout / 'build' / FIRST / 'terraform.tfstate'}" in init_of(cloud)
    assert "-lockfile=readonly" in init_of(cloud)


def test_a_bucket_can_have_the_state_and_must_then_be_named_every_time(cloud: StandIns) -> None:
    place = (f"PROJECT_ID={FIRST}", "REGION=europe-west1")
    assert cloud.make("plan", *place, "STATE_BUCKET=our-states").returncode == 0
    assert {"-backend-config=bucket=our-states", f"-backend-config=prefix=gemtune/{FIRST}"} <= set(init_of(cloud))
    assert 'backend "gcs"' in (cloud.checkout / terraform.BACKEND.relative_to(ROOT)).read_text()
    for other in ((), ("STATE_BUCKET=other-states",)):
        ran = cloud.make("plan", *place, *other)
        assert ran.returncode != 0
        assert "the state of first-example-project is in gs://our-states; set STATE_BUCKET=our-states" in ran.stderr


def test_a_local_state_is_moved_to_the_bucket(cloud: StandIns) -> None:
    state = cloud.checkout / "build" / FIRST / "terraform.tfstate"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    ran = cloud.make("plan", f"PROJECT_ID={FIRST}", "REGION=europe-west1", "STATE_BUCKET=our-states")
    assert "-migrate-state" in init_of(cloud)
    assert "the state is now in gs://our-states/gemtune/first-example-project" in ran.stderr
    assert not state.exists()


@pytest.mark.parametrize("target", ["plan", "deploy", "destroy", "output"])
@pytest.mark.parametrize(
    "outputs",
    [
        {"project_id": {"value": SECOND}, "region": {"value": "europe-west1"}},
        {"project_id": {"value": FIRST}, "region": {"value": "us-central1"}},
        {"settings": {"value": {"PROJECT_ID": SECOND, "REGION": "europe-west1"}}},  # of an older version
    ],
)
def test_the_state_of_another_project_or_region_is_refused(cloud: StandIns, target: str, outputs: object) -> None:
    cloud.answer("pull", with_={"outputs": outputs})
    ran = cloud.make(target, f"PROJECT_ID={FIRST}", "REGION=europe-west1", "YES=yes")
    assert ran.returncode != 0
    assert "nothing was changed" in ran.stderr
    assert not [call for call in cloud.calls if {"plan", "apply", "destroy"} & set(call)]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"outputs": {"project_id": {"value": FIRST}, "region": {"value": "europe-west1"}}},
        {"outputs": {"settings": {"value": {"PROJECT_ID": FIRST, "REGION": "europe-west1"}}}},  # of an older version
        {  # before the first whole apply
            "resources": [
                {"type": "google_service_account", "instances": [{"attributes": {}}]},
                {
                    "type": "google_storage_bucket",
                    "instances": [{"attributes": {"name": f"{FIRST}-gemtune-source", "location": "EUROPE-WEST1"}}],
                },
            ]
        },
    ],
    ids=["empty", "whole", "older", "begun"],
)
def test_the_state_of_the_project_itself_is_used(cloud: StandIns, state: object) -> None:
    cloud.answer("pull", with_=state)
    ran = cloud.make("plan", f"PROJECT_ID={FIRST}", "REGION=europe-west1")
    assert ran.returncode == 0, ran.stderr
    assert [call for call in cloud.calls if "plan" in call]


def test_a_state_of_an_older_version_is_moved_to_its_project_only(
    cloud: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "terraform.tfstate"
    old.write_text(json.dumps({"outputs": {"settings": {"value": {"PROJECT_ID": FIRST, "REGION": "europe-west1"}}}}))
    monkeypatch.setattr(terraform, "OLD_STATE", old)
    monkeypatch.setattr("deploy.terraform.ROOT", cloud.checkout)
    monkeypatch.setattr("deploy.deployment.ROOT", cloud.checkout)
    for project in (SECOND, FIRST):
        deployment = terraform.Deployment(project, "europe-west1")
        deployment.folder.mkdir(parents=True)
        terraform.Terraform(deployment)._adopt_old_state()
        assert (deployment.folder / "terraform.tfstate").exists() is (project == FIRST)
    assert not old.exists()


def test_two_projects_in_one_checkout_have_a_plan_each(providers: Providers, tmp_path: Path) -> None:
    """Use Terraform itself: deploy the first project, then plan the second."""
    checkout = linked_checkout(tmp_path / "checkout")
    providers.enter(checkout / "terraform")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GOOGLE_"))}
    environment = inherited | providers.environment | {"TF_CLI_CONFIG_FILE": os.devnull, "YES": "yes"}

    def deploy(code: str, project: str) -> subprocess.CompletedProcess[str]:
        program = f"import os; from deploy import images, project\nfrom deploy.deployment import Deployment\n{code}"
        ours = {"PROJECT_ID": project, "REGION": "europe-west1"}
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, cwd=checkout, env=environment | ours, capture_output=True, text=True, timeout=300, check=False
        )

    apply = """
from deploy.terraform import Terraform
deployment = Deployment.from_environment(os.environ)
terraform = Terraform(deployment)
terraform.init()
terraform.apply(*deployment.variables(images.placeholders(deployment)), *OPTIONS)
"""
    # The first apply, before images are built, is targeted: the state then has no output that names the project.
    targeted = "OPTIONS = [f'-target={each}' for each in images.BUILD_RESOURCES]" + apply
    applied = deploy(targeted, FIRST)
    assert applied.returncode == 0, applied.stderr
    state = checkout / "build" / FIRST / "terraform.tfstate"
    assert "project_id" not in json.loads(state.read_text())["outputs"]
    output = "project.output(Deployment.from_environment(os.environ), 'buckets')"
    shown = deploy(output, FIRST)
    assert "source=first-example-project-gemtune-source" in shown.stdout.splitlines(), shown.stderr
    # The last command was for a project whose state is in a bucket.
    (checkout / "terraform" / terraform.BACKEND.name).write_text('terraform {\n  backend "gcs" {}\n}\n')
    assert deploy(output, FIRST).stdout == shown.stdout
    never = deploy(output, SECOND)
    assert never.returncode != 0
    assert "`make deploy` first" in never.stderr
    plan = "project.plan(Deployment.from_environment(os.environ))"
    first, second = deploy(plan, FIRST), deploy(plan, SECOND)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "0 to change, 0 to destroy" in first.stdout
    assert "0 to change, 0 to destroy" in second.stdout
    assert FIRST not in second.stdout
    shutil.copy(state, checkout / "build" / SECOND / "terraform.tfstate")
    mistaken = deploy(plan, SECOND)
    assert mistaken.returncode != 0
    assert f"belongs to project {FIRST} in europe-west1, not to {SECOND}" in mistaken.stderr
