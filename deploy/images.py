"""Container images: built in the project's Cloud Build, their digests saved."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.cloud_build import IMAGES, configuration
from deploy.deployment import Deployment
from deploy.terraform import Terraform
from deploy.tools import ROOT, Refused, read

SOURCES = ("deploy/cloud_build.py", "constraints.txt", "functions/gemtune", "trainer", "LICENSE")
RUNNING = ("PENDING", "QUEUED", "WORKING")
# Seconds between requests for the status of a build.
POLL_INTERVAL = 10.0
# Resources that a build needs: a registry to push to, a bucket to read sources from, and a service account.
BUILD_RESOURCES = ("time_sleep.build_roles",)


def tag(deployment: Deployment) -> str:
    """Return a hash of the images' sources and options.

    If it is the tag of the last build, no build is needed.
    """
    digest = hashlib.sha256(b"unsloth" if deployment.unsloth else b"")
    for path in sorted(_files()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _files() -> Iterator[Path]:
    for source in SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
        yield from (each for each in files if "__pycache__" not in each.parts)


def needed(capacity: Mapping[str, Any]) -> list[str]:
    """Return the images of the jobs in Terraform's output `capacity`."""
    used = {job["image"] for job in capacity["jobs"].values()}
    unknown = sorted(used - set(IMAGES))
    if unknown:
        raise Refused(f"there is no image {', '.join(unknown)}; `machines` can use {', '.join(IMAGES)}")
    return [image for image in IMAGES if image in used]


def saved(deployment: Deployment) -> dict[str, str]:
    """Return the digests of the images that were built last."""
    if not deployment.images_file.is_file():
        return {}
    images: dict[str, str] = json.loads(deployment.images_file.read_text()).get("images", {})
    return images


def are_built(deployment: Deployment, images: Sequence[str]) -> bool:
    """Return whether the saved digests are those of these images and sources."""
    same = deployment.tag_file.is_file() and deployment.tag_file.read_text() == tag(deployment)
    return same and set(images) <= set(saved(deployment))


def build(deployment: Deployment, terraform: Terraform, images: Sequence[str]) -> None:
    """Build and push images, and save their digests for Terraform.

    Creates the resources that a build needs, if they are missing. Raises Refused.
    """
    deployed = terraform.outputs()
    if "image_repository" not in deployed or "build_service_account" not in deployed:
        print("creating the resources that a build needs: a registry, a bucket and a service account", flush=True)
        terraform.apply(
            *deployment.variables(placeholders(deployment)), *(f"-target={address}" for address in BUILD_RESOURCES)
        )
        deployed = terraform.outputs()
        if "image_repository" not in deployed or "build_service_account" not in deployed:
            raise Refused("terraform did not create the registry", exit_code=1)
    name, repository = tag(deployment), deployed["image_repository"]
    build_id = _submit(deployment, deployed, configuration(images, repository, name, unsloth=deployment.unsloth))
    ended = _wait_for(deployment, build_id)
    if ended["status"] != "SUCCESS":
        raise Refused(f"build {build_id} ended as {ended['status']}; see {ended.get('logUrl')}", exit_code=1)
    _save(deployment, {image: _digest(deployment, f"{repository}/{image}:{name}") for image in images}, name)


def _submit(deployment: Deployment, deployed: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Start a build and return its ID."""
    path = deployment.folder / "cloudbuild.json"
    path.write_text(json.dumps(config, indent=2))
    return read(
        *("gcloud", "builds", "submit", ".", *_place(deployment), f"--config={path}", "--async"),
        f"--service-account={deployed['build_service_account']}",
        f"--gcs-source-staging-dir=gs://{deployed['buckets']['source']}/builds",
        "--format=value(id)",
    )


def _place(deployment: Deployment) -> Sequence[str]:
    return (f"--project={deployment.project_id}", f"--region={deployment.build_region}")


def _wait_for(deployment: Deployment, build_id: str) -> dict[str, Any]:
    """Wait for the end of a build and return its description.

    gcloud cannot stream the log, because it is in Cloud Logging; its address is printed instead.
    """
    log_printed = False
    while True:
        description: dict[str, Any] = json.loads(
            read("gcloud", "builds", "describe", build_id, "--format=json", *_place(deployment))
        )
        if description["status"] not in RUNNING:
            return description
        if not log_printed:
            print(f"build {build_id} is running; its log: {description.get('logUrl')}", flush=True)
            log_printed = True
        time.sleep(POLL_INTERVAL)


def _digest(deployment: Deployment, image: str) -> str:
    """Return an image's name with its digest. Raises Refused if there is none."""
    digest = read(
        *("gcloud", "artifacts", "docker", "images", "describe", image, f"--project={deployment.project_id}"),
        "--format=value(image_summary.digest)",
    )
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Refused(f"the build pushed no image {image}", exit_code=1)
    return f"{image.rpartition(':')[0]}@{digest}"


def _save(deployment: Deployment, images: Mapping[str, str], name: str) -> None:
    """Save the digests of the images."""
    deployment.images_file.write_text(json.dumps({"images": images}, indent=2, sort_keys=True) + "\n")
    deployment.tag_file.write_text(name)
    for image in images.values():
        print(image)
    print(f"saved in {deployment.images_file.relative_to(ROOT)}")


def placeholders(deployment: Deployment) -> list[str]:
    """Return Terraform's options for images, some of which may not exist yet.

    Terraform needs values for a plan before the first build.
    """
    images = {image: f"none.invalid/{image}@sha256:{'0' * 64}" for image in IMAGES} | saved(deployment)
    return ["-var", f"images={json.dumps(images)}"]
