"""Strangers to gemtune, each a process of its own: they know Google's clients and what the README says, and import
nothing of ours.

    python producers.py publish FILE [KEY]       a request, to job-requests
    python producers.py upload BUCKET NAME FILE  a job file
    python producers.py subscribe NAME           job-status from now on, in order
    python producers.py listen NAME              one JSON line a message
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

PROJECT = os.environ["PROJECT_ID"]


def publish(file: str, key: str = "") -> None:
    from google.cloud import pubsub_v1

    attributes = {"Idempotency-Key": key} if key else {}
    topic = f"projects/{PROJECT}/topics/job-requests"
    print(pubsub_v1.PublisherClient().publish(topic, Path(file).read_bytes(), **attributes).result(timeout=240))


def upload(bucket: str, name: str, file: str) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project=PROJECT, credentials=AnonymousCredentials())
    client.bucket(bucket).blob(name).upload_from_filename(file)


def subscribe(name: str) -> None:
    from google.cloud import pubsub_v1

    with pubsub_v1.SubscriberClient() as subscriber:
        subscriber.create_subscription(
            request={
                "name": f"projects/{PROJECT}/subscriptions/{name}",
                "topic": f"projects/{PROJECT}/topics/job-status",
                "enable_message_ordering": True,
            }
        )


def listen(name: str) -> None:
    from google.cloud import pubsub_v1

    def heard(message: pubsub_v1.subscriber.message.Message) -> None:
        line = {"body": json.loads(message.data), "key": message.ordering_key, "attributes": dict(message.attributes)}
        os.write(1, f"{json.dumps(line)}\n".encode())  # whole: messages of several jobs come in several threads
        message.ack()

    with pubsub_v1.SubscriberClient() as subscriber:
        subscriber.subscribe(f"projects/{PROJECT}/subscriptions/{name}", heard).result()


if __name__ == "__main__":
    {"publish": publish, "upload": upload, "subscribe": subscribe, "listen": listen}[sys.argv[1]](*sys.argv[2:])
