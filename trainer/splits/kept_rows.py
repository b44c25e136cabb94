"""Facts about each row that is kept, in a few bytes per row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Mapping
from typing import Any

from trainer.rows.prepared import as_numbers


class KeptRows:
    """Origin, content and size of each kept row of a split, by its index.

    It takes 28 bytes per row. The content is a hash of 64 bits: among two million different rows, two have the same one
    with a probability of one to ten million.
    """

    def __init__(self) -> None:
        self._files, self._numbers, self._digests = array("I"), array("Q"), array("Q")
        self._tokens, self._trained = array("I"), array("I")

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, file: int, number: int, columns: Mapping[str, Any], *, tokens: int, trained_tokens: int) -> None:
        """Add a row.

        file: index of the row's file. number: the row's in its file. columns: the row as train reads it.
        """
        self._files.append(file)
        self._numbers.append(number)
        self._digests.append(_digest(columns))
        self._tokens.append(tokens)
        self._trained.append(trained_tokens)

    def origin(self, index: int) -> tuple[int, int]:
        """Return the index of a row's file, and the row's number in it."""
        return self._files[index], self._numbers[index]

    def tokens_of(self, indexes: Collection[int]) -> tuple[int, int]:
        """Return the tokens of rows, and those with a loss among them."""
        return sum(self._tokens[index] for index in indexes), sum(self._trained[index] for index in indexes)

    def repeats(self) -> list[tuple[int, int]]:
        """Return (index, index of the first equal row) of each repeated row."""
        import numpy as np

        _, first, group = np.unique(np.asarray(self._digests), return_index=True, return_inverse=True)
        firsts = first[group]
        return [(int(index), int(firsts[index])) for index in np.flatnonzero(firsts != np.arange(len(self)))]

    def repeated_groups(self) -> list[list[int]]:
        """Return the indexes of equal rows, for each row that is repeated."""
        groups: dict[int, list[int]] = {}
        for index, first in self.repeats():
            groups.setdefault(first, [first]).append(index)
        return list(groups.values())

    def also_in(self, other: KeptRows) -> list[int]:
        """Return the indexes of rows that another split has too."""
        import numpy as np

        return [int(index) for index in np.flatnonzero(np.isin(self._digests, other._digests))]


def _digest(columns: Mapping[str, Any]) -> int:
    """Return a hash of 64 bits of a row.

    Lists, which are numbers of 32 bits in a token file, are hashed as such: written as text, a row of 96 tokens takes
    2.4 times as long.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(columns.items()):
        is_text = isinstance(value, (str, bool, type(None)))
        content = repr(value).encode(errors="surrogatepass") if is_text else as_numbers(value).tobytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return int.from_bytes(digest.digest(), "little")
