"""Uploads of datasets over HTTP, on every backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import flask.testing
import httpx2
import pytest

from gemtune import bootstrap
from gemtune.datasets.files.splits import FOLDER
from gemtune.datasets.uploads import record
from gemtune.datasets.uploads.errors import DatasetIncomplete, DatasetNotFound
from gemtune.datasets.uploads.record import DatasetFile, dataset_id_of
from gemtune.embedded.bucket_paths import BucketPaths
from gemtune.ports import Objects
from gemtune.request.uploads.dataset import DatasetUpload, UploadFile
from gemtune.services.datasets.upload import UploadDataset
from tests.fakes import World
from tests.handlers.conftest import embedded_only

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 7


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PART_BYTES", 100)


def announce(*files: tuple[str, bytes], **more: Any) -> dict[str, Any]:
    described = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for path, content in files
    ]
    return {"files": described} | more


def begin(api: flask.testing.FlaskClient, *files: tuple[str, bytes], **more: Any) -> dict[str, Any]:
    answer = api.post("/datasets", json=announce(*files, **more))
    assert answer.status_code == 200, answer.json
    return dict(answer.json or {})


def send_missing(api: flask.testing.FlaskClient, dataset_id: str, *contents: bytes) -> int:
    missing = api.get(f"/datasets/{dataset_id}").json["missing_parts"]  # type: ignore[index]
    for file, parts in missing.items():
        for part in parts:
            content = contents[int(file)][100 * part : 100 * part + 100]
            answer = api.put(f"/datasets/{dataset_id}/parts?file={file}&part={part}", data=content)
            assert answer.status_code == 200, answer.json
    return sum(map(len, missing.values()))


def test_an_uploaded_dataset_can_be_trained_on(api: flask.testing.FlaskClient, services: bootstrap.Services) -> None:
    begun = begin(api, ("train.jsonl", ROWS), ("eval.jsonl", b""), name="tickets", tags=["v1"])
    dataset_id = begun["dataset_id"]
    assert (begun["status"], begun["missing_parts"]) == ("uploading", {"0": [0, 1, 2], "1": [0]})
    assert send_missing(api, dataset_id, ROWS, b"") == 4
    ready = api.post(f"/datasets/{dataset_id}/complete").json
    assert (ready["status"], ready["name"], ready["tags"]) == ("ready", "tickets", ["v1"])  # type: ignore[index]
    data = services.buckets.data
    assert data.read(f"processed_datasets/{dataset_id}/train.jsonl") == ROWS
    assert not list(data.list(record.UPLOADING))
    request = {"processed_dataset_id": dataset_id, "training_config": {"base_model_id": "google/gemma-3-270m-it"}}
    accepted = api.post("/train", json=request, headers={"Idempotency-Key": "k"})
    assert accepted.status_code in (202, 422)
    assert "dataset_not_found" not in accepted.get_data(as_text=True)


def test_the_same_files_are_sent_once_and_keep_their_id(api: flask.testing.FlaskClient) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    send_missing(api, dataset_id, ROWS)
    api.post(f"/datasets/{dataset_id}/complete")
    again = begin(api, ("train.jsonl", ROWS), name="renamed", tags=["v2"])
    assert (again["dataset_id"], again["status"], again["name"], again["tags"]) == (
        dataset_id,
        "ready",
        "renamed",
        ["v2"],
    )
    assert begin(api, ("train.jsonl", ROWS + b" "))["dataset_id"] != dataset_id
    assert begin(api, ("eval.jsonl", ROWS))["dataset_id"] != dataset_id


def test_an_interrupted_upload_goes_on_with_the_missing_parts(api: flask.testing.FlaskClient) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    api.put(f"/datasets/{dataset_id}/parts?part=1", data=ROWS[100:200])
    early = api.post(f"/datasets/{dataset_id}/complete")
    assert (early.status_code, early.json["error"]["code"]) == (409, "dataset_incomplete")  # type: ignore[index]
    assert begin(api, ("train.jsonl", ROWS))["missing_parts"] == {"0": [0, 2]}
    assert send_missing(api, dataset_id, ROWS) == 2
    assert api.post(f"/datasets/{dataset_id}/complete").json["status"] == "ready"  # type: ignore[index]
    assert api.post(f"/datasets/{dataset_id}/complete").json["status"] == "ready"  # type: ignore[index]


@embedded_only
def test_wrong_parts_and_wrong_content_are_refused(api: flask.testing.FlaskClient) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    for query, content in (("part=0", b"short"), ("part=3", b""), ("file=1", b"x")):
        refused = api.put(f"/datasets/{dataset_id}/parts?{query}", data=content)
        assert (refused.status_code, refused.json["error"]["code"]) == (409, "bad_part")  # type: ignore[index]
    assert api.put(f"/datasets/{dataset_id}/parts?part=-1", data=b"").status_code == 422
    send_missing(api, dataset_id, b"x" * len(ROWS))
    mismatch = api.post(f"/datasets/{dataset_id}/complete")
    assert (mismatch.status_code, mismatch.json["error"]["code"]) == (409, "checksum_mismatch")  # type: ignore[index]
    assert send_missing(api, dataset_id, ROWS) == 3
    assert api.post(f"/datasets/{dataset_id}/complete").status_code == 200
    too_large = api.put(f"/datasets/{dataset_id}/parts", data=b"x" * (8 * 1024 * 1024 + 1))
    assert too_large.status_code == 413


@embedded_only
@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"files": []}, ["files"]),
        ({"files": [{"path": "../x", "bytes": 0, "sha256": "0" * 64}]}, ["files", 0, "path"]),
        ({"files": [{"path": "x", "bytes": 0, "sha256": "f"}]}, ["files", 0, "sha256"]),
        ({"files": [{"path": "x", "bytes": 0, "sha256": "0" * 64}] * 2}, ["files"]),
        ({"nam": "x"}, ["nam"]),
    ],
)
def test_a_bad_announcement_names_its_problem(
    api: flask.testing.FlaskClient, change: dict[str, Any], loc: list[Any]
) -> None:
    refused = api.post("/datasets", json=announce(("train.jsonl", ROWS)) | change)
    assert refused.status_code == 422
    assert [problem["loc"] for problem in refused.json["problems"]] == [loc]  # type: ignore[index]


def test_a_file_in_one_call_is_the_dataset_that_its_parts_are(
    api: flask.testing.FlaskClient, services: bootstrap.Services
) -> None:
    content = ROWS[:99]
    stored: Any = api.post("/datasets/file?name=mine", data=content, content_type="application/x-www-form-urlencoded")
    assert (stored.status_code, stored.json["status"], stored.json["name"]) == (200, "ready", "mine")
    dataset_id = stored.json["dataset_id"]
    assert services.buckets.data.read(f"{FOLDER}/{dataset_id}/train.jsonl") == content
    assert begin(api, ("train.jsonl", content))["dataset_id"] == dataset_id
    again: Any = api.post("/datasets/file", data=content)
    assert (again.json["dataset_id"], again.json["name"]) == (dataset_id, "unnamed dataset")
    table: Any = api.post("/datasets/file?kind=csv.gz", data=content)
    assert [file["path"] for file in table.json["files"]] == ["train.csv.gz"]
    assert table.json["dataset_id"] != dataset_id
    assert api.post("/datasets/file?kind=exe", data=content).status_code == 422
    too_large: Any = api.post("/datasets/file", data=b"x" * (8 * 1024 * 1024 + 1))
    assert (too_large.status_code, "in parts" in too_large.json["error"]["hint"]) == (413, True)


def test_links_take_parts_where_the_storage_has_links(api: flask.testing.FlaskClient, backend: World) -> None:
    begun = begin(api, ("train.jsonl", ROWS), ("eval.jsonl", b"rows"))
    dataset_id = begun["dataset_id"]
    sent = {"parts": [{"part": 0}, {"part": 2}, {"file": 1, "part": 0}]}
    answer = api.post(f"/datasets/{dataset_id}/part-links", json=sent)
    assert begun["part_links"] is backend.services.buckets.data.has_upload_links
    if not begun["part_links"]:
        assert (answer.status_code, answer.json["error"]["code"]) == (501, "no_signed_links")  # type: ignore[index]
        return
    for link, content in zip(answer.json["links"], (ROWS[:100], ROWS[200:], b"rows"), strict=True):  # type: ignore[index]
        assert httpx2.put(link["url"], content=content, headers=link["headers"], trust_env=False).status_code == 200
    assert api.get(f"/datasets/{dataset_id}").json["missing_parts"] == {"0": [1], "1": []}  # type: ignore[index]
    assert send_missing(api, dataset_id, ROWS, b"rows") == 1
    assert api.post(f"/datasets/{dataset_id}/complete").json["status"] == "ready"  # type: ignore[index]
    assert api.post(f"/datasets/{dataset_id}/part-links", json=sent).json == {"links": []}


def test_links_are_for_parts_of_the_dataset(api: flask.testing.FlaskClient) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    for parts, status, code in (
        ([{"part": 3}], 409, "bad_part"),
        ([{"file": 1, "part": 0}], 409, "bad_part"),
        ([], 422, "too_short"),
        ([{"part": 0}] * 101, 422, "too_long"),
        ([{"part": -1}], 422, "greater_than_equal"),
    ):
        refused = api.post(f"/datasets/{dataset_id}/part-links", json={"parts": parts})
        answer: Any = refused.json
        codes = [problem["code"] for problem in answer["problems"]] if status == 422 else [answer["error"]["code"]]
        assert (refused.status_code, codes) == (status, [code])
    unknown = api.post("/datasets/dataset_0/part-links", json={"parts": [{"part": 0}]})
    assert (unknown.status_code, unknown.json["error"]["code"]) == (404, "no_such_dataset")  # type: ignore[index]


def test_a_dataset_is_not_used_before_all_of_its_files_are_there(api: flask.testing.FlaskClient) -> None:
    """Refuse it while some files, but not others, are in their place."""
    dataset_id = begin(api, ("train.jsonl", ROWS), ("eval.jsonl", ROWS))["dataset_id"]
    send_missing(api, dataset_id, ROWS, b"x" * len(ROWS))
    assert api.post(f"/datasets/{dataset_id}/complete").status_code == 409
    request = {"processed_dataset_id": dataset_id, "training_config": {"base_model_id": "google/gemma-3-270m-it"}}
    refused = api.post("/train", json=request)
    (problem,) = refused.json["problems"]  # type: ignore[index]
    assert (refused.status_code, problem["code"]) == (422, "dataset_not_ready")
    assert "not complete" in problem["msg"]
    rows = api.get(f"/datasets/{dataset_id}/rows")
    assert (rows.status_code, rows.json["error"]["code"]) == (409, "dataset_incomplete")  # type: ignore[index]
    send_missing(api, dataset_id, ROWS, ROWS)
    assert api.post(f"/datasets/{dataset_id}/complete").status_code == 200
    assert api.post("/train", json=request).status_code == 202
    assert len(api.get(f"/datasets/{dataset_id}/rows").json["rows"]) == 7  # type: ignore[index]


@embedded_only
def test_a_dataset_is_never_so_large_that_its_parts_cannot_be_listed(api: flask.testing.FlaskClient) -> None:
    files = [{"path": f"train-{number}.jsonl", "bytes": 2**39, "sha256": "0" * 64} for number in range(3)]
    refused = api.post("/datasets", json={"files": files})
    assert (refused.status_code, [problem["loc"] for problem in refused.json["problems"]]) == (422, [["files"]])  # type: ignore[index]


@embedded_only
@pytest.mark.parametrize("size", [-1, 10**30])
def test_a_record_with_impossible_sizes_is_unreadable(
    api: flask.testing.FlaskClient, services: bootstrap.Services, size: int
) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    name = record.record_name(dataset_id)
    stored = json.loads(services.buckets.data.read(name))
    stored["files"][0]["bytes"] = size
    services.buckets.data.write(name, json.dumps(stored).encode())
    shown = api.get(f"/datasets/{dataset_id}")
    assert (shown.status_code, shown.json["error"]["code"]) == (409, "dataset_unreadable")  # type: ignore[index]
    request = {"processed_dataset_id": dataset_id, "training_config": {"base_model_id": "google/gemma-3-270m-it"}}
    assert [problem["code"] for problem in api.post("/train", json=request).json["problems"]] == ["dataset_not_ready"]  # type: ignore[index]
    assert api.delete(f"/datasets/{dataset_id}").status_code == 200


def test_uploaded_datasets_and_folders_are_listed_page_by_page(api: flask.testing.FlaskClient) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS), name="mine")["dataset_id"]
    first = api.get("/datasets?limit=1").json
    second = api.get(f"/datasets?limit=1&after={first['next_after']}").json  # type: ignore[index]
    listed = [*first["datasets"], *second["datasets"]]  # type: ignore[index]
    assert [each["dataset_id"] for each in listed] == ["chats", dataset_id]
    assert [(each["name"], each["status"]) for each in listed] == [(None, "ready"), ("mine", "uploading")]
    assert second["next_after"] is None  # type: ignore[index]
    assert api.get("/datasets/nothing").status_code == 404
    assert api.get("/datasets/..").status_code == 404


@embedded_only
def test_a_page_looks_at_no_more_datasets_if_there_are_more(
    services: bootstrap.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Path] = []
    real_path = BucketPaths.real_path

    def counted(paths: BucketPaths, path: Path, visited: tuple[Path, ...]) -> Path:
        looked_at.append(path)
        return real_path(paths, path, visited)

    monkeypatch.setattr(BucketPaths, "real_path", counted)
    counts = []
    for numbers in (range(20), range(20, 60)):
        for number in numbers:
            services.buckets.data.write(f"{FOLDER}/set-{number}/train.jsonl", b"")
            file = UploadFile(path="train.jsonl", bytes=number, sha256=hashlib.sha256(b"").hexdigest())
            services.upload_dataset.begin(DatasetUpload(files=[file]))
        for after in (None, "set-1"):
            looked_at.clear()
            assert len(services.datasets.page(after=after, limit=5)[0]) == 5
            counts.append(len(looked_at))
    assert counts[:2] == counts[2:]


def test_the_order_of_pages_is_that_of_folders(services: bootstrap.Services, api: flask.testing.FlaskClient) -> None:
    for name in ("b", "b-c", "b.c"):
        services.buckets.data.write(f"{FOLDER}/{name}/train.jsonl", b"")
    begun = [begin(api, ("train.jsonl", ROWS * number))["dataset_id"] for number in (1, 2)]
    services.buckets.data.write(f"{FOLDER}/{begun[0]}.x/train.jsonl", b"")
    listed: list[str] = []
    after: str | None = None
    while not listed or after is not None:
        page, after = services.datasets.page(after=after, limit=1)
        listed += [each.dataset_id for each in page]
    assert listed == sorted(["b", "b-c", "b.c", "chats", f"{begun[0]}.x", *begun], key=lambda name: f"{name}/")


def test_the_files_of_a_dataset_have_links_that_read_them(
    api: flask.testing.FlaskClient, services: bootstrap.Services
) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS), ("eval.jsonl", b"rows"))["dataset_id"]
    early = api.get(f"/datasets/{dataset_id}/files")
    assert (early.status_code, early.json["error"]["code"]) == (409, "dataset_incomplete")  # type: ignore[index]
    send_missing(api, dataset_id, ROWS, b"rows")
    assert api.post(f"/datasets/{dataset_id}/complete").status_code == 200
    first = dict(api.get(f"/datasets/{dataset_id}/files?limit=1").json or {})
    second = dict(api.get(f"/datasets/{dataset_id}/files?limit=1&after={first['next_after']}").json or {})
    assert second["next_after"] is None
    for file, name, content in ((*first["files"], "eval.jsonl", b"rows"), (*second["files"], "train.jsonl", ROWS)):
        sha256 = hashlib.sha256(content).hexdigest()
        assert (file["name"], file["bytes"], file["sha256"]) == (name, len(content), sha256)
        assert read_link(file) == content
    services.buckets.data.write("processed_datasets/filled/b.jsonl", b"2")
    services.buckets.data.write("processed_datasets/filled/a.jsonl", b"1")
    folder = dict(api.get("/datasets/filled/files?limit=2").json or {})
    assert [(file["name"], file["sha256"], read_link(file)) for file in folder["files"]] == [
        ("a.jsonl", None, b"1"),
        ("b.jsonl", None, b"2"),
    ]
    assert folder["next_after"] is None
    assert api.get("/datasets/nothing/files").status_code == 404


def read_link(file: dict[str, Any]) -> bytes:
    """Read a file as a client does."""
    if file["url"] is None:
        return Path(file["path"]).read_bytes()
    return httpx2.get(file["url"], trust_env=False).content


def test_a_dataset_that_a_job_needs_is_not_deleted(api: flask.testing.FlaskClient, backend: World) -> None:
    job_id = backend.submit()
    refused = api.delete("/datasets/chats")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "dataset_in_use")  # type: ignore[index]
    backend.services.cancel(job_id)
    assert backend.services.store.get(job_id).is_over
    assert api.delete("/datasets/chats").status_code == 200
    assert api.get("/datasets/chats").status_code == 404
    assert api.delete("/datasets/chats").status_code == 404


def remove_abandoned(uploads: UploadDataset, before: datetime) -> None:
    for dataset_id in list(uploads.in_progress()):
        uploads.remove_abandoned(dataset_id, before)


def test_uploads_that_are_never_completed_are_removed(api: flask.testing.FlaskClient, backend: World) -> None:
    dataset_id = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    api.put(f"/datasets/{dataset_id}/parts", data=ROWS[:100])
    newest = max(stat.updated_at for stat in backend.services.buckets.data.list(record.UPLOADING))
    remove_abandoned(backend.services.upload_dataset, newest)
    assert api.get(f"/datasets/{dataset_id}").status_code == 200
    remove_abandoned(backend.services.upload_dataset, newest + timedelta(seconds=1))
    assert api.get(f"/datasets/{dataset_id}").status_code == 404
    assert not list(backend.services.buckets.data.list("datasets/"))


def test_an_upload_that_is_removed_leaves_no_folder_with_some_of_its_files(
    api: flask.testing.FlaskClient, backend: World
) -> None:
    """Such a folder would be a ready dataset, without its other files."""
    dataset_id = begin(api, ("train.jsonl", ROWS), ("eval.jsonl", ROWS))["dataset_id"]
    send_missing(api, dataset_id, ROWS, b"x" * len(ROWS))
    assert api.post(f"/datasets/{dataset_id}/complete").status_code == 409
    remove_abandoned(backend.services.upload_dataset, backend.clock.now() + timedelta(days=365))
    assert api.get(f"/datasets/{dataset_id}").status_code == 404
    assert not list(backend.services.buckets.data.list(f"{FOLDER}/{dataset_id}/"))


def test_a_dataset_that_is_completed_while_it_is_announced_again_stays_ready(
    api: flask.testing.FlaskClient, services: bootstrap.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people or runs of CI may upload the same files."""
    dataset_id = begin(api, ("train.jsonl", ROWS), name="tickets", tags=["v1"])["dataset_id"]
    send_missing(api, dataset_id, ROWS)
    read = UploadDataset.read

    def read_and_complete(service: UploadDataset, dataset_id: str) -> record.DatasetRecord:
        unfinished = read(service, dataset_id)
        monkeypatch.setattr(UploadDataset, "read", read)
        service.complete(dataset_id)
        return unfinished

    monkeypatch.setattr(UploadDataset, "read", read_and_complete)
    begin(api, ("train.jsonl", ROWS), name="tickets", tags=["v1"])
    assert api.get(f"/datasets/{dataset_id}").json["status"] == "ready"  # type: ignore[index]
    remove_abandoned(services.upload_dataset, services.clock.now() + timedelta(days=365))
    assert api.get(f"/datasets/{dataset_id}").json["status"] == "ready"  # type: ignore[index]


