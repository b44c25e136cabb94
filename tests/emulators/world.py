"""Google Cloud project of one test, on the emulators that all tests share."""

from __future__ import annotations

import itertools
import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, pubsub_v1, storage

from gemtune.ports import ReceivedMessage, Topic
from tests.emulators.google import REGION, Emulators
from tests.emulators.secret_manager import SecretManagerStandIn
from tests.fakes import World

_numbers = itertools.count(1)


class GcpWorld(World):
    def __init__(self, home: Path, emulators: Emulators):
        self.project = f"test-{uuid.uuid4().hex[:8]}-{next(_numbers)}"
        self.secret_manager = SecretManagerStandIn()
        buckets = {name: f"{self.project}-{name}" for name in ("config", "data", "uploads", "export")}
        client = storage.Client(project=self.project, credentials=AnonymousCredentials())
        for bucket in buckets.values():
            client.create_bucket(bucket)
        with pubsub_v1.PublisherClient() as publisher:
            for topic in Topic:
                publisher.create_topic(name=f"projects/{self.project}/topics/{topic}")
        self.environment = {
            "GEMTUNE_BACKEND": "gcp",
            "PROJECT_ID": self.project,
            "REGION": REGION,
            "SECRET_MANAGER_EMULATOR_HOST": self.secret_manager.address,
            **{f"GCS_{name.upper()}_BUCKET_NAME": bucket for name, bucket in buckets.items()},
        }
        super().__init__(home, self.environment)
        self.secret_manager.now = self.clock.now

    def stop(self) -> None:
        self.secret_manager.stop()

    def record(self, job_id: str) -> dict[str, Any]:
        return self._document(job_id).get().to_dict() or {}

    def write_record(self, job_id: str, fields: Mapping[str, Any]) -> None:
        internal = {name: value for name, value in self.record(job_id).items() if name in ("lagging", "write_ids")}
        self._document(job_id).set(internal | dict(fields))

    def write_event(self, job_id: str, seq: int, fields: Mapping[str, Any]) -> None:
        self._document(job_id).collection("events").document(str(seq)).set({"seq": seq, **fields})

    def _document(self, job_id: str) -> firestore.DocumentReference:
        return firestore.Client(project=self.project).collection("training_jobs").document(job_id)

    def messages(self, subscription: str) -> list[dict[str, Any]]:
        """Return the waiting messages of a subscription.

        Returns at once, without waiting for later messages: after its publish call returned, a message can be pulled.
        """
        path, bodies = f"projects/{self.project}/subscriptions/{subscription}", []
        with pubsub_v1.SubscriberClient() as subscriber, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is aimed at pulling in a loop, which would be slow
            while received := subscriber.pull(
                subscription=path, max_messages=1000, return_immediately=True, timeout=20
            ).received_messages:
                subscriber.acknowledge(subscription=path, ack_ids=[message.ack_id for message in received])
                bodies += [json.loads(message.message.data) for message in received]
        return bodies

    def pass_ack_deadline(self, subscription: str, received: Sequence[ReceivedMessage]) -> None:
        path = f"projects/{self.project}/subscriptions/{subscription}"
        with pubsub_v1.SubscriberClient() as subscriber:
            ack_ids = [message.ack_id for message in received]
            subscriber.modify_ack_deadline(subscription=path, ack_ids=ack_ids, ack_deadline_seconds=0)
