"""Misspelt names in terraform.tfvars: Terraform drops them, `make` refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploy import variables
from deploy.tools import Refused
from tests.infra.conftest import OPTIONS, Applied
from tests.infra.offline import EXAMPLE, ROOT, Terraform
from tests.infra.stand_ins import PROJECT, REGION, StandIns

# Mistakes of each shape of variable, and what the refusal says of them.
MISTAKES = """
machines = {
  cpu = { cpus = 8, memory_gib = 32 }
  l4  = { acelerator = "nvidia-l4", cpus = 8, memory_gib = 32, image = "cu126", at_onc = 3 }
}
cpu_steps = {
  prepare = { cpus = 4, memory_gib = 16, usd_per_hours = 1 }
  export  = { cpus = 8, memory_gib = 32 }
}
timeout_seconds      = { training = 7200 }
limits               = { max_cost = 5, max_hours = 3 }
budget               = { billing_account = "012345-6789AB-CDEF01", amount = 200, curency = "EUR" }
status_subscriptions = { ends = { members = ["user:me@example.com"], filters = "x" } }
caller               = ["user:me@example.com"]
colour               = "red"
"""
FOUND = (
    "caller (perhaps callers)",
    "colour",
    "machines.l4.acelerator (perhaps accelerator)",
    "machines.l4.at_onc (perhaps at_once)",
    "cpu_steps.prepare.usd_per_hours (perhaps usd_per_hour)",
    "timeout_seconds.training (perhaps train)",
    "status_subscriptions.ends.filters (perhaps filter)",
    "budget.curency (perhaps currency)",
    "limits.max_cost (perhaps max_cost_usd)",
)


def given_in(plan: dict[str, Any]) -> dict[str, Any]:
    return {name: variable.get("value") for name, variable in plan["variables"].items()}


def test_every_misspelt_name_of_a_real_plan_is_refused(terraform: Terraform, tmp_path: Path) -> None:
    file = tmp_path / "mistakes.tfvars"
    file.write_text(MISTAKES)
    names = (f"-var-file={each}" for each in (EXAMPLE, file))
    printed = terraform("plan", "-input=false", "-no-color", *names, f"-out={tmp_path / 'plan'}").stdout
    plan = json.loads(terraform("show", "-json", str(tmp_path / "plan")).stdout)
    with pytest.raises(Refused) as refused:
        variables.check(given_in(plan), printed)
    listed, _, rest = str(refused.value).removeprefix("nothing reads ").partition("; ")
    assert sorted(listed.split(", ")) == sorted(FOUND)
    assert rest.startswith("correct the names in terraform/terraform.tfvars")


def test_all_options_are_known(applied_plan: Applied) -> None:
    variables.check(given_in(applied_plan.plan), "")
    assert {"machines", "limits", "api_gateway"} <= given_in(applied_plan.plan).keys()
    assert OPTIONS.exists()


def test_every_object_among_the_variables_is_read() -> None:
    """The check knows two shapes of objects, with a name on each line."""
    text = (ROOT / "terraform" / "variables.tf").read_text()
    shapes = [shape for _, body in variables.VARIABLE.findall(text) for shape, _ in variables.TYPE.findall(body)]
    assert len(shapes) == text.count("\nvariable ") + text.startswith("variable ")
    assert sum(map(bool, shapes)) == text.count("object(") == len(re.findall(r"object\(\{\n", text))


@pytest.mark.parametrize("target", ["plan", "images", "deploy"])
def test_nothing_is_done_with_a_misspelt_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    cloud = StandIns(tmp_path)
    monkeypatch.setattr("deploy.deployment.ROOT", cloud.checkout)
    cloud.variables = {"limits": {"max_cost": 5}}
    warning = 'The root module does not declare a variable named "caller" but a value was\nfound in file.'
    cloud.answer("plan", with_=f"Warning: Value for undeclared variable\n\n{warning}\n")
    ran = cloud.make(target, f"PROJECT_ID={PROJECT}", f"REGION={REGION}", "YES=yes")
    assert ran.returncode == 2
    assert "nothing reads caller (perhaps callers), limits.max_cost (perhaps max_cost_usd)" in ran.stderr
    assert not [call for call in cloud.calls if {"apply", "submit"} & set(call)]
