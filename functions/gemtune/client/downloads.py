"""Download of the files of a job's result, checked against its record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gemtune.client.errors import BadDownload, BadUse, Unreachable
from gemtune.handlers.answers import ArtifactLink
from gemtune.object_name import is_safe

BLOCK_BYTES = 1024 * 1024
# Number of attempts to download a file; each begins from the start.
ATTEMPTS = 3


def download(artifact: ArtifactLink, folder: Path) -> Path:
    """Download a file unless the folder has it; return its path.

    Raises BadDownload for another content, BadUse for a name that leads out of the folder, Unreachable and OSError.
    """
    import httpx2

    if not is_safe(artifact.name):
        raise BadUse(f"{artifact.name!r} is not a valid file name")
    final = folder / artifact.name
    if final.is_file() and _sha256(final) == artifact.sha256:
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(final.name + ".unfinished")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _write_verified(artifact, unfinished)
            unfinished.replace(final)
            return final
        except httpx2.TransportError as error:
            if attempt == ATTEMPTS:
                raise Unreachable(f"{artifact.name}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)
    raise AssertionError("the last attempt returned or raised")


def _write_verified(artifact: ArtifactLink, path: Path) -> None:
    """Write an artifact's content to a file.

    Raises BadDownload if its SHA-256 is wrong.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(artifact):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != artifact.sha256:
        raise BadDownload(f"{artifact.name}: the SHA-256 of the download differs from the job's record")


def _blocks(artifact: ArtifactLink) -> Iterator[bytes]:
    """Yield an artifact's content in blocks, from its local path or its URL."""
    import httpx2

    if artifact.url is None:
        with Path(artifact.path or "").open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        return
    with httpx2.stream("GET", artifact.url, timeout=60) as response:
        if not response.is_success:  # httpx's own error would show the link, which gives access for one hour
            raise BadDownload(f"{artifact.name}: the link answered with HTTP {response.status_code}")
        yield from response.iter_bytes(BLOCK_BYTES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
