"""Checks of datasets over HTTP: asked for, run by the trainer, and deleted."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask.testing
import pytest

from gemtune import bootstrap
from gemtune.checks.errors import TooManyChecks
from gemtune.checks.record import record_name, results_folder
from gemtune.checks.task import REPORT
from gemtune.services.datasets.check import old_checks, remove_check
from tests import rows, tiny_gemma
from tests.handlers.conftest import embedded_only

CONFIG = {"method": "LoRA", "epochs": 2, "gradient_accumulation_steps": 1}
HUB_MODEL = "google/gemma-3-270m-it"


class FakeRunner:
    """Runner that starts nothing."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.runs = True
        self.refuses = False

    def start(self, dataset_id: str, check_id: str) -> None:
        if self.refuses:
            raise TooManyChecks(4)
        self.started.append((dataset_id, check_id))

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        return self.runs


@pytest.fixture
def runner(services: bootstrap.Services) -> FakeRunner:
    fake = FakeRunner()
    services.__dict__["check_runner"] = fake
    return fake


@pytest.fixture
def dataset(services: bootstrap.Services) -> str:
    content = "".join(json.dumps(row) + "\n" for row in [*rows.train_rows(24), {"a": 1}])
    services.buckets.data.write("processed_datasets/chats/train.jsonl", content.encode())
    return "chats"


def begin(api: flask.testing.FlaskClient, dataset: str, **more: Any) -> Any:
    return api.post(f"/datasets/{dataset}/check", json={"base_model_id": HUB_MODEL} | more)


def test_a_check_runs_until_its_report_is_there(
    api: flask.testing.FlaskClient, services: bootstrap.Services, runner: FakeRunner, dataset: str
) -> None:
    answer = begin(api, dataset, training_config=CONFIG)
    assert answer.status_code == 202, answer.json
    check_id = answer.json["check_id"]
    assert runner.started == [(dataset, check_id)]
    place = f"/datasets/{dataset}/checks/{check_id}"
    assert api.get(place).json["status"] == "running"  # type: ignore[index]
    runner.runs = False
    failed = api.get(place).json
    assert (failed["status"], failed["error"]["code"]) == ("failed", "check_crashed")  # type: ignore[index]
    report = {"trains": False, "error": {"code": "x", "message": "y"}, "base_model_id": "a/b", "method": "LoRA"}
    results = results_folder(dataset, check_id)
    services.buckets.export.write(f"{results}report.json", json.dumps(report).encode())
    done = api.get(place).json
    assert (done["status"], done["report"]["trains"], done["error"]) == ("done", False, None)  # type: ignore[index]
    assert api.delete(f"/datasets/{dataset}").status_code == 200
    assert api.get(place).json["error"]["code"] == "no_such_check"  # type: ignore[index]
    assert not list(services.buckets.export.list("checks/"))


@pytest.mark.parametrize(
    ("body", "loc", "code"),
    [
        ({}, ["base_model_id"], "missing_field"),
        ({"base_model_id": "no model"}, ["base_model_id"], "bad_base_model"),
        ({"base_model_id": HUB_MODEL, "training_config": {"epoch": 1}}, ["training_config", "epoch"], "unknown_field"),
        (
            {"base_model_id": HUB_MODEL, "training_config": {"base_model_id": "a/b"}},
            ["training_config", "base_model_id"],
            "field_without_use",
        ),
        (
            {"base_model_id": HUB_MODEL, "training_config": {"method": "RL"}},
            ["training_config", "rl_config"],
            "missing_field",
        ),
        ({"base_model_id": HUB_MODEL, "hf_token": "hf_not_a_real_token_of_tests"}, ["hf_token"], None),
        ({"base_model_id": HUB_MODEL, "samples": 101}, ["samples"], "less_than_equal"),
    ],
)
@embedded_only
def test_a_request_that_no_job_would_get_through_with_is_refused(
    api: flask.testing.FlaskClient,
    runner: FakeRunner,
    dataset: str,
    body: dict[str, Any],
    loc: list[str],
    code: str | None,
) -> None:
    answer = api.post(f"/datasets/{dataset}/check", json=body)
    assert answer.status_code == 422
    problems = {tuple(problem["loc"]): problem["code"] for problem in answer.json["problems"]}  # type: ignore[index]
    assert tuple(loc) in problems
    assert code in (None, problems[tuple(loc)])
    assert runner.started == []
    assert "hf_not_a_real" not in answer.get_data(as_text=True)


