"""Output of a job's steps, attempt after attempt, in pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemtune.errors import BadPageToken, JobNotFound
from gemtune.gcp.cloud_logs import CloudLogs
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from gemtune.services.logs import read as read_module
from gemtune.services.logs.read import PAGE_BYTES, LogPage, StepLine
from tests.fakes import World

PREPARE, FIRST, SECOND = "gemtune-prepare-aaaaa", "gemtune-train-local-bbbbb", "gemtune-train-local-ccccc"
LOST = "gemtune-train-local-ddddd"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world on one backend: the ports have a contract of their own."""
    return World(tmp_path / "home")


@pytest.fixture
def job_id(world: World) -> str:
    """Return a job in the second attempt of its training.

    Another process ended before it began an attempt.
    """
    job_id, advance = world.submit(), world.services.advance
    world.services.dispatch.launch(job_id)
    claim = Claim(launch=1, execution="first")
    world.services.control.claim(job_id, claim)
    for step, execution in ((Step.PREPARE, PREPARE), (Step.TRAIN, FIRST), (Step.TRAIN, SECOND)):
        begun = advance.begin(job_id, step, claim, execution=execution)
        assert begun is not None
        if step is Step.PREPARE:
            advance.finish(job_id, begun[1])
        elif execution == FIRST:
            advance.stop(job_id, begun[1], cause="crash")
        write(world, job_id, execution, f"{execution} 1\n{execution} 2\nunfinished")
    write(world, job_id, LOST, "no memory\n")
    return job_id


def write(world: World, job_id: str, execution: str, text: str) -> None:
    world.services.buckets.export.write(f"jobs/{job_id}/logs/{execution}.log", text.encode())


def read(world: World, job_id: str, after: str | None = None, *, limit: int = 100, step: Step | None = None) -> LogPage:
    return world.services.read_logs(job_id, step=step, after=after, limit=limit)


@pytest.mark.parametrize("room", [-1, 0, 1, 2])
def test_only_a_full_page_is_followed_by_another(
    world: World, job_id: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a page of all lines so many bytes of room."""
    size = sum(len(line.text) for line in read(world, job_id).lines)
    monkeypatch.setattr(read_module, "PAGE_BYTES", size + room)
    page = read(world, job_id)
    assert (len(page.lines), page.more) == (10, room <= 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_pages_have_every_line_once_with_its_step_and_attempt(world: World, job_id: str, limit: int) -> None:
    lines: list[StepLine] = []
    page = read(world, job_id, limit=limit)
    lines += page.lines
    while page.more:
        page = read(world, job_id, page.next_after, limit=limit)
        lines += page.lines
    assert [(line.step, line.attempt, line.text) for line in lines] == [
        ("prepare", 1, f"{PREPARE} 1"),
        ("prepare", 1, f"{PREPARE} 2"),
        ("prepare", 1, "unfinished"),
        ("train", 1, f"{FIRST} 1"),
        ("train", 1, f"{FIRST} 2"),
        ("train", 1, "unfinished"),
        ("train", 2, f"{SECOND} 1"),
        ("train", 2, f"{SECOND} 2"),
        ("train", 2, "unfinished"),
        ("train", None, "no memory"),
    ]


def test_following_goes_on_in_a_later_execution(world: World, job_id: str) -> None:
    end = read(world, job_id).next_after
    assert read(world, job_id, end).lines == []
    write(world, job_id, "gemtune-export-eeeee", "exporting\n")
    page = read(world, job_id, end)
    assert [(line.step, line.text) for line in page.lines] == [("export", "exporting")]


def texts(world: World, job_id: str) -> list[str]:
    return [line.text for line in read(world, job_id).lines]


def test_an_unfinished_line_is_shown_when_no_more_of_it_can_come(world: World) -> None:
    job_id, advance = world.submit(), world.services.advance
    world.services.dispatch.launch(job_id)
    claim = Claim(launch=1, execution="first")
    world.services.control.claim(job_id, claim)
    begun = advance.begin(job_id, Step.PREPARE, claim, execution=PREPARE)
    assert begun is not None
    write(world, job_id, PREPARE, "one\nunfin")
    assert texts(world, job_id) == ["one"]
    advance.stop(job_id, begun[1], cause="crash")
    assert texts(world, job_id) == ["one", "unfin"]
    write(world, job_id, LOST, "two\nhal")  # it may have begun no attempt yet
    assert texts(world, job_id) == ["one", "unfin", "two"]
    world.services.cancel(job_id)
    assert texts(world, job_id) == ["one", "unfin", "two", "hal"]


def test_a_replaced_attempt_that_still_writes_is_not_shown_again(world: World, job_id: str) -> None:
    write(world, job_id, "gemtune-export-eeeee", "exporting\n")
    before = read(world, job_id)
    write(world, job_id, FIRST, f"{FIRST} 1\n{FIRST} 2\nunfinished\nthis attempt ends\n")
    assert read(world, job_id, before.next_after).lines == []
    after = [line.text for line in read(world, job_id).lines]
    assert after.index("this attempt ends") < after.index(f"{SECOND} 1")


def test_only_the_output_of_one_step_is_returned(world: World, job_id: str) -> None:
    assert {line.step for line in read(world, job_id, step=Step.TRAIN).lines} == {"train"}
    assert read(world, job_id, step=Step.EXPORT) == LogPage([], None, False)


def test_a_job_without_output_has_an_empty_page(world: World) -> None:
    assert read(world, world.submit()) == LogPage([], None, False)


def test_places_and_jobs_that_do_not_exist_are_refused(world: World, job_id: str) -> None:
    for after in ("x", "x:0", f"{PREPARE}:x", f"{PREPARE}"):
        with pytest.raises(BadPageToken):
            read(world, job_id, after)
    with pytest.raises(JobNotFound):
        read(world, "training_none")


def test_on_google_cloud_the_record_names_the_executions(world: World, job_id: str) -> None:
    job = world.services.store.get(job_id)
    assert CloudLogs("p").executions(job) == [PREPARE, FIRST, SECOND]


def test_a_page_of_long_lines_is_bounded_in_bytes_and_the_next_one_goes_on(world: World, job_id: str) -> None:
    long = [f"{number} " + "x" * 100_000 for number in range(40)]
    write(world, job_id, SECOND, "".join(f"{line}\n" for line in long))
    texts: list[str] = []
    page = read(world, job_id, limit=1000)
    while page.lines:
        size = sum(len(line.text) for line in page.lines)
        assert size <= 2 * PAGE_BYTES
        assert page.more is (size >= PAGE_BYTES)
        texts += [line.text for line in page.lines]
        page = read(world, job_id, page.next_after, limit=1000)
    assert texts[-40:] == long
