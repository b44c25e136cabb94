"""The committed pages of docs/reference/ are those that the code generates."""

from __future__ import annotations

import difflib
import re

import pytest

from docs.generate.contents import FOLDER, pages
from docs.generate.text.markdown import Page, sentence
from docs.generate.text.schemas import type_of

WRITTEN = pages()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_page_is_what_the_code_makes(name: str) -> None:
    path = FOLDER / name
    committed = path.read_text() if path.exists() else ""
    changes = list(difflib.unified_diff(committed.splitlines(), WRITTEN[name].splitlines(), "committed", "made", n=0))
    assert not changes, "\n".join(["run `make docs` and commit docs/reference/:", *changes[:20]])


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(WRITTEN), "run `make docs` and commit docs/reference/"


def test_rows_of_tables_have_the_cells_of_their_heads() -> None:
    for name, text in WRITTEN.items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(cells) == 1, f"{name}: {table.splitlines()[0]}"


def test_every_field_variable_and_parameter_has_a_meaning() -> None:
    for name, text in WRITTEN.items():
        for head, rows in re.findall(r"^(\|.* meaning .*)\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
            cell = [part.strip() for part in head.split("|")].index("meaning")
            for row in rows.splitlines():
                assert re.split(r"(?<!\\)\|", row)[cell].strip(), f"{name}: {row}"


def test_a_table_without_rows_is_left_out() -> None:
    page = Page("A", "B.")
    page.table(("one", "two"), [])
    page.table(("one", "two"), [("a|b", "c\nd")])
    assert page.text().endswith("B.\n\n| one | two |\n|---|---|\n| a\\|b | c d |\n")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("tokens", "Tokens."),
        ("train_steps between evaluations", "train_steps between evaluations."),
        ("`yes` allows it", "`yes` allows it."),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_descriptions_become_sentences(text: str, written: str) -> None:
    assert sentence(text) == written


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 1024}, "whole number from 1 to 1,024"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, "number above 0 below 0.5"),
        ({"type": "string", "minLength": 1, "maxLength": 9}, "text of 1 to 9 characters"),
        ({"type": "string", "maxLength": 9}, "text of at most 9 characters"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "string"}, {"type": "null"}]}, "`a`, `b`"),
        ({"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/Row"}}, "list, at most 2, of [Row](#row)"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"type": "string", "format": "date-time"}, "time (RFC 3339)"),
        ({}, "anything"),
    ],
)
def test_schemas_in_words(schema: dict[str, object], words: str) -> None:
    assert type_of(schema, {"Row": "#row"}) == words