@embedded_only
def test_no_check_begins_without_a_dataset_or_a_free_process(
    api: flask.testing.FlaskClient, services: bootstrap.Services, runner: FakeRunner, dataset: str
) -> None:
    assert begin(api, "nothing").json["error"]["code"] == "no_such_dataset"
    files = [{"path": "train.jsonl", "bytes": 3, "sha256": "0" * 64}]
    incomplete = api.post("/datasets", json={"files": files}).json["dataset_id"]  # type: ignore[index]
    assert begin(api, incomplete).json["error"]["code"] == "dataset_incomplete"
    runner.refuses = True
    assert begin(api, dataset).json["error"]["code"] == "too_many_checks"
    assert not [stat for stat in services.buckets.data.list("datasets/") if "checks/" in stat.name]


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b'{"dataset_id": 3}', b"\xff"])
@pytest.mark.parametrize("damaged", ["record", "report"])
def test_a_damaged_check_is_not_found_instead_of_failing(
    api: flask.testing.FlaskClient,
    services: bootstrap.Services,
    runner: FakeRunner,
    dataset: str,
    damaged: str,
    content: bytes,
) -> None:
    check_id = begin(api, dataset).json["check_id"]
    if damaged == "record":
        services.buckets.data.write(record_name(dataset, check_id), content)
    else:
        services.buckets.export.write(results_folder(dataset, check_id) + REPORT, content)
    answer = api.get(f"/datasets/{dataset}/checks/{check_id}")
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "no_such_check")  # type: ignore[index]


def test_old_checks_are_removed_with_their_results(
    api: flask.testing.FlaskClient, services: bootstrap.Services, runner: FakeRunner, dataset: str
) -> None:
    check_id = begin(api, dataset).json["check_id"]
    buckets, name = services.buckets, record_name(dataset, check_id)
    buckets.export.write(results_folder(dataset, check_id) + "report.json", b"{}")
    stat = buckets.data.stat(name)
    assert stat is not None
    assert list(old_checks(buckets, stat.updated_at)) == []
    assert list(old_checks(buckets, stat.updated_at + timedelta(seconds=1))) == [name]
    remove_check(buckets, name)
    assert buckets.data.stat(name) is None
    assert not list(buckets.export.list("checks/"))


@embedded_only
def test_the_trainer_checks_the_dataset_in_a_process_of_its_own(
    api: flask.testing.FlaskClient, services: bootstrap.Services, dataset: str, tmp_path: Path
) -> None:
    base = tiny_gemma.build(tmp_path / "base")
    answer = begin(api, dataset, base_model_id=str(base), training_config=CONFIG, samples=3)
    place = f"/datasets/{dataset}/checks/{answer.json['check_id']}"
    while (state := api.get(place).json)["status"] == "running":  # type: ignore[index]
        time.sleep(0.05)
    assert state is not None
    assert state["status"] == "done"
    report = state["report"]
    assert report["trains"]
    assert (report["rows"]["train"], report["rows"]["refused"], len(report["samples"])) == (24, 1, 3)
    assert report["workload"]["train_steps"] == 12
    left_out = [json.loads(line) for line in Path(state["rows_left_out"]["path"]).read_text().splitlines()]
    assert [row["row"] for row in left_out] == [25]
    assert not list(services.settings.work_of_checks.iterdir())
