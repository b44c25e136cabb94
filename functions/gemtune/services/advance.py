"""What a running step may write, each write signed with its claim and attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gemtune.errors import SecretNotFound
from gemtune.jobs import changes, steps
from gemtune.jobs.record import NO_RESULT, Artifact, Claim, Failure, FencingToken, Job, Progress, StepResult
from gemtune.jobs.secret_names import SECRET_TTL, job_secrets
from gemtune.jobs.status import Step
from gemtune.ports import Clock, JobStore, Secrets


@dataclass(frozen=True, slots=True)
class Advance:
    store: JobStore
    secrets: Secrets
    clock: Clock
    service_secrets: Mapping[str, str]  # role -> name, for jobs that bring none of their own

    def begin(self, job_id: str, step: Step, claim: Claim, *, execution: str) -> tuple[Job, FencingToken] | None:
        """Begin the next attempt of a step; None when the step is done already.

        Raises JobNotFound, and StaleClaim when the job is over or another execution has it.
        """
        now, began = self.clock.now(), self.clock.monotonic()
        job = self.store.update(job_id, lambda job: steps.begin_attempt(job, step, claim, execution=execution, at=now))
        if job.steps[step].state == "done":
            return None
        for name in job_secrets(job):
            with suppress(SecretNotFound):  # the step that needs it says so better
                self.secrets.renew(name, ttl=SECRET_TTL)
        return job, FencingToken(claim=claim, step=step, attempt=job.steps[step].attempt, began=began)

    def secret(self, job: Job, role: str) -> str | None:
        """The value of a job's secret ("hf_token"), or of the service's own; None without either.

        Raises SecretNotFound when it is gone.
        """
        name = job.secret_names.get(role) or self.service_secrets.get(role)
        return None if name is None else self.secrets.read(name)

    def heartbeat(self, job_id: str, fence: FencingToken, progress: Progress | None = None) -> None:
        """Say that the attempt lives. Raises JobNotFound, StaleClaim, StaleAttempt: stop at once."""
        self.store.record_progress(job_id, fence, progress, self.clock.now())

    def record_checkpoint(self, job_id: str, fence: FencingToken, *, train_step: int) -> None:
        """A whole checkpoint of this train_step lies in the objects store. Raises like heartbeat."""
        now = self.clock.now()
        self.store.update(job_id, lambda job: steps.record_checkpoint(job, fence, train_step=train_step, at=now))

    def record_wandb_url(self, job_id: str, fence: FencingToken, *, wandb_url: str) -> None:
        """W&B shows the training there. Raises like heartbeat."""
        self.store.update(job_id, lambda job: steps.record_wandb_url(job, fence, wandb_url=wandb_url))

    def record_artifacts(self, job_id: str, fence: FencingToken, artifacts: Sequence[Artifact]) -> None:
        """These files are whole, whatever becomes of the rest of the step. Raises like heartbeat."""
        self.store.update(job_id, lambda job: steps.record_artifacts(job, fence, artifacts))

    def stop(self, job_id: str, fence: FencingToken, *, cause: str) -> None:
        """The attempt ends unfinished, at a checkpoint or by a crash, and may be tried again. Raises like heartbeat."""
        now, ran = self.clock.now(), self._ran(fence)
        self.store.update(job_id, lambda job: steps.stop_attempt(job, fence, cause=cause, at=now, ran=ran))

    def fail(self, job_id: str, fence: FencingToken, failure: Failure) -> None:
        """The job fails for good. Raises like heartbeat."""
        now, ran = self.clock.now(), self._ran(fence)

        def change(job: Job) -> changes.Changed:
            steps.check_fencing_token(job, fence)
            return changes.fail_job(job, failure, at=now, ran=ran)

        self.store.update(job_id, change)

    def finish(self, job_id: str, fence: FencingToken, result: StepResult = NO_RESULT) -> None:
        """The step's work is whole; export's end completes the job. Raises like heartbeat."""
        now, ran = self.clock.now(), self._ran(fence)
        self.store.update(job_id, lambda job: steps.finish_step(job, fence, result, at=now, ran=ran))

    def _ran(self, fence: FencingToken) -> float | None:
        """Seconds since the attempt's begin, by this process's own clock."""
        return None if fence.began is None else self.clock.monotonic() - fence.began
