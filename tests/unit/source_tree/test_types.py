"""mypy checks the whole product strictly, except for libraries without types."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.unit.source_tree.test_rooms import PRODUCT

ROOT = Path(__file__).parent.parent.parent.parent
# functions/main.py consists of functions_framework's decorators, which have no types.
CHECKED = sorted(set(PRODUCT) - {"main"})
# Sets of keys that an override for a library may have. Our own packages have no overrides.
ALLOWED = {
    frozenset({"module", "ignore_missing_imports", "follow_imports"}),
    frozenset({"module", "implicit_reexport"}),
    frozenset({"module", "follow_imports"}),
}


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    mypy_settings: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    return mypy_settings


def test_every_package_is_checked_strictly(settings: dict[str, object]) -> None:
    assert settings["strict"] is True
    assert isinstance(settings["packages"], list)
    assert sorted(settings["packages"]) == CHECKED


def test_what_tests_share_is_checked_too(settings: dict[str, object]) -> None:
    modules = [f"tests.{path.stem}" for path in sorted((ROOT / "tests").glob("*.py")) if path.stem != "__init__"]
    assert settings["modules"] == modules


def test_overrides_are_for_libraries_and_silence_no_errors(settings: dict[str, object]) -> None:
    assert isinstance(settings["overrides"], list)
    for override in settings["overrides"]:
        assert frozenset(override) in ALLOWED
        assert not {name.partition(".")[0] for name in override["module"]} & set(PRODUCT)


def test_every_ignored_error_is_named() -> None:
    blanket = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in CHECKED
        for path in (ROOT / ("functions/gemtune" if package == "gemtune" else package)).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# type: ignore(?!\[)|# mypy:", line)
    ]
    assert blanket == []
