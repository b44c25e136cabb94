"""Interrupting a run at any train_step, in any way, changes nothing in it.

The job's record says what interrupted it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.admission.platform import PlatformError
from gemtune.clock import SystemClock
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from gemtune.request.parsing import read_resume
from gemtune.training_files.loss_history import loss_history
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter, after_steps
from tests.trainer.test_entry import run_trainer
from trainer.__main__ import _run_step
from trainer.context import Context, StopRequested
from trainer.process import heartbeat
from trainer.steps import train
from trainer.steps.train_attempt import TrainAttempt
from trainer.store import checkpoints

TRAINING = {
    "max_steps": 14,
    "save_steps": 3,
    "batch_size": 3,
    "lora_dropout": 0.1,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 4,
}

# Runs in the trainer's process before the trainer; kills it at the n-th train_step.
KILLING = """
import os, signal, sys
from trainer.steps.train_attempt import TrainAttempt
must_stop, calls = TrainAttempt._must_stop, []
def hooked(attempt):
    calls.append(1)
    if len(calls) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return must_stop(attempt)
TrainAttempt._must_stop = hooked
"""


def history(bench: Bench) -> list[dict[str, Any]]:
    """Return the loss curve without clock times and speed."""
    entries = loss_history(bench.services.buckets.export, bench.job_id, after=0)
    return [{name: e[name] for name in e if name not in ("at", "tokens_per_second")} for e in entries]


def same_training(first: Bench, second: Bench) -> bool:
    before, after = (adapter(bench, bench.job.steps[Step.TRAIN].attempt) for bench in (first, second))
    return (
        history(first) == history(second)
        and all(torch.equal(before[name], after[name]) for name in before)
        and first.job.metrics == second.job.metrics
    )


class LateClock(SystemClock):
    late = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.late


CAUSES = {"disk": "OSError: [Errno 28] No space left on device", "crash": "ConnectionError: the network is away"}


class Fault:
    """One fault to inject.

    A full disk strikes at the n-th upload, any other kind at the n-th train_step.
    """

    def __init__(self, kind: str, after: int, clock: LateClock):
        self.kind, self.remaining, self.clock, self.stop = kind, after, clock, threading.Event()

    def on_upload(self) -> None:
        if self.kind == "disk" and self._is_due():
            raise OSError(28, "No space left on device")

    def on_train_step(self, bench: Bench, context: Context) -> None:
        if self.kind in ("disk", "none") or not self._is_due():
            return
        if self.kind == "crash":
            raise ConnectionError("the network is away")
        if self.kind == "sigterm":
            self.stop.set()
        elif self.kind == "pause":
            bench.services.pause(bench.job_id)
            while not context.should_pause():
                time.sleep(0.01)
        else:
            self.clock.late = 3600.0

    def _is_due(self) -> bool:
        self.remaining -= 1
        return self.remaining == 0


def run_with(fault: Fault, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run an attempt of the train step as its process does, with a fault.

    Returns the exit code.
    """
    upload, must_stop = FolderObjects.upload, TrainAttempt._must_stop
    bench.services.__dict__["clock"] = fault.clock
    with monkeypatch.context() as patched:
        patched.setattr(heartbeat, "SECONDS", 0.05)
        patched.setattr(heartbeat, "GRACE_SECONDS", threading.TIMEOUT_MAX)  # this process runs other tests, too
        patched.setattr(FolderObjects, "upload", lambda *a: (fault.on_upload(), upload(*a))[1])
        patched.setattr(TrainAttempt, "_must_stop", lambda a: (fault.on_train_step(bench, a.context), must_stop(a))[1])
        job, fence = bench.begin(Step.TRAIN)
        return _run_step(bench.services, job, fence, 1000, fault.stop)


