"""Reads of Firestore, which do not grow with the number of finished jobs."""

from __future__ import annotations

import pytest

from bench.scale.documents import reads_of_calls
from gemtune.services.cleanup.order import CHECKED_PER_SWEEP
from tests.emulators.firestore_scale import add_finished
from tests.emulators.world import GcpWorld

pytestmark = pytest.mark.emulators


def test_no_call_reads_more_beside_more_finished_and_deleted_jobs(world: GcpWorld) -> None:
    reads_of_calls(world)  # creates the documents that jobs share
    columns = []
    for first, end in ((0, 450), (450, 900)):
        add_finished(world, first, end)
        columns.append(reads_of_calls(world))
    few, many = columns
    assert many == few
    assert few["list failed"] == 51  # one more than the page, to know whether there is a next one
    assert CHECKED_PER_SWEEP < few["sweep"] < 250
    assert all(count < 30 for call, count in few.items() if call != "sweep" and not call.startswith("list"))
