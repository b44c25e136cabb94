"""Download of the files of a job's result, checked against its record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from gemtune.client.errors import BadDownload, BadUse, Unreachable
from gemtune.handlers.answers import ArtifactLink
from gemtune.object_name import is_safe

BLOCK_BYTES = 1024 * 1024
# Number of attempts to download a file; each goes on where the one before ended.
ATTEMPTS = 3
# HTTP status of an answer to a request for a part of a file.
PARTIAL = 206


def download(artifact: ArtifactLink, folder: Path, *, show: Callable[[int], None] = lambda size: None) -> Path:
    """Download a file unless the folder has it; return its path.

    An interrupted download goes on where it ended, also in another program. show: called with the number of bytes of
    the file that are there, again and again. Raises BadDownload for another content, BadUse for a name that leads out
    of the folder, Unreachable and OSError.
    """
    import httpx2

    if not is_safe(artifact.name):
        raise BadUse(f"{artifact.name!r} is not a valid file name")
    final = folder / artifact.name
    if final.is_file() and _sha256(final) == artifact.sha256:
        show(artifact.bytes)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(final.name + ".unfinished")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _write(artifact, unfinished, show)
            break
        except httpx2.TransportError as error:
            if attempt == ATTEMPTS:
                raise Unreachable(f"{artifact.name}: {error}") from error
        except OSError:  # the disk may be full
            unfinished.unlink(missing_ok=True)
            raise
    if _sha256(unfinished) != artifact.sha256:
        unfinished.unlink()
        raise BadDownload(f"{artifact.name}: the SHA-256 of the download differs from the job's record")
    unfinished.replace(final)
    return final


def _write(artifact: ArtifactLink, path: Path, show: Callable[[int], None]) -> None:
    """Write an artifact's content to a file, from the file's end on."""
    if artifact.url is None:
        with Path(artifact.path or "").open("rb") as source, path.open("wb") as file:
            while block := source.read(BLOCK_BYTES):
                file.write(block)
                show(file.tell())
        return
    import httpx2

    begun = path.stat().st_size if path.is_file() else 0
    if begun >= artifact.bytes:  # of another file of this name, or complete: the SHA-256 tells
        begun = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with httpx2.stream("GET", artifact.url, headers=headers, timeout=60) as response:
        if not response.is_success:  # httpx's own error would show the link, which gives access for one hour
            answer = f"the link answered with HTTP {response.status_code}"
            raise BadDownload(f"{artifact.name}: {answer}; links expire after an hour: try again")
        with path.open("ab" if response.status_code == PARTIAL else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                show(file.tell())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
