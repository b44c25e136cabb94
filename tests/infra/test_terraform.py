"""terraform/ is well formed and valid for the schemas of its providers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.infra.offline import ROOT, WHEELS, Terraform, copy_of_project, mirror
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


def test_the_lock_file_pins_what_the_tests_have_seen_on_all_platforms() -> None:
    """Hashes of a release's SHA256SUMS are those of all platforms."""
    lock = (ROOT / "terraform" / ".terraform.lock.hcl").read_text()
    required = (ROOT / "terraform" / "versions.tf").read_text()
    locked = re.findall(
        r'provider "registry.terraform.io/hashicorp/([\w-]+)" \{\n  version     = "([\d.]+)"\n'
        r'  constraints = "([^"]+)"\n  hashes = \[\n(.*?)  \]\n\}',
        lock,
        re.S,
    )
    assert {(name, version) for name, version, _, _ in locked} == {(wheel.provider, wheel.version) for wheel in WHEELS}
    for name, _, constraints, hashes in locked:
        assert f'source  = "hashicorp/{name}"\n      version = "{constraints}"' in required
        assert len(set(re.findall(r"zh:[0-9a-f]{64}", hashes))) >= 11
