"""The watched folder: a file counts once, when it no longer changes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gemtune.local_server.uploads import Uploads
from tests.fakes import World


def test_a_dropped_file_counts_once_two_scans_find_it_unchanged(world: World) -> None:
    services = world.services
    uploads = Uploads(services.database, services.buckets, clock=world.clock)
    services.buckets.uploads.write("x.job.json", b"{")
    events = lambda: services.bus.lease(["ingest"], 10)  # noqa: E731
    uploads.scan()
    assert events() == []
    services.buckets.uploads.write("x.job.json", b"{}")  # still being written
    uploads.scan()
    assert events() == []
    uploads.scan()
    assert len(events()) == 1
    for _ in range(3):
        uploads.scan()
    Uploads(services.database, services.buckets, clock=world.clock).scan()  # and after a restart
    assert events() == []


def test_a_link_within_the_folder_counts_and_one_out_of_it_is_logged_once(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    services = world.services
    uploads = Uploads(services.database, services.buckets, clock=world.clock)
    services.buckets.uploads.write("request.txt", b"{}")
    (tmp_path / "outside.json").write_text("{}")
    folder = Path(services.buckets.uploads.uri("request.txt")).parent
    (folder / "in.job.json").symlink_to("request.txt")
    (folder / "out.job.json").symlink_to(tmp_path / "outside.json")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            uploads.scan()
    (event,) = services.bus.lease(["ingest"], 10)
    assert b"in.job.json" in event.message
    (record,) = caplog.records
    assert "the link 'out.job.json' in uploads leads out of its bucket" in record.message


def test_a_deleted_file_is_forgotten_and_counts_again_when_it_returns(world: World) -> None:
    services = world.services
    uploads = Uploads(services.database, services.buckets, clock=world.clock)
    recorded_names = lambda: [row["name"] for row in services.database.read().execute("SELECT name FROM uploads_seen")]  # noqa: E731
    for name in ("gone.job.json", "stays.job.json"):
        services.buckets.uploads.write(name, b"{}")
    for _ in range(2):
        uploads.scan()
    services.buckets.uploads.delete("gone.job.json")
    uploads.forget_removed()
    assert recorded_names() == ["stays.job.json"]
    assert len(services.bus.lease(["ingest"], 10)) == 2
    uploads.scan()
    assert services.bus.lease(["ingest"], 10) == []
    services.buckets.uploads.write("gone.job.json", b"{}")
    for _ in range(2):
        uploads.scan()
    assert len(services.bus.lease(["ingest"], 10)) == 1
    assert recorded_names() == ["gone.job.json", "stays.job.json"]
