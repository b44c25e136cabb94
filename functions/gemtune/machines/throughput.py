"""Speed of a step on a machine: from finished jobs, or else from the hardware.

A step takes a fixed time, in which packages and weights are loaded and rows are evaluated, and some time per token. All
functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, FiniteFloat

from gemtune.families.size import ModelSize
from gemtune.machines.choice import LOCAL, MACHINES
from gemtune.methods import Method

# Finished jobs of each kind that are kept.
OBSERVATIONS_KEPT = 20
# Dense bfloat16 operations per second of a GPU, by its vendor's data sheet, and of one core of a CPU.
PEAK_FLOPS: Mapping[str, float] = {"nvidia-l4": 121e12, "nvidia-rtx-pro-6000": 503e12}
CORE_FLOPS = 1e11
# Share of the peak that training reaches. An estimate, until jobs of this deployment replace it.
EFFICIENCY = 0.35
# Operations per parameter and token: forward, gradients of the activations, and again forward for recomputed ones. All
# weights need their own gradients with method Full.
OPERATIONS: Mapping[Method, float] = {"LoRA": 6, "QLoRA": 7, "RL": 8, "Full": 8}
# Bytes per second at which weights are copied and written.
BYTES_PER_SECOND = 1e8
# Weight of a finished step relative to the one after it: a machine that others use too is not always equally fast.
RECENCY = 0.7
# Weight of the estimate from the hardware beside one finished job.
PRIOR_WEIGHT = 0.01


class Observation(BaseModel):
    """One finished step."""

    model_config = ConfigDict(frozen=True, extra="allow")

    tokens: FiniteFloat
    seconds: FiniteFloat


@dataclass(frozen=True, slots=True)
class Speed:
    """Duration of a step: `fixed` seconds, and `per_token` for each token.

    jobs: finished jobs behind it; 0 for an estimate from the hardware.
    """

    fixed: float
    per_token: float
    jobs: int = 0

    def seconds(self, tokens: float) -> float:
        """Return the duration for a number of tokens."""
        return self.fixed + self.per_token * tokens


def roofline(machine: str, size: ModelSize, method: Method, *, cores: int) -> Speed:
    """Estimate the speed of training from the machine's peak.

    cores: CPU cores of a workstation.
    """
    hardware = MACHINES.get(machine)
    gpu = None if hardware is None else hardware.gpu
    count = cores if hardware is None else hardware.cpus
    peak = PEAK_FLOPS[gpu] if gpu is not None else CORE_FLOPS * count
    fixed = (10 if machine == LOCAL else 60) + size.file_bytes / BYTES_PER_SECOND
    return Speed(fixed, OPERATIONS[method] * _active(size) / (EFFICIENCY * peak))


def copying(machine: str, size: ModelSize | None, *, per_token: float = 0.0) -> Speed:
    """Estimate the speed of a step that mostly copies the weights."""
    size_bytes = 0 if size is None else size.file_bytes
    return Speed((5 if machine == LOCAL else 60) + 2 * size_bytes / BYTES_PER_SECOND, per_token)


def fit(observations: Sequence[Observation], prior: Speed) -> Speed:
    """Fit the speed to finished steps, starting from an estimate.

    It minimizes the squared relative errors, in which newer steps weigh more, and with a small weight the distance of
    both parameters from the estimate. That decides where all jobs have the same size, which cannot tell fixed and
    variable time apart.
    """
    measured = [each for each in observations if each.seconds > 0]
    if not measured:
        return prior
    # Unknowns are multiples of the estimate's values: x for the fixed time, y for the time per token.
    scale_x, scale_y = max(prior.fixed, 1e-9), max(prior.per_token, 1e-12)
    weights = [RECENCY ** (age / 2) for age in range(len(measured))][::-1]
    rows = [
        (weight * scale_x / each.seconds, weight * scale_y * each.tokens / each.seconds, weight)
        for each, weight in zip(measured, weights, strict=True)
    ]
    xx, xy, yy = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    bx, by = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    ridge_x, ridge_y = PRIOR_WEIGHT * max(xx, 1e-12), PRIOR_WEIGHT * max(yy, 1e-12)
    x, y = _solve(xx + ridge_x, xy, yy + ridge_y, bx + ridge_x, by + ridge_y)
    if x < 0:
        x, y = 0.0, (by + ridge_y) / (yy + ridge_y)
    elif y < 0:
        x, y = (bx + ridge_x) / (xx + ridge_x), 0.0
    return Speed(x * scale_x, y * scale_y, len(measured))


def _solve(xx: float, xy: float, yy: float, bx: float, by: float) -> tuple[float, float]:
    """Solve the symmetric system of two linear equations."""
    determinant = xx * yy - xy * xy
    return (bx * yy - by * xy) / determinant, (by * xx - bx * xy) / determinant


def _active(size: ModelSize) -> float:
    """Return the parameters that process a token."""
    if size.experts is None:
        return float(size.parameters)
    return size.parameters - size.expert_parameters * (1 - size.experts.per_token / size.experts.count)
