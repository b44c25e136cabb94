"""Configuration of Cloud Build for the images of trainer/.

Builds with BuildKit and a cache in the registry, so that a change of the code compiles and installs nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# One image per build of torch.
IMAGES = ("cpu", "cu126", "cu130")
DOCKER = "gcr.io/cloud-builders/docker"


def configuration(images: Sequence[str], repository: str, tag: str, *, unsloth: bool) -> dict[str, Any]:
    """Return the configuration of a build that pushes these images.

    repository: REGION-docker.pkg.dev/PROJECT/gemtune-trainer.
    """
    builder = ["buildx", "create", "--name=gemtune", "--driver=docker-container", "--use"]
    steps: list[dict[str, Any]] = [{"id": "builder", "name": DOCKER, "args": builder}]
    # One after the other: the first leaves the stage with llama.cpp in the builder's cache.
    steps += [
        {"id": image, "name": DOCKER, "args": _build(image, repository, tag, unsloth=unsloth)} for image in images
    ]
    return {
        "steps": steps,
        "timeout": "7200s",
        # Logs in Cloud Logging are required with a service account of our own. An image with CUDA takes 10 GB, and as
        # much again while it is packed.
        "options": {"logging": "CLOUD_LOGGING_ONLY", "machineType": "E2_HIGHCPU_8", "diskSizeGb": 200},
    }


def _build(image: str, repository: str, tag: str, *, unsloth: bool) -> list[str]:
    cache = f"type=registry,ref={repository}/cache:{image}"
    return [
        *("buildx", "build", "--file=trainer/Dockerfile"),
        *(f"--build-arg=TORCH={image}", f"--build-arg=UNSLOTH={'yes' if unsloth else 'no'}"),
        f"--cache-from={cache}",
        # All stages; without ignore-error a full registry would fail a build whose images are done.
        f"--cache-to={cache},mode=max,image-manifest=true,ignore-error=true",
        *(f"--tag={repository}/{image}:{tag}", "--provenance=false", "--push", "."),
    ]
