"""`python -m tests.emulators`: runs the whole gcp backend here until Ctrl-C."""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
from pathlib import Path

import httpx2

from gemtune.local_server.stop_signals import stop_signals
from gemtune.services.cleanup.order import SWEEP_SECONDS
from tests.emulators.cloud import Cloud
from tests.emulators.sdk import NoEmulators


def main() -> int:
    with stop_signals() as wait_for_stop, tempfile.TemporaryDirectory(prefix="gemtune-cloud-") as folder:
        try:
            cloud = Cloud(Path(folder), {"GEMTUNE_WEBHOOKS_TO_LOOPBACK": "yes"})
        except NoEmulators as error:
            print(error, file=sys.stderr)
            return 1
        with cloud:
            for name, value in (cloud.environment | {"GEMTUNE_URL": cloud.url}).items():
                print(f"export {name}={value}")
            print(f"# serving {cloud.url}; logs in {folder}; Ctrl-C ends it", flush=True)
            stopped = threading.Event()
            sweeper = threading.Thread(target=sweep_until, args=(stopped, cloud))
            sweeper.start()
            wait_for_stop()
            stopped.set()
            sweeper.join()
    return 0


def sweep_until(stopped: threading.Event, cloud: Cloud) -> None:
    """Sweep every few minutes, as Cloud Scheduler does."""
    while not stopped.wait(SWEEP_SECONDS):
        try:
            cloud.sweep()
        except httpx2.HTTPError as error:  # Cloud Scheduler does not mind either; the next sweep follows
            logging.getLogger(__name__).warning("the sweep failed: %s", error)


if __name__ == "__main__":
    sys.exit(main())