def test_a_heartbeat_does_not_end_the_process_of_a_step_that_is_done(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tidying up and the upload to W&B go on after the step is recorded."""
    bench, exits = bench_of(max_steps=1).to(Step.PREPARE), list[int]()
    delete_prefix = FolderObjects.delete_prefix

    def delete_slowly(objects: FolderObjects, prefix: str) -> None:
        for thread in threading.enumerate():
            if thread.name == "heartbeat":
                thread.join()
        delete_prefix(objects, prefix)

    monkeypatch.setattr(heartbeat, "SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "GRACE_SECONDS", 0)
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(FolderObjects, "delete_prefix", delete_slowly)
    job, fence = bench.begin(Step.TRAIN)
    assert _run_step(bench.services, job, fence, 1000, threading.Event()) == 0
    assert exits == []
    assert bench.job.steps[Step.TRAIN].state == "done"


def report_end(bench: Bench, code: int) -> str:
    """Report the end of the train step to control; return the verdict."""
    number = bench.job.steps[Step.TRAIN].attempt
    error = None if code == 0 else PlatformError(f"code {code}")
    return bench.services.control.step_ended(
        bench.job_id, bench.claim, Step.TRAIN, round_number=number, error=error
    ).verdict


def test_a_paused_training_gives_the_same_result_as_an_uninterrupted_one(
    bench_of: Callable[..., Bench], trained_once: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, paused = trained_once(**TRAINING), bench_of(**TRAINING).to(Step.PREPARE)
    for after, checkpoint in ((5, 5), (4, 9)):
        assert run_with(Fault("pause", after, LateClock()), paused, monkeypatch) == 0
        assert report_end(paused, 0) == "stop"
        job = paused.job
        assert (job.status, job.steps[Step.TRAIN].checkpoint, job.steps[Step.TRAIN].cause) == (
            "paused",
            checkpoint,
            "paused",
        )
        paused.services.resume(paused.job_id)
        paused.services.dispatch.launch(paused.job_id)
        paused.claim = Claim(launch=paused.job.launch.number, execution="e")
        assert paused.services.control.claim(paused.job_id, paused.claim) is not None
    assert run_with(Fault("none", 0, LateClock()), paused, monkeypatch) == 0
    assert report_end(paused, 0) == "done"
    assert same_training(uninterrupted, paused)


def test_three_timeouts_and_a_kill_train_the_same_as_an_uninterrupted_run(
    bench_of: Callable[..., Bench], trained_once: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill needs a process of its own."""
    uninterrupted, interrupted = trained_once(**TRAINING), bench_of(**TRAINING).to(Step.PREPARE)
    codes, verdicts = list[int](), list[str]()
    for kind, after in (("time", 2), ("time", 3), ("kill", 5), ("time", 2), ("none", 0)):
        if kind == "kill":  # at train_step 10, with a checkpoint of 9
            codes.append(run_trainer(interrupted, "train", code=KILLING.format(after=after))[0])
        else:
            codes.append(run_with(Fault(kind, after, LateClock()), interrupted, monkeypatch))
        verdicts.append(report_end(interrupted, codes[-1]))
    assert verdicts == ["again"] * 4 + ["done"]
    assert codes == [0, 0, -9, 0, 0]
    assert same_training(uninterrupted, interrupted)
    step = interrupted.job.steps[Step.TRAIN]
    assert [(attempt.cause, attempt.checkpoint) for attempt in step.attempts] == [
        ("out_of_time", 2),
        ("out_of_time", 5),
        ("code -9", 9),
        ("out_of_time", 11),
        (None, 14),
    ]
    assert sum(attempt.seconds for attempt in step.attempts) == pytest.approx(step.seconds, abs=0.01)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_interruption_at_any_train_step_ends_with_the_same_weights(
    bench_of: Callable[..., Bench],
    trained_once: Callable[..., Bench],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(seed)
    uninterrupted, interrupted = trained_once(**TRAINING), bench_of(**TRAINING).to(Step.PREPARE)
    outcomes: list[tuple[str, int]] = []
    for kind in (*rng.sample(["sigterm", "out_of_time", "disk", "crash"], 4), "none"):
        fault = Fault(kind, rng.randint(1, 5), LateClock())
        outcomes.append((kind, run_with(fault, interrupted, monkeypatch)))
        if interrupted.job.steps[Step.TRAIN].state == "done":
            break
    assert same_training(uninterrupted, interrupted), outcomes
    assert outcomes[:-1] == [(kind, 70 if kind in CAUSES else 0) for kind, _ in outcomes[:-1]]
    causes = [attempt.cause for attempt in interrupted.job.steps[Step.TRAIN].attempts]
    assert causes == [CAUSES.get(kind, kind) for kind, _ in outcomes[:-1]] + [None]
    assert len(outcomes) > 2


def resume_with_more(bench: Bench, hours: float) -> None:
    bench.services.resume(bench.job_id, read_resume(f'{{"max_hours": {hours}}}'.encode()))
    bench.services.dispatch.launch(bench.job_id)
    bench.claim = Claim(launch=bench.job.launch.number, execution="e")
    assert bench.services.control.claim(bench.job_id, bench.claim) is not None


def test_a_training_that_reached_its_cap_gives_the_same_result_when_it_goes_on(
    bench_of: Callable[..., Bench], trained_once: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, capped = trained_once(**TRAINING), bench_of(**TRAINING)
    capped.fields = {"max_hours": 1}
    capped.to(Step.PREPARE)
    clock, must_stop = LateClock(), TrainAttempt._must_stop
    reached_at = clock.monotonic() + 1800
    fault = Fault("cost_cap", 5, clock)
    with monkeypatch.context() as patched:
        patched.setattr(TrainAttempt, "_must_stop", lambda a: (fault.on_train_step(capped, a.context), must_stop(a))[1])
        train.run(replace(capped.context(Step.TRAIN), clock=clock, cap_reached_at=reached_at))
    job = capped.job
    assert job.pause is not None
    assert (job.status, job.pause.reason, job.steps[Step.TRAIN].checkpoint) == ("paused", "cost_cap", 5)
    resume_with_more(capped, 2)
    # The cap is reached while the model is loaded: no train_step begins, and nothing is lost.
    with pytest.raises(StopRequested) as stopped:
        train.run(replace(capped.context(Step.TRAIN), clock=clock, cap_reached_at=reached_at))
    assert stopped.value.cause == "cost_cap"
    capped.run(Step.TRAIN)
    assert same_training(uninterrupted, capped)


def test_a_cap_that_is_reached_in_the_last_evaluation_keeps_the_last_checkpoint(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(max_steps=4).to(Step.PREPARE)
    clock, evaluate = LateClock(), train._evaluate
    evaluations = list[int]()

    def evaluated_late(context: Any, trainer: Any) -> Any:
        evaluations.append(1)
        clock.late = 3600.0 if len(evaluations) == 2 else 0.0  # the first one is that of the base model
        return evaluate(context, trainer)

    with monkeypatch.context() as patched:
        patched.setattr(train, "_evaluate", evaluated_late)
        with pytest.raises(StopRequested):
            train.run(replace(bench.context(Step.TRAIN), clock=clock, cap_reached_at=clock.monotonic() + 1800))
    assert (bench.job.steps[Step.TRAIN].checkpoint, len(evaluations)) == (4, 2)
    bench.run(Step.TRAIN)
    assert bench.job.metrics is not None


def test_losses_between_logged_train_steps_survive_interruptions(bench_of: Callable[..., Bench]) -> None:
    training = {"logging_steps": 4, "max_steps": 9, "save_steps": 2}
    uninterrupted, interrupted = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    interrupted.run(Step.TRAIN, should_stop=after_steps(4))
    interrupted.run(Step.TRAIN, should_stop=after_steps(1))
    interrupted.run(Step.TRAIN)
    assert [entry["train_step"] for entry in history(uninterrupted) if "loss" in entry] == [4, 8]
    assert same_training(uninterrupted, interrupted)


@pytest.mark.parametrize(("scheduler", "warmup"), [("linear", 0.25), ("cosine", 0.1), ("polynomial", 0.5)])
def test_learning_rates_are_those_of_transformers(
    bench_of: Callable[..., Bench], scheduler: str, warmup: float
) -> None:
    from transformers import get_scheduler

    bench = bench_of(lr_scheduler_type=scheduler, warmup_ratio=warmup, max_steps=10).to(Step.TRAIN)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.005)
    named: Any = scheduler
    schedule = get_scheduler(named, optimizer, num_warmup_steps=-int(-10 * warmup // 1), num_training_steps=10)
    expected = []
    for _ in range(10):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [entry["learning_rate"] for entry in history(bench) if "loss" in entry] == pytest.approx(expected)


def test_max_steps_takes_precedence_over_epochs(bench_of: Callable[..., Bench]) -> None:
    short, long = bench_of(epochs=9, max_steps=4).to(Step.TRAIN), bench_of(epochs=1, max_steps=9).to(Step.TRAIN)
    assert [bench.curve()[-1][0] for bench in (short, long)] == [4, 9]


class SlowClock(SystemClock):
    """Clock on which two and a half minutes pass between two looks at it."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def monotonic(self) -> float:
        self._seconds += 150.0
        return self._seconds


def test_checkpoints_are_saved_by_time_and_change_nothing(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 8, "save_steps": 1000, "lora_dropout": 0.1}
    uninterrupted, by_time = bench_of(**training).to(Step.TRAIN), bench_of(**training).to(Step.PREPARE)
    saved: list[int] = []
    finish = checkpoints.Saving.finish

    def note(saving: checkpoints.Saving, folder: Path) -> None:
        saved.append(int(saving.prefix.rpartition("-")[2]))
        finish(saving, folder)

    monkeypatch.setattr(checkpoints.Saving, "finish", note)
    train.run(replace(by_time.context(Step.TRAIN), clock=SlowClock()))
    assert len(saved) >= 2
    assert max(later - earlier for earlier, later in pairwise([0, *saved])) <= 4
    assert same_training(by_time, uninterrupted)
