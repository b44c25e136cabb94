"""Records that cannot be read: the parts that are salvaged, and the error."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from gemtune.errors import RecordUnreadable
from gemtune.jobs import stored
from gemtune.jobs.changes import cancel_job
from gemtune.jobs.record import Job
from gemtune.jobs.salvage import salvage_job
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from tests.unit.jobs.newer_records import parts_of

NOW = datetime(2026, 11, 24, tzinfo=UTC)
FACTS = {"job_id": "training_x", "created_at": NOW}
WHOLE: dict[str, Any] = {
    "job_name": "Mine",
    "status": "training",
    "modality": "text",
    "base_model_id": "a/b",
    "processed_dataset_id": "d",
    "spec_uri": "u",
    "spec_name": "s",
    "source": "http",
    "owner": "local",
    "request_hash": "h",
    "updated_at": NOW.isoformat(),
}


@pytest.mark.parametrize("content", ["{}", "not JSON", "[1]", "[" * 100_000])
def test_a_record_without_readable_fields_becomes_a_job_with_empty_fields(content: str) -> None:
    job = salvage_job(content, FACTS)
    shown = job.model_dump(include=set(WHOLE))
    assert shown == dict.fromkeys(WHOLE, "") | {"status": "unknown", "updated_at": NOW}
    assert (job.job_id, job.created_at) == ("training_x", NOW)


NESTED = "[" * 300 + "]" * 300
# JSON of a value that a record cannot have, by the name of its field.
DAMAGE = [
    ("job_name", '"\\ud800"'),
    ("added_later", '"\\ud800"'),
    ("added_later", '{"\\udfff": 1}'),
    ("added\\ud800later", "1"),
    ("added_later", NESTED),
    ("added_later", "9" * 4000),
    ("unreadable", f'{{"owner": {NESTED}}}'),
    ("version", "9" * 30),
    ("last_seq", "-1"),
    ("created_at", '"2026-11-24T12:00:00"'),
    ("finished_at", '"2026-11-24T12:00:00"'),
    ("updated_at", "1e18"),
    ("updated_at", "null"),
    ("max_hours", "1e400"),
    ("job_id", '"training_y"'),
    ("spec_name", '"../../x"'),
    ("steps", '{"train": {"heartbeat_at": "2026-11-24T12:00:00", "attempts": [{"\\ud800": 1}]}}'),
]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_a_damaged_record_can_be_cancelled_and_stored(name: str, value: str) -> None:
    content = f'{json.dumps(WHOLE | {"job_id": "training_x"})[:-1]}, "{name}": {value}}}'
    cancelled, _ = cancel_job(salvage_job(content, FACTS), at=NOW)
    read = stored.read("training_x", stored.to_json(cancelled))
    assert (read.status, read.job_id, read.created_at, read.spec_name in ("s", "")) == (
        "cancelled",
        "training_x",
        NOW,
        True,
    )


def test_every_time_of_a_record_has_to_have_a_time_zone() -> None:
    fields = [(part.__name__, name, field) for part in parts_of(Job) for name, field in part.model_fields.items()]
    assert [
        (part, name) for part, name, field in fields if datetime in (field.annotation, *get_args(field.annotation))
    ] == []


def test_a_list_shows_a_record_whose_name_is_not_a_text() -> None:
    shown = WHOLE | {"job_name": "\ud800"}
    assert stored.summary("training_x", shown, modality="text", created_at=NOW).status == "unknown"


def test_unreadable_values_are_kept_by_path_and_the_rest_is_salvaged() -> None:
    broken = WHOLE | {
        "job_name": 7,
        "last_seq": "many",
        "steps": {"train": {"state": "running", "attempt": "first", "seconds": 2.5}},
        "artifacts": [{"name": "a", "uri": "u", "bytes": 1, "sha256": "0"}, 3],
    }
    job = salvage_job(json.dumps(broken), FACTS)
    assert (job.job_name, job.last_seq, job.owner) == ("", 0, "local")
    assert (job.steps["train"].attempt, job.steps["train"].seconds) == (0, 2.5)  # type: ignore[index]
    assert [artifact.name for artifact in job.artifacts] == ["a"]
    assert (job.model_extra or {})["unreadable"] == {
        "job_name": 7,
        "last_seq": "many",
        "steps.train.attempt": "first",
        "artifacts.1": 3,
    }


def test_a_record_is_salvaged_from_fields_as_from_text_and_the_fields_stay_as_they_are() -> None:
    broken = WHOLE | {"launch": {"number": 2, "execution": 7}, "artifacts": [3]}
    before = json.dumps(broken)
    assert salvage_job(broken, FACTS) == salvage_job(before, FACTS)
    assert json.dumps(broken) == before


def test_several_unreadable_items_of_a_list_are_set_aside_and_the_others_stay() -> None:
    artifacts = [{"name": str(number), "uri": "u", "bytes": 1, "sha256": "0"} for number in range(12)]
    broken = [*artifacts[:2], "two", *artifacts[3:10], "ten", "eleven"]
    job = salvage_job(json.dumps(WHOLE | {"artifacts": broken, "error": 7}), FACTS)
    assert [artifact.name for artifact in job.artifacts] == ["0", "1", *map(str, range(3, 10))]
    assert (job.model_extra or {})["unreadable"] == {
        "artifacts.2": "two",
        "artifacts.10": "ten",
        "artifacts.11": "eleven",
        "error": 7,
    }


def test_a_step_whose_begin_cannot_be_read_took_no_time() -> None:
    steps = {"train": {"state": "running", "attempt": 1, "started_at": "yesterday", "seconds": 2.5}}
    cancelled, _ = cancel_job(salvage_job(json.dumps(WHOLE | {"steps": steps}), FACTS), at=NOW)
    assert [attempt.seconds for attempt in cancelled.steps[Step.TRAIN].attempts] == [0]
    assert cancelled.steps[Step.TRAIN].seconds == 2.5


def test_the_columns_of_the_store_override_the_record() -> None:
    assert salvage_job(json.dumps(WHOLE | {"modality": "text"}), FACTS | {"modality": "vision"}).modality == "vision"


def test_an_error_names_three_faults_by_path_and_counts_the_others() -> None:
    steps = {"train": {"attempt": "first"}}
    broken = WHOLE | FACTS | {"job_name": 7, "last_seq": "many", "relaunches": [], "version": "x", "steps": steps}
    with pytest.raises(RecordUnreadable) as caught:
        stored.read("training_x", json.dumps(broken, default=str))
    text = str(caught.value)
    assert "job_name: Input should be a valid string; " in text
    assert "steps.train.attempt: Input should be a valid integer" in text
    assert text.count("Input should be") == 3
    assert "and 2 more" in text
    three = WHOLE | FACTS | {"job_name": 7, "last_seq": "many", "relaunches": []}
    with pytest.raises(RecordUnreadable) as caught:
        stored.read("training_x", json.dumps(three, default=str))
    assert str(caught.value).count("Input should be") == 3
    assert "more" not in str(caught.value)


def test_a_record_that_is_not_an_object_is_unreadable_as_a_whole() -> None:
    with pytest.raises(RecordUnreadable, match="record: Input should be an object"):
        stored.read("training_x", "[1]")


def test_requests_from_pubsub_and_uploads_come_in_the_open() -> None:
    assert {source.value: source.exposes_tokens for source in Source} == {"http": False, "pubsub": True, "upload": True}
