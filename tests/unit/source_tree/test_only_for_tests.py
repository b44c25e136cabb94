"""The product defines nothing that only tests use."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.syntax import nodes_of, tree_of

ROOT = Path(__file__).parent.parent.parent.parent
PRODUCT = ("functions", "trainer", "bench", "deploy", "docs", "examples")
EXEMPT: Mapping[str, str] = {
    "WITHHELD": "every field is in one of two sets, which makes the author of a new one decide",
    "compute_loss": "TRL calls it",
    **dict.fromkeys(
        ("on_epoch_end", "on_log", "on_save", "on_step_end", "on_train_begin", "set_epoch"), "transformers calls it"
    ),
}


def defined(source: str) -> Iterator[str]:
    """Yield names of functions, methods, classes and module-level values."""
    for node in nodes_of(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
    for node in tree_of(source).body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def used(source: str) -> Iterator[str]:
    """Yield names that are read, used as attributes, or part of a string.

    Strings count because of commands and look-ups by name.
    """
    for node in nodes_of(source):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.replace(":", ".").split(".")


def for_tests_only(product: Iterable[str], tests: Iterable[str]) -> set[str]:
    """Return names that the product defines and only tests use."""
    product = list(product)
    names = {name for source in product for name in defined(source)}
    names -= {name for source in product for name in used(source)}
    special = {name for name in names if name.startswith("__")}  # Python's own names
    return names & {name for source in tests for name in used(source)} - special


def test_the_product_uses_what_it_defines() -> None:
    product = [path.read_text() for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    assert for_tests_only(product, tests) == set(EXEMPT)


def test_names_that_only_tests_use_are_found() -> None:
    product = (
        "LIMIT = 3\nclass Store:\n    def put(self): ...\n    def wipe(self): ...\ndef open(): return Store().put()"
    )
    tests = "from store import LIMIT, open\nopen().wipe()\nassert LIMIT == 3"
    assert for_tests_only([product], [tests]) == {"LIMIT", "wipe", "open"}
    assert for_tests_only([product + "\nopen()\nprint(LIMIT)\ngetattr(Store(), 'wipe')"], [tests]) == set()
