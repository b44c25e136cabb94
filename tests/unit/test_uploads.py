"""The watched folder: a file counts once, when nobody writes to it any more."""

from __future__ import annotations

from gemtune.local_server.uploads import Uploads
from tests.fakes import World


def test_a_dropped_file_counts_when_two_looks_find_it_unchanged(world: World) -> None:
    services = world.services
    uploads = Uploads(services.database, services.buckets, clock=world.clock)
    services.buckets.uploads.write("x.job.json", b"{")
    events = lambda: services.bus.take(["ingest"], 10)  # noqa: E731
    uploads.look()
    assert events() == []
    services.buckets.uploads.write("x.job.json", b"{}")  # still being written
    uploads.look()
    assert events() == []
    uploads.look()
    assert len(events()) == 1
    for _ in range(3):
        uploads.look()
    Uploads(services.database, services.buckets, clock=world.clock).look()  # and after a restart
    assert events() == []
