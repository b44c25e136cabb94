"""The Google Cloud that gemtune needs, with its functions deployed."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import httpx2
import psutil
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1, run_v2, secretmanager_v1, storage
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport

from gemtune.jobs.status import Step
from gemtune.ports import Topic
from gemtune.webhooks.signing import KEY_NAME
from tests.emulators.children import Child, free_port, wait_for_port
from tests.emulators.cloud_run import CloudRunStandIn
from tests.emulators.gateways import Gateways
from tests.emulators.google import PROJECT, REGION, STORAGE_EVENTS, Emulators
from tests.emulators.relay import Relay
from tests.emulators.secret_manager import SecretManagerStandIn
from tests.emulators.workflows import WorkflowsStandIn
from tests.forking_python import ForkingPython

BUCKETS = {
    "GCS_CONFIG_BUCKET_NAME": "gemtune-test-config",
    "GCS_DATA_BUCKET_NAME": "gemtune-test-data",
    "GCS_UPLOADS_BUCKET_NAME": "gemtune-test-uploads",
    "GCS_EXPORT_BUCKET_NAME": "gemtune-test-export",
}
LOCATION = f"projects/{PROJECT}/locations/{REGION}"
# Shortest and longest pause between deliveries of a refused message, in seconds, and the most deliveries of one.
# Webhooks get Pub/Sub's minimum of five, so that a test can wait for the last one.
BACKOFF = (1, 10)
ATTEMPTS = {Topic.JOB_REQUESTS: 20, Topic.WEBHOOKS: 5}
RUN_JOBS = ("gemtune-prepare", "gemtune-train-l4", "gemtune-export")
FUNCTIONS = ("api", "dispatch", "ingest", "fan_out", "notify", "control", "sweep")


class Cloud:
    """The gcp backend on emulators and stand-ins, wired as Terraform wires it.

    It is up when the constructor returns. Always use it as a context manager, so that no process outlives the test.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        forking: ForkingPython | None = None,
        forks_first: bool = False,
    ):
        """Start everything, with more settings for the functions.

        forking: forks trainers after each Cloud Run job's first one, which is cheaper than to start them; with
        forks_first, the first one too. They cannot use the Hub. Raises NoEmulators.
        """
        self.folder = folder
        self.emulators = Emulators(folder / "emulators")
        self.secret_manager = SecretManagerStandIn()
        self.cloud_run = CloudRunStandIn(folder / "task-logs", forking, forks_first=forks_first)
        self.ports = {name: free_port() for name in FUNCTIONS}
        self.url = self.url_of("api")
        self.gateways = Gateways(
            {
                "google.firestore.": self.emulators.firestore,
                "google.pubsub.": self.emulators.pubsub,
                "google.cloud.secretmanager.": self.secret_manager.address,
            },
            {"/v2/": self.cloud_run.url.removeprefix("http://"), "/": self.emulators.storage},
        )
        _, run_address = self.gateways.open("workflow")
        run = {"CONTROL_URL": self.url_of("control"), "RUN_PARENT": LOCATION}
        self.workflows = WorkflowsStandIn(f"http://{run_address}", run)
        self.gateways.serve_grpc("google.cloud.workflows.", self.workflows.address)
        self.relay = Relay(self.emulators.triggers_port, {name: self.url_of(name) for name in ("fan_out", "ingest")})
        self.environment = {
            "GEMTUNE_BACKEND": "gcp",
            "PROJECT_ID": PROJECT,
            "REGION": REGION,
            **BUCKETS,
            **self.emulators.environment,
            "WORKFLOWS_EMULATOR_HOST": self.workflows.address,
            "CLOUD_RUN_EMULATOR_HOST": self.cloud_run.url,
            "SECRET_MANAGER_EMULATOR_HOST": self.secret_manager.address,
            **(settings or {}),
        }
        self._environments = {who: self._environment_of(who) for who in (*FUNCTIONS, *Step)}
        self._messages: dict[Topic, list[pubsub_v1.types.PubsubMessage]] = {}
        self._functions: Child | None = None
        self._peaks: dict[str, int] = {}
        self._own_environment = environment_with(self.emulators.environment)
        self._own_environment.__enter__()
        wired = (self._serve, self._topics, self._triggers, self._run_jobs, self._secrets)
        with ThreadPoolExecutor() as pool:
            for wiring in [pool.submit(wire) for wire in wired]:
                wiring.result()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.kill_functions()
        servers = (self.relay, self.workflows, self.cloud_run, self.gateways, self.secret_manager, self.emulators)
        for part in servers:
            part.stop()
        self._own_environment.__exit__(None, None, None)

    def sweep(self) -> None:
        """Call the sweep function, as Cloud Scheduler does every few minutes."""
        httpx2.post(self.url_of("sweep"), timeout=240, trust_env=False).raise_for_status()

    def messages(self, topic: Topic) -> list[pubsub_v1.types.PubsubMessage]:
        """Return every message ever published to a topic."""
        with pubsub_v1.SubscriberClient() as subscriber, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is aimed at pulling in a loop, which would be slow
            while received := subscriber.pull(
                subscription=_archive(topic), max_messages=1000, return_immediately=True, timeout=20
            ).received_messages:
                subscriber.acknowledge(subscription=_archive(topic), ack_ids=[message.ack_id for message in received])
                self._messages.setdefault(topic, []).extend(message.message for message in received)
        return self._messages.get(topic, [])

    def kill_functions(self) -> None:
        if self._functions is not None:
            self.peak_memory()
            self._functions.stop()
            self._functions = None

    def url_of(self, function: str) -> str:
        return f"http://127.0.0.1:{self.ports[function]}"

    def _environment_of(self, who: str) -> dict[str, str]:
        """Return the variables of a function or a step.

        Their addresses record the calls of this identity.
        """
        grpc_address, http_address = self.gateways.open(who.replace("_", "-"))
        return self.environment | {
            "FIRESTORE_EMULATOR_HOST": grpc_address,
            "PUBSUB_EMULATOR_HOST": grpc_address,
            "SECRET_MANAGER_EMULATOR_HOST": grpc_address,
            "WORKFLOWS_EMULATOR_HOST": grpc_address,
            "STORAGE_EMULATOR_HOST": f"http://{http_address}",
            "CLOUD_RUN_EMULATOR_HOST": f"http://{http_address}",
        }

    def peak_memory(self) -> dict[str, int]:
        """Return the peak memory of each function's process, in bytes.

        Pages that processes share count for each of them.
        """
        assert self._functions is not None
        for process in psutil.Process(self._functions.pid).children(recursive=True):
            listening = {connection.laddr.port for connection in process.net_connections("inet") if connection.laddr}
            for name, port in self.ports.items():
                if port in listening:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    kib = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
                    self._peaks[name] = max(self._peaks.get(name, 0), kib * 1024)
        return dict(self._peaks)

    def _serve(self) -> None:
        served = {name: {"port": self.ports[name], "environment": self._environments[name]} for name in FUNCTIONS}
        command = [sys.executable, "-m", "tests.emulators.functions_server", json.dumps(served)]
        self._functions = Child("functions", command, self.folder / "functions.log", os.environ | self.environment)
        for port in self.ports.values():
            wait_for_port(port, self._functions)

    serve_functions = _serve

    def _topics(self) -> None:
        buckets = storage.Client(project=PROJECT, credentials=AnonymousCredentials())
        for bucket in BUCKETS.values():
            buckets.create_bucket(bucket)
        publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
        with publisher, subscriber:
            for topic in (*Topic, STORAGE_EVENTS, *(f"{topic}-dead" for topic in (*Topic, STORAGE_EVENTS))):
                publisher.create_topic(name=_topic(topic))
            endpoints = {
                Topic.JOB_REQUESTS: f"{self.url_of('dispatch')}/{_topic(Topic.JOB_REQUESTS)}",
                Topic.WEBHOOKS: f"{self.url_of('notify')}/{_topic(Topic.WEBHOOKS)}",
                STORAGE_EVENTS: f"{self.relay.url}/storage",
            }
            for topic, endpoint in endpoints.items():
                subscriber.create_subscription(request=_push(topic, endpoint))
            for topic in Topic:
                subscriber.create_subscription(name=_archive(topic), topic=_topic(topic))

    def _triggers(self) -> None:
        """Have Firestore call the relay for each new event document."""
        url = f"http://{self.emulators.firestore}/emulator/v1/projects/{PROJECT}/eventarcTrigger"
        trigger = {
            "eventType": "google.cloud.firestore.document.v1.created",
            "database": "(default)",
            "namespace": "(default)",
            "document": {"value": "training_jobs/{job}/events/{event}", "matchType": "PATH_PATTERN"},
        }
        # The first call can take the emulator long, on a busy machine.
        answer = httpx2.post(url, params={"eventarcTriggerId": "fan_out"}, json=trigger, trust_env=False, timeout=240)
        answer.raise_for_status()

    def _secrets(self) -> None:
        """Create the secret of the webhooks' key, which has no version yet."""
        secret = {"replication": {"automatic": {}}}
        request = {"parent": f"projects/{PROJECT}", "secret_id": KEY_NAME, "secret": secret}
        with grpc.insecure_channel(self.secret_manager.address) as channel:
            transport = SecretManagerServiceGrpcTransport(channel=channel)
            secretmanager_v1.SecretManagerServiceClient(transport=transport).create_secret(request=request)

    def _run_jobs(self) -> None:
        options = {"api_endpoint": self.cloud_run.url}
        client = run_v2.JobsClient(credentials=AnonymousCredentials(), transport="rest", client_options=options)
        for name in RUN_JOBS:
            mounts = {} if name == "gemtune-prepare" else {"GEMTUNE_MOUNTS": str(self.emulators.mounts)}
            environment = self._environments[name.split("-")[1]] | mounts
            env = [{"name": variable, "value": value} for variable, value in environment.items()]
            container = {"image": "local", "command": [sys.executable, "-m", "trainer"], "env": env}
            template = {"template": {"max_retries": 0, "timeout": "3600s", "containers": [container]}}
            job = run_v2.Job(template=template)
            client.create_job(parent=LOCATION, job_id=name, job=job).result()


@contextmanager
def environment_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while.

    Google's clients read the addresses of the emulators from the environment of their process.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _push(topic: Topic | str, endpoint: str) -> dict[str, object]:
    least, most = BACKOFF
    dead_letters = {"dead_letter_topic": _topic(f"{topic}-dead"), "max_delivery_attempts": ATTEMPTS.get(topic, 20)}
    return {
        "name": f"projects/{PROJECT}/subscriptions/{topic}-push",
        "topic": _topic(topic),
        "push_config": {"push_endpoint": endpoint},
        "retry_policy": {"minimum_backoff": timedelta(seconds=least), "maximum_backoff": timedelta(seconds=most)},
        "dead_letter_policy": dead_letters,
    }


def _archive(topic: Topic) -> str:
    """Return the name of the subscription that keeps all messages of a topic."""
    return f"projects/{PROJECT}/subscriptions/{topic}-archive"


def _topic(name: str) -> str:
    return f"projects/{PROJECT}/topics/{name}"
