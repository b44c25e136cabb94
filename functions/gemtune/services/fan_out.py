"""Fan-out of a job's events to the topic job-status.

Events are published in order, each at least once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemtune.errors import JobNotFound, RecordUnreadable
from gemtune.jobs.events import Event
from gemtune.jobs.record import Job
from gemtune.jobs.secret_names import job_secrets
from gemtune.ports import Bus, JobStore, Secrets, Topic
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.notify import webhook_message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FanOut:
    """Service that publishes the events of jobs."""

    store: JobStore
    bus: Bus
    secrets: Secrets
    budgets: OwnerBudgets

    def __call__(self, job_id: str) -> None:
        """Publish all events of a job that are not published yet.

        The record says which events these are, so that any call may serve any event, and several may run at the same
        time. Each publish is waited for before the next one, which keeps the order. `published_seq` is raised only
        afterwards: after a crash in between, an event is published twice, but never lost.
        """
        try:
            job = self.store.get(job_id)
            published = job.published_seq
            while events := self.store.events(job_id, after=published):
                for event in events:
                    self._publish(job, event)
                    published = event.seq
                job = self.store.get(job_id)
                self.budgets.enter(job)  # again after a crash: nothing may be left out
                self.store.mark_published(job_id, published)
            if job.is_over:
                for name in job_secrets(job):
                    self.secrets.delete(name)
        except JobNotFound:
            return  # deleted in the meantime, so no one waits for its events
        except RecordUnreadable as error:
            # `sweep` tries again until the job is cancelled or the version that wrote its record is deployed again.
            log.warning("%s", error)

    def _publish(self, job: Job, event: Event) -> None:
        """Publish an event on job-status, and enqueue its webhook if any."""
        attributes = {
            "job_id": job.job_id,
            "type": event.type,
            "status": event.status,
            "modality": job.modality,
            "idempotency_key": job.idempotency_key or "",
        }
        body = event.model_dump_json().encode()
        self.bus.publish(Topic.JOB_STATUS, body, attributes=attributes, ordering_key=job.job_id, durable=False)
        log.info("job %s: %s", job.job_id, event.type)  # a metric counts failed jobs by this line
        if job.webhook_url is not None:  # on a topic of its own, since a receiver may be slow or down
            message = webhook_message(job.webhook_url, event)
            self.bus.publish(Topic.WEBHOOKS, message, attributes={"job_id": job.job_id}, durable=False)
