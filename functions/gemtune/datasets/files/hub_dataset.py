"""Datasets of the Hub, as requests name them: `hf://datasets/owner/name`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
# A branch, a tag or a commit; or one of the branches that the Hub itself makes, whose slashes may be written as %2F.
_REVISION = rf"refs(?:/|%2F)(?:convert|pr)(?:/|%2F){_NAME}|{_NAME}"
# Without spaces, as its hf:// addresses have none.
_FOLDER = r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}){1,8}"
HUB_DATASET = rf"hf://datasets/{_NAME}/{_NAME}(?:@(?:{_REVISION}))?(?:{_FOLDER})?"
_PARTS = re.compile(
    rf"hf://datasets/(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?(?P<folder>{_FOLDER})?"
)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """Folder of a dataset repository at a revision.

    folder: empty for the whole repository.
    """

    repository: str
    revision: str = "main"
    folder: str = ""


def parse(dataset_id: str) -> HubDataset | None:
    """Parse the id of a dataset; None for one of the data bucket."""
    parts = _PARTS.fullmatch(dataset_id)
    if parts is None:
        return None
    revision = (parts["revision"] or "main").replace("%2F", "/")
    return HubDataset(parts["repository"], revision, (parts["folder"] or "").removeprefix("/"))


def short_name(dataset_id: str) -> str:
    """Return the name of a dataset without its owner, revision and folder."""
    dataset = parse(dataset_id)
    return dataset_id if dataset is None else dataset.repository.rpartition("/")[2]
