"""Where the files of a job's result can be read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gemtune.handlers.answers import ArtifactLink
from gemtune.jobs.record import Artifact, Job
from gemtune.ports import Objects

# Each signature may be a call of its own, which waits for the network.
WORKERS = 8


def artifact_links(export: Objects, job: Job) -> list[ArtifactLink]:
    """One link a file, by name. Raises NoSignedLinks."""

    def linked(artifact: Artifact) -> ArtifactLink:
        # A recorded URI begins where the bucket lay then; a home that was moved keeps its names.
        _, inside, rest = artifact.uri.partition(f"jobs/{job.job_id}/")
        link = export.link(inside + rest)
        return ArtifactLink(
            name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256, url=link.url, path=link.path
        )

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(linked, sorted(job.artifacts, key=lambda artifact: artifact.name)))
