"""Planted mistakes are found."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.infra.mistakes import AGAINST_POLICY, INVALID, REFUSED, Mistake, Refused
from tests.infra.offline import ROOT, Providers, Terraform
from tests.infra.planned import Planned
from tests.infra.policies import POLICIES

With = Callable[[Sequence[Mistake]], Terraform]


@pytest.fixture(scope="module")
def planted(providers: Providers, terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> With:
    """Makes copies of terraform/ that hold mistakes."""

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
    """What each policy says when all the mistakes against them are planted at once."""
    plan = Planned(planted(AGAINST_POLICY).plan())
    return {policy.__name__: list(policy(plan)) for policy in POLICIES}


@pytest.fixture(scope="module")
def refused_together(terraform: Terraform) -> str:
    """What is said to all the values that can be looked at one by one."""
    return _refusal(terraform, [refused for refused in REFUSED if not refused.alone])


def _refusal(terraform: Terraform, values: Sequence[Refused]) -> str:
    with pytest.raises(RuntimeError) as raised:
        terraform.plan(*(f"-var={refused.variable}={refused.value}" for refused in values))
    return _one_line(str(raised.value))


def _one_line(said: str) -> str:
    """Without the frames and the line breaks of a message that is meant for a terminal."""
    return re.sub(r"[\s│╷╵]+", " ", said)


@pytest.mark.parametrize("mistake", INVALID, ids=lambda mistake: mistake.name)
def test_validate_finds(mistake: Mistake, planted: With) -> None:
    ran = planted([mistake])("validate", "-no-color", may_fail=True)
    assert ran.returncode == 1
    assert mistake.said in _one_line(ran.stdout + ran.stderr)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: f"{refused.variable} {refused.said}")
def test_a_variable_is_refused(refused: Refused, terraform: Terraform, refused_together: str) -> None:
    assert refused.said in (_refusal(terraform, [refused]) if refused.alone else refused_together)


@pytest.mark.parametrize("mistake", AGAINST_POLICY, ids=lambda mistake: mistake.name)
def test_a_policy_finds(mistake: Mistake, violations: dict[str, list[str]]) -> None:
    said = [violation for found in violations.values() for violation in found]
    assert any(mistake.said in violation for violation in said), "\n".join(said)


def test_no_policy_passes_everything(violations: dict[str, list[str]]) -> None:
    assert [name for name, found in violations.items() if not found] == []


def test_a_mistake_that_has_no_place_any_more_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.tf").write_text("x = 1\n")
    with pytest.raises(ValueError, match="stale"):
        Mistake("stale", "a.tf", "x = 2", "x = 3", "").plant(tmp_path)
