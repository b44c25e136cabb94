"""Uploads by signed URLs: clients, the API, and a storage that checks them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from functions_framework import create_app
from google.cloud import storage as google_storage
from google.oauth2 import credentials as user_credentials
from werkzeug.serving import make_server

from gemtune import AsyncClient, Client
from gemtune.client import uploads
from gemtune.client.errors import Refused
from gemtune.datasets.files.splits import folder_of
from gemtune.datasets.uploads import record
from gemtune.datasets.uploads.record import UPLOADING, part_name
from gemtune.gcp.storage import signed_url
from gemtune.handlers import answers
from tests.emulators.google import Emulators
from tests.emulators.signed_storage import SignedStorage
from tests.emulators.world import GcpWorld
from tests.handlers.conftest import MAIN

pytestmark = pytest.mark.emulators

ROW = b'{"prompt": "a", "completion": "b"}\n'
PART_BYTES = 10 * len(ROW)
# Three parts, the last one of three rows.
ROWS = ROW * 23


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr("gemtune.handlers.answers.datasets.PART_BYTES", PART_BYTES)


@pytest.fixture
def storage(emulators: Emulators, monkeypatch: pytest.MonkeyPatch) -> Iterator[SignedStorage]:
    """Yield a storage for which the service signs links as on Google Cloud."""
    storage = SignedStorage(emulators.storage)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
    monkeypatch.setattr(signed_url, "_is_emulator", lambda client: False)
    monkeypatch.setattr(signed_url, "_credentials", lambda: storage.credentials)
    yield storage
    storage.stop()


@pytest.fixture
def world(storage: SignedStorage, emulators: Emulators, tmp_path: Path) -> Iterator[GcpWorld]:
    world = GcpWorld(tmp_path / "home", emulators)
    yield world
    world.stop()


@pytest.fixture
def requests() -> list[str]:
    """Return the requests of the API, as method and path."""
    return []


@pytest.fixture
def url(world: GcpWorld, requests: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the API of a world, and note its requests."""
    monkeypatch.setattr("gemtune.bootstrap.services", lambda: world.services)
    app = create_app(target="api", source=str(MAIN))

    def noting(environ: dict[str, Any], start: Any) -> Any:
        requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return app(environ, start)

    server = make_server("127.0.0.1", 0, noting, threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        client._transport._sleep = lambda seconds: None
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    return path


def parts_through_the_service(requests: list[str]) -> int:
    return sum(request.startswith("PUT") for request in requests)


def content_of(world: GcpWorld, dataset: answers.Dataset) -> bytes:
    return world.services.buckets.data.read(f"{folder_of(dataset.dataset_id)}/train.jsonl")


def links_of(client: Client, rows: Path) -> tuple[answers.Dataset, list[answers.PartLink]]:
    """Announce a file, and return its dataset with links for all parts."""
    dataset = client._transport.run(uploads.begin(uploads.files_of(rows, None), name="rows", tags=()))
    body = {"parts": [{"part": part} for part in range(3)]}
    path = f"/datasets/{dataset.dataset_id}/part-links"
    answer = client._transport.send(uploads.Call("POST", path, json=body))
    return dataset, list(answers.PartLinks.model_validate(answer).links)


def put(link: answers.PartLink, content: bytes, **headers: str) -> httpx2.Response:
    return httpx2.put(link.url, content=content, headers=dict(link.headers) | headers, trust_env=False)


def test_parts_go_to_the_storage_without_the_token_and_are_checked(
    client: Client,
    world: GcpWorld,
    storage: SignedStorage,
    requests: list[str],
    rows: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    dataset = client.datasets.upload(rows)
    assert (dataset.status, content_of(world, dataset) == ROWS) == ("ready", True)
    assert [upload.status for upload in storage.uploads] == [200, 200, 200]
    assert all("authorization" not in upload.headers for upload in storage.uploads)
    assert (parts_through_the_service(requests), requests.count(f"POST /datasets/{dataset.dataset_id}/part-links")) == (
        0,
        1,
    )
    assert "HTTP Request: PUT" in caplog.text  # httpx logs what it sends
    signatures = caplog.text.split("X-Goog-Signature=")[1:]
    assert signatures
    assert all(rest.startswith("[secret]") for rest in signatures)
    assert not list(world.services.buckets.data.list(UPLOADING))
    assert client.datasets.upload(rows).dataset_id == dataset.dataset_id
    assert len(storage.uploads) == 3  # the same file is not sent again


def test_a_single_part_needs_no_link(client: Client, storage: SignedStorage, requests: list[str], rows: Path) -> None:
    rows.write_bytes(ROW)
    assert client.datasets.upload(rows).status == "ready"
    assert (storage.uploads, parts_through_the_service(requests)) == ([], 1)


def test_an_interrupted_upload_goes_on_with_the_missing_parts(
    client: Client, world: GcpWorld, storage: SignedStorage, requests: list[str], rows: Path
) -> None:
    def interrupt(sent: int, total: int) -> None:
        if sent == 1:
            raise KeyboardInterrupt

    files = uploads.files_of(rows, None)
    with pytest.raises(KeyboardInterrupt):
        client._transport.run(uploads.upload(files, name="rows", report=interrupt))
    assert len(storage.uploads) == 1
    dataset = client.datasets.upload(rows)
    assert (len(storage.uploads), content_of(world, dataset) == ROWS) == (3, True)
    assert parts_through_the_service(requests) == 0


@pytest.mark.parametrize(
    ("action", "refusals"), [("drop", []), (503, [503]), ("late", [400]), ("damage", [400]), (403, [403])]
)
def test_a_part_that_fails_once_is_sent_again(
    client: Client,
    world: GcpWorld,
    storage: SignedStorage,
    requests: list[str],
    rows: Path,
    action: str | int,
    refusals: list[int],
) -> None:
    """Let the second upload fail by its line, its bytes or its link.

    A link that is refused is replaced.
    """
    storage.on_upload = lambda number: action if number == 1 else ""
    dataset = client.datasets.upload(rows)
    assert content_of(world, dataset) == ROWS
    assert [upload.status for upload in storage.uploads] == [200, *refusals, 200, 200]
    assert parts_through_the_service(requests) == 0
    renewed = action in ("late", "damage", 403)
    assert requests.count(f"POST /datasets/{dataset.dataset_id}/part-links") == (2 if renewed else 1)


@pytest.mark.parametrize(("action", "reason"), [("drop", "could not connect"), (403, "HTTP 403"), (503, "HTTP 503")])
def test_a_storage_that_takes_no_parts_is_named_and_the_service_takes_them(
    client: Client,
    world: GcpWorld,
    storage: SignedStorage,
    requests: list[str],
    rows: Path,
    caplog: pytest.LogCaptureFixture,
    action: str | int,
    reason: str,
) -> None:
    storage.on_upload = lambda number: "" if number == 0 else action
    assert content_of(world, client.datasets.upload(rows)) == ROWS
    assert parts_through_the_service(requests) == 2
    (notice,) = [record.getMessage() for record in caplog.records if record.name.startswith("gemtune.client")]
    assert "through the service" in notice
    assert reason in notice
    assert "X-Goog" not in notice


def test_a_service_that_cannot_sign_takes_the_parts_itself(
    client: Client,
    world: GcpWorld,
    storage: SignedStorage,
    requests: list[str],
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    person = user_credentials.Credentials("fake-access-token")
    monkeypatch.setattr(signed_url, "_credentials", lambda: person)
    monkeypatch.setattr(user_credentials.Credentials, "valid", True)
    assert content_of(world, client.datasets.upload(rows)) == ROWS
    assert (storage.uploads, parts_through_the_service(requests)) == ([], 3)
    assert "do not belong to a service account" in caplog.text


def test_the_asynchronous_client_uses_links(url: str, world: GcpWorld, storage: SignedStorage, rows: Path) -> None:
    async def upload() -> answers.Dataset:
        async with AsyncClient(url) as client:
            return await client.datasets.upload(rows)

    storage.on_upload = lambda number: "late" if number == 1 else ""
    assert content_of(world, asyncio.run(upload())) == ROWS
    assert [upload.status for upload in storage.uploads] == [200, 400, 200, 200]


def test_content_that_was_not_announced_never_becomes_the_dataset(
    client: Client, world: GcpWorld, storage: SignedStorage, rows: Path
) -> None:
    dataset, links = links_of(client, rows)
    for link in links:
        size = int(link.headers["x-goog-content-length-range"].partition(",")[0])
        assert "EntityTooLarge" in put(link, b"x" * (size + 1)).text
        assert "EntityTooSmall" in put(link, b"x" * (size - 1)).text
        assert put(link, b"x" * size, **{"x-goog-meta-a": "b"}).status_code == 403
        assert httpx2.put(link.url, content=b"x" * size, trust_env=False).status_code == 400
        assert put(link, b"x" * size).status_code == 200
    completion = uploads.Call("POST", f"/datasets/{dataset.dataset_id}/complete")
    with pytest.raises(Refused) as caught:
        client._transport.send(completion)
    assert caught.value.code == "checksum_mismatch"
    assert not list(world.services.buckets.data.list(f"{folder_of(dataset.dataset_id)}/"))
    assert client.datasets.show(dataset.dataset_id).status == "uploading"
    assert content_of(world, client.datasets.upload(rows)) == ROWS


def test_a_part_that_is_replaced_while_it_is_checked_does_not_get_in(
    client: Client, world: GcpWorld, storage: SignedStorage, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links stay valid after their part is sent."""
    dataset, links = links_of(client, rows)
    for number, link in enumerate(links):
        assert put(link, ROWS[number * PART_BYTES : (number + 1) * PART_BYTES]).status_code == 200
    download = google_storage.Blob.download_to_file
    replaced: list[str] = []

    def download_and_replace(blob: google_storage.Blob, file: Any, **options: Any) -> None:
        download(blob, file, **options)
        if not isinstance(file, io.BytesIO):  # what is checked is not held in memory
            replaced.append(blob.name)
            assert put(links[2], b"x" * (3 * len(ROW))).status_code == 200

    monkeypatch.setattr(google_storage.Blob, "download_to_file", download_and_replace)
    client._transport.send(uploads.Call("POST", f"/datasets/{dataset.dataset_id}/complete"))
    monkeypatch.setattr(google_storage.Blob, "download_to_file", download)
    assert replaced
    assert content_of(world, dataset) == ROWS


def test_a_link_that_is_used_after_the_completion_changes_nothing(
    client: Client, world: GcpWorld, storage: SignedStorage, rows: Path
) -> None:
    dataset, links = links_of(client, rows)
    assert client.datasets.upload(rows).status == "ready"
    assert put(links[2], b"x" * (3 * len(ROW))).status_code == 200
    data, service = world.services.buckets.data, world.services.upload_dataset
    assert [stat.name for stat in data.list(UPLOADING)] == [part_name(dataset.dataset_id, 0, 2)]
    assert content_of(world, dataset) == ROWS
    assert links_of(client, rows)[1] == []  # a complete dataset has no more links
    newest = max(stat.updated_at for stat in data.list(UPLOADING))
    service.remove_abandoned(dataset.dataset_id, newest + timedelta(seconds=1))
    assert not list(data.list(UPLOADING))
    assert content_of(world, dataset) == ROWS


def test_the_same_file_twice_at_once_is_one_dataset(
    url: str, world: GcpWorld, storage: SignedStorage, rows: Path
) -> None:
    def upload(_: int) -> answers.Dataset:
        with Client(url) as client:
            return client.datasets.upload(rows)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(upload, range(2))
    assert first.status == second.status == "ready"
    assert first.dataset_id == second.dataset_id
    assert hashlib.sha256(content_of(world, first)).hexdigest() == first.files[0].sha256
