"""Terraform on a copy of the project, without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.offline import NoTerraform, Providers, Terraform, check_terraform, copy_of_project
from tests.infra.planned import Planned


@pytest.fixture(scope="session")
def program() -> None:
    """Skip where Terraform is not: what reads terraform/ is for those who work on it, and takes long to install."""
    try:
        check_terraform()
    except NoTerraform as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def providers(program: None) -> Iterator[Providers]:
    found = Providers()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def terraform(providers: Providers, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Initialised; not to be changed."""
    found = Terraform(copy_of_project(tmp_path_factory.mktemp("project")), providers)
    found("init", "-input=false")
    return found


@pytest.fixture(scope="session")
def plan(terraform: Terraform) -> Planned:
    """What an empty project becomes, with only what has no default."""
    return Planned(terraform.plan())
