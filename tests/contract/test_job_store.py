"""JobStore: single creation, transactional changes, fencing and paging."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from gemtune.errors import (
    BadPageToken,
    JobNotFound,
    JobWasDeleted,
    RecordInvalid,
    StaleAttempt,
    StaleClaim,
    VersionConflict,
)
from gemtune.jobs import changes, launches, steps
from gemtune.jobs.page_tokens import PagePosition
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.record import Claim, FencingToken, Job
from gemtune.jobs.status import Status, Step
from gemtune.ports import JobStore, Tombstone
from tests.fakes import FakeClock
from tests.unit.jobs.test_job import NOW, new


def create(store: JobStore, job_id: str = "training_x", **fields: Any) -> Job:
    job, (event,) = changes.accept_job(new(job_id=job_id, **fields))
    return store.create(job, event).job


def claim(store: JobStore, job_id: str = "training_x") -> Claim:
    mine = Claim(launch=1, execution="mine")
    store.update(job_id, partial(launches.take_launch, at=NOW, lease=timedelta()))
    store.update(job_id, partial(launches.claim_launch, claim=mine))
    return mine


def begin(store: JobStore, mine: Claim) -> FencingToken:
    change = partial(steps.begin_attempt, step=Step.PREPARE, claim=mine, execution="run", at=NOW)
    return FencingToken(
        claim=mine, step=Step.PREPARE, attempt=store.update("training_x", change).steps[Step.PREPARE].attempt
    )


def test_a_created_job_is_read_unchanged(store: JobStore) -> None:
    job = create(store, secret_names={"hf_token": "x"})
    assert store.get(job.job_id) == job


def test_the_attempts_of_a_step_are_read_as_they_were_written(store: JobStore) -> None:
    create(store)
    fence = begin(store, claim(store))
    written = store.update("training_x", partial(steps.stop_attempt, fence=fence, cause="sigterm", at=NOW))
    assert store.get("training_x").steps[Step.PREPARE] == written.steps[Step.PREPARE]
    assert written.steps[Step.PREPARE].attempts[0].cause == "sigterm"


def test_of_thirty_creates_with_one_key_one_wins_and_all_return_its_job(store: JobStore) -> None:
    def attempt(number: int) -> tuple[str, bool]:
        job, (event,) = changes.accept_job(new(job_id=f"training_{number}", idempotency_key="once"))
        created = store.create(job, event)
        return created.job.job_id, created.is_new

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(attempt, range(30)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1


def test_the_same_key_of_another_source_is_another_job(store: JobStore) -> None:
    first = create(store, "training_a", idempotency_key="k")
    second = create(store, "training_b", idempotency_key="k", source="upload")
    assert (first.job_id, second.job_id) == ("training_a", "training_b")
    assert first.key_hash is not None
    assert store.find_by_key(first.key_hash) == first
    assert store.find_by_key("unused") is None


def test_of_thirty_claimants_one_wins(store: JobStore) -> None:
    create(store)
    store.update("training_x", partial(launches.take_launch, at=NOW, lease=timedelta()))

    def attempt(number: int) -> bool:
        try:
            store.update("training_x", partial(launches.claim_launch, claim=Claim(launch=1, execution=f"e{number}")))
        except StaleClaim:
            return False
        return True

    with ThreadPoolExecutor(30) as pool:
        assert sum(pool.map(attempt, range(30))) == 1


def test_concurrent_changes_leave_events_without_gaps(store: JobStore) -> None:
    create(store)

    def relaunch(number: int) -> None:
        change = partial(launches.relaunch, at=NOW, lease_until=NOW, cause=str(number))
        store.update("training_x", change)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(relaunch, range(40)))
    assert [event.seq for event in store.events("training_x")] == list(range(1, 42))
    assert store.get("training_x").launch.number == 40


def test_a_change_that_raises_writes_nothing(store: JobStore) -> None:
    before = create(store)

    def refuse(job: Job) -> changes.Changed:
        raise StaleClaim("no")

    with pytest.raises(StaleClaim):
        store.update("training_x", refuse)
    assert store.get("training_x") == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": "not metrics"},
        {"metrics": {"accuracy": "high"}},
        {"adapter_path": 7},
        {"status": 7},
        {"finished_at": "soon"},
        {"artifacts": [{"name": "a"}]},
        {"steps": {Step.TRAIN: {"seconds": "long"}}},
        {"progress": object()},
        {"published_seq": None},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_record_of_wrong_types_is_never_written(store: JobStore, wrong: dict[str, Any]) -> None:
    """Check records on writing, which `model_copy` does not do."""
    before = create(store)
    _, events = changes.with_event(before, "x", NOW)
    with pytest.raises(RecordInvalid):
        store.update("training_x", lambda job: (job.model_copy(update=wrong), events))
    assert store.get("training_x") == before
    assert [event.seq for event in store.events("training_x")] == [1]
    job, (event,) = changes.accept_job(new(job_id="training_y"))
    with pytest.raises(RecordInvalid):
        store.create(job.model_copy(update=wrong), event)
    with pytest.raises(JobNotFound):
        store.get("training_y")


def test_progress_of_a_wrong_type_is_never_written(store: JobStore) -> None:
    create(store)
    fence = begin(store, claim(store))
    before = store.get("training_x")
    fast: Any = "fast"
    for progress in (fast, Progress(loss=1.5).model_copy(update={"loss": fast})):
        with pytest.raises(RecordInvalid):
            store.record_progress("training_x", fence, progress, NOW)
    assert store.get("training_x") == before


def test_an_update_with_another_version_is_refused(store: JobStore) -> None:
    job = create(store)
    cancel = partial(changes.cancel_job, at=NOW)
    with pytest.raises(VersionConflict):
        store.update("training_x", cancel, version=job.version + 1)
    assert store.update("training_x", cancel, version=job.version).version == job.version + 1


def test_progress_is_written_without_raising_the_version(store: JobStore) -> None:
    create(store)
    fence = begin(store, claim(store))
    version = store.get("training_x").version
    store.record_progress("training_x", fence, Progress(train_step=7, loss=1.5), NOW + timedelta(seconds=9))
    job = store.get("training_x")
    assert (job.version, job.progress and job.progress.train_step) == (version, 7)
    assert job.steps[Step.PREPARE].heartbeat_at == NOW + timedelta(seconds=9)


def test_progress_of_an_older_attempt_or_claim_is_refused(store: JobStore) -> None:
    create(store)
    mine = claim(store)
    first = begin(store, mine)
    begin(store, mine)
    with pytest.raises(StaleAttempt):
        store.record_progress("training_x", first, None, NOW)
    store.update("training_x", partial(changes.cancel_job, at=NOW))
    with pytest.raises(StaleClaim):
        store.record_progress("training_x", first, None, NOW)


def test_published_seq_never_decreases_and_unpublished_jobs_are_listed(store: JobStore) -> None:
    create(store)
    assert list(store.unpublished()) == ["training_x"]
    store.mark_published("training_x", 1)
    store.mark_published("training_x", 0)
    assert store.get("training_x").published_seq == 1
    assert list(store.unpublished()) == []


def test_events_can_be_read_from_any_number_on(store: JobStore) -> None:
    create(store)
    for number in range(4):
        store.update("training_x", partial(launches.relaunch, at=NOW, lease_until=NOW, cause=str(number)))
    assert [event.seq for event in store.events("training_x", after=2)] == [3, 4, 5]
    assert [event.seq for event in store.events("training_x", after=2, limit=1)] == [3]
    with pytest.raises(JobNotFound):
        store.events("training_y")


def test_pages_list_each_job_once_newest_first_while_jobs_are_added(store: JobStore) -> None:
    for number in range(25):
        create(store, f"training_{number:02}", created_at=NOW + timedelta(seconds=number // 2))
    listed_ids: list[str] = []
    token: str | None = None
    for turn in range(10):
        page = store.page(status=None, modality=None, limit=10, page_token=token)
        listed_ids += [job.job_id for job in page.jobs]
        create(store, f"training_late{turn}", created_at=NOW + timedelta(hours=1 + turn))
        token = page.next_page_token
        if token is None:
            break
    assert listed_ids == sorted((f"training_{number:02}" for number in range(25)), reverse=True)


def test_a_page_can_be_filtered_by_status_and_modality(store: JobStore) -> None:
    for number in range(6):
        create(store, f"training_{number}", modality="vision" if number % 2 else "text")
    store.update("training_0", partial(changes.cancel_job, at=NOW))

    def ids(status: Status | None, modality: str | None) -> list[str]:
        return [job.job_id for job in store.page(status=status, modality=modality, limit=9, page_token=None).jobs]

    assert ids(Status.CANCELLED, None) == ["training_0"]
    assert ids(None, "vision") == ["training_5", "training_3", "training_1"]
    assert ids(Status.QUEUED, "text") == ["training_4", "training_2"]
    assert ids(Status.FAILED, None) == []


@pytest.mark.parametrize("token", ["", "x", "e30=", "W10=", "\u2603", "WzEsMl0=" * 3])
def test_an_invalid_page_token_is_refused(store: JobStore, token: str) -> None:
    with pytest.raises(BadPageToken):
        store.page(status=None, modality=None, limit=1, page_token=token)


def test_unfinished_lists_no_job_that_is_over(store: JobStore) -> None:
    create(store, "training_a")
    create(store, "training_b")
    store.update("training_a", partial(changes.cancel_job, at=NOW))
    assert [job.job_id for job in store.unfinished()] == ["training_b"]


def test_unfinished_can_begin_after_a_job(store: JobStore) -> None:
    for number in range(4):
        create(store, f"training_{number}", created_at=NOW + timedelta(seconds=number // 2))
    jobs = list(store.unfinished())
    assert len(jobs) == 4
    for index, job in enumerate(jobs):
        after = PagePosition(job.created_at, job.job_id)
        assert [each.job_id for each in store.unfinished(after=after)] == [each.job_id for each in jobs[index + 1 :]]


def test_creating_a_child_changes_the_version_of_its_parent(store: JobStore) -> None:
    """Refuse a delete by a caller that looked for children too early."""
    parent = create(store)
    assert [child.job_id for child in store.children_in_need(parent.job_id)] == []
    child = create(store, "export_x", parent_job_id=parent.job_id, idempotency_key="k")
    create(store, "training_y")
    assert [child.job_id for child in store.children_in_need(parent.job_id)] == ["export_x"]
    assert create(store, "export_z", parent_job_id=parent.job_id, idempotency_key="k") == child
    with pytest.raises(VersionConflict):
        store.delete(parent.job_id, version=parent.version, tombstone_until=NOW)
    changed_parent = store.get(parent.job_id)
    assert changed_parent == parent.model_copy(update={"version": parent.version + 1})
    store.update("export_x", partial(changes.cancel_job, at=NOW))
    assert [child.job_id for child in store.children_in_need(parent.job_id)] == []
    store.delete(parent.job_id, version=changed_parent.version, tombstone_until=NOW)
    assert store.get("export_x").parent_job_id == parent.job_id


def test_a_child_without_a_parent_is_not_created(store: JobStore) -> None:
    with pytest.raises(JobNotFound):
        create(store, "export_x", parent_job_id="training_x")
    with pytest.raises(JobNotFound):
        store.get("export_x")


def test_of_a_concurrent_delete_and_create_of_a_child_one_fails(store: JobStore) -> None:
    def delete(version: int) -> bool:
        try:
            store.delete("training_x", version=version, tombstone_until=NOW)
        except VersionConflict:
            return False
        return True

    def child(_: int) -> bool:
        try:
            create(store, "export_x", parent_job_id="training_x")
        except JobNotFound:
            return False
        return True

    version = create(store).version
    with ThreadPoolExecutor(2) as pool:
        deleted, created = pool.submit(delete, version), pool.submit(child, version)
    assert deleted.result() is not created.result()


def test_a_tombstone_keeps_the_key_of_a_deleted_job_until_it_expires(store: JobStore, clock: FakeClock) -> None:
    job = create(store, idempotency_key="k")
    with pytest.raises(VersionConflict):
        store.delete("training_x", version=job.version + 1, tombstone_until=NOW)
    until = clock.now() + timedelta(days=30)
    store.delete("training_x", version=job.version, tombstone_until=until)
    with pytest.raises(JobNotFound):
        store.get("training_x")
    with pytest.raises(JobWasDeleted):
        create(store, "training_y", idempotency_key="k")
    with pytest.raises(JobWasDeleted):
        store.find_by_key(job.key_hash or "")
    assert store.was_deleted("training_x")
    assert list(store.tombstones(until_after=clock.now())) == [Tombstone(until, "training_x")]
    assert list(store.tombstones(until_after=until)) == []
    assert store.drop_tombstones(until - timedelta(seconds=1), limit=10) == 0
    assert store.was_deleted("training_x")
    assert store.drop_tombstones(until, limit=10) == 1
    assert not store.was_deleted("training_x")
    assert create(store, idempotency_key="k").job_id == "training_x"


def test_tombstones_come_in_order_and_are_yielded_from_a_position_on(store: JobStore) -> None:
    expected = []
    for number in (2, 0, 3, 1):
        job = create(store, f"training_{number}")
        until = NOW + timedelta(seconds=number // 2)
        store.delete(job.job_id, version=job.version, tombstone_until=until)
        expected.append(Tombstone(until, job.job_id))
    expected.sort(key=lambda tombstone: (tombstone.until, tombstone.job_id))
    before = NOW - timedelta(seconds=1)
    for index, tombstone in enumerate(expected):
        assert list(store.tombstones(until_after=before, after=tombstone)) == expected[index + 1 :]
    assert list(store.tombstones(until_after=NOW, after=expected[0])) == expected[2:]
    assert list(store.tombstones(until_after=before)) == expected


def test_no_more_tombstones_are_dropped_at_once_than_the_limit(store: JobStore) -> None:
    for number in range(3):
        job = create(store, f"training_{number}", idempotency_key=str(number))
        store.delete(job.job_id, version=job.version, tombstone_until=NOW)
    assert [store.drop_tombstones(NOW, limit=2) for _ in range(3)] == [2, 1, 0]
    for number in range(3):
        assert create(store, f"training_{number}", idempotency_key=str(number)).job_id == f"training_{number}"
