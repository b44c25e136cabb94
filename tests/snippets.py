"""The fenced snippets of README.md, CONTRIBUTING.md and docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A reader meets these first, and later pages use what their snippets make.
FIRST = ("README.md", "CONTRIBUTING.md", "docs/datasets.md", "docs/command-line.md")
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>needs a cloud account|not run: [^\n]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block.

    reason: why its commands are not run, from the comment in front of it; None if they are.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages in the order in which their snippets are run."""
    paths = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def read(page: str) -> Iterator[Snippet]:
    text = (ROOT / page).read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        yield Snippet(page, line, match["language"], match["text"], match["mark"])


def of_language(*languages: str) -> Sequence[Snippet]:
    """Return the snippets of these languages, of all pages."""
    return [snippet for page in pages() for snippet in read(page) if snippet.language in languages]


def commands(snippet: Snippet) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell snippet.

    Comments and here-documents are left out.
    """
    text = re.sub(r"<<-?\s*'?(\w+)'?(.*?)\n.*?^\1$", r"\2", snippet.text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?:^|\s)#.*$", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    text = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " ").replace("|", " "), text)
    for command in re.split(r"\n|&&|\|\|?|;|\$\(|\)", text):
        words = command.split()
        while words and re.match(r"^(export|sudo|[A-Z_]+=\S*)$", words[0]):
            words.pop(0)
        if words:
            yield words
