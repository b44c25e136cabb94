"""The page about datasets names every kind of file and every word for a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemtune.datasets.files.kinds import COMPRESSIONS, LAYOUTS
from gemtune.datasets.files.splits import WORDS

PAGE = (Path(__file__).parent.parent.parent.parent / "docs" / "datasets.md").read_text()


@pytest.mark.parametrize("ending", [*LAYOUTS, *COMPRESSIONS])
def test_every_ending_is_in_the_table_of_files(ending: str) -> None:
    (table,) = (part for part in PAGE.split("\n\n") if part.startswith("| files |"))
    assert f"`.{ending}`" in table


def test_the_table_of_splits_has_the_words_in_their_order() -> None:
    (table,) = (part for part in PAGE.split("\n\n") if part.startswith("| split |"))
    rows = [line.split(" | ")[1] for line in table.splitlines()[2:]]
    assert rows == [", ".join(f"`{word}`" for word in words) for words in WORDS.values()]
