"""`python -m tests.emulators`: runs the whole gcp backend here until Ctrl-C."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gemtune.local_server.stop_signals import stop_signals
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
            wait_for_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
