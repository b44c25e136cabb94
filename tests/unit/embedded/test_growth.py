"""No row stays in the database once its job, files and lifetime are gone."""

from __future__ import annotations

from gemtune.embedded.sqlite_bus import SqliteBus
from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from gemtune.local_server.cloud_run_jobs import CloudRunJobs
from gemtune.local_server.uploads import Uploads
from gemtune.ports import Topic
from tests.fakes import World
from tests.unit.local_server.test_child_processes import started_before

# The subscriptions of a user, and SQLite's own counter.
PERMANENT = {"subscriptions", "sqlite_sequence"}


def filled_tables(world: World) -> set[str]:
    """Return the tables that hold rows, without those that always do."""
    connection = world.services.database.read()
    tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {table for table in tables if connection.execute(f"SELECT 1 FROM {table}").fetchone()} - PERMANENT


def test_every_row_is_deleted_eventually(world: World) -> None:
    services, database = world.services, world.services.database
    services.__dict__["launcher"] = SqliteLauncher(database, clock=world.clock)
    bus = SqliteBus(database, clock=world.clock)
    bus.subscribe("listener", Topic.JOB_STATUS)
    uploads = Uploads(database, services.buckets, clock=world.clock)
    services.buckets.uploads.write("x.job.json", b"{}")
    for _ in range(2):
        uploads.scan()

    job_id = world.submit(key="k", notify={"webhook_url": "https://example.com/hook"})
    services.dispatch.launch(job_id)
    (execution, _, _) = services.launcher.active()[0]  # type: ignore[attr-defined]
    claim = Claim(launch=1, execution=execution)
    services.control.claim(job_id, claim)
    services.advance.begin(job_id, Step.PREPARE, claim, execution="run")
    started_before(world, "run", 1, job_id=job_id)
    services.fan_out(job_id)
    for _ in range(60):  # a receiver that never answers
        world.clock.advance(minutes=10)
        for delivery in bus.lease(["notify"], 9):
            bus.reject(delivery, "HTTP 500")
    services.cancel(job_id)
    started_before(world, "killed-with-its-server", 1, job_id=job_id)
    assert filled_tables(world) == {
        "jobs",
        "events",
        "idempotency_keys",
        "messages",
        "deliveries",
        "dead_letters",
        "executions",
        "step_executions",
        "uploads_seen",
    }

    services.delete(job_id)
    services.buckets.uploads.delete("x.job.json")
    uploads.forget_removed()
    # The owner's account, in `shared`, has what the job took.
    deleted = {"idempotency_keys", "tombstones", "shared"}
    assert filled_tables(world) == deleted | {"messages", "deliveries", "dead_letters"}
    services.launcher.start(job_id, 2)  # a launch by a process that had read the record before
    world.clock.advance(days=8)
    bus.delete_expired()
    assert filled_tables(world) == deleted | {"executions"}
    world.clock.advance(days=22)
    services.sweep()
    assert filled_tables(world) == {"shared"}
    world.clock.advance(days=330)
    services.sweep()
    assert filled_tables(world) == {"shared"}
    world.clock.advance(days=45)
    services.sweep()
    assert filled_tables(world) == set()


def test_dead_steps_of_a_job_that_is_never_deleted_are_forgotten(world: World) -> None:
    jobs = CloudRunJobs(world.services.database, world.services.settings, names=())
    started_before(world, "killed-with-its-server", None)
    jobs.forget_ended()
    assert filled_tables(world) == set()
