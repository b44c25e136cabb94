"""One hundred jobs with caps, whose trainers are killed at any moment.

The clock is a fake one. Store, control and the train step's own decision when to stop are the real ones; only the
training itself is a loop that lets time pass.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.errors import CapReached
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.jobs.record import Claim, FencingToken, Job
from gemtune.jobs.status import Step
from gemtune.jobs.steps import HEARTBEAT_SECONDS
from gemtune.ports import ExecutionState
from gemtune.request.parsing import read_resume
from tests.fakes import World
from trainer.context import Context, StopRequested
from trainer.steps.train_attempt import TrainAttempt

JOBS, SEED = 100, 22


class Killed(Exception):
    """Raised in the place of SIGKILL."""


@dataclass
class Trained:
    """A job, and the time that its processes truly took.

    over_cap: seconds beyond a cap at which it was paused, with what it may have been over.
    """

    world: World
    chance: random.Random
    job_id: str = ""
    seconds: float = 0.0
    checkpoint: int = 0
    longest_step: float = 0.0
    longest_save: float = 0.0
    over_cap: list[tuple[float, float]] = field(default_factory=list)
    kill_at: float = 0.0
    kills: int = 0
    fence: FencingToken | None = None

    def __post_init__(self) -> None:
        chance = self.chance
        self.total = chance.randint(5, 15)
        self.step_seconds, self.save_seconds = chance.uniform(0.5, 60), chance.uniform(0.1, 90)
        self.save_every = chance.randint(1, 6)
        # Half of the jobs evaluate, for up to ten times as long as a train_step takes.
        self.evaluate_every = chance.choice((0, chance.randint(1, 6)))
        self.evaluation_seconds, self.has_baseline = self.step_seconds * chance.uniform(0.1, 10), False
        hours = chance.uniform(0.02, 0.3)
        by_price = {"max_cost_usd": 3.6 * hours} if chance.random() < 0.5 else {"max_hours": hours}
        self.job_id = self.world.submit(**by_price)

    @property
    def job(self) -> Job:
        return self.world.services.store.get(self.job_id)

    def run(self) -> None:
        """Run the job to its end; resume it whenever it is paused."""
        while not self.job.is_over:
            self.world.services.dispatch.launch(self.job_id)
            self._run_launch()
            if self.job.status == "paused":
                assert self.job.pause is not None
                assert self.job.pause.reason == "cost_cap"
                self.over_cap.append((self.seconds - self._cap_seconds(), self.longest_step + self.longest_save))
                with pytest.raises(CapReached):
                    self.world.services.resume(self.job_id)
                self._resume_with_more()

    def _resume_with_more(self) -> None:
        more = max(self._cap_seconds(), self._recorded()) + self.chance.uniform(60, 1500)
        body = f'{{"max_hours": {more / 3600}, "max_cost_usd": {more / 1000}}}'
        self.world.services.resume(self.job_id, read_resume(body.encode()))

    def _cap_seconds(self) -> float:
        job = self.job
        caps = [] if job.max_hours is None else [job.max_hours * 3600]
        return min([*caps, *([] if job.max_cost_usd is None else [job.max_cost_usd * 1000])])

    def _recorded(self) -> float:
        return sum(record.seconds for record in self.job.steps.values())

    def _run_launch(self) -> None:
        control, launch = self.world.services.control, self.job.launch.number
        claim = Claim(launch=launch, execution=f"{self.job_id}#{launch}")
        assert control.claim(self.job_id, claim) is not None
        for step in Step:
            round_number = 0
            while True:
                verdict = control.admit(self.job_id, claim, step).verdict
                if verdict == "stop":
                    return
                if verdict == "done":
                    break
                round_number += 1
                error = self._execute(step, claim)
                if error is not None and self.chance.random() < 0.3:  # the workflow is lost, too
                    self.world.launcher.states[claim.execution] = ExecutionState.FAILED
                    self.world.clock.advance(seconds=self.chance.uniform(0, 300))
                    self.world.services.sweep()
                    return
                ruling = control.step_ended(self.job_id, claim, step, round_number=round_number, error=error)
                if ruling.verdict == "stop":
                    return
                if ruling.verdict == "done":
                    break

    def _execute(self, step: Step, claim: Claim) -> PlatformError | None:
        """Run one execution; returns the platform's error if it was killed."""
        is_killed = self.kills < 2 and self.chance.random() < 0.4
        self.kill_at = self.seconds + self.chance.expovariate(1 / 200) if is_killed else float("inf")
        began, self.fence = self.seconds, None
        try:
            self._attempt(step, claim)
        except Killed:
            self.kills += 1
            self._beat_until(self.seconds - (self.seconds - began) % HEARTBEAT_SECONDS)
            return PlatformError("code -9")
        return None

    def _beat_until(self, seconds: float) -> None:
        """Record the last heartbeat, which came before the kill."""
        if self.fence is not None:
            late = self.seconds - seconds
            self.world.clock.set_back(seconds=late)
            self.world.services.advance.heartbeat(self.job_id, self.fence)
            self.world.clock.advance(seconds=late)

    def _pass(self, seconds: float) -> None:
        """Let the process take some time, in which it may be killed."""
        seconds = min(seconds, max(0.0, self.kill_at - self.seconds))
        self.world.clock.advance(seconds=seconds)
        self.seconds += seconds
        if self.seconds >= self.kill_at:
            raise Killed

    def _attempt(self, step: Step, claim: Claim) -> None:
        advance = self.world.services.advance
        begun = advance.begin(self.job_id, step, claim, execution="run")
        if begun is None:
            return
        job, self.fence = begun
        context = self._context(job, self.fence)
        self._pass_checked(context, self.chance.uniform(1, 120))
        if context.stop_cause() is not None:
            advance.stop(self.job_id, self.fence, cause="cost_cap")
            return
        if step is Step.TRAIN and not self._train(context):
            return
        advance.finish(self.job_id, self.fence)

    def _pass_checked(self, context: Context, seconds: float) -> None:
        """Let time pass in work that looks every second whether to stop."""
        for _ in range(int(seconds)):
            if context.stop_cause() is not None:
                return
            self._pass(1.0)

    def _context(self, job: Job, fence: FencingToken) -> Context:
        services = self.world.services
        left = services.advance.seconds_left(job, fence.step)
        assert left is not None
        assert fence.began is not None
        return Context(
            job=job,
            spec=SimpleNamespace(  # type: ignore[arg-type]
                training_config=SimpleNamespace(eval_strategy="steps" if self.evaluate_every else "no")
            ),
            fence=fence,
            buckets=services.buckets,
            advance=services.advance,
            work=Path("unused"),
            secret=lambda role: None,
            deadline=None,
            clock=self.world.clock,
            should_stop=lambda: False,
            cap_reached_at=fence.began + left,
        )

    def _train(self, context: Context) -> bool:
        """Train from the newest checkpoint. Returns whether it is finished."""
        attempt = TrainAttempt(context, NoProgress())  # type: ignore[arg-type]
        if self.evaluate_every and not self._evaluate_base(context, attempt):
            return False
        with suppress(StopRequested):
            context.check_pause(seconds_to_end=attempt.seconds_to_end)
            return self._train_steps(context, attempt)
        return self._stop(context)

    def _train_steps(self, context: Context, attempt: TrainAttempt) -> bool:
        step = self.checkpoint
        attempt.last_step_at = self.world.clock.monotonic()
        while step < self.total:
            began = self.seconds
            self._pass(self.step_seconds * self.chance.uniform(0.8, 1.2))
            self.longest_step, step = max(self.longest_step, self.seconds - began), step + 1
            must_stop = attempt._must_stop()
            if self.evaluate_every and step % self.evaluate_every == 0:
                self._pass(self.evaluation_seconds * self.chance.uniform(0.8, 1.2))
                attempt.hooks().evaluated(step, EvaluationMetrics(loss=1.0))
            if must_stop or step % self.save_every == 0 or step == self.total:
                began = self.seconds
                self._pass(self.save_seconds * self.chance.uniform(0.8, 1.2))
                self.longest_save, self.checkpoint = max(self.longest_save, self.seconds - began), step
                context.advance.record_checkpoint(self.job_id, context.fence, train_step=step)
                attempt.last_step_at = self.world.clock.monotonic()
                attempt.save_seconds = max(attempt.save_seconds, self.seconds - began)
            if must_stop and step < self.total:
                assert attempt.stop_cause is not None
                context.advance.stop(self.job_id, context.fence, cause=attempt.stop_cause)
                return False
        return True

    def _stop(self, context: Context) -> bool:
        """End the attempt at its cap; return that training is not finished."""
        assert self.fence is not None
        context.advance.stop(self.job_id, self.fence, cause="cost_cap")
        return False

    def _evaluate_base(self, context: Context, attempt: TrainAttempt) -> bool:
        """Evaluate the base model once. Returns False if a cap ended that."""
        attempt.recall_evaluation()
        if not self.has_baseline:
            began = self.seconds
            self._pass_checked(context, self.evaluation_seconds)
            if context.stop_cause() is not None:
                return self._stop(context)
            attempt.note_evaluation(self.seconds - began)
            self.has_baseline = True
        return True


class NoProgress:
    """Progress log that records nothing."""

    def evaluated(self, train_step: int, metrics: EvaluationMetrics) -> None:
        """Record nothing."""


def test_no_job_passes_its_cap_by_more_than_a_train_step_and_a_checkpoint_and_all_go_on(tmp_path: Path) -> None:
    world = World(tmp_path / "home", {"GEMTUNE_USD_PER_HOUR": "local=3.60"})
    jobs = []
    for number in range(JOBS):
        job = Trained(world, random.Random(SEED * 1000 + number))
        job.run()
        jobs.append(job)
    assert {job.job.status for job in jobs} == {"completed"}
    pauses = [each for job in jobs for each in job.over_cap]
    assert [over for over, allowed in pauses if over > allowed + 1] == []
    # The test has met what it is about.
    assert len(pauses) > JOBS // 2
    assert sum(job.kills for job in jobs) > JOBS // 2
    assert all(job.checkpoint == job.total for job in jobs)
    # The record has the true spending, and for each kill at most one heartbeat more.
    for job in jobs:
        assert -0.1 <= job._recorded() - job.seconds <= job.kills * HEARTBEAT_SECONDS + 0.1
