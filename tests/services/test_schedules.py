"""Random faults: no job is lost, trained twice, or changed after its end.

GEMTUNE_SCHEDULES sets the number of schedules per backend; `make e2e` runs 200.
"""

from __future__ import annotations

import os

import pytest

from tests.fakes import World
from tests.services.simulation import Simulation

SCHEDULES = int(os.environ.get("GEMTUNE_SCHEDULES", "10"))


@pytest.mark.timeout(300 + 10 * SCHEDULES)
def test_every_job_ends_exactly_once_whatever_fails(world: World) -> None:
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
        world.clock.advance(days=3)  # late writes for deleted jobs are over by then
    assert {"completed", "cancelled"} <= set(ends)
    print(ends)
