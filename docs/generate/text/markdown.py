"""Markdown of a page: headings, paragraphs, tables, lists and fences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GENERATED = "<!-- Generated from the code by `make docs`: change the code, not this page. -->"


class Page:
    """A page that grows block by block.

    about: one sentence on its content, which the index shows too.
    """

    def __init__(self, title: str, about: str):
        self.title, self.about = title, about
        self._blocks = [GENERATED, f"# {title}", about]

    def heading(self, text: str, level: int = 2) -> None:
        self._blocks.append(f"{'#' * level} {text}")

    def paragraph(self, text: str) -> None:
        self._blocks.append(text)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table; nothing for no rows."""
        lines = [_line(row) for row in rows]
        if lines:
            self._blocks.append("\n".join([_line(head), "|" + "---|" * len(head), *lines]))

    def items(self, texts: Iterable[str]) -> None:
        self._blocks.append("\n".join(f"- {text}" for text in texts))

    def fence(self, text: str, language: str = "text") -> None:
        self._blocks.append(f"```{language}\n{text.rstrip()}\n```")

    def text(self) -> str:
        return "\n\n".join(self._blocks) + "\n"


def code(text: object) -> str:
    """Return a value as inline code, nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def codes(values: Iterable[object]) -> str:
    """Return values as inline code, separated by commas."""
    return ", ".join(code(value) for value in values)


def sentence(text: str) -> str:
    """Return a description as a sentence: with a capital letter and a period.

    Code and field names at its beginning stay as they are.
    """
    text = " ".join(text.split())
    begins_with_word = text[:1].islower() and "_" not in text.split(" ")[0]
    begun = text[:1].upper() + text[1:] if begins_with_word else text
    return begun if not begun or begun.endswith(".") else f"{begun}."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
