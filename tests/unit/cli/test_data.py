"""`gemtune data` and `gemtune train --data` against a fake service."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner

from gemtune.cli.connection import Connection, follow
from gemtune.cli.group import main
from gemtune.client import uploads
from gemtune.client.calls import Address, Call
from gemtune.client.errors import BadUse
from gemtune.client.transport import Transport
from tests.unit.cli.test_cli import job_body, run
from tests.unit.conftest import FakeService

ROWS = b'{"prompt": "a", "completion": "b"}\n'
ID = "dataset_0123456789abcdef"
JOB = "training_d_m_0123456789ab"


def dataset(status: str, **more: Any) -> dict[str, Any]:
    files = [{"path": "train.jsonl", "bytes": len(ROWS), "sha256": ""}]
    body = {"dataset_id": ID, "name": "rows", "tags": ["a", "b"], "files": files, "created_at": "2026-11-29T12:00:00Z"}
    return body | {"status": status, "part_bytes": 10, "missing_parts": {}} | more


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    return path


def parts_sent(service: FakeService) -> list[str]:
    return [path for method, path, *_ in service.requests if method == "PUT"]


def test_missing_parts_are_sent_and_the_upload_is_completed(service: FakeService, rows_file: Path) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("uploading", missing_parts={"0": [0, 3]}))
    service.answers["PUT", f"/datasets/{ID}/parts"] = [None, (503, {}), (200, {"file": 0, "part": 0})]
    service.answers["POST", f"/datasets/{ID}/complete"] = (200, dataset("ready"))
    slept: list[float] = []
    connection = Connection(service.url, as_json=False, quiet=True)
    connection.transport = Transport(Address(service.url), sleep=slept.append)
    files = uploads.files_of(rows_file, None)
    assert connection.run(uploads.upload(files, name="rows", tags=("x",))).dataset_id == ID
    assert slept == [1.0, 2.0]
    assert parts_sent(service)[-2:] == [f"/datasets/{ID}/parts?file=0&part={part}" for part in (0, 3)]
    announced = service.requests[0][3]
    sha256 = hashlib.sha256(ROWS).hexdigest()
    assert announced["files"] == [{"path": "train.jsonl", "bytes": len(ROWS), "sha256": sha256}]
    assert (announced["name"], announced["tags"]) == ("rows", ["x"])


def test_an_upload_is_completed_again_if_the_answer_got_lost(service: FakeService, rows_file: Path) -> None:
    """Restart the service, or let a proxy give up, while it reads an upload."""
    service.answers["POST", "/datasets"] = (200, dataset("uploading", missing_parts={"0": []}))
    service.answers["POST", f"/datasets/{ID}/complete"] = [None, (504, {}), (200, dataset("ready"))]
    waits: list[float | None] = []

    class Noting(Transport):
        def send(self, call: Call[Any]) -> Any:
            waits.append(call.timeout)
            return super().send(call)

    transport = Noting(Address(service.url), sleep=lambda _: None)
    assert transport.run(uploads.upload(uploads.files_of(rows_file, None), name="rows")).status == "ready"
    assert waits == [None, *[uploads.COMPLETION_SECONDS] * 3]


def test_a_service_that_stays_away_keeps_the_parts(service: FakeService, rows_file: Path) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("uploading", missing_parts={"0": [0]}))
    service.answers["PUT", f"/datasets/{ID}/parts"] = (503, {})
    connection = Connection(service.url, as_json=False, quiet=True)
    connection.transport = Transport(Address(service.url), sleep=lambda _: None)
    files = uploads.files_of(rows_file, None)
    with pytest.raises(click.exceptions.Exit) as caught:
        connection.run(uploads.upload(files, name="rows"))
    assert caught.value.exit_code == 5


def test_files_that_the_service_has_are_not_sent(service: FakeService, rows_file: Path) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    result = run("data", "upload", str(rows_file), "--tag", "a", url=service.url)
    assert (result.exit_code, result.stdout, len(service.requests)) == (0, f"{ID}\n", 1)


def test_a_list_tells_folders_from_datasets_whose_record_cannot_be_read(service: FakeService) -> None:
    listed = [dataset("ready", name=None), dataset("uploading", name=None)]
    service.answers["GET", "/datasets"] = (200, {"datasets": listed, "next_after": None})
    folder, unreadable = run("data", "list", url=service.url).stdout.splitlines()
    assert folder.endswith("(a folder of the data bucket)")
    assert unreadable.endswith("(its record cannot be read)")


@pytest.mark.parametrize(("options", "path"), [([], "train.jsonl"), (["--filename", "t.csv"], "train.csv")])
def test_rows_on_standard_input_are_uploaded(service: FakeService, options: list[str], path: str) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    result = run("data", "upload", "-", *options, url=service.url, stdin=ROWS.decode())
    assert (result.exit_code, result.stdout) == (0, f"{ID}\n")
    announced = service.requests[-1][3]
    sha256 = hashlib.sha256(ROWS).hexdigest()
    assert announced["files"] == [{"path": path, "bytes": len(ROWS), "sha256": sha256}]
    assert announced["name"] == (options or ["", "rows.jsonl"])[1]


def test_a_name_of_standard_input_needs_a_use_and_an_ending(service: FakeService, rows_file: Path) -> None:
    for source, name in ((str(rows_file), "t.csv"), ("-", "a/t.csv"), ("-", "t")):
        assert run("data", "upload", source, "--filename", name, url=service.url, stdin="x").exit_code == 2
    assert service.requests == []


@pytest.mark.parametrize("ends", [True, False])
def test_json_of_a_followed_job_is_one_document(service: FakeService, rows_file: Path, ends: bool) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    service.answers["POST", "/train"] = (202, {"job_id": JOB, "warnings": []})
    service.answers["POST", f"/jobs/{JOB}/exports"] = (202, {"job_id": JOB, "warnings": []})
    status = job_body("completed", job_id=JOB, finished_at="2026-11-30T08:00:00Z")
    service.answers["GET", f"/jobs/{JOB}/status"] = (200, status) if ends else (403, {"not": "ours"})
    train = ("train", "--data", str(rows_file), "--model", "a/b", "--json")
    export = ("export", JOB, "--format", "gguf", "--json")
    for command in (train, export):
        assert json.loads(run(*command, url=service.url).stdout)["job_id"] == JOB
        followed = run(*command, "--follow", url=service.url)
        assert followed.exit_code == (0 if ends else 1)
        assert f"Submitted job {JOB}" in followed.stderr
        assert (json.loads(followed.stdout) == status) if ends else (followed.stdout == "")


def test_a_submitted_job_says_in_a_terminal_how_to_watch_it(
    service: FakeService, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    service.answers["POST", "/train"] = (202, {"job_id": JOB, "warnings": []})
    train = ("train", "--data", str(rows_file), "--model", "a/b")
    assert run(*train, url=service.url).stderr == ""
    monkeypatch.setattr(follow, "sys", Mock(stderr=Mock(isatty=lambda: True)))
    assert f"gemtune watch {JOB[-12:]}" in run(*train, url=service.url).stderr
    assert run(*train, "--quiet", url=service.url).stderr == ""


def test_json_of_a_job_that_cannot_be_followed_names_it(
    service: FakeService, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    service.answers["POST", "/train"] = (202, {"job_id": JOB, "warnings": []})
    for exit_code in (follow.INTERRUPTED, follow.UNREACHABLE):
        monkeypatch.setattr(follow, "follow", lambda connection, job_id, code=exit_code: code)
        result = run("train", "--data", str(rows_file), "--model", "a/b", "--json", "--follow", url=service.url)
        assert (result.exit_code, json.loads(result.stdout)["job_id"]) == (exit_code, JOB)


def test_one_command_uploads_and_trains(service: FakeService, rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "held out.csv.gz").write_bytes(b"x")
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    service.answers["POST", "/train"] = (202, {"job_id": "training_x"})
    options = ["--model", "google/gemma-3-270m-it", "--method", "QLoRA", "--epochs", "2", "--export", "gguf:q4_k_m"]
    assignments = ["--set", "training_config.seed=7", "--set", "training_config.provider=unsloth"]
    data = ["--data", str(rows_file), "--eval", str(tmp_path / "held out.csv.gz"), "--name", "tickets"]
    result = run("train", *data, *options, *assignments, url=service.url)
    assert (result.exit_code, result.stdout) == (0, "training_x\n")
    assert [file["path"] for file in service.requests[-2][3]["files"]] == ["train.jsonl", "eval.csv.gz"]
    assert service.requests[-1][3] == {
        "job_name": "tickets",
        "processed_dataset_id": ID,
        "training_config": {
            "base_model_id": "google/gemma-3-270m-it",
            "method": "QLoRA",
            "epochs": 2,
            "seed": 7,
            "provider": "unsloth",
        },
        "export_config": {"format": "gguf", "quantization": "q4_k_m"},
    }


def test_a_dataset_that_the_service_has_keeps_its_name(service: FakeService, rows_file: Path) -> None:
    dataset_id = uploads.files_of(rows_file, None).dataset_id
    service.answers["GET", f"/datasets/{dataset_id}"] = (200, dataset("ready", dataset_id=dataset_id))
    service.answers["POST", "/train"] = (202, {"job_id": "training_x"})
    assert run("train", "--data", str(rows_file), "--model", "a/b", url=service.url).exit_code == 0
    assert [method for method, path, *_ in service.requests if path.startswith("/datasets")] == ["GET"]


UNKNOWN: dict[str, Any] = dict.fromkeys(("memory", "train_steps", "tokens", "minutes", "usd"))
PLAN = {
    "machine": "local",
    "machine_reason": "only one",
    "prices": "2026",
    "exact": False,
    "steps": {},
    "alternatives": [],
    **UNKNOWN,
}


@pytest.mark.parametrize("command", [("train", "--dry-run"), ("plan",)])
@pytest.mark.parametrize("answer", [(200, {"plan": PLAN}), (422, {"error": {"code": "x", "message": "no"}})])
def test_a_dry_run_shows_the_plan_and_leaves_nothing(
    service: FakeService, rows_file: Path, answer: Any, command: tuple[str, ...]
) -> None:
    dataset_id = uploads.files_of(rows_file, None).dataset_id
    service.answers["POST", "/datasets"] = (200, dataset("ready", dataset_id=dataset_id))
    service.answers["POST", "/train"] = answer
    service.answers["DELETE", f"/datasets/{dataset_id}"] = (200, {"dataset_id": dataset_id, "deleted": True})
    result = run(*command, "--data", str(rows_file), "--model", "a/b", url=service.url)
    assert (result.exit_code, "local (only one)" in result.stdout) == ((0, True) if answer[0] == 200 else (1, False))
    posted = [path for method, path, *_ in service.requests if path.startswith("/train")]
    assert posted == ["/train?dry_run=true"]
    assert service.requests[-1][:2] == ("DELETE", f"/datasets/{dataset_id}")


def test_a_dry_run_keeps_a_dataset_that_was_there_and_every_named_one(service: FakeService, rows_file: Path) -> None:
    dataset_id = uploads.files_of(rows_file, None).dataset_id
    service.answers["POST", "/train"] = (200, {"plan": PLAN})
    service.answers["GET", f"/datasets/{dataset_id}"] = (200, dataset("ready", dataset_id=dataset_id))
    for source in (["--data", str(rows_file)], ["--dataset", ID]):
        assert run("train", *source, "--model", "a/b", "--dry-run", url=service.url).exit_code == 0
    assert {method for method, path, *_ in service.requests if path.startswith("/datasets")} == {"GET"}
    for option in (["--follow"], ["--print"], ["--idempotency-key", "k"]):
        assert run("train", "--dataset", ID, "--dry-run", *option, url=service.url).exit_code == 2


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    service: FakeService, rows_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(rows_file.parent))
    service.answers["POST", "/datasets"] = (200, dataset("ready"))
    assert run("data", "upload", f"~/{rows_file.name}", url=service.url).exit_code == 0
    result = run("train", f"--data=~/{rows_file.name}", "--model=a/b", "--print", url=service.url)
    assert result.exit_code == 0, result.stderr
    assert "does not exist" in run("train", "--data=~/none.csv", "--model=a/b", url=service.url).stderr
    assert "--dataset squad" in run("train", "--data=squad", "--model=a/b", url=service.url).stderr


def test_options_replace_fields_of_a_file_and_print_sends_nothing(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "request.yaml"
    file.write_text("processed_dataset_id: d\ntraining_config: {base_model_id: a/b, epochs: 9}\n")
    printed = run("train", str(file), "--epochs", "1", "--repo", "me/mine", "--print", url=service.url)
    assert json.loads(printed.stdout) == {
        "processed_dataset_id": "d",
        "training_config": {"base_model_id": "a/b", "epochs": 1},
        "export_config": {"hf_repo_id": "me/mine", "destination": "hfhub"},
    }
    assert service.requests == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "say what to train on"),
        (["--dataset", "d", "--set", "seed"], "FIELD=VALUE"),
        (["--dataset", "d", "--set", "job_name=x", "--set", "job_name.y=1"], "is no object"),
        (["--dataset", "d", "--eval", __file__], "--eval goes with --data"),
        (["--data", __file__], "holds no rows"),
        (["--data", __file__, "--dataset", "d"], "leave out one of them"),
        (["--data", "/nothing/there.csv"], "does not exist"),
        (["--dataset", "d", "--column", "prompt=a", "--column", "prompt=b"], "in the column a already"),
        (["--dataset", "d", "--column", "prompt=a", "--ignore", "prompt"], "--ignore prompt"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], expected: str) -> None:
    result = run("train", *arguments, url="http://127.0.0.1:9")
    assert (result.exit_code, expected in result.stderr) == (2, True), result.stderr


def test_a_dataset_can_be_named_as_any_other_field() -> None:
    printed = run("train", "--model", "a/b", "--set", "processed_dataset_id=d", "--print", url="http://127.0.0.1:9")
    assert json.loads(printed.stdout)["processed_dataset_id"] == "d"


def test_a_printed_request_names_the_dataset_of_its_files(service: FakeService, rows_file: Path) -> None:
    train = ("train", "--data", str(rows_file), "--model", "a/b", "--print")
    printed = run(*train, url=service.url)
    assert json.loads(printed.stdout)["processed_dataset_id"] == uploads.files_of(rows_file, None).dataset_id
    assert "`gemtune data upload`" in printed.stderr
    assert run(*train, "--quiet", url=service.url).stderr == ""
    assert service.requests == []


@pytest.mark.parametrize(("reference", "notes"), [("tickets", 1), (ID, 0), ("hf://datasets/a/b", 0)])
def test_a_printed_request_with_the_name_of_a_dataset_says_that_it_is_none(reference: str, notes: int) -> None:
    printed = run("train", "--dataset", reference, "--model", "a/b", "--print")
    assert json.loads(printed.stdout)["processed_dataset_id"] == reference
    assert printed.stderr.count(f"{reference} is sent as it is") == notes


def test_a_folder_is_uploaded_with_all_its_files(tmp_path: Path) -> None:
    for name in ("train.jsonl", "pictures/1.png", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(uploads.files_of(tmp_path, None).files) == ["pictures/1.png", "train.jsonl"]
    with pytest.raises(BadUse, match="its own file"):
        uploads.files_of(tmp_path, tmp_path / "train.jsonl")


def test_datasets_are_listed_shown_and_deleted(service: FakeService) -> None:
    folder = dataset("ready") | {"dataset_id": "mine", "name": None, "created_at": None, "tags": []}
    service.answers["GET", "/datasets"] = [
        (200, {"datasets": [folder], "next_after": "mine"}),
        (200, {"datasets": [dataset("ready")], "next_after": None}),
    ]
    lines = run("data", "list", url=service.url).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["mine", "ready"], [ID, "ready"]]
    assert "after=mine" in service.requests[1][1]
    service.answers["GET", f"/datasets/{ID}"] = (200, dataset("ready"))
    assert "train.jsonl" in run("data", "show", ID, url=service.url).stdout
    assert json.loads(run("data", "show", ID, "--json", url=service.url).stdout)["dataset_id"] == ID
    service.answers["DELETE", f"/datasets/{ID}"] = (200, {"dataset_id": ID, "deleted": True})
    assert run("data", "delete", ID, url=service.url).stdout == f"Deleted dataset {ID}\n"


def listed(*names: tuple[str, str | None]) -> dict[str, Any]:
    datasets = [dataset("ready") | {"dataset_id": id_, "name": name} for id_, name in names]
    return {"datasets": datasets, "next_after": None}


@pytest.mark.parametrize("reference", ["tickets", "dataset_012", "my_chats", "dataset_nowhere"])
def test_a_dataset_is_meant_by_its_id_the_beginning_of_one_or_its_name(service: FakeService, reference: str) -> None:
    meant = ID if reference in ("tickets", "dataset_012") else reference
    service.answers["GET", "/datasets"] = (200, listed((ID, "tickets"), ("my_chats", None), ("my_chats2", None)))
    service.answers["DELETE", f"/datasets/{meant}"] = (200, {"dataset_id": meant})
    assert run("data", "delete", reference, url=service.url).stdout == f"Deleted dataset {meant}\n"
    service.answers["POST", "/train"] = (202, {"job_id": "training_d_m_0123456789ab"})
    assert run("train", "--dataset", reference, "--model", "a/b", url=service.url).exit_code == 0
    assert service.requests[-1][3]["processed_dataset_id"] == meant


def test_several_datasets_of_a_reference_are_listed_and_none_is_deleted(service: FakeService) -> None:
    service.answers["GET", "/datasets"] = (200, listed((ID, "tickets"), ("dataset_0123456789abcdee", None)))
    result = run("data", "delete", "dataset_01", url=service.url)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [f"  {ID}  tickets", "  dataset_0123456789abcdee"]
    error = json.loads(run("data", "delete", "dataset_01", "--json", url=service.url).stderr)["error"]
    assert (error["code"], ID in error["message"]) == ("no_such_dataset", True)
    assert {method for method, *_ in service.requests} == {"GET"}


def test_a_split_without_rows_is_said(service: FakeService) -> None:
    service.answers["GET", f"/datasets/{ID}/rows"] = (200, {"rows": [], "next_after": None})
    result = run("data", "rows", ID, "--split", "held_out", url=service.url)
    assert result.stderr == f"Dataset {ID} has no rows in the split held_out\n"


ON_A_FILE = (["train", "--data"], ["plan", "--data"], ["train", "--dry-run", "--data"], ["train", "--print", "--data"])


@pytest.mark.parametrize("command", [*ON_A_FILE, ["data", "check"]])
def test_a_reversed_column_is_refused_before_an_upload(
    command: list[str], service: FakeService, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\na,b\n")
    options = [str(rows), "--model", "a/b", "--column", "question=prompt"]
    result = run(*command, *options, "--url", service.url)
    assert (result.exit_code, service.requests) == (1, [])
    assert result.stderr.startswith("no_such_column: no row has the column prompt for the field question")
    assert "use --column prompt=question" in result.stderr
    assert json.loads(run(*command, *options, "--json").stderr)["error"]["code"] == "no_such_column"


@pytest.mark.parametrize("content", [b"question,answer\na,b\n", b"PAR1", b"\x1f\x8b\x08", '"a";b\n'.encode("utf-16")])
@pytest.mark.parametrize("command", [["upload", "-"], ["check", "-", "--model", "a/b"]])
def test_rows_on_standard_input_that_are_no_json_need_the_name_of_a_file(command: list[str], content: bytes) -> None:
    result = CliRunner().invoke(main, ["data", *command, "--url", "http://127.0.0.1:9"], input=content)
    assert (result.exit_code, "--filename rows.csv" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b'\n {"a": 1}', b"[{}]", '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_rows_on_standard_input_are_json_without_a_name(content: bytes) -> None:
    result = CliRunner().invoke(main, ["data", "upload", "-", "--url", "http://127.0.0.1:9"], input=content)
    assert (result.exit_code, "--filename" in result.stderr) == (5, False)
