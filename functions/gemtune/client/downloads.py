"""Download of files that a service links to, checked against its record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from gemtune.client.errors import BadDownload, BadUse, Unreachable
from gemtune.handlers.answers import ArtifactLink, DatasetFileLink
from gemtune.object_name import is_safe
from gemtune.redaction import redact_logs_of

BLOCK_BYTES = 1024 * 1024
# Number of attempts to download a file; each goes on where the one before ended.
ATTEMPTS = 3
# HTTP status of an answer to a request for a part of a file.
PARTIAL = 206

LinkedFile = ArtifactLink | DatasetFileLink


def download(linked: LinkedFile, folder: Path, *, show: Callable[[int], None] = lambda size: None) -> Path:
    """Download a file unless the folder has it; return its path.

    Raises BadUse for a name that leads out of the folder, and what `download_to` raises.
    """
    return download_to(linked, path_in(folder, linked), show=show)


def path_in(folder: Path, linked: LinkedFile) -> Path:
    """Return the path of a file in a folder.

    Raises BadUse for a name that leads out of the folder.
    """
    if not is_safe(linked.name):
        raise BadUse(f"{linked.name!r} is not a valid file name")
    return folder / linked.name


def download_to(linked: LinkedFile, path: Path, *, show: Callable[[int], None] = lambda size: None) -> Path:
    """Download a file to a path unless it is there; return the path.

    An interrupted download goes on where it ended, also in another program. A file whose hash the service does not know
    is downloaded from its beginning, and only its size is checked. show: called with the number of bytes of the file
    that are there, again and again. Raises BadDownload for another content, Unreachable and OSError.
    """
    import httpx2

    if is_there(linked, path):
        show(linked.bytes)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    for attempt in range(1, ATTEMPTS + 1):
        if linked.sha256 is None:
            unfinished.unlink(missing_ok=True)  # it may be the beginning of another content
        try:
            _write(linked, unfinished, show)
            break
        except httpx2.TransportError as error:
            if attempt == ATTEMPTS:
                raise Unreachable(f"{linked.name}: {error}") from error
        except OSError:  # the disk may be full
            unfinished.unlink(missing_ok=True)
            raise
    if not _is_whole(linked, unfinished):
        unfinished.unlink()
        what = "size" if linked.sha256 is None else "SHA-256"
        raise BadDownload(f"{linked.name}: the {what} of the download differs from the service's record")
    unfinished.replace(path)
    return path


def is_there(linked: LinkedFile, path: Path) -> bool:
    """Return whether a path has the content of a file.

    False if the service does not know its hash.
    """
    return linked.sha256 is not None and path.is_file() and _sha256(path) == linked.sha256


def _is_whole(linked: LinkedFile, path: Path) -> bool:
    return path.stat().st_size == linked.bytes if linked.sha256 is None else _sha256(path) == linked.sha256


def _write(linked: LinkedFile, path: Path, show: Callable[[int], None]) -> None:
    """Write the content of a linked file, from the end of `path` on."""
    begun = path.stat().st_size if path.is_file() else 0
    if begun >= linked.bytes:  # of another file of this name, or complete: the SHA-256 tells
        begun = 0
    if linked.url is None:
        with Path(linked.path or "").open("rb") as source, path.open("ab" if begun else "wb") as file:
            source.seek(begun)
            while block := source.read(BLOCK_BYTES):
                file.write(block)
                show(file.tell())
        return
    import httpx2

    redact_logs_of("httpx2")
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with httpx2.stream("GET", linked.url, headers=headers, timeout=60) as response:
        if not response.is_success:  # httpx's own error would show the link, which gives access for one hour
            answer = f"the link answered with HTTP {response.status_code}"
            raise BadDownload(f"{linked.name}: {answer}; links expire after an hour: try again")
        with path.open("ab" if response.status_code == PARTIAL else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                show(file.tell())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
