"""Links to files: of a job's result, and of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from gemtune.datasets.uploads.record import DatasetFile
from gemtune.handlers.answers import ArtifactLink, DatasetFileLink
from gemtune.jobs.record import Job
from gemtune.ports import Link, Objects
from gemtune.services.datasets.catalogue import object_name

# Number of threads: each signature may be a call of its own over the network.
WORKERS = 8


def artifact_links(export: Objects, job: Job) -> list[ArtifactLink]:
    """Return a link for each file, sorted by name. Raises NoSignedLinks."""
    artifacts = sorted(job.artifacts, key=lambda artifact: artifact.name)
    # Only the part from jobs/ on is used: the folder of a workstation may have been moved since.
    parts = [artifact.uri.partition(f"jobs/{job.job_id}/") for artifact in artifacts]
    links = _links(export, [inside + rest for _, inside, rest in parts])
    return [
        ArtifactLink(name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256, url=link.url, path=link.path)
        for artifact, link in zip(artifacts, links, strict=True)
    ]


def dataset_file_links(data: Objects, dataset_id: str, files: Sequence[DatasetFile]) -> list[DatasetFileLink]:
    """Return a link for each file of a dataset. Raises NoSignedLinks."""
    links = _links(data, [object_name(dataset_id, file) for file in files])
    return [
        DatasetFileLink(name=file.path, bytes=file.bytes, sha256=file.sha256 or None, url=link.url, path=link.path)
        for file, link in zip(files, links, strict=True)
    ]


def _links(objects: Objects, names: Iterable[str]) -> list[Link]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(objects.link, names))
