"""Terraform and the policies find planted mistakes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.infra.conftest import OPTIONS
from tests.infra.known_values import configured
from tests.infra.mistakes import AGAINST_POLICY, INVALID, REFUSED, UNWANTED, Mistake, Refused
from tests.infra.offline import ROOT, Providers, Terraform
from tests.infra.planned import Planned
from tests.infra.policies import POLICIES
from tests.infra.test_grants import differences as grant_differences
from tests.infra.test_wanted import differences

With = Callable[[Sequence[Mistake]], Terraform]


@pytest.fixture(scope="module")
def planted(providers: Providers, terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> With:
    """Return a function that copies terraform/ and plants mistakes in it."""

    def copy(mistakes: Sequence[Mistake]) -> Terraform:
        project = tmp_path_factory.mktemp("planted")
        for name in ("functions", "workflows"):
            (project / name).symlink_to(ROOT / name)
        shutil.copytree(terraform.folder, project / "terraform", symlinks=True)
        for mistake in mistakes:
            mistake.plant(project / "terraform")
        return Terraform(project / "terraform", providers)

    return copy


@pytest.fixture(scope="module")
def violations(planted: With) -> dict[str, list[str]]:
    """Plant all mistakes at once; return the messages of each policy."""
    plan = Planned(planted(AGAINST_POLICY).plan())
    return {policy.__name__: list(policy(plan)) for policy in POLICIES}


@pytest.fixture(scope="module")
def unwanted(planted: With) -> list[str]:
    """Plant the other mistakes; return how values and grants differ."""
    project = planted(UNWANTED)
    plan = project.plan(f"-var-file={OPTIONS}")
    project("apply", "-input=false", "plan")
    state = Planned(json.loads(project("show", "-json").stdout))
    return [*differences(configured(plan, state)), *grant_differences(state)]


@pytest.fixture(scope="module")
def refusals(terraform: Terraform) -> Mapping[tuple[str, str], list[str]]:
    """Return the errors of Terraform by variable and value.

    It runs as few times as the values allow.
    """
    runs: list[dict[str, str]] = []
    for refused in (each for each in REFUSED if not each.alone):
        run = next((run for run in runs if run.get(refused.variable, refused.value) == refused.value), None)
        if run is None:
            runs.append(run := {})
        run[refused.variable] = refused.value
    errors = {value: errors for run in runs for errors in [_errors(terraform, run)] for value in run.items()}
    for refused in (each for each in REFUSED if each.alone):
        value = (refused.variable, refused.value)
        if value not in errors:
            errors[value] = _errors(terraform, dict([value]), refused.with_)
    return errors


def _errors(terraform: Terraform, values: Mapping[str, str], with_: str = "") -> list[str]:
    """Return the errors of a plan with these values of variables."""
    others = [f"-var={with_}"] if with_ else []
    with pytest.raises(RuntimeError) as raised:
        terraform.plan(*others, *(f"-var={name}={value}" for name, value in values.items()))
    return _one_line(str(raised.value)).split("Error: ")[1:]


def _one_line(message: str) -> str:
    """Remove the frames and line breaks of a message for a terminal."""
    return re.sub(r"[\s│╷╵]+", " ", message)


@pytest.mark.parametrize("mistake", INVALID, ids=lambda mistake: mistake.name)
def test_validate_finds_a_mistake(mistake: Mistake, planted: With) -> None:
    ran = planted([mistake])("validate", "-no-color", may_fail=True)
    assert ran.returncode == 1
    assert mistake.message in _one_line(ran.stdout + ran.stderr)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: f"{refused.variable} {refused.message}")
def test_a_wrong_value_of_a_variable_is_refused(
    refused: Refused, refusals: Mapping[tuple[str, str], list[str]]
) -> None:
    errors = [error for error in refusals[refused.variable, refused.value] if f'variable "{refused.variable}"' in error]
    assert [error for error in errors if refused.message in error]


def test_each_rule_for_a_variable_has_a_value_that_it_refuses() -> None:
    text = (ROOT / "terraform" / "variables.tf").read_text()
    for part in re.split(r'^variable "', text, flags=re.MULTILINE)[1:]:
        name = part.partition('"')[0]
        tried = [refused.message for refused in REFUSED if refused.variable == name]
        rules = re.findall(r'error_message = "(.*)"', part)
        assert [rule for rule in rules if not any(message in rule for message in tried)] == [], name


@pytest.mark.parametrize("mistake", AGAINST_POLICY, ids=lambda mistake: mistake.name)
def test_a_policy_finds_a_mistake(mistake: Mistake, violations: dict[str, list[str]]) -> None:
    messages = [message for of_policy in violations.values() for message in of_policy]
    assert any(mistake.message in message for message in messages), "\n".join(messages)


@pytest.mark.parametrize("mistake", UNWANTED, ids=lambda mistake: mistake.name)
def test_the_tables_of_values_and_grants_find_a_mistake(mistake: Mistake, unwanted: list[str]) -> None:
    assert any(mistake.message in message for message in unwanted), "\n".join(unwanted)


def test_every_policy_finds_some_mistake(violations: dict[str, list[str]]) -> None:
    assert [name for name, messages in violations.items() if not messages] == []


def test_a_mistake_without_its_place_raises(tmp_path: Path) -> None:
    (tmp_path / "a.tf").write_text("x = 1\n")
    with pytest.raises(ValueError, match="stale"):
        Mistake("stale", "a.tf", "x = 2", "x = 3", "").plant(tmp_path)
