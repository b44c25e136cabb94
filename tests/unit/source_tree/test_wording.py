"""Docstrings, names and formatting of all Python files keep the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import wording

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "trainer", "tests", "bench", "deploy", "examples", "docs")
# Files with tables that are read by columns, which ruff would break up -> how many.
TABLES: Mapping[str, int] = {
    "functions/gemtune/families/gemma1.py": 1,
    "functions/gemtune/families/gemma2.py": 1,
    "functions/gemtune/families/gemma3.py": 1,
    "functions/gemtune/families/gemma3n.py": 1,
    "functions/gemtune/families/gemma4.py": 6,
    "trainer/gguf/dither.py": 1,
    "trainer/published.py": 1,
}


def sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_docstrings_and_names_keep_the_rules() -> None:
    broken = [
        f"{name}:{line}: {message}"
        for name, text in sources().items()
        for line, message in wording.docstring_problems(text) + wording.name_problems(text)
    ]
    assert broken == []


def test_only_tables_are_left_unformatted() -> None:
    counts = {name: len(wording.unformatted_lines(text)) for name, text in sources().items()}
    assert {name: count for name, count in counts.items() if count} == TABLES


@pytest.mark.parametrize(
    "docstring",
    [
        '"""What importing costs a process."""',
        '"""Whether the job is over."""',
        '"""`Where` a file is."""',
        f'"""{"A" * 77}."""',
        f'"""{"A" * 76}.\n\nMore.\n"""',
        'r"""Of each row its length."""',
    ],
)
def test_a_headless_or_long_docstring_is_found(docstring: str) -> None:
    indented = docstring.replace("\n", "\n    ")
    for source in (
        docstring,
        f"def f():\n    {indented}",
        f"class C:\n    {indented}",
        f"async def f():\n    {indented}",
    ):
        assert len(wording.docstring_problems(source)) == 1, source


def test_a_docstring_that_keeps_the_rules_is_not_found() -> None:
    for docstring in (
        f'"""{"A" * 75}."""',
        f'"""{"A" * 75}.\n\nWhat follows may begin with any word, and a longer line than the first is allowed.\n"""',
        '"""Wherever."""',
        "1",
    ):
        assert wording.docstring_problems(docstring) == []


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "found: int = 1",
        "found += 1",
        "a, (found, b) = c",
        "for found in a: pass",
        "with a as found: pass",
        "a = [found for found in b]",
        "if (found := a): pass",
        "def f(found): ...",
        "def f(*, found=1): ...",
        "a = lambda found: 1",
        "class C:\n    found: int",
    ],
)
def test_a_vague_name_is_found(code: str) -> None:
    assert [message for _, message in wording.name_problems(code)] == ["'found' does not say what it holds"]


def test_the_name_of_an_attribute_or_of_a_function_is_not_checked() -> None:
    code = "a.found = b.found\nd['found'] = found(found=1)\nfounded = 1\ndef found(): ..."
    assert wording.name_problems(code) == []


def test_a_line_without_formatting_is_found() -> None:
    source = "a = [\n    1,  2,\n]  # fmt: skip\n# fmt: off\nb = 'fmt: skip'\n# fmt: on\n"
    assert wording.unformatted_lines(source) == [3, 4]
