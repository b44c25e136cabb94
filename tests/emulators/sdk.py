"""Location of the Google Cloud SDK's emulators."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

VARIABLE = "GEMTUNE_CLOUD_SDK"


class NoEmulators(Exception):
    """Raised when the emulators are missing; the text says what to install."""


@lru_cache(maxsize=1)
def jars() -> tuple[Path, Path]:
    """Return the jars of the Firestore and Pub/Sub emulators.

    Raises NoEmulators.
    """
    if shutil.which("java") is None:
        raise NoEmulators("the emulators need Java 17 or later: install default-jre-headless")
    platform = _root() / "platform"
    firestore = next(iter(sorted(platform.glob("cloud-firestore-emulator/cloud-firestore-emulator*.jar"))), None)
    pubsub = next(iter(sorted(platform.glob("pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"))), None)
    if firestore is None or pubsub is None:
        raise NoEmulators(
            f"{platform} has no emulators: gcloud components install cloud-firestore-emulator pubsub-emulator"
        )
    return firestore, pubsub


def _root() -> Path:
    """Return the SDK's folder, from the variable or else from gcloud."""
    if folder := os.environ.get(VARIABLE):
        return Path(folder)
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise NoEmulators(f"there is no Google Cloud SDK: install one, or set {VARIABLE} to its folder")
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout.strip())
