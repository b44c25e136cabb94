"""Records of other versions, and records that no version can read.

Either kind of job is listed, cancelled and deleted all the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from gemtune.errors import IllegalMove, JobIsOver, JobIsRunning, JobNotFound, RecordUnreadable, StaleClaim
from gemtune.jobs import changes, launches
from gemtune.jobs.parts.metrics import Metrics, Progress
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.record import Claim, FencingToken, Job, JobSummary, StepRecord
from gemtune.jobs.salvage import STAND_INS
from gemtune.jobs.status import Status, Step
from gemtune.ports import JobStore
from tests.contract.test_job_store import create
from tests.fakes import World
from tests.unit.jobs.newer_records import LATER, filled, later_fields, merged, parts_of
from tests.unit.jobs.test_job import NOW

Fields = dict[str, Any]


def training(world: World) -> str:
    """Create a job that trains, with a value in every part of its record."""
    services, job_id = world.services, world.submit(key="k", hf_token="hf_fakefakefake")
    claim = Claim(launch=1, execution="workflow")
    services.dispatch.launch(job_id)
    services.control.claim(job_id, claim)
    for step in (Step.PREPARE, Step.TRAIN):
        begun = services.advance.begin(job_id, step, claim, execution=f"run-{step}")
        assert begun is not None
        if step is Step.PREPARE:
            services.advance.finish(job_id, begun[1], StepResult(metrics=Metrics(baseline={"accuracy": 0.5})))
    services.advance.heartbeat(job_id, begun[1], Progress(train_step=7, loss=1.5))
    services.fan_out(job_id)
    return job_id


def as_newer_version(fields: Fields) -> Fields:
    """Return the record with additions of a newer version in every place."""
    fields = json.loads(json.dumps(fields, default=str))
    fields["approval"] = {"level": 3, "why": ["paid", None]}
    fields["source"] = "openai"
    fields["launch"]["region"] = "europe-west4"
    fields["claim"]["region"] = "europe-west4"
    fields["progress"]["tokens_to_go"] = 12
    fields["metrics"]["retention"] = 0.9
    fields["metrics"]["baseline"]["retention"] = 1.0
    fields["steps"]["prepare"]["attempts"][0]["machine"] = "n2"
    fields["steps"]["train"]["slot"] = {"machine": "l4"}
    fields["steps"]["export"]["state"] = "waiting"
    fields["steps"]["judge"] = {"state": "running", "attempt": 1, "execution": "run-judge", "rows": 40}
    fields["error"] = {"code": "x", "message": "y", "step": "judge", "docs": "z"}
    return dict(fields)


def at(fields: Mapping[str, Any], place: str) -> Any:
    value: Any = fields
    for part in place.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    return value


NEWER_VALUES = {
    "approval": {"level": 3, "why": ["paid", None]},
    "source": "openai",
    "launch.region": "europe-west4",
    "claim.region": "europe-west4",
    "progress.tokens_to_go": 12,
    "metrics.retention": 0.9,
    "metrics.baseline.retention": 1.0,
    "steps.prepare.attempts.0.machine": "n2",
    "steps.train.slot": {"machine": "l4"},
    "steps.export.state": "waiting",
    "steps.judge.rows": 40,
    "error.step": "judge",
    "error.docs": "z",
}


def test_a_newer_record_is_read_and_keeps_its_unknown_fields(backend: World) -> None:
    job_id, store = training(backend), backend.services.store
    before = store.get(job_id)
    backend.write_record(job_id, as_newer_version(backend.record(job_id)))
    job = store.get(job_id)
    assert (job.status, job.steps[Step.PREPARE].seconds, job.spec_name) == (
        "training",
        before.steps[Step.PREPARE].seconds,
        before.spec_name,
    )
    fence = FencingToken(claim=Claim(launch=1, execution="workflow"), step=Step.TRAIN, attempt=1)
    backend.services.advance.record_checkpoint(job_id, fence, train_step=9)
    backend.services.advance.heartbeat(job_id, fence)
    backend.services.fan_out(job_id)
    written = backend.record(job_id)
    assert {place: at(written, place) for place in NEWER_VALUES} == NEWER_VALUES
    assert written["steps"]["train"]["checkpoint"] == 9


def with_every_part(fields: Fields) -> Fields:
    """Return a record with all parts, each with a field of a newer version."""
    parts = {name: value for name, value in filled(Job).items() if name == LATER or any(later_fields(value))}
    parts["steps"] = {step.value: filled(StepRecord) for step in Step}
    return dict(merged(fields, parts))


def test_every_part_of_a_newer_record_keeps_its_unknown_fields(backend: World) -> None:
    job_id, services = training(backend), backend.services
    backend.write_record(job_id, with_every_part(backend.record(job_id)))
    before = dict(later_fields(backend.record(job_id)))
    assert set(before.values()) == {part.__name__ for part in parts_of(Job)}
    fence = FencingToken(claim=Claim(launch=1, execution="workflow"), step=Step.TRAIN, attempt=1)
    services.advance.record_checkpoint(job_id, fence, train_step=9)
    services.advance.record_phase(job_id, fence, phase="evaluating")
    services.advance.heartbeat(job_id, fence)
    services.fan_out(job_id)
    services.sweep()
    assert dict(later_fields(backend.record(job_id))) == before
    services.cancel(job_id)
    cancelled = dict(later_fields(backend.record(job_id)))
    assert {place: before[place] for place in before.keys() - cancelled.keys()} == {
        ".admission": "Admission",
        ".pause": "Pause",
        ".waiting": "Waiting",
    }
    services.delete(job_id)
    assert services.store.was_deleted(job_id)


def test_cancelling_a_newer_record_stops_its_unknown_steps_too(backend: World) -> None:
    job_id, services = training(backend), backend.services
    backend.write_record(job_id, as_newer_version(backend.record(job_id)))
    assert services.cancel(job_id).status is Status.CANCELLED
    assert sorted(backend.launcher.stopped_steps) == ["run-judge", "run-train"]
    written = backend.record(job_id)
    assert {place: at(written, place) for place in NEWER_VALUES} == NEWER_VALUES
    assert written["steps"]["judge"]["state"] == "stopped"
    services.delete(job_id)
    assert backend.stored_specs() == []
    with pytest.raises(JobNotFound):
        services.store.get(job_id)


def test_a_job_in_a_newer_status_is_only_listed_and_cancelled(backend: World) -> None:
    job_id, services, store = training(backend), backend.services, backend.services.store
    claim = Claim(launch=1, execution="workflow")
    backend.write_record(job_id, backend.record(job_id) | {"status": "judging"})
    job = store.get(job_id)
    assert (job.status, job.is_over) == ("judging", False)
    assert [(row.job_id, row.status) for row in listed(store)] == [(job_id, "judging")]
    assert list(store.unfinished()) == []
    services.dispatch.launch(job_id)
    assert backend.launcher.started == [(job_id, 1)]
    assert services.control.claim(job_id, claim) is None
    assert services.control.step_ended(job_id, claim, Step.TRAIN, round_number=1, error=None).verdict == "stop"
    with pytest.raises(StaleClaim):
        services.advance.heartbeat(job_id, FencingToken(claim=claim, step=Step.TRAIN, attempt=1))
    with pytest.raises(IllegalMove):
        changes.change_status(job, Status.TRAINING, at=NOW)
    with pytest.raises(JobIsRunning):
        services.delete(job_id)
    assert services.cancel(job_id).status is Status.CANCELLED
    services.delete(job_id)
    assert store.was_deleted(job_id)


def test_a_newer_status_with_an_end_time_is_final(backend: World) -> None:
    job_id, services = training(backend), backend.services
    fields = as_newer_version(backend.record(job_id)) | {"status": "expired", "finished_at": "2026-11-24T13:00:00Z"}
    backend.write_record(job_id, fields)
    assert services.store.get(job_id).is_over
    with pytest.raises(JobIsOver):
        services.cancel(job_id)
    services.delete(job_id)
    assert services.store.was_deleted(job_id)


def test_a_paused_child_counts_as_unfinished_and_an_expired_one_does_not(backend: World) -> None:
    store = backend.services.store
    parent = create(store).job_id
    for number, more in enumerate(({"status": "judging"}, {"status": "expired", "finished_at": NOW})):
        child = create(store, f"export_{number}", parent_job_id=parent)
        backend.write_record(child.job_id, backend.record(child.job_id) | more)
    assert [child.job_id for child in store.children_in_need(parent)] == ["export_0"]


def test_fields_that_an_older_record_lacks_have_defaults(backend: World) -> None:
    job_id, services = training(backend), backend.services
    fields = backend.record(job_id)
    required = {name for name, field in Job.model_fields.items() if field.is_required()}
    minimal = {name: value for name, value in fields.items() if name in required}
    backend.write_record(job_id, minimal | {"steps": {"train": {"state": "running", "execution": "run-train"}}})
    job = services.store.get(job_id)
    assert (job.artifacts, job.metrics, job.relaunches) == ((), None, 0)
    assert job.steps == {
        Step.PREPARE: StepRecord(),
        Step.TRAIN: StepRecord(state="running", execution="run-train"),
        Step.EXPORT: StepRecord(),
    }
    backend.write_record(job_id, fields | {"steps": {"train": {"state": "running", "execution": "run-train"}}})
    services.cancel(job_id)
    services.delete(job_id)
    assert services.store.was_deleted(job_id)


def without(*names: str) -> Callable[[Fields], Fields]:
    return lambda fields: {name: value for name, value in fields.items() if name not in names}


def with_(place: str, value: Any) -> Callable[[Fields], Fields]:
    def change(fields: Fields) -> Fields:
        *path, last = place.split(".")
        node = at(fields, ".".join(path)) if path else fields
        node[int(last) if last.isdigit() else last] = value
        return fields

    return change


# name: change of a record, path that the error names, paths whose values are set aside
UNREADABLE: Mapping[str, tuple[Callable[[Fields], Fields], str, set[str]]] = {
    "metrics": (with_("metrics", "not metrics"), "metrics", {"metrics"}),
    "deep": (with_("metrics.baseline.accuracy", [1]), "metrics.baseline.accuracy", {"metrics.baseline.accuracy"}),
    "seconds": (with_("steps.train.seconds", {"s": 3}), "steps.train.seconds", {"steps.train.seconds"}),
    "steps": (with_("steps", ["train"]), "steps", {"steps"}),
    "attempts": (
        with_("steps.prepare.attempts", [{"attempt": 1, "seconds": 2.0}, {"attempt": 2}, 3]),
        "steps.prepare.attempts.1.seconds",
        {"steps.prepare.attempts.1", "steps.prepare.attempts.2"},
    ),
    "claim": (with_("claim", {"launch": 1}), "claim.execution", {"claim"}),
    "launch": (with_("launch", "?"), "launch", {"launch"}),
    "numbers": (
        lambda fields: fields | {"version": "?", "last_seq": "?", "published_seq": None, "relaunches": {}},
        "relaunches",
        {"relaunches"},
    ),
    "times": (lambda fields: fields | {"created_at": "soon", "started_at": "then"}, "started_at", {"started_at"}),
    "time zone": (with_("launch.lease_until", "2026-11-24T12:00:00"), "launch.lease_until", {"launch.lease_until"}),
    "counts": (with_("version", -1), "version", set()),
    "id": (with_("job_id", "training_other"), "job_id", set()),
    "spec name": (with_("spec_name", "../x"), "spec_name", {"spec_name"}),
    "required": (without("job_name", "owner", "spec_name", "request_hash"), "job_name", set()),
    # Firestore lists documents that have the two fields of the order.
    "nothing": (lambda fields: {name: fields[name] for name in ("created_at", "job_id")}, "job_name", set()),
}


# In these records, even the fields that a list shows are unreadable.
UNKNOWN_IN_LISTS = {"times", "required", "nothing"}


@pytest.fixture(params=UNREADABLE)
def unreadable(request: pytest.FixtureRequest, backend: World) -> tuple[str, str, set[str]]:
    """Create a training job with an unreadable record.

    Returns its id, the path that the error names, and the paths that must be set aside.
    """
    job_id = training(backend)
    change, faulty, set_aside = UNREADABLE[request.param]
    backend.write_record(job_id, change(backend.record(job_id)))
    return job_id, faulty, set_aside


def listed(store: JobStore) -> list[JobSummary]:
    """Return all jobs, read with one page per job."""
    rows: list[JobSummary] = []
    token: str | None = None
    while True:
        next_page = store.page(status=None, modality=None, limit=1, page_token=token)
        rows += next_page.jobs
        token = next_page.next_page_token
        if token is None:
            return rows


def test_an_unreadable_record_raises_the_reason_and_is_listed(
    backend: World, unreadable: tuple[str, str, set[str]], request: pytest.FixtureRequest
) -> None:
    job_id, faulty, _ = unreadable
    with pytest.raises(RecordUnreadable, match=faulty) as error:
        backend.services.store.get(job_id)
    assert f"POST /jobs/{job_id}/cancel" in str(error.value.hint)
    other = create(backend.services.store, created_at=NOW).job_id
    rows = listed(backend.services.store)
    kind = request.node.callspec.params["unreadable"]
    shown = Status.UNKNOWN if kind in UNKNOWN_IN_LISTS else Status.TRAINING
    assert [(row.job_id, row.status) for row in rows] == [(job_id, shown), (other, Status.QUEUED)]


def test_an_unreadable_record_does_not_disturb_the_sweep(
    backend: World, unreadable: tuple[str, str, set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Let the sweep recover the other jobs without an error in the log."""
    job_id, services = unreadable[0], backend.services
    other = backend.submit()
    backend.clock.advance(hours=2)
    backend.messages("requests")
    services.sweep()
    assert [message["job_id"] for message in backend.messages("requests")] == [other]
    services.fan_out(job_id)
    services.dispatch(json.dumps({"job_id": job_id}).encode(), key="", owner="local")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert backend.stored_secrets() != []
    assert len(backend.stored_specs()) == 2


