"""Files of a dataset in the data bucket, and their splits."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from gemtune.datasets.files import splits
from gemtune.datasets.files.splits import Splits
from gemtune.errors import ObjectNotFound
from gemtune.ports import Objects
from gemtune.untrusted import MAX_BYTES, read_json

# A dataset of more files is listed by the prepare step only, because a bucket lists 1,000 objects per request.
MAX_LISTED = 3000


def list_sizes(data: Objects, folder: str) -> dict[str, int] | None:
    """Return the bytes of each file in a folder, by its path there.

    None if there are more than MAX_LISTED. Raises UnsafeName.
    """
    listed = islice(data.list(f"{folder}/"), MAX_LISTED + 1)
    sizes = {stat.name.removeprefix(f"{folder}/"): stat.bytes for stat in listed}
    return None if len(sizes) > MAX_LISTED else sizes


def read_splits(data: Objects, folder: str, paths: Collection[str]) -> Splits:
    """Return the splits by metadata.json if there is one, or by names.

    Raises Unreadable, UnsafeName, BadSplits.
    """
    if splits.METADATA not in paths:
        return splits.of_files(paths)
    try:
        content = data.read(f"{folder}/{splits.METADATA}", max_bytes=MAX_BYTES)
    except ObjectNotFound:  # deleted in the meantime
        return splits.of_files(paths)
    return splits.of_metadata(read_json(content, named=splits.METADATA), paths, folder)
