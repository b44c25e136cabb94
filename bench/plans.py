"""Plans of finished jobs beside what happened (`python -m bench.plans`).

It reads the jobs of this deployment, as the settings name it (GEMTUNE_HOME on a workstation).
"""

from __future__ import annotations

from gemtune.bootstrap import services
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.status import Status
from gemtune.machines.cost import LIST_PRICES

# A plan is good if the steps took at most this share longer or shorter.
TOLERANCE = 0.2
# Finished jobs of a kind from which on a plan counts.
JOBS = 3


def main() -> None:
    """Print each completed job's plan beside its duration.

    The last line says how many plans were good.
    """
    store, token, good, counted = services().store, None, 0, 0
    print("| job | planned minutes | took | error | finished jobs behind it |\n|---|---|---|---|---|")
    while True:
        page = store.page(status=Status.COMPLETED, modality=None, limit=200, page_token=token)
        for summary in page.jobs:
            job = store.get(summary.job_id)
            error = JobStatus.of(job, LIST_PRICES).plan_error
            if job.plan is None or job.plan.minutes is None or error is None:
                continue
            jobs = min(step.jobs for step in job.plan.steps.values())
            took = sum(step.seconds for step in job.steps.values()) / 60
            print(f"| {job.job_id} | {job.plan.minutes.expected:.2f} | {took:.2f} | {error:+.0%} | {jobs} |")
            if jobs >= JOBS:
                counted, good = counted + 1, good + (abs(error) <= TOLERANCE)
        token = page.next_page_token
        if token is None:
            break
    print(f"\n{good} of {counted} plans after {JOBS} jobs of the kind were right within {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()