class Interrupted:
    """Objects that do something else before one of their operations."""

    def __init__(self, objects: Objects, at: int, interruption: Callable[[], object]):
        self._objects, self._left, self._interruption = objects, at, interruption

    @property
    def was_interrupted(self) -> bool:
        return self._left < 0

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._objects, name)

        def interrupted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                self._interruption()
            return operation(*arguments)

        return interrupted


@pytest.mark.parametrize(("first", "second"), [("begin", "complete"), ("complete", "begin"), ("complete", "complete")])
def test_a_dataset_is_ready_however_two_uploads_of_it_meet(
    services: bootstrap.Services, first: str, second: str, composing_needs_all_parts: None
) -> None:
    """Let the second of two happen before every operation of the first."""
    data, clock = services.buckets.data, services.clock
    plain = UploadDataset(data, clock)
    upload = DatasetUpload.model_validate(announce(("train.jsonl", ROWS), name="tickets"))
    renamed = upload.model_copy(update={"name": "letters"})
    dataset_id = plain.begin(upload).dataset_id
    actions: dict[str, Callable[[UploadDataset], object]] = {
        "begin": lambda uploading: uploading.begin(renamed),
        "complete": lambda uploading: uploading.complete(dataset_id),
    }
    for at in range(100):
        plain.begin(upload)
        for part in range(3):
            plain.store_part(dataset_id, 0, part, ROWS[100 * part : 100 * part + 100])
        objects = Interrupted(data, at, lambda: actions[second](plain))
        actions[first](UploadDataset(objects, clock))  # type: ignore[arg-type]
        if not objects.was_interrupted:
            assert at > 3
            return
        assert plain.read(dataset_id).ready_at is not None, f"before operation {at} of {first}"
        assert data.read(f"{FOLDER}/{dataset_id}/train.jsonl") == ROWS
        services.datasets.delete(dataset_id)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("complete", "delete"),
        ("delete", "complete"),
        ("begin", "delete"),
        ("delete", "begin"),
        ("rename", "delete"),
        ("delete", "rename"),
    ],
)
def test_a_dataset_is_whole_or_gone_however_its_upload_and_its_deletion_meet(
    services: bootstrap.Services, first: str, second: str, composing_needs_all_parts: None
) -> None:
    """Let the second of two happen before every operation of the first."""
    data, clock = services.buckets.data, services.clock
    contents = {"test.jsonl": ROWS[:70], "train.jsonl": ROWS}
    upload = DatasetUpload.model_validate(announce(*contents.items(), name="tickets"))
    renamed = upload.model_copy(update={"name": "letters"})
    dataset_id = dataset_id_of([DatasetFile(**file.model_dump()) for file in upload.files])

    def act(action: str, objects: Objects) -> None:
        uploads = UploadDataset(objects, clock)
        actions: dict[str, Callable[[], object]] = {
            "begin": lambda: uploads.begin(upload),
            "rename": lambda: uploads.begin(renamed),
            "complete": lambda: uploads.complete(dataset_id),
            "delete": lambda: replace(services.datasets, data=objects, uploads=uploads).delete(dataset_id),
        }
        with suppress(DatasetNotFound, DatasetIncomplete):
            actions[action]()

    for at in range(100):
        act("begin", data)
        for number, content in enumerate(contents.values()):
            for part in range(0, len(content), 100):
                services.upload_dataset.store_part(dataset_id, number, part // 100, content[part : part + 100])
        if "rename" in (first, second):
            act("complete", data)
        objects = Interrupted(data, at, lambda: act(second, data))
        act(first, objects)  # type: ignore[arg-type]
        if not objects.was_interrupted:
            assert at >= 3
            return
        where = f"before operation {at} of {first}"
        files = {stat.name.rpartition("/")[2] for stat in data.list(f"{FOLDER}/{dataset_id}/")}
        stored = data.stat(record.record_name(dataset_id))
        if stored is None:
            assert files == set(), where
        elif services.upload_dataset.read(dataset_id).ready_at is not None:
            assert files == set(contents), where
        else:
            assert dataset_id in services.upload_dataset.in_progress(), where
        act("delete", data)


def test_finding_abandoned_uploads_reads_no_complete_dataset(
    api: flask.testing.FlaskClient, backend: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = begin(api, ("train.jsonl", ROWS))["dataset_id"]
    send_missing(api, complete, ROWS)
    assert api.post(f"/datasets/{complete}/complete").status_code == 200
    later = backend.clock.now() + timedelta(days=365)
    read = UploadDataset.read
    monkeypatch.setattr(UploadDataset, "read", lambda service, dataset_id: pytest.fail(f"{dataset_id} was read"))
    remove_abandoned(backend.services.upload_dataset, later)

    # A process that ended while it deleted the parts leaves some; the dataset stays.
    monkeypatch.setattr(UploadDataset, "read", read)
    backend.services.buckets.data.write(record.part_name(complete, 0, 1), b"x")
    remove_abandoned(backend.services.upload_dataset, later)
    assert api.get(f"/datasets/{complete}").json["status"] == "ready"  # type: ignore[index]
    assert not list(backend.services.buckets.data.list(record.UPLOADING))


def test_an_id_depends_on_all_files_and_on_nothing_else() -> None:
    files = [DatasetFile(path=path, bytes=1, sha256="0" * 64) for path in ("a", "b")]
    assert dataset_id_of(files) == dataset_id_of(files[::-1])
    assert len({dataset_id_of(files), dataset_id_of(files[:1]), dataset_id_of(files[1:])}) == 3
    assert DatasetFile(path="a", bytes=0, sha256="").part_sizes == [0]
    assert DatasetFile(path="a", bytes=200, sha256="").part_sizes == [100, 100]
    assert json.loads(files[0].model_dump_json())["path"] == "a"
