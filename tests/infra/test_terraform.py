"""terraform/ is well formed and valid for the schemas of its providers."""

from __future__ import annotations

from pathlib import Path

from tests.infra.offline import ROOT, Terraform, copy_of_project, mirror
from tests.infra.planned import Planned


def test_the_files_are_formatted(terraform: Terraform) -> None:
    assert terraform("fmt", "-check", "-recursive", "-diff").stdout == ""


def test_the_configuration_is_valid(terraform: Terraform) -> None:
    terraform("validate")


def test_an_empty_project_gets_a_plan(plan: Planned) -> None:
    types = {address.partition(".")[0] for address, _ in plan.resources()}
    assert len(types) > 20


def test_init_finds_providers_of_the_required_versions(tmp_path: Path, terraform: Terraform) -> None:
    settings = mirror(tmp_path / "mirror")
    alone = Terraform(copy_of_project(tmp_path), settings=settings)
    alone("init", "-input=false", "-no-color")
    locked = (alone.folder / ".terraform.lock.hcl").read_text()
    assert '"registry.terraform.io/hashicorp/google"' in locked
    assert 'version     = "6.50.0"' in locked


def test_the_tests_of_terraform_pass(terraform: Terraform) -> None:
    """Run terraform/tests/ as a user does."""
    output = terraform("test", "-no-color").stdout
    assert "0 failed" in output
    assert output.count("... pass") > 5


def test_every_variable_has_a_description() -> None:
    text = (ROOT / "terraform" / "variables.tf").read_text()
    assert text.count("\nvariable ") + text.startswith("variable ") == text.count("  description = ")
