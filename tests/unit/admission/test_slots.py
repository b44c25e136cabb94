"""Slots of a kind of machine: never more holders than there are, in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gemtune.admission.slots import LINGER, MAX_WAITING, Applicant, SlotTable, ask, estimated_wait, leave

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def waits(table: SlotTable, at: datetime, capacity: int) -> list[float | None]:
    """Return the estimated wait of each job in the queue, in order."""
    return [estimated_wait(table, waiter.job_id, capacity=capacity, at=at) for waiter in table.waiting]


def test_a_wait_lasts_until_the_steps_before_it_have_ended() -> None:
    table = SlotTable()
    durations = [100.0, 40.0, 30.0, 50.0, None, 10.0]
    for number, seconds in enumerate(durations):
        table, _ = asked(table, replace(applicant(number), seconds=seconds), capacity=2)
    # Slots are free after 100 and 40 s; 40: job 2 until 70; 70: job 3 until 120; 100: job 4, nobody knows how long.
    assert waits(table, NOW, 2) == [40, 70, 100, 120]
    later = NOW + timedelta(seconds=20)
    assert waits(table, later, 2) == [20, 50, 80, 100]
    # The second one takes longer than expected, so only the slot of the first one is foreseen.
    assert waits(table, NOW + timedelta(seconds=50), 2) == [50, 80, 130, None]
    assert waits(table, NOW + timedelta(seconds=101), 2) == [None] * 4
    table = leave(table, "job1", launch=1, at=NOW, lingers=True)
    assert waits(table, NOW, 2)[0] == LINGER.total_seconds()
    assert estimated_wait(table, "not in the queue", capacity=2, at=NOW) is None


def test_a_wait_with_fewer_slots_than_holders_counts_those_that_have_to_end() -> None:
    table = SlotTable()
    for number, seconds in enumerate((10.0, 20.0, 30.0)):
        table, _ = asked(table, replace(applicant(number), seconds=seconds), capacity=3)
    table, _ = asked(table, applicant(3), capacity=1)
    assert waits(table, NOW, 1) == [30]


def applicant(number: int, priority: str = "normal", launch: int = 1) -> Applicant:
    return Applicant(f"job{number}", launch, NOW + timedelta(minutes=number), priority)


def asked(table: SlotTable, each: Applicant, at: datetime = NOW, capacity: int = 1) -> tuple[SlotTable, int]:
    return ask(table, each, capacity=capacity, at=at)


def test_jobs_get_slots_in_the_order_of_their_acceptance_however_they_ask() -> None:
    table, _ = asked(SlotTable(), applicant(0))
    positions = {}
    for number in (3, 1, 2):
        table, positions[number] = asked(table, applicant(number))
    assert positions == {3: 1, 1: 1, 2: 2}
    assert [asked(table, applicant(number))[1] for number in (1, 2, 3)] == [1, 2, 3]
    table = leave(table, "job0", launch=1, at=NOW, lingers=False)
    table, position = asked(table, applicant(2))
    assert position == 1  # the free slot is kept for the one before it
    table, position = asked(table, applicant(1))
    assert position == 0
    assert asked(table, applicant(2))[1] == 1


def test_a_job_that_asks_again_keeps_its_slot() -> None:
    table, _ = asked(SlotTable(), applicant(0))
    again, position = asked(table, applicant(0, launch=2), NOW + timedelta(hours=1))
    assert position == 0
    assert [holder.launch for holder in again.holders] == [2]


def test_a_priority_moves_a_job_by_a_day_and_no_further() -> None:
    table, _ = asked(SlotTable(), applicant(0))
    day = 24 * 60
    for each in (
        applicant(1, "low"),
        applicant(day, "normal"),
        applicant(day + 2, "normal"),
        applicant(2 * day, "high"),
    ):
        table, _ = asked(table, each)
    assert [waiter.job_id for waiter in table.waiting] == [f"job{number}" for number in (day, 2 * day, 1, day + 2)]


def test_a_queue_of_any_length_fits_into_a_document_and_keeps_its_order() -> None:
    table, _ = asked(SlotTable(), replace(applicant(0), job_id="x" * 80))
    many = MAX_WAITING + 50
    for number in reversed(range(1, many + 1)):
        name = f"{number:06}{'x' * 74}"
        table, position = asked(table, replace(applicant(number), job_id=name, seconds=123456.789))
        assert position == 1
    assert asked(table, applicant(many))[1] == MAX_WAITING + 1
    assert len(table.model_dump_json().encode()) < 900 * 1024  # a document of Firestore has at most 1 MiB
    # As the queue moves on, those that are not stored get their places, in the order of their acceptance.
    numbers = [int(waiter.job_id[:6]) for waiter in table.waiting]
    assert numbers == list(range(1, MAX_WAITING + 1))
    for waiter in table.waiting[:10]:
        table = leave(table, waiter.job_id, launch=None, at=NOW, lingers=False)
    for number in range(many, MAX_WAITING, -1):
        table, _ = asked(table, replace(applicant(number), job_id=f"{number:06}"))
    assert [int(waiter.job_id[:6]) for waiter in table.waiting] == list(range(11, MAX_WAITING + 11))


def test_the_slot_of_a_step_that_is_still_ending_is_free_a_little_later() -> None:
    table, _ = asked(SlotTable(), applicant(0))
    table = leave(table, "job0", launch=None, at=NOW, lingers=True)
    assert asked(table, applicant(1), NOW + LINGER - timedelta(seconds=1))[1] == 1
    assert asked(table, applicant(1), NOW + LINGER)[1] == 0
    assert asked(table, applicant(1), NOW - timedelta(hours=1))[1] == 0  # the clock was set back


def test_a_step_of_an_older_launch_returns_nothing() -> None:
    table, _ = asked(SlotTable(), applicant(0, launch=2))
    assert leave(table, "job0", launch=1, at=NOW, lingers=False) is table


def test_fewer_slots_than_holders_admit_nobody() -> None:
    table = SlotTable()
    for number in range(3):
        table, position = asked(table, applicant(number), capacity=3)
        assert position == 0
    assert asked(table, applicant(3), capacity=1)[1] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "leave", "kill"]),
            st.integers(0, 5),
            st.sampled_from(["low", "normal", "high"]),
            st.integers(0, 40),
        ),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_no_order_of_calls_gives_more_slots_than_there_are(
    calls: list[tuple[str, int, str, int]], capacity: int
) -> None:
    table, at, running = SlotTable(), NOW, dict[str, datetime | None]()
    for action, number, priority, seconds in calls:
        at += timedelta(seconds=seconds)
        running = {job: end for job, end in running.items() if end is None or end > at}
        each = applicant(number, priority)
        if action == "ask":
            table, position = asked(table, each, at, capacity)
            if position == 0:
                running[each.job_id] = None
            assert SlotTable.model_validate_json(table.model_dump_json()) == table
        else:
            table = leave(table, each.job_id, launch=None, at=at, lingers=action == "kill")
            if action == "leave":
                running.pop(each.job_id, None)
            elif each.job_id in running and running[each.job_id] is None:
                running[each.job_id] = at + LINGER
        assert len(running) <= capacity
