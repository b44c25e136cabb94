"""Progress of the train step, in the record, the loss curve and trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.jobs.parts.metrics import EvaluationMetrics, Progress
from tests.fakes import FakeClock
from trainer.training.progress import ProgressLog, rewards_in

CURVE = "jobs/x/metrics/1.jsonl"


class RecordedProgress:
    """Progress log that records everything it reports."""

    def __init__(self, folder: Path):
        self.clock, self.objects = FakeClock(), FolderObjects(folder, "export")
        self.reports: list[Progress] = []
        self.tracked: list[Any] = []
        self.log = ProgressLog(self.objects, CURVE, self.reports.append, self.clock, self)  # type: ignore[arg-type]

    def stepped(self, progress: Progress, rewards: Any) -> None:
        self.tracked.append((progress.train_step, rewards))

    def evaluated(self, train_step: int, figures: EvaluationMetrics) -> None:
        self.tracked.append((train_step, figures))

    def step(self, train_step: int, *, seconds: float, tokens: int, **more: Any) -> None:
        """Report one of ten train_steps, `seconds` after the previous one."""
        self.clock.advance(seconds=seconds)
        fixed = {"total_steps": 10, "epoch": train_step / 3, "loss": 2.0, "learning_rate": 1e-4}
        self.log.stepped(train_step=train_step, tokens=tokens, **(fixed | more))  # type: ignore[arg-type]

    def curve(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [json.loads(line) for line in self.objects.read(CURVE).decode().splitlines()]


@pytest.fixture
def progress(tmp_path: Path) -> RecordedProgress:
    return RecordedProgress(tmp_path)


def test_speed_and_remaining_time_are_estimated_from_the_train_steps_so_far(progress: RecordedProgress) -> None:
    progress.log.began()
    progress.step(1, seconds=2, tokens=100)
    progress.step(2, seconds=4, tokens=600)
    progress.log.flush()
    first, last = progress.reports
    assert first == Progress(
        train_step=1,
        total_steps=10,
        epoch=0.3333,
        loss=2.0,
        learning_rate=1e-4,
        tokens_per_second=50.0,
        eta_seconds=18.0,
    )
    assert (last.train_step, last.tokens_per_second, last.eta_seconds) == (2, 100.0, 24.0)


def test_train_steps_of_less_than_a_second_have_a_speed_too(progress: RecordedProgress) -> None:
    progress.log.began()
    progress.step(1, seconds=0.5, tokens=100)
    assert (progress.reports[-1].tokens_per_second, progress.reports[-1].eta_seconds) == (200.0, 4.5)


def test_estimates_use_only_recent_train_steps(progress: RecordedProgress) -> None:
    progress.log.began()
    progress.step(1, seconds=1000, tokens=1)
    for number in range(2, 22):
        progress.step(number, seconds=1, tokens=1 + 10 * number, total_steps=100)
    progress.step(22, seconds=1, tokens=231, total_steps=100)
    progress.log.flush()
    assert (progress.reports[-1].tokens_per_second, progress.reports[-1].eta_seconds) == (10.5, 78.0)


def test_nothing_is_estimated_without_a_beginning_or_elapsed_time(progress: RecordedProgress) -> None:
    progress.step(1, seconds=0, tokens=100)
    progress.log.flush()
    assert (progress.reports[-1].tokens_per_second, progress.reports[-1].eta_seconds) == (None, None)


def test_the_record_is_written_at_once_and_then_every_five_seconds(progress: RecordedProgress) -> None:
    for number, seconds in enumerate((0, 1, 3.9, 0.1, 4.9, 0.1), start=1):
        progress.step(number, seconds=seconds, tokens=number)
    assert [report.train_step for report in progress.reports] == [1, 4, 6]


def test_a_clock_set_back_neither_stops_reports_nor_makes_times_negative(progress: RecordedProgress) -> None:
    progress.log.began()
    for number in range(1, 5):
        progress.step(number, seconds=6, tokens=600 * number)
        progress.clock.set_back(hours=1)
    assert [(report.train_step, report.tokens_per_second, report.eta_seconds) for report in progress.reports] == [
        (1, 100, 54),
        (2, 100, 48),
        (3, 100, 42),
        (4, 100, 36),
    ]


def test_more_train_steps_than_planned_leave_no_remaining_time(progress: RecordedProgress) -> None:
    progress.log.began()
    progress.step(11, seconds=6, tokens=600)
    assert progress.reports[-1].eta_seconds == 0


def test_the_loss_curve_has_a_line_for_each_train_step_and_evaluation(progress: RecordedProgress) -> None:
    at = progress.clock.now().isoformat()
    progress.step(1, seconds=0, tokens=5, rewards={"reward": 0.5, "rewards/margins": 0.25})
    progress.log.evaluated(1, EvaluationMetrics(eval_loss=1.5, accuracy=0.75))
    assert progress.curve() == [
        {
            "train_step": 1,
            "epoch": 0.3333,
            "loss": 2.0,
            "learning_rate": 1e-4,
            "tokens_per_second": None,
            "reward": 0.5,
            "rewards/margins": 0.25,
            "at": at,
        },
        {"train_step": 1, "eval_loss": 1.5, "accuracy": 0.75, "at": at},
    ]
    assert (progress.reports[-1].reward, progress.reports[-1].margin) == (0.5, 0.25)
    assert progress.tracked == [
        (1, {"reward": 0.5, "rewards/margins": 0.25}),
        (1, EvaluationMetrics(eval_loss=1.5, accuracy=0.75)),
    ]


def test_the_end_is_reported_even_if_the_last_train_steps_were_not_logged(progress: RecordedProgress) -> None:
    progress.step(7, seconds=0, tokens=5)
    progress.log.ended(train_step=10, total_steps=10, epoch=3.00004)
    last = progress.reports[-1]
    assert (last.train_step, last.total_steps, last.epoch, last.eta_seconds, last.loss) == (10, 10, 3.0, 0.0, 2.0)


def test_a_training_that_ends_at_once_reports_its_end_and_writes_no_curve(progress: RecordedProgress) -> None:
    progress.log.flush()
    assert progress.reports == []
    progress.log.ended(train_step=4, total_steps=4, epoch=1.0)
    assert progress.reports == [Progress(train_step=4, total_steps=4, epoch=1.0, eta_seconds=0.0)]
    assert progress.objects.stat(CURVE) is None


def test_rewards_are_the_additional_metrics_of_reinforcement_learning() -> None:
    logged = {
        "reward": 1.0,
        "rewards/margins": 2.0,
        "kl": 3.0,
        "entropy": 4.0,
        "completions/mean_length": 5.0,
        "completions/clipped_ratio": 6.0,
        "logps/chosen": 7.0,
        "reward_std": None,
    }
    others = {"loss": 1.0, "grad_norm": 2.0, "completions/max_length": 3.0, "learning_rate": 4.0}
    assert rewards_in(logged | others) == {name: value for name, value in logged.items() if value is not None}
