"""`python -m docs.generate`: writes every page, and removes pages that are no longer made."""

from __future__ import annotations

from docs.generate.contents import FOLDER, pages


def main() -> None:
    written = pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text)
    print(f"{len(written)} pages in {FOLDER.relative_to(FOLDER.parents[1])}/")


if __name__ == "__main__":
    main()