def test_cancelling_makes_an_unreadable_record_readable(backend: World, unreadable: tuple[str, str, set[str]]) -> None:
    (job_id, _, set_aside), services = unreadable, backend.services
    before = [event.seq for event in services.store.events(job_id)]
    services.cancel(job_id)
    job = services.store.get(job_id)
    # An unreadable creation time is replaced by that of the document, by the platform's clock.
    assert (job.status, job.finished_at) == (Status.CANCELLED, max(backend.clock.now(), job.created_at))
    assert set(backend.record(job_id).get("unreadable", {})) >= set_aside
    assert [row.status for row in listed(services.store)] == [Status.CANCELLED]
    events = services.store.events(job_id)
    assert [event.seq for event in events] == [*before, before[-1] + 1]
    assert (events[-1].type, job.last_seq) == ("job_cancelled", before[-1] + 1)
    services.fan_out(job_id)
    assert list(services.store.unpublished()) == []
    with pytest.raises(JobIsOver):
        services.cancel(job_id)


def test_an_unreadable_record_can_be_deleted_once_it_is_cancelled(
    backend: World, unreadable: tuple[str, str, set[str]]
) -> None:
    job_id, services = unreadable[0], backend.services
    if not services.store.salvage(job_id).is_over:
        with pytest.raises(JobIsRunning):
            services.delete(job_id)
    services.cancel(job_id)
    services.delete(job_id)
    assert services.store.was_deleted(job_id)
    assert listed(services.store) == []
    backend.clock.advance(hours=2)
    services.sweep()
    assert (backend.stored_secrets(), backend.stored_specs()) == ([], [])


