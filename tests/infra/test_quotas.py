"""Quotas of Cloud Run are compared with the machines before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import quotas
from deploy.deployment import Deployment
from gemtune.machines.choice import MACHINES
from tests.infra.planned import Planned
from tests.infra.stand_ins import CAPACITY, LARGE, PROJECT, REGION, ROOT, StandIns

HERE = (f"PROJECT_ID={PROJECT}", f"REGION={REGION}")
DEPLOYMENT = Deployment(PROJECT, REGION)
NEW_PROJECT = {quotas.CPU: 20_000, quotas.MEMORY: 40 * quotas.GIB, quotas.GPUS["nvidia-l4"][0]: 3}
LARGE_CAPACITY = {"jobs": CAPACITY["jobs"] | LARGE, "functions": CAPACITY["functions"]}


@pytest.fixture
def cloud(tmp_path: Path) -> StandIns:
    cloud = StandIns(tmp_path)
    cloud.deployed()
    return cloud


def test_a_machine_beyond_the_quota_is_refused_before_the_images_are_built(cloud: StandIns) -> None:
    cloud.capacity = LARGE_CAPACITY
    cloud.quotas(**NEW_PROJECT)
    ran = cloud.make("deploy", *HERE, "YES=yes")
    assert ran.returncode != 0
    assert "gemtune-train-rtx-pro-6000 needs 80 GiB; the project has 40 (MemAllocPerProjectRegion)" in ran.stderr
    assert f"https://console.cloud.google.com/iam-admin/quotas?project={PROJECT}" in ran.stderr
    assert not [call for call in cloud.calls if "submit" in call or "apply" in call]


def test_whoever_knows_better_can_ignore_the_quotas(cloud: StandIns) -> None:
    cloud.capacity = LARGE_CAPACITY
    cloud.quotas(**NEW_PROJECT)
    cloud.builds()
    assert cloud.make("deploy", *HERE, "YES=yes", "IGNORE_QUOTAS=yes").returncode == 0


def test_an_enough_quota_says_nothing(cloud: StandIns) -> None:
    cloud.quotas(**NEW_PROJECT)
    cloud.builds()
    ran = cloud.make("deploy", *HERE, "YES=yes")
    assert ran.returncode == 0, ran.stderr
    assert "note:" not in ran.stdout


def test_a_missing_gpu_quota_is_a_note_because_google_grants_it_at_the_first_use(cloud: StandIns) -> None:
    cloud.quotas(**{**NEW_PROJECT, quotas.GPUS["nvidia-l4"][0]: 0})
    cloud.builds()
    ran = cloud.make("deploy", *HERE, "YES=yes")
    assert ran.returncode == 0
    assert "note: the project has no quota for nvidia-l4 yet" in ran.stdout


def test_quotas_that_cannot_be_read_do_not_stop_a_deployment(cloud: StandIns) -> None:
    cloud.answer("quotas", code=1, errors="ERROR: (gcloud.beta.quotas.info.list) PERMISSION_DENIED\n")
    cloud.builds()
    ran = cloud.make("deploy", *HERE, "YES=yes")
    assert ran.returncode == 0
    assert "note: the quotas of Cloud Run could not be read" in ran.stdout


def test_a_quota_of_the_region_counts_more_than_that_of_a_group_and_no_limit_is_infinite() -> None:
    own = {"dimensions": {"region": REGION}, "details": {"value": "7"}}
    group = {"applicableLocations": [REGION, "x"], "details": {"value": "9"}}
    other = {"dimensions": {"region": "x"}, "details": {"value": "1"}}
    assert quotas._in_region([other, group, own], REGION) == 7
    assert quotas._in_region([other, group], REGION) == 9
    assert quotas._in_region([other], REGION) is None
    assert quotas._in_region([{"dimensions": {"region": REGION}, "details": {"value": "-1"}}], REGION) == float("inf")


def test_the_default_deployment_fits_into_the_quota_of_a_new_project(plan: Planned) -> None:
    """Check one training beside all instances of all functions.

    Prepare and export take turns with it.
    """
    needed = quotas.needs(plan.shown["planned_values"]["outputs"]["capacity"]["value"])
    assert list(quotas._problems(needed, NEW_PROJECT)) == []
    assert list(quotas._notes(needed, NEW_PROJECT)) == []
    functions = [need for need in needed if need.name not in quotas._jobs(needed)]
    assert len(functions) == 7
    train = quotas._jobs(needed)["gemtune-train-l4"]
    assert train.memory_gib + sum(need.memory_gib for need in functions) <= 40


def test_the_capacity_is_that_of_the_planned_resources(plan: Planned) -> None:
    capacity = plan.shown["planned_values"]["outputs"]["capacity"]["value"]
    jobs = plan.named("google_cloud_run_v2_job")
    assert set(capacity["jobs"]) == set(jobs)
    for name, job in jobs.items():
        (container,) = job["template"][0]["template"][0]["containers"]
        limits = container["resources"][0]["limits"]
        assert limits["cpu"] == str(capacity["jobs"][name]["cpus"])
        assert limits["memory"] == f"{capacity['jobs'][name]['memory_gib']}Gi"
    functions = plan.named("google_cloudfunctions2_function")
    assert {name: each["service_config"][0]["max_instance_count"] for name, each in functions.items()} == {
        name: each["instances"] for name, each in capacity["functions"].items()
    }


def test_what_equals_the_quota_fits_and_a_unit_less_does_not() -> None:
    needed = quotas.needs({"jobs": LARGE, "functions": {"gemtune-api": {"instances": 3, "memory": "512Mi"}}})
    assert [need.memory_gib for need in needed] == [80, 1.5]
    (gpu,) = [quotas.GPUS[each.accelerator] for each in needed if each.accelerator is not None]
    exact = {quotas.CPU: 23_000, quotas.MEMORY: 80 * quotas.GIB, gpu[0]: gpu[1]}
    assert [*quotas._problems(needed, exact), *quotas._notes(needed, exact)] == []
    for name, expected in (
        (quotas.MEMORY, f"needs 80 GiB; the project has 80 ({quotas.MEMORY})"),
        (quotas.CPU, "need 0.001 CPUs more than the quota"),
        (gpu[0], "has no quota for nvidia-rtx-pro-6000 yet"),
    ):
        less = exact | {name: exact[name] - 1}
        (message,) = [*quotas._problems(needed, less), *quotas._notes(needed, less)]
        assert expected in message
    assert list(quotas._problems(needed, {quotas.CPU: 20_000})) == []
    assert len(list(quotas._problems(needed, {quotas.CPU: 19_999}))) == 1


def test_every_gpu_has_a_quota_in_the_units_of_the_documentation() -> None:
    assert set(quotas.GPUS) == {machine.gpu for machine in MACHINES.values()} - {None}
    rows = [line for line in (ROOT / "docs" / "deployment.md").read_text().splitlines() if line.startswith("|")]
    for quota, one in (*quotas.GPUS.values(), (quotas.CPU, 1000), (quotas.MEMORY, 1)):
        (row,) = [row for row in rows if f"(`{quota}`" in row]
        assert ("in thousandths" in row) == (one == 1000), row
