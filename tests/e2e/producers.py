"""Clients of the gcp backend that know only Google's libraries and our docs.

Each command runs as a process of its own and imports nothing of gemtune.

    python producers.py publish FILE [KEY]       publish a request to job-requests
    python producers.py upload BUCKET NAME FILE  upload a job file
    python producers.py subscribe NAME           subscribe to job-status from now on, in order
    python producers.py listen NAME              print one JSON line per message
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

    def print_message(message: pubsub_v1.subscriber.message.Message) -> None:
        line = {"body": json.loads(message.data), "key": message.ordering_key, "attributes": dict(message.attributes)}
        # One write per line, because callbacks for several jobs run in several threads.
        os.write(1, f"{json.dumps(line)}\n".encode())
        message.ack()

    with pubsub_v1.SubscriberClient() as subscriber:
        subscriber.subscribe(f"projects/{PROJECT}/subscriptions/{name}", print_message).result()


if __name__ == "__main__":
    {"publish": publish, "upload": upload, "subscribe": subscribe, "listen": listen}[sys.argv[1]](*sys.argv[2:])
