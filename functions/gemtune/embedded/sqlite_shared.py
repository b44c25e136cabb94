"""Shared documents on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gemtune.embedded.database import Database


class SqliteSharedDocuments:
    """`ports.SharedDocuments` on SQLite."""

    def __init__(self, database: Database):
        self._database = database

    def read(self, name: str) -> str | None:
        """Return a document's text, or None."""
        row = self._database.read().execute("SELECT body FROM shared WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["body"])

    def update(self, name: str, change: Callable[[str | None], str | None]) -> str | None:
        """Change a document, while no other writer can."""
        with self._database.write() as connection:
            row = connection.execute("SELECT body FROM shared WHERE name = ?", (name,)).fetchone()
            before = None if row is None else str(row["body"])
            after = change(before)
            if after is None and before is not None:
                connection.execute("DELETE FROM shared WHERE name = ?", (name,))
            elif after != before:
                connection.execute("INSERT OR REPLACE INTO shared VALUES (?, ?)", (name, after))
        return after

    def names(self, prefix: str, *, before: str | None = None) -> Iterator[str]:
        """Yield the names that begin with `prefix` and precede `before`."""
        rows = self._database.read().execute("SELECT name FROM shared ORDER BY name").fetchall()
        names = (row["name"] for row in rows if row["name"].startswith(prefix))
        yield from (name for name in names if before is None or name < before)
