"""What a server makes good at its start: no request is under way then, so whatever is half done was cut off."""

from __future__ import annotations

from gemtune.bootstrap import Services
from gemtune.embedded.sqlite_bus import SqliteBus


def recover(services: Services, bus: SqliteBus) -> None:
    """Deliver at once what a dead server had taken, and finish the launches that it had begun.

    `sweep` would do the same, but only after the time that it has to give to those who may still be at work.
    """
    bus.release_leases()
    for job in services.store.unfinished():
        if job.launch.number == 0:  # it died between the record and the message
            services.submit.publish(job)
        elif job.claim is None:  # or between the launch and its execution; the same launch is the same execution
            services.launcher.start(job.job_id, job.launch.number)
