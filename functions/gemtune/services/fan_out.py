"""Publishes a job's events on job-status: in order, each at least once."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemtune.errors import JobNotFound, RecordUnreadable
from gemtune.jobs.events import Event
from gemtune.jobs.record import Job
from gemtune.jobs.secret_names import job_secrets
from gemtune.ports import Bus, JobStore, Secrets, Topic
from gemtune.services.notify import webhook_message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FanOut:
    store: JobStore
    bus: Bus
    secrets: Secrets

    def __call__(self, job_id: str) -> None:
        """A wake-up: what to publish is read from the record, so it does not matter which event it is about, nor
        whether another wake-up works at the same time. Each publish is waited for before the next. That it was
        published is recorded after it, and lost with it."""
        try:
            job = self.store.get(job_id)
            published = job.published_seq
            while events := self.store.events(job_id, after=published):
                for event in events:
                    self._publish(job, event)
                    published = event.seq
                self.store.mark_published(job_id, published)
            if self.store.get(job_id).is_over:
                for name in job_secrets(job):
                    self.secrets.delete(name)
        except JobNotFound:
            return  # deleted meanwhile: nobody waits for its events any more
        except RecordUnreadable as error:
            # Its events wait, and `sweep` asks for them, until it is cancelled or its own version is here again.
            log.warning("%s", error)

    def _publish(self, job: Job, event: Event) -> None:
        attributes = {
            "job_id": job.job_id,
            "type": event.type,
            "status": event.status,
            "modality": job.modality,
            "idempotency_key": job.idempotency_key or "",
        }
        body = event.model_dump_json().encode()
        self.bus.publish(Topic.JOB_STATUS, body, attributes=attributes, ordering_key=job.job_id, durable=False)
        log.info("job %s: %s", job.job_id, event.type)  # failed jobs are counted by this line
        if job.webhook_url is not None:  # a receiver may be slow or away, so it has a topic of its own
            message = webhook_message(job.webhook_url, event)
            self.bus.publish(Topic.WEBHOOKS, message, attributes={"job_id": job.job_id}, durable=False)
