"""Mutations change one thing at a time; mutants are tried by existing tests."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import NEAREST, ROOT, modules_in, nearest_tests, sample
from tests.mutations import mutated, mutations_of


def mutants(source: str) -> list[str]:
    """Return the text of every mutant of a program."""
    return [mutated(source, number) for number in range(len(mutations_of(source)))]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x = 8", ["x = 9"]),
        ("x = True", ["x = False"]),
        ("x = 0.5", ["x = 1.0"]),
        ("x = 'done'", ["x = 'done_x'"]),
        ("x = 'a sentence'", []),
        ("x = None", []),
        ("x = a < b", ["x = a <= b"]),
        ("x = a < b is c", ["x = a <= b is c", "x = a < b is not c"]),
        ("x = a and b", ["x = a or b"]),
        ("x = a - b", ["x = a + b"]),
        ("x = a + 'of text'", []),
        ("x = not a", ["x = not not a"]),
        ("x = b if a else c", ["x = b if not a else c"]),
        ("x = {a: b, c: d}", ["x = {c: d}", "x = {a: b}"]),
        ("x = frozenset({a, b})", ["x = frozenset({b})", "x = frozenset({a})"]),
        ("a, b = c", []),
        ("def f():\n    return x", ["def f():\n    return None"]),
        ("def f():\n    return [x]", ["def f():\n    return None"]),
        ("def f():\n    return None", []),
        ("def f():\n    check(x)", ["def f():\n    pass"]),
        ("def f():\n    x.y = z", ["def f():\n    pass"]),
        ("def f():\n    raise X", ["def f():\n    pass"]),
        (
            "for x in y:\n    if x:\n        continue",
            ["for x in y:\n    if not x:\n        continue", "for x in y:\n    if x:\n        pass"],
        ),
    ],
)
def test_mutants_of_a_line(source: str, changed: list[str]) -> None:
    assert mutants(source) == changed


def test_types_docstrings_and_log_messages_are_not_mutated() -> None:
    source = '''
"""docstring"""
from x import y
if TYPE_CHECKING:
    z: int = 1
__all__ = ["y"]
@dataclass(frozen=True)
class C:
    pass
def f(a: Literal["b"]) -> Mapping[str, 'c']:
    log.info("word", 1)
    Kind = TypeVar("Kind")
    value: Literal["d"]
'''
    assert mutants(source) == []


def test_every_mutant_differs_from_the_program() -> None:
    (path,) = [path for _, path in modules_in("gemtune.jobs.status")]
    source = (ROOT / path).read_text()
    texts = mutants(source)
    assert len(texts) > 30
    assert ast.unparse(ast.parse(source)) not in texts


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    assert sample(["gemtune.jobs"], 9, 4) == sample(["gemtune.jobs"], 9, 4) != sample(["gemtune.jobs"], 9, 5)
    assert len(sample(["gemtune.jobs.status"], 10**6, 1)) < 200
    with pytest.raises(ValueError, match="no nothing"):
        sample(["nothing"], 1, 1)


def test_the_nearest_tests_exist() -> None:
    assert all((ROOT / path).exists() for module in NEAREST for path in nearest_tests(module))
    assert nearest_tests("gemtune.handlers.cloud_events") == ["tests/handlers/test_events.py"]
    assert "tests/handlers/test_http_api.py" in nearest_tests("gemtune.handlers.routes")
    assert nearest_tests("trainer.store.checkpoints") == ["tests/trainer/store"]
    assert nearest_tests("trainer.training.preference.dpo") == ["tests/trainer/training/test_dpo.py"]
    assert "tests/trainer/steps/test_train.py" in nearest_tests("trainer.training.sft")
    with pytest.raises(KeyError, match=r"no tests are named for deploy\.images"):
        nearest_tests("deploy.images")
