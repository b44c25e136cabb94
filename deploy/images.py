"""Builds the images in the project's Cloud Build, and keeps their digests for Terraform."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.deployment import Deployment
from deploy.tools import ROOT, Refused, need, outputs, read, terraform

# The builds of torch that cloudbuild.yaml has a step for.
IMAGES = ("cpu", "cu126", "cu130")
SOURCES = ("cloudbuild.yaml", "constraints.txt", "functions/gemtune", "trainer", "LICENSE")
UNDER_WAY = ("PENDING", "QUEUED", "WORKING")
# Seconds between looks at a build.
LOOK = 10.0
# What a build needs before there can be any image: where it is pushed to, what it is read from, and who it is.
BEFORE = (
    "google_artifact_registry_repository_iam_member.build",
    'google_project_iam_member.gemtune["build logging.logWriter"]',
    'google_storage_bucket_iam_member.gemtune["source build viewer"]',
)


def tag(deployment: Deployment) -> str:
    """Names a content of the images' sources, and what they are built with: the same needs no build."""
    digest = hashlib.sha256(b"unsloth" if deployment.unsloth else b"")
    for path in sorted(_files()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _word(switch: bool) -> str:
    return "yes" if switch else "no"


def _files() -> Iterator[Path]:
    for source in SOURCES:
        path = ROOT / source
        found = [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
        yield from (each for each in found if "__pycache__" not in each.parts)


def are_built(deployment: Deployment) -> bool:
    """Whether the digests that are kept belong to these sources and this project."""
    kept = deployment.images_file
    return kept.is_file() and deployment.tag_file.is_file() and deployment.tag_file.read_text() == tag(deployment)


def build(deployment: Deployment) -> None:
    """Build and push all images, and write their digests to `build/<project>/images.tfvars.json`. Raises Refused."""
    need("gcloud", "terraform")
    terraform("init", "-input=false")
    found = outputs()
    if "image_repository" not in found or "build_service_account" not in found:
        print("first what a build needs: a registry, a bucket, an account")
        targets = [f"-target={address}" for address in BEFORE]
        terraform("apply", *deployment.variables(placeholders()), *deployment.approval, *targets)
        found = outputs()
        if "image_repository" not in found or "build_service_account" not in found:
            raise Refused("terraform made no registry", exit_code=1)
    name = tag(deployment)
    build_id = read(
        "gcloud", "builds", "submit", ".", *deployment.gcloud, "--config=cloudbuild.yaml", "--async",
        f"--service-account={found['build_service_account']}",
        f"--gcs-source-staging-dir=gs://{found['buckets']['source']}/builds",
        f"--substitutions=_REPOSITORY={found['image_repository']},_TAG={name},_UNSLOTH={_word(deployment.unsloth)}",
        "--format=value(id)",
    )  # fmt: skip
    built = _ended(deployment, build_id)
    if built["status"] != "SUCCESS":
        raise Refused(f"build {build_id} ended as {built['status']}; see {built.get('logUrl')}", exit_code=1)
    _keep(deployment, built["results"]["images"], name)


def _ended(deployment: Deployment, build_id: str) -> dict[str, Any]:
    """The build once it is over. Its log is in Cloud Logging, which gcloud does not stream."""
    told = False
    while True:
        built: dict[str, Any] = json.loads(
            read("gcloud", "builds", "describe", build_id, "--format=json", *deployment.gcloud)
        )
        if built["status"] not in UNDER_WAY:
            return built
        if not told:
            print(f"build {build_id} runs; its log: {built.get('logUrl')}", flush=True)
            told = True
        time.sleep(LOOK)


def _keep(deployment: Deployment, pushed: list[dict[str, str]], name: str) -> None:
    """Raises Refused when an image is not among those that were pushed."""
    images = {}
    for entry in pushed:
        place = entry["name"].rpartition(":")[0]
        images[place.rpartition("/")[2]] = f"{place}@{entry['digest']}"
    missing = sorted(set(IMAGES) - set(images))
    if missing:
        raise Refused(f"the build pushed no image {', '.join(missing)}", exit_code=1)
    deployment.images_file.parent.mkdir(parents=True, exist_ok=True)
    deployment.images_file.write_text(json.dumps({"images": images}, indent=2, sort_keys=True) + "\n")
    deployment.tag_file.write_text(name)
    for image in images.values():
        print(image)
    print(f"kept in {deployment.images_file.relative_to(ROOT)}")


def placeholders() -> list[str]:
    """Images for a plan before there are any: they name nothing."""
    nothing = {image: f"none.invalid/{image}@sha256:{'0' * 64}" for image in IMAGES}
    return ["-var", f"images={json.dumps(nothing)}"]
