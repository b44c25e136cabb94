"""Faults at random: no accepted job is lost, none is trained twice, and nothing comes after the end.

GEMTUNE_SCHEDULES says how many schedules each backend gets; `make e2e` runs 200.
"""

from __future__ import annotations

import os

import pytest

from tests.fakes import World
from tests.services.simulation import Simulation

SCHEDULES = int(os.environ.get("GEMTUNE_SCHEDULES", "10"))


@pytest.mark.timeout(300 + 10 * SCHEDULES)
def test_whatever_fails_every_job_comes_to_its_end_once(world: World) -> None:
    ends: dict[str, int] = {}
    for seed in range(SCHEDULES):
        simulation = Simulation(world, seed)
        simulation.storm(actions=150)
        simulation.calm()
        try:
            simulation.check()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        for job_id in simulation.jobs:
            status = str(world.services.store.get(job_id).status)
            ends[status] = ends.get(status, 0) + 1
            if world.services.store.get(job_id).is_over:
                world.services.delete(job_id)  # the next schedule starts with an empty store
        world.clock.advance(days=3)  # and days after whatever may still write for those jobs
    assert {"completed", "cancelled"} <= set(ends)
    print(ends)
