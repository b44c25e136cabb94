"""Near duplicates between held-out rows and rows to train on, by MinHash.

Rows are compared by their trigrams of tokens (Broder, "On the resemblance and containment of documents", 1997).
Trigrams of the chat template or of an instruction that many rows share would make all rows similar, so trigrams that
more than a twentieth of the first rows have are left out. Memory grows with the held-out rows only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.checks.report import NearDuplicate, NearDuplicates
from trainer.rows.prepared import ROW_GROUP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]

# Hashes of a row's signature, in bands by which candidates are found: of two rows with a similarity of 0.8, one band
# at least is equal with a probability of 0.9998.
HASHES, BANDS = 64, 16
SIMILAR = 0.8
# Rows in which the share of a trigram is measured, and the largest share and number of rows of one that counts.
SAMPLED_ROWS, LARGEST_SHARE, ALWAYS_COUNTS = 1000, 0.05, 3
# Trigrams that a row needs to be compared.
FEWEST = 5
EXAMPLES = 10
METHOD = (
    "MinHash with 64 hashes over trigrams of tokens, without trigrams that more than 5% of the first 1,000 rows have; "
    f"a similarity of at least {SIMILAR}"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Place of the rows of a token file: returns it for messages.

    equal: numbers of rows in the file that are not compared.
    """

    of: Callable[[int], str]
    equal: frozenset[int] = frozenset()


def find(train_file: Path, train: Place, held_out_file: Path, held_out: Place) -> NearDuplicates:
    """Return the held-out rows that are nearly the same as a row to train on.

    Rows of `held_out.equal` are left out: they are equal to a row to train on, and counted elsewhere.
    """
    import numpy as np

    common = _common_trigrams(train_file)
    batches = [(first + rows, signatures) for first, rows, signatures in _signatures(held_out_file, common)]
    if not batches:
        return NearDuplicates(rows=0, examples=(), method=METHOD)
    numbers = np.concatenate([rows for rows, _ in batches])
    signatures, place = _distinct(np.concatenate([each for _, each in batches]))
    keys = _band_keys(signatures)
    orders = np.argsort(keys, axis=0, kind="stable")
    best = np.zeros(len(signatures)), np.zeros(len(signatures), dtype=np.int64)
    for first, rows, all_others in _signatures(train_file, common):
        others, at = _distinct(all_others)
        rows = rows[np.unique(at, return_index=True)[1]]
        pairs = _candidates(keys, orders, _band_keys(others))
        if len(pairs):
            similarity = (signatures[pairs[:, 0]] == others[pairs[:, 1]]).mean(axis=1)
            for (index, other), value in zip(pairs, similarity, strict=True):
                if value > best[0][index]:
                    best[0][index], best[1][index] = value, first + rows[other]
    similar, nearest = best[0][place], best[1][place]
    hits = [index for index in np.flatnonzero(similar >= SIMILAR) if int(numbers[index]) not in held_out.equal]
    examples = [
        NearDuplicate(
            held_out=held_out.of(int(numbers[index])),
            train=train.of(int(nearest[index])),
            similarity=round(float(similar[index]), 2),
        )
        for index in sorted(hits, key=lambda index: -similar[index])[:EXAMPLES]
    ]
    return NearDuplicates(rows=len(hits), examples=examples, method=METHOD)


def _distinct(signatures: Numbers) -> tuple[Numbers, Any]:
    """Return the signatures without repetitions, and the place of each there.

    They stay in the order of their first rows. Many equal rows would be as many pairs as the product of their numbers.
    """
    import numpy as np

    _, firsts, places = np.unique(signatures, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    return signatures[firsts[order]], np.argsort(order)[places.reshape(-1)]


def _candidates(keys: Numbers, orders: Any, others: Numbers) -> Any:
    """Return pairs (index, other index) of rows with an equal band.

    keys: of the held-out rows, by band. orders: their order in each band.
    """
    import numpy as np

    pairs: set[tuple[int, int]] = set()
    for band in range(BANDS):
        ordered = keys[orders[:, band], band]
        left = np.searchsorted(ordered, others[:, band], side="left")
        right = np.searchsorted(ordered, others[:, band], side="right")
        for other in np.flatnonzero(right > left):
            pairs.update((int(index), int(other)) for index in orders[left[other] : right[other], band])
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _band_keys(signatures: Numbers) -> Numbers:
    """Return a hash of each band of each signature."""
    import numpy as np

    bands = signatures.reshape(len(signatures), BANDS, HASHES // BANDS)
    keys = np.zeros(bands.shape[:2], dtype=np.uint64)
    for position in range(bands.shape[2]):
        keys = _mix(keys ^ bands[:, :, position])
    return keys


def _signatures(file: Path, common: Numbers) -> Iterator[tuple[int, Any, Numbers]]:
    """Yield (number of the first row, rows, signatures) of each batch of rows.

    rows: those of the batch that have enough trigrams.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    factors = generator.integers(0, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
    first = 0
    for count, columns in _trigrams(file):
        signatures = np.full((count, HASHES), np.iinfo(np.uint64).max, dtype=np.uint64)
        total = np.zeros(count, dtype=np.int64)
        for rows, trigrams in columns:
            counted = ~np.isin(trigrams, common)
            rows, trigrams = rows[counted], trigrams[counted]
            present, starts, counts = np.unique(rows, return_index=True, return_counts=True)
            total[present] += counts
            for index in range(HASHES if len(present) else 0):
                least = np.minimum.reduceat(_mix(trigrams * factors[index]), starts)
                signatures[present, index] = np.minimum(signatures[present, index], least)
        enough = np.flatnonzero(total >= FEWEST)
        yield first, enough, signatures[enough]
        first += count


def _common_trigrams(file: Path) -> Numbers:
    """Return the trigrams that too many of the first rows have, sorted."""
    import numpy as np

    rows_with: Counter[int] = Counter()
    sampled = 0
    for count, columns in _trigrams(file):
        pairs = [np.unique(np.stack([rows.astype(np.uint64), trigrams]), axis=1) for rows, trigrams in columns]
        for _, trigrams in pairs:
            rows_with.update(trigrams.tolist())
        sampled += count
        if sampled >= SAMPLED_ROWS:
            break
    limit = max(ALWAYS_COUNTS, LARGEST_SHARE * sampled)
    return np.array(sorted(each for each, rows in rows_with.items() if rows > limit), dtype=np.uint64)


def _trigrams(file: Path) -> Iterator[tuple[int, list[tuple[Any, Numbers]]]]:
    """Yield the number of rows of each batch, and the trigrams of each column.

    The trigrams are (row, hash) in two arrays, in the order of the rows.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        names = [field.name for field in parquet.schema_arrow if field.name.endswith("ids")]
        for batch in parquet.iter_batches(batch_size=ROW_GROUP, columns=names):
            columns = []
            for column in batch.columns:
                assert isinstance(column, pa.ListArray)
                tokens = column.flatten().to_numpy().astype(np.uint64)
                rows = np.repeat(np.arange(batch.num_rows), np.diff(column.offsets.to_numpy()))
                whole = np.flatnonzero(rows[:-2] == rows[2:])
                first, second, third = tokens[whole], tokens[whole + 1], tokens[whole + 2]
                columns.append((rows[whole], _mix(_mix(_mix(first) + second) + third)))
            yield batch.num_rows, columns


def _mix(values: Numbers) -> Numbers:
    """Return well distributed hashes (the finalizer of SplitMix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
