"""Container images: built in the project's Cloud Build, their digests saved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.deployment import Deployment
from deploy.tools import ROOT, Refused, need, outputs, read, terraform

# One image per build of torch; cloudbuild.yaml has a step for each.
IMAGES = ("cpu", "cu126", "cu130")
SOURCES = ("cloudbuild.yaml", "constraints.txt", "functions/gemtune", "trainer", "LICENSE")
RUNNING = ("PENDING", "QUEUED", "WORKING")
# Seconds between requests for the status of a build.
POLL_INTERVAL = 10.0
# Resources that a build needs: a registry to push to, a bucket to read sources from, and a service account.
BUILD_RESOURCES = (
    "google_artifact_registry_repository_iam_member.build",
    'google_project_iam_member.gemtune["build logging.logWriter"]',
    'google_storage_bucket_iam_member.gemtune["source build viewer"]',
)


def tag(deployment: Deployment) -> str:
    """Return a hash of the images' sources and options.

    If it is the tag of the last build, no build is needed.
    """
    digest = hashlib.sha256(b"unsloth" if deployment.unsloth else b"")
    for path in sorted(_files()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _word(switch: bool) -> str:
    return "yes" if switch else "no"


def _files() -> Iterator[Path]:
    for source in SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
        yield from (each for each in files if "__pycache__" not in each.parts)


def are_built(deployment: Deployment) -> bool:
    """Return whether the saved digests belong to these sources and options."""
    saved = deployment.images_file.is_file() and deployment.tag_file.is_file()
    return saved and deployment.tag_file.read_text() == tag(deployment)


def build(deployment: Deployment) -> None:
    """Build and push all images, and save their digests for Terraform.

    Creates the resources that a build needs, if they are missing. Raises Refused.
    """
    need("gcloud", "terraform")
    terraform("init", "-input=false")
    deployed = outputs()
    if "image_repository" not in deployed or "build_service_account" not in deployed:
        print("creating the resources that a build needs: a registry, a bucket and a service account")
        targets = [f"-target={address}" for address in BUILD_RESOURCES]
        terraform("apply", *deployment.variables(placeholders()), *deployment.approval, *targets)
        deployed = outputs()
        if "image_repository" not in deployed or "build_service_account" not in deployed:
            raise Refused("terraform did not create the registry", exit_code=1)
    name = tag(deployment)
    build_id = _submit(deployment, deployed, name)
    ended = _wait_for(deployment, build_id)
    if ended["status"] != "SUCCESS":
        raise Refused(f"build {build_id} ended as {ended['status']}; see {ended.get('logUrl')}", exit_code=1)
    _save(deployment, ended["results"]["images"], name)


def _submit(deployment: Deployment, deployed: dict[str, Any], name: str) -> str:
    """Start a build and return its ID."""
    unsloth = _word(deployment.unsloth)
    return read(
        *("gcloud", "builds", "submit", ".", *deployment.gcloud, "--config=cloudbuild.yaml", "--async"),
        f"--service-account={deployed['build_service_account']}",
        f"--gcs-source-staging-dir=gs://{deployed['buckets']['source']}/builds",
        f"--substitutions=_REPOSITORY={deployed['image_repository']},_TAG={name},_UNSLOTH={unsloth}",
        "--format=value(id)",
    )


def _wait_for(deployment: Deployment, build_id: str) -> dict[str, Any]:
    """Wait for the end of a build and return its description.

    gcloud cannot stream the log, because it is in Cloud Logging; its address is printed instead.
    """
    log_printed = False
    while True:
        description: dict[str, Any] = json.loads(
            read("gcloud", "builds", "describe", build_id, "--format=json", *deployment.gcloud)
        )
        if description["status"] not in RUNNING:
            return description
        if not log_printed:
            print(f"build {build_id} is running; its log: {description.get('logUrl')}", flush=True)
            log_printed = True
        time.sleep(POLL_INTERVAL)


def _save(deployment: Deployment, pushed: list[dict[str, str]], name: str) -> None:
    """Save the digests of the images. Raises Refused if one was not pushed."""
    images = {}
    for entry in pushed:
        repository = entry["name"].rpartition(":")[0]
        images[repository.rpartition("/")[2]] = f"{repository}@{entry['digest']}"
    missing = sorted(set(IMAGES) - set(images))
    if missing:
        raise Refused(f"the build pushed no image {', '.join(missing)}", exit_code=1)
    deployment.images_file.parent.mkdir(parents=True, exist_ok=True)
    deployment.images_file.write_text(json.dumps({"images": images}, indent=2, sort_keys=True) + "\n")
    deployment.tag_file.write_text(name)
    for image in images.values():
        print(image)
    print(f"saved in {deployment.images_file.relative_to(ROOT)}")


def placeholders() -> list[str]:
    """Return Terraform's options for images that do not exist.

    Terraform needs values for a plan before the first build.
    """
    images = {image: f"none.invalid/{image}@sha256:{'0' * 64}" for image in IMAGES}
    return ["-var", f"images={json.dumps(images)}"]
