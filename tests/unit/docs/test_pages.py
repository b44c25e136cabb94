"""README and docs/: links, names of code, and the form of pages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "terraform/README.md")
)
# Pages for readers with a question; the others begin in their own way.
SUBJECTS = [page for page in PAGES if re.fullmatch(r"docs/(?!README)[a-z-]+\.md|CONTRIBUTING\.md", page)]
README_LINES = 160
# Names that the documentation mentions because gemtune does not use them.
FOREIGN = {"trust_remote_code"}


def prose(page: str) -> str:
    """Return the text of a page without its fenced snippets."""
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: str) -> frozenset[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for text in texts)


def dead_links(page: str) -> Iterator[str]:
    """Yield the relative links of a page to a missing file or heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        if not target.exists():
            yield f"{link} leads to no file"
        elif anchor and anchor not in anchors(target.relative_to(ROOT).as_posix()):
            yield f"{link} leads to no heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    assert list(dead_links(page)) == []


@cache
def source() -> str:
    """Return all of the code, and no documentation."""
    command = ["git", "grep", "--cached", "-h", "", "--", "functions", "trainer", "terraform", "workflows", "Makefile"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/reference/")])
def test_names_in_a_page_are_in_the_code(page: str) -> None:
    names = set(re.findall(r"`([a-z]+_[a-z_]+|GEMTUNE_[A-Z_]+)`", prose(page))) - FOREIGN
    assert {name for name in names if name not in source()} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", SUBJECTS)
def test_a_page_begins_by_saying_whom_it_is_for(page: str) -> None:
    title, _, rest = (ROOT / page).read_text().partition("\n\n")
    assert re.fullmatch(r"# [^\n]+", title)
    assert rest.startswith("For ")


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    missing = [page for page in SUBJECTS if f"]({Path(page).name})" not in index and f"](../{page})" not in index]
    assert missing == []
