"""Fixtures that run Terraform on a copy of the project, without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.infra.offline import ROOT, NoTerraform, Providers, Terraform, check_terraform, copy_of_project
from tests.infra.planned import Planned


@pytest.fixture(autouse=True)
def deployments_stay_out_of_this_checkout() -> Iterator[None]:
    """Fail a test that deploys from this checkout.

    Tests in other processes would find its builds and states.
    """

    def written() -> set[Path]:
        return {*(ROOT / "build").glob("*"), *(ROOT / "terraform").iterdir()}

    before = written()
    yield
    assert written() == before, f"a test wrote into {ROOT}; deploy from `linked_checkout`"


@pytest.fixture(scope="session")
def program() -> None:
    """Skip the tests where Terraform is not installed.

    Only those who work on terraform/ need them, and they take long to set up.
    """
    try:
        check_terraform()
    except NoTerraform as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def providers(program: None) -> Iterator[Providers]:
    providers = Providers()
    yield providers
    providers.stop()


@pytest.fixture(scope="session")
def terraform(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Return Terraform, initialized, in a copy that tests must not change."""
    terraform = Terraform(copy_of_project(tmp_path_factory.mktemp("project")), providers)
    terraform("init", "-input=false")
    return terraform


@pytest.fixture(scope="session")
def plan(terraform: Terraform) -> Planned:
    """Return the plan for an empty project, with required variables only."""
    return Planned(terraform.plan())


OPTIONS = Path(__file__).parent / "everything.tfvars"


@dataclass(frozen=True, slots=True)
class Applied:
    """Plan with all options, and the state after it was applied."""

    plan: dict[str, Any]
    state: Planned


@pytest.fixture(scope="session")
def applied_plan(terraform: Terraform, providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    project = tmp_path_factory.mktemp("applied")
    for name in ("functions", "workflows"):
        (project / name).symlink_to(ROOT / name)
    shutil.copytree(terraform.folder, project / "terraform", symlinks=True)
    project_terraform = Terraform(project / "terraform", providers)
    plan = project_terraform.plan(f"-var-file={OPTIONS}")
    project_terraform("apply", "-input=false", "plan")
    return Applied(plan, Planned(json.loads(project_terraform("show", "-json").stdout)))


@pytest.fixture(scope="session")
def applied(applied_plan: Applied) -> Planned:
    """Return the state after an apply with all options."""
    return applied_plan.state
