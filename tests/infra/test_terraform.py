"""terraform/ is well formed, and its providers' schemas have all that it uses."""

from __future__ import annotations

from pathlib import Path

from tests.infra.offline import ROOT, Terraform, copy_of_project, mirror
from tests.infra.planned import Planned


def test_the_files_are_in_their_form(terraform: Terraform) -> None:
    assert terraform("fmt", "-check", "-recursive", "-diff").stdout == ""


def test_the_configuration_is_valid(terraform: Terraform) -> None:
    terraform("validate")


def test_an_empty_project_gets_a_plan(plan: Planned) -> None:
    types = {address.partition(".")[0] for address, _ in plan.resources()}
    assert len(types) > 20


def test_init_finds_providers_of_the_versions_that_are_asked_for(tmp_path: Path, terraform: Terraform) -> None:
    settings = mirror(tmp_path / "mirror")
    alone = Terraform(copy_of_project(tmp_path), settings=settings)
    alone("init", "-input=false", "-no-color")
    locked = (alone.folder / ".terraform.lock.hcl").read_text()
    assert '"registry.terraform.io/hashicorp/google"' in locked
    assert 'version     = "6.50.0"' in locked


def test_the_options_do_what_they_say(terraform: Terraform) -> None:
    """terraform/tests/, as a user runs them."""
    said = terraform("test", "-no-color").stdout
    assert "0 failed" in said
    assert said.count("... pass") > 5


def test_every_variable_says_what_it_is() -> None:
    text = (ROOT / "terraform" / "variables.tf").read_text()
    assert text.count("\nvariable ") + text.startswith("variable ") == text.count("  description = ")