def test_cancelling_stops_the_executions_that_an_unreadable_record_names(backend: World) -> None:
    job_id = training(backend)
    backend.write_record(job_id, with_("metrics", "not metrics")(backend.record(job_id)))
    backend.services.cancel(job_id)
    assert (backend.launcher.stopped_steps, backend.launcher.stopped) == (["run-train"], ["workflow"])


def test_an_unreadable_record_of_a_final_job_can_be_deleted_at_once(backend: World) -> None:
    job_id, services = training(backend), backend.services
    services.cancel(job_id)
    backend.write_record(job_id, with_("metrics", "not metrics")(backend.record(job_id)))
    with pytest.raises(RecordUnreadable):
        services.store.get(job_id)
    with pytest.raises(JobIsOver):
        services.cancel(job_id)
    services.delete(job_id)
    assert services.store.was_deleted(job_id)


def test_other_changes_leave_an_unreadable_record_unchanged(backend: World) -> None:
    job_id = training(backend)
    backend.write_record(job_id, with_("metrics", "not metrics")(backend.record(job_id)))
    before = backend.record(job_id)
    with pytest.raises(RecordUnreadable):
        backend.services.store.update(
            job_id, lambda job: launches.relaunch(job, at=NOW, lease_until=NOW + timedelta(minutes=3), cause="x")
        )
    assert backend.record(job_id) == before


