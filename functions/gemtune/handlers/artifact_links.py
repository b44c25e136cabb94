"""Links to the files of a job's result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gemtune.handlers.answers import ArtifactLink
from gemtune.jobs.record import Artifact, Job
from gemtune.ports import Objects

# Number of threads: each signature may be a call of its own over the network.
WORKERS = 8


def artifact_links(export: Objects, job: Job) -> list[ArtifactLink]:
    """Return a link for each file, sorted by name. Raises NoSignedLinks."""

    def with_link(artifact: Artifact) -> ArtifactLink:
        # Only the part from jobs/ on is used: the folder of a workstation may have been moved since.
        _, inside, rest = artifact.uri.partition(f"jobs/{job.job_id}/")
        link = export.link(inside + rest)
        return ArtifactLink(
            name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256, url=link.url, path=link.path
        )

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(with_link, sorted(job.artifacts, key=lambda artifact: artifact.name)))
