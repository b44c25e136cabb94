"""Client of the gcp backend on emulators, with access to what is behind it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage

from gemtune.ports import Topic
from tests.e2e.api import Api
from tests.emulators.cloud import BUCKETS, Cloud
from tests.emulators.google import PROJECT

MODEL = f"gs://{BUCKETS['GCS_DATA_BUCKET_NAME']}/models/tiny-gemma3"


class CloudService(Api):
    def __init__(self, cloud: Cloud):
        super().__init__(cloud.url)
        self.cloud = cloud
        self.storage = storage.Client(project=PROJECT, credentials=AnonymousCredentials())

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.cloud.environment | {"GEMTUNE_URL": self.url}

    def push(self, function: str, topic: Topic, message: Any) -> int:
        """Deliver a message as a push subscription does; return the status."""
        body = {"data": base64.b64encode(message.data).decode(), "attributes": dict(message.attributes)}
        push = {"message": body | {"messageId": message.message_id}, "subscription": f"{topic}-push"}
        url = f"{self.cloud.url_of(function)}/projects/{PROJECT}/topics/{topic}"
        return self.client.post(url, json=push).status_code

    def put_dataset(self, dataset: str, rows: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> None:
        for split, lines in (("train", rows), ("eval", held_out)):
            name = f"processed_datasets/{dataset}/{split}.jsonl"
            self.bucket("data").blob(name).upload_from_string("".join(json.dumps(row) + "\n" for row in lines))

    def put_model(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            self.bucket("data").blob(f"models/tiny-gemma3/{path.name}").upload_from_filename(str(path))

    def bucket(self, which: str) -> storage.Bucket:
        return self.storage.bucket(BUCKETS[f"GCS_{which.upper()}_BUCKET_NAME"])

    def logs(self, job_id: str) -> str:
        logs = sorted((self.cloud.folder / "task-logs").glob("*.log"))
        functions = (self.cloud.folder / "functions.log").read_text()[-4000:]
        return "\n".join([*(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in logs), functions])

    def everything_written(self) -> str:
        """Return all documents, objects, messages and log lines as one text.

        Tests search it for tokens.
        """
        database = firestore.Client(project=PROJECT)
        texts = [str(document) for collection in database.collections() for document in _documents(collection)]
        for bucket in BUCKETS.values():
            for blob in self.storage.list_blobs(bucket):
                texts.append(f"{blob.name} {blob.metadata} {blob.download_as_bytes().decode(errors='replace')}")
        texts += [f"{message.data!r} {dict(message.attributes)}" for t in Topic for message in self.cloud.messages(t)]
        texts += [path.read_text(errors="replace") for path in self.cloud.folder.rglob("*.log")]
        return "\n".join(texts)


def _documents(collection: Any) -> list[dict[str, Any]]:
    documents = []
    for reference in collection.list_documents():
        documents.append({"path": reference.path} | (reference.get().to_dict() or {}))
        for below in reference.collections():
            documents += _documents(below)
    return documents
