"""Writes all pages of docs/reference/ (`python -m docs.generate`).

Pages that the code no longer makes are removed.
"""

from __future__ import annotations

from docs.generate.contents import FOLDER, pages


def main() -> None:
    texts = pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text)
    print(f"{len(texts)} pages in {FOLDER.relative_to(FOLDER.parents[1])}/")


if __name__ == "__main__":
    main()
