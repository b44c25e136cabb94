"""Resources have exactly the wanted values; a change of any is noticed."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.infra import wanted as table
from tests.infra.conftest import Applied
from tests.infra.known_values import configured, leaves
from tests.infra.planned import Planned
from tests.infra.test_grants import differences as grant_differences

Values = dict[str, Any]


def with_effect(address: str, value: Any) -> Any:
    """Return a value without texts, and with placeholders for hashes."""
    if isinstance(value, dict):
        left_out = table.TEXTS | table.ELSEWHERE
        if address.startswith("google_artifact_registry"):
            left_out = left_out - {"description"}
        return {key: with_effect(address, item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [with_effect(address, item) for item in value]
    return re.sub(r"^functions/[0-9a-f]{64}\.zip$", "functions/HASH.zip", value) if isinstance(value, str) else value


def differences(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each value that is not the wanted one."""
    expected_values = table.wanted()
    checked = {address: value for address, value in values.items() if _is_here(address)}
    yield from (f"{address} is missing" for address in expected_values if address not in checked)
    yield from (f"{address} is not wanted" for address in checked if address not in expected_values)
    for address in expected_values.keys() & checked.keys():
        yield from differences_of(address, checked[address], expected_values[address])


def differences_of(address: str, value: Any, expected_value: Any) -> Iterator[str]:
    """Yield a message for each attribute that is not the wanted one."""
    shown = with_effect(address, value)
    actual, expected = dict(leaves(shown)), dict(leaves(expected_value))
    for path in sorted(actual.keys() | expected.keys(), key=str):
        if actual.get(path) != expected.get(path):
            place = ".".join(map(str, path))
            yield f"{address}: {place} is {actual.get(path)!r}; wanted {expected.get(path)!r}"
    if sorted(_blocks(shown)) != sorted(_blocks(expected_value)):
        yield f"{address}: other blocks"


def _blocks(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of all blocks, which may be empty."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield f"{name}.{key}"
            yield from _blocks(item, f"{name}.{key}")


def _is_here(address: str) -> bool:
    kind = address.partition(".")[0]
    return "_iam_" not in kind or "custom_role" in kind


@pytest.fixture(scope="module")
def values(applied_plan: Applied) -> Values:
    return configured(applied_plan.plan, applied_plan.state)


def test_every_resource_has_the_wanted_values(values: Values) -> None:
    assert list(differences(values)) == []


def mutants(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong values in place of a value, each with its kind."""
    match value:
        case bool():
            yield "flag", not value
        case int() | float():
            yield "number", value + 1
            yield "number", value * 10 if value else 30
        case str():
            yield "text", f"{value}x"
            yield "text", ""
            if (number := re.search(r"\d+", value)) is not None:
                yield "number in a text", value.replace(number[0], str(int(number[0]) + 1), 1)


def mutations(values: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield kind, place and whether it is missed, for each single change.

    A change is one of an attribute or a resource. A changed resource is compared alone, because the others are as
    wanted.
    """
    expected_values = table.wanted()
    for address, value in values.items():
        shown = with_effect(address, value)

        def is_missed(changed: Any, address: str = address) -> bool:
            return next(differences_of(address, changed, expected_values[address]), None) is None

        for path, leaf in leaves(shown):
            for kind, wrong in (each for each in mutants(leaf) if each[1] != leaf):
                yield kind, f"{address} {path}", is_missed(_replaced(shown, path, wrong))
            yield "left out", f"{address} {path}", is_missed(_replaced(shown, path, None))
        without = {name: item for name, item in values.items() if name != address}
        yield "resource left out", address, next(differences(without), None) is None
        yield "resource added", address, next(differences(dict(values) | {f"{address}x": value}), None) is None


def _replaced(value: Any, path: tuple[str | int, ...], wrong: Any) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if wrong is None:
        del place[path[-1]]
    else:
        place[path[-1]] = wrong
    return changed


# Classes of mistakes, each by the attributes that make it. At least 95% of them are caught without exception.
CLASSES = {
    "types of events": r"(event_type|matching_criteria)",
    "operators and values of event filters": r"event_filters",
    "regions": r"(location|region|trigger_region|location_id)'",
    "retries of triggers and steps": r"(retry_policy|max_retries|retry_config|backoff)",
    "dead letters": r"dead_letter",
    "expiry of subscriptions": r"ttl",
    "order of messages": r"enable_message_ordering",
    "retention of messages and objects": r"retention",
    "TTL and indexes of fields": r"google_firestore_field",
    "lifecycle of objects": r"lifecycle_rule",
    "schedule": r"schedule'",
    "timeouts and deadlines": r"(timeout|deadline|create_duration)",
    "memory and CPUs": r"(available_memory|available_cpu|limits)",
    "instances and concurrency": r"(instance_count|concurrency|parallelism|task_count)",
    "identities": r"(service_account|member|email)",
    "audiences and addresses": r"(audience|endpoint|'uri'|CONTROL_URL|RUN_PARENT)",
    "settings": r"(environment_variables|'env')",
    "ingress and public access": r"(ingress|public_access|uniform_bucket)",
    "protection of data": r"(force_destroy|deletion_p|delete_protection|point_in_time)",
    "machines": r"(accelerator|gpu|launch_stage|execution_environment)",
    "images and entry points": r"('image'|entry_point|runtime|'args')",
    "APIs": r"google_project_service",
    "alerts": r"google_monitoring_alert_policy",
    "metrics": r"google_logging_metric",
    "budget": r"google_billing_budget",
    "permissions of custom roles": r"'permissions'",
    "registry": r"google_artifact_registry",
    "gateway": r"google_api_gateway",
    "names": r"('name'|_id'|topic')",
}


def test_a_program_that_changes_each_attribute_is_noticed(values: Values) -> None:
    """Change one attribute at a time, in memory, and count what is noticed."""
    all_of_class: Counter[str] = Counter()
    missed_of_class: Counter[str] = Counter()
    count, missed = 0, []
    checked = {address: value for address, value in values.items() if _is_here(address)}
    assert list(differences(checked)) == []
    for kind, place, is_missed in mutations(checked):
        count += 1
        if is_missed:
            missed.append(f"{kind}: {place}")
        for name, pattern in CLASSES.items():
            if re.search(pattern, place):
                all_of_class[name] += 1
                missed_of_class[name] += is_missed
    print(f"{count} changes, {count - len(missed)} noticed")
    assert count > 2500
    assert len(missed) <= 0.01 * count, missed[:20]
    assert set(all_of_class) == set(CLASSES)
    assert [name for name in CLASSES if missed_of_class[name]] == []


def test_texts_and_documents_that_are_compared_elsewhere_exist(values: Values) -> None:
    text = json.dumps(values)
    for name in (*table.TEXTS, *table.ELSEWHERE):
        assert f'"{name}"' in text, name


def test_grants_and_values_cover_all_resources(applied_plan: Applied, values: Values) -> None:
    assert grant_differences(Planned(applied_plan.state.shown)) == []
    assert all("_iam_" in address for address in values if not _is_here(address))
