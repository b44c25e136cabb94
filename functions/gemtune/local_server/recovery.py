"""Recovery at the start of a local server.

No request is running at that time, so unfinished work was interrupted when an earlier server died.
"""

from __future__ import annotations

from gemtune.bootstrap import Services
from gemtune.embedded.sqlite_bus import SqliteBus
from gemtune.jobs.status import Status


def recover(services: Services, bus: SqliteBus) -> None:
    """Release a dead server's leases, and finish the launches that it began.

    `sweep` would do the same, but only after timeouts that allow for work which may still be running.
    """
    bus.release_leases()
    for job in services.store.unfinished():
        if job.status is Status.PAUSED:
            continue
        if job.launch.number == 0:  # the server died between storing the job and publishing its message
            services.submit.publish(job)
        elif job.claim is None:  # the server may have died between recording the launch and starting its execution
            services.launcher.start(job.job_id, job.launch.number)  # has no effect if the execution exists
