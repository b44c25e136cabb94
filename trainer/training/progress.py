"""Progress of the train step: in the job's record, and as a loss curve."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gemtune.jobs.parts.metrics import EvaluationMetrics, Progress
from gemtune.ports import Clock, Objects
from trainer.training.tracking import Tracking

# Seconds between writes to the record. Firestore takes about one write per second per document; progress needs fewer.
WRITE_SECONDS = 5.0
# The remaining time is estimated from this many train_steps.
ETA_STEPS = 20

# Prefixes of the metrics that TRL logs for RL in addition to the loss.
REWARDS = ("reward", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "logps/")


def rewards_in(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of RL in a log entry."""
    return {name: value for name, value in logs.items() if name.startswith(REWARDS) and value is not None}


@dataclass
class ProgressLog:
    """Writes the progress of one attempt to the record, a file and trackers.

    name: of the loss curve in the object store, with one JSON object per line. report: writes progress, and so a
    heartbeat, to the record. tracking: the trackers, such as TensorBoard.
    """

    objects: Objects
    name: str
    report: Callable[[Progress], None]
    clock: Clock
    tracking: Tracking
    _lines: list[str] = field(default_factory=list)
    _written_at: float | None = None
    _steps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=ETA_STEPS + 1))
    _latest: Progress | None = None

    def began(self) -> None:
        """Note the time at which the first train_step of this attempt starts."""
        self._steps.append((self.clock.monotonic(), 0))

    def stepped(
        self,
        *,
        train_step: int,
        total_steps: int,
        epoch: float,
        loss: float,
        learning_rate: float,
        tokens: int,
        rewards: Mapping[str, float] | None = None,
    ) -> None:
        """Record a logged train_step.

        loss: in nats per token, or TRL's loss. tokens: trained on in this attempt so far, without padding. rewards: see
        `rewards_in`.
        """
        rewards = rewards or {}
        now = self.clock.monotonic()
        self._steps.append((now, tokens))
        elapsed = now - self._steps[0][0]
        speed = (tokens - self._steps[0][1]) / elapsed if elapsed > 0 else None
        step_seconds = elapsed / (len(self._steps) - 1) if len(self._steps) > 1 else None
        self._latest = Progress(
            train_step=train_step,
            total_steps=total_steps,
            epoch=round(epoch, 4),
            loss=loss,
            reward=rewards.get("reward"),
            margin=rewards.get("rewards/margins"),
            learning_rate=learning_rate,
            tokens_per_second=None if speed is None else round(speed, 1),
            eta_seconds=None if step_seconds is None else round(step_seconds * max(0, total_steps - train_step), 1),
        )
        entry = self._latest.model_dump(include={"train_step", "epoch", "loss", "learning_rate", "tokens_per_second"})
        self._line(entry | dict(rewards) | {"at": self.clock.now().isoformat()})
        self.tracking.stepped(self._latest, rewards)
        if self._written_at is None or now - self._written_at >= WRITE_SECONDS:
            self.flush()

    def ended(self, *, train_step: int, total_steps: int, epoch: float) -> None:
        """Record that training is complete.

        The last train_steps may be unlogged.
        """
        final = {"train_step": train_step, "total_steps": total_steps, "epoch": round(epoch, 4), "eta_seconds": 0.0}
        self._latest = (self._latest or Progress()).model_copy(update=final)
        self.flush()

    def evaluated(self, train_step: int, metrics: EvaluationMetrics) -> None:
        """Record an evaluation after a train_step."""
        self._line({"train_step": train_step, **metrics.by_name(), "at": self.clock.now().isoformat()})
        self.tracking.evaluated(train_step, metrics)

    def flush(self) -> None:
        """Write the whole loss curve, then the record.

        Raises what `report` raises.
        """
        self._written_at = self.clock.monotonic()
        if self._lines:
            self.objects.write(self.name, "".join(self._lines).encode())
        if self._latest is not None:
            self.report(self._latest)

    def _line(self, entry: dict[str, Any]) -> None:
        """Append an entry to the loss curve."""
        self._lines.append(json.dumps(entry) + "\n")