def test_a_record_that_is_not_json_is_unreadable(world: World) -> None:
    job_id, services = training(world), world.services
    other = create(services.store, "training_other").job_id
    services.cancel(other)
    with services.database.write() as connection:
        connection.execute("UPDATE jobs SET record = '{\"job_id\": ' WHERE job_id = ?", (job_id,))
    with pytest.raises(RecordUnreadable, match="JSON"):
        services.store.get(job_id)
    services.delete(other)  # which reads every record to look for children
    services.cancel(job_id)
    assert world.record(job_id)["unreadable"] == {"record": '{"job_id": '}
    assert any(job_id in name for name in world.stored_specs())
    services.delete(job_id)
    assert not any(job_id in name for name in world.stored_specs())  # found by the id, since the record names none
    assert services.store.was_deleted(job_id)


def test_an_event_of_a_newer_version_keeps_its_unknown_fields(backend: World) -> None:
    job_id, services = backend.submit(), backend.services
    (event,) = services.store.events(job_id)
    backend.write_event(job_id, 1, event.model_dump(mode="json") | {"type": "job_paused", "severity": 3})
    (event,) = services.store.events(job_id)
    assert (event.type, event.model_dump()["severity"]) == ("job_paused", 3)


def test_events_after_an_unreadable_one_are_published(backend: World) -> None:
    job_id, services = backend.submit(), backend.services
    backend.write_event(job_id, 1, {"type": ["?"]})
    services.cancel(job_id)
    created_at = services.store.get(job_id).created_at
    events = services.store.events(job_id)
    assert [(event.seq, event.type) for event in events] == [(1, "unknown"), (2, "job_cancelled")]
    assert abs(events[0].at - created_at) < timedelta(days=3650)
    services.fan_out(job_id)
    assert services.store.get(job_id).published_seq == 2


def test_every_required_field_has_a_stand_in_or_comes_from_the_store() -> None:
    required = {name for name, field in Job.model_fields.items() if field.is_required()}
    assert required == set(STAND_INS) | {"job_id", "created_at", "updated_at"}
