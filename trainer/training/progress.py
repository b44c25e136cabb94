"""Tells how far a training is: the record every few seconds, the loss curve in a file of its attempt."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemtune.jobs.record import EvaluationMetrics, Progress
from gemtune.ports import Clock, Objects
from trainer.training.tracking import Tracking

# Seconds between writes to the record: a document takes about one a second; progress has no need of it.
EVERY = 5.0
# Train_steps that the time to go is estimated from.
RECENT = 20

# What reinforcement learning logs beside the loss, by TRL's names.
REWARDS = ("reward", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "logps/")


def rewards_in(logs: Mapping[str, Any]) -> dict[str, float]:
    """The rewards, and what belongs to them, of a trainer's log entry."""
    return {name: value for name, value in logs.items() if name.startswith(REWARDS) and value is not None}


@dataclass
class ProgressLog:
    """report: writes progress (and the heartbeat) to the record. Loss curve: one JSON object a line. tracking: who is
    shown all of it besides."""

    objects: Objects
    name: str
    report: Callable[[Progress], None]
    clock: Clock
    tracking: Tracking
    _lines: list[str] = field(default_factory=list)
    _written_at: float | None = None
    _steps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT + 1))
    _latest: Progress | None = None

    def began(self) -> None:
        """The first train_step of this attempt is about to start."""
        self._steps.append((self.clock.monotonic(), 0))

    def stepped(
        self, *, train_step: int, total_steps: int, epoch: float, loss: float, learning_rate: float, tokens: int,
        rewards: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """A train_step was logged; `tokens` counts those of this attempt so far, without padding. rewards: of
        `rewards_in`."""
        rewards = rewards or {}
        now = self.clock.monotonic()
        self._steps.append((now, tokens))
        elapsed = now - self._steps[0][0]
        speed = (tokens - self._steps[0][1]) / elapsed if elapsed > 0 else None
        a_step = elapsed / (len(self._steps) - 1) if len(self._steps) > 1 else None
        self._latest = Progress(
            train_step=train_step,
            total_steps=total_steps,
            epoch=round(epoch, 4),
            loss=loss,
            reward=rewards.get("reward"),
            margin=rewards.get("rewards/margins"),
            learning_rate=learning_rate,
            tokens_per_second=None if speed is None else round(speed, 1),
            eta_seconds=None if a_step is None else round(a_step * max(0, total_steps - train_step), 1),
        )
        kept = self._latest.model_dump(include={"train_step", "epoch", "loss", "learning_rate", "tokens_per_second"})
        self._line(kept | dict(rewards) | {"at": self.clock.now().isoformat()})
        self.tracking.stepped(self._latest, rewards)
        if self._written_at is None or now - self._written_at >= EVERY:
            self.flush()

    def ended(self, *, train_step: int, total_steps: int, epoch: float) -> None:
        """There is nothing left to train; the last train_steps may not have been logged."""
        there = {"train_step": train_step, "total_steps": total_steps, "epoch": round(epoch, 4), "eta_seconds": 0.0}
        self._latest = (self._latest or Progress()).model_copy(update=there)
        self.flush()

    def evaluated(self, train_step: int, figures: EvaluationMetrics) -> None:
        self._line({"train_step": train_step, **figures.by_name(), "at": self.clock.now().isoformat()})
        self.tracking.evaluated(train_step, figures)

    def flush(self) -> None:
        """Write what there is: the file whole, then the record. Raises what `report` raises."""
        self._written_at = self.clock.monotonic()
        if self._lines:
            self.objects.write(self.name, "".join(self._lines).encode())
        if self._latest is not None:
            self.report(self._latest)

    def _line(self, entry: dict[str, Any]) -> None:
        self._lines.append(json.dumps(entry) + "\n")
