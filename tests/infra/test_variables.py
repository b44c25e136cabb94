"""Each variable of Terraform has an effect, and a default for a new project.

The tables of wanted values and grants are compared with a deployment in which each variable has another value than its
default, so whatever ignores a variable differs from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.infra.conftest import Applied
from tests.infra.offline import ROOT, Terraform
from tests.infra.planned import Planned

REQUIRED = {"project_id", "images"}
# options.tftest.hcl has `delete_data`: with it the tables would no longer say that data is protected.
ELSEWHERE = {"delete_data"}
DEFAULTS: Mapping[str, Any] = {
    "region": "europe-west1",  # L4, API Gateway, and a Cloud Build that is open to all
    "firestore_location": None,  # the region
    "without_gguf": False,
    "unsloth": False,
    "machines": {
        "l4": {
            **{"accelerator": "nvidia-l4", "cpus": 8, "image": "cu126", "memory_gib": 32},
            **{"at_once": 1, "usd_per_hour": None},
        }
    },
    "cpu_steps": {
        "export": {"cpus": 8, "memory_gib": 32, "usd_per_hour": None},
        "prepare": {"cpus": 4, "memory_gib": 16, "usd_per_hour": None},
    },
    "max_instances": {},
    # Google enables more than an hour for a task with a GPU only on request.
    "timeout_seconds": {"prepare": 3600, "train": 3600, "export": 3600},
    # Nobody has access who is not named.
    **{name: [] for name in ("callers", "publishers", "uploaders", "alert_emails")},
    "status_subscriptions": {},
    **dict.fromkeys(("hf_token_secret", "wandb_key_secret", "api_gateway", "budget")),
    "limits": dict.fromkeys(
        f"{kind}_{what}"
        for kind, whats in (
            ("default_max", ("cost_usd", "hours")),
            ("max", ("cost_usd", "hours")),
            ("owner", ("usd_per_month", "hours_per_month")),
        )
        for what in whats
    ),
    "gpu_hours_per_day": 24,
    "failed_jobs_per_hour": 0,
    "checkpoint_days": 30,
    "model_days": 60,
    "job_files_in_data_bucket": False,
    "delete_data": False,
}


def defaults(plan: Mapping[str, Any]) -> dict[str, Any]:
    variables = plan["configuration"]["root_module"]["variables"]
    return {name: variable.get("default") for name, variable in variables.items() if name not in REQUIRED}


def test_the_defaults_suit_a_new_project(applied_plan: Applied) -> None:
    assert defaults(applied_plan.plan) == DEFAULTS


def test_functions_leave_room_for_a_training_in_the_quota_of_a_new_project(plan: Planned) -> None:
    instances = {
        name.removeprefix("gemtune-"): function["service_config"][0]["max_instance_count"]
        for name, function in plan.named("google_cloudfunctions2_function").items()
    }
    # A CPU each: they and one training of 8 fit into 20 CPUs.
    assert instances == {
        **{"api": 3, "dispatch": 2, "ingest": 2, "fan-out": 2},
        **dict.fromkeys(("notify", "control", "sweep"), 1),
    }


def test_the_tables_are_for_other_values_than_the_defaults(applied_plan: Applied) -> None:
    values = {name: variable["value"] for name, variable in applied_plan.plan["variables"].items()}
    usual = defaults(applied_plan.plan)
    assert {name for name, default in usual.items() if values[name] == default} == ELSEWHERE
    for name, value in values.items():
        assert not isinstance(value, list) or len(value) > 1, (
            f"{name} needs two members: only then are their keys tried"
        )
    text = (ROOT / "terraform" / "variables.tf").read_text()
    for part in re.split(r'^variable "', text, flags=re.MULTILINE)[1:]:
        name = part.partition('"')[0]
        objects = [values[name], *(values[name].values() if isinstance(values[name], dict) else ())]
        for attribute, _, default in re.findall(r"(\w+)\s+= optional\((\w+)(?:, (.+))?\)", part):
            stated = [str(each[attribute]) for each in objects if isinstance(each, dict) and attribute in each]
            assert [each for each in stated if each != default.strip('"')], f"{name} needs another {attribute}"


@pytest.mark.parametrize(
    "name", ["README.md", "docs/deployment.md", "terraform/README.md", "Makefile", "tests/infra/offline.py"]
)
def test_everything_names_the_version_of_terraform_that_is_required(name: str, terraform: Terraform) -> None:
    required = re.search(r'required_version = ">= ([\d.]+)"', (terraform.folder / "versions.tf").read_text())
    assert required is not None
    assert set(re.findall(r"\b(1[\d.]+) or later", (ROOT / name).read_text())) == {required[1]}
