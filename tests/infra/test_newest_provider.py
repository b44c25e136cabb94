"""The newest major version of Google's providers plans the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.conftest import OPTIONS, Applied
from tests.infra.offline import NEWEST, Providers, Terraform, copy_of_project
from tests.infra.planned import Planned


@pytest.fixture
def newest_providers(program: None) -> Iterator[Providers]:
    providers = Providers(NEWEST)
    yield providers
    providers.stop()


@pytest.fixture
def newest(newest_providers: Providers, tmp_path: Path) -> Terraform:
    """Return Terraform with the newest providers, in a copy of the project."""
    terraform = Terraform(copy_of_project(tmp_path), newest_providers)
    terraform("init", "-input=false")
    return terraform


def stated(value: Any) -> Any:
    """Return a planned value without what is null or empty.

    The versions differ in which attributes they compute where none is stated.
    """
    if isinstance(value, dict):
        parts = {name: stated(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part not in (None, {}, [])}
    return [stated(part) for part in value] if isinstance(value, list) else value


def test_the_newest_major_version_plans_what_the_pinned_one_does(newest: Terraform, applied_plan: Applied) -> None:
    newest("validate")
    plan = newest.plan(f"-var-file={OPTIONS}")
    pinned, planned = (dict(Planned(each).resources()) for each in (applied_plan.plan, plan))
    assert planned.keys() == pinned.keys()
    differences = {
        address: [stated(values), stated(planned[address])]
        for address, values in pinned.items()
        if stated(values) != stated(planned[address])
    }
    assert differences == {}, json.dumps(differences, indent=1)
    assert len(planned) > 100
