"""Grants of a deployment: exactly those of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.infra.grants import ROLES, TABLE, granted
from tests.infra.planned import Planned
from tests.infra.policies import POLICIES


def differences(state: Planned) -> list[str]:
    """Return what the grants of a state lack or have too much."""
    try:
        grants = [grant for _, grant in granted(state)]
    except ValueError as error:
        return [str(error)]
    missing = [f"missing: {grant}" for grant in TABLE if grant not in grants]
    surplus = [f"no call needs: {grant}" for grant in grants if grant not in TABLE]
    twice = [f"twice: {grant}" for grant in set(grants) if grants.count(grant) > 1]
    return [*missing, *surplus, *twice]


def test_the_grants_are_those_of_the_table(applied: Planned) -> None:
    assert differences(applied) == []


def test_every_single_role_that_is_removed_is_missed(applied: Planned) -> None:
    """Remove one grant at a time."""
    addresses = [address for address, _ in granted(applied)]
    assert len(addresses) == len(TABLE) > 100
    for address in addresses:
        assert differences(without(applied, address)) != [], address


def test_every_single_change_of_a_grant_is_missed(applied: Planned) -> None:
    """Change who, what, where and the condition, one at a time."""
    every, addresses, conditions = dict(applied.resources()), [address for address, _ in granted(applied)], 0
    for address in addresses:
        values = every[address]
        places = set(values) - {"id", "etag", "project", "condition"}
        assert {"role", "member"} <= places, address
        for name in (name for name in places if values[name] is not None):
            for wrong in (f"{values[name]}x", f"x{values[name]}"):
                assert differences(without(applied, address, values | {name: wrong})) != [], (address, name)
        for condition in values.get("condition") or ():
            conditions += 1
            expression = condition["expression"]
            wider = expression.removesuffix('")')[:-1] + '")'
            for changed in ([], [condition | {"expression": wider}], [condition | {"expression": "true"}]):
                assert differences(without(applied, address, values | {"condition": changed})) != [], address
    assert conditions == sum(bool(grant.names) for grant in TABLE) > 20


def without(state: Planned, address: str, instead: Mapping[str, Any] | None = None) -> Planned:
    """Return the state without a resource, or with other values of it."""
    resources = state.shown["values"]["root_module"]["resources"]
    others = [resource for resource in resources if resource["address"] != address]
    if instead is not None:
        type_ = address.partition(".")[0]
        others.append({"address": address, "type": type_, "mode": "managed", "values": instead})
    return Planned({"values": {"root_module": {"resources": others}}})


def test_custom_roles_have_the_permissions_of_the_table(applied: Planned) -> None:
    custom = {
        values["role_id"]: frozenset(values["permissions"])
        for _, values in applied.resources("google_project_iam_custom_role")
    }
    assert custom == {name: permissions for name, permissions in ROLES.items() if name.startswith("gemtune_")}
    assert {grant.role for grant in TABLE} == set(ROLES)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_deployment_with_all_options_keeps_the_policy(policy: object, applied: Planned) -> None:
    """Check the policies that do not depend on the options."""
    with_options = {"every_component_has_its_settings_and_no_others", "functions_have_the_right_callers"}
    assert callable(policy)
    if policy.__name__ not in with_options:
        assert list(policy(applied)) == []
