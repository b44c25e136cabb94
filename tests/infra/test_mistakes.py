"""Terraform and the policies find planted mistakes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.infra.conftest import OPTIONS
from tests.infra.known_values import configured
from tests.infra.mistakes import ACCEPTED, AGAINST_POLICY, INVALID, REFUSED, UNWANTED, Mistake, Refused
from tests.infra.offline import EXAMPLE, ROOT, Providers, Terraform
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
def variables(program: None, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Return Terraform on the variables alone: no provider has to start."""
    folder = tmp_path_factory.mktemp("variables")
    shutil.copy(ROOT / "terraform" / "variables.tf", folder)
    terraform = Terraform(folder)
    terraform("init", "-input=false")
    return terraform


def runs_of(values: Sequence[Refused]) -> list[list[Refused]]:
    """Group values, so that Terraform runs as few times as they allow."""
    together: list[list[Refused]] = []
    for each in (each for each in values if not each.alone):
        run = next((run for run in together if all(other.variable != each.variable for other in run)), None)
        if run is None:
            together.append(run := [])
        run.append(each)
    return [*together, *([each] for each in values if each.alone)]


def errors_of(variables: Terraform, run: Sequence[Refused]) -> list[str]:
    """Return the errors of a plan with these values of variables."""
    values = [*(f"{each.variable}={each.value}" for each in run), *(each.with_ for each in run if each.with_)]
    options = ["-input=false", "-no-color", f"-var-file={EXAMPLE}", *(f"-var={value}" for value in values)]
    ran = variables("plan", *options, may_fail=True)
    errors = _one_line(ran.stdout + ran.stderr).split("Error: ")[1:]
    assert bool(errors) == bool(ran.returncode)
    return errors


def _one_line(message: str) -> str:
    """Remove the frames and line breaks of a message for a terminal."""
    return re.sub(r"[\s│╷╵]+", " ", message)


@pytest.mark.parametrize("mistake", INVALID, ids=lambda mistake: mistake.name)
def test_validate_finds_a_mistake(mistake: Mistake, planted: With) -> None:
    ran = planted([mistake])("validate", "-no-color", may_fail=True)
    assert ran.returncode == 1
    assert mistake.message in _one_line(ran.stdout + ran.stderr)


def test_the_nearest_wrong_values_of_variables_are_refused(variables: Terraform) -> None:
    missed = []
    for run in runs_of(REFUSED):
        errors = errors_of(variables, run)
        for refused in run:
            own = [error for error in errors if f'variable "{refused.variable}"' in error]
            if not any(refused.message in error for error in own):
                missed.append((refused, own))
    assert missed == []


def test_values_at_the_bounds_of_the_rules_are_accepted(variables: Terraform) -> None:
    assert [errors for run in runs_of(ACCEPTED) if (errors := errors_of(variables, run))] == []


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
