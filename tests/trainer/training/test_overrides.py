"""Methods of transformers and TRL that our trainers override still exist.

Nothing would call an override whose base method a release has removed: training would go on, and compute something
else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from trl.trainer import utils as trl_utils

from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.trainer.conftest import Bench
from trainer.training import grpo, job_trainer, reinforcement, sft
from trainer.training.preference import dpo, kto

OVERRIDING = (
    dpo.DpoTrainer,
    grpo.EpochSampler,
    grpo.GrpoTrainer,
    job_trainer.EarlyStopping,
    job_trainer.JobCallback,
    job_trainer.LossWindow,
    kto.KtoTrainer,
    sft.SftTrainer,
)
# accelerate calls this method if a sampler has it.
SAMPLER_METHODS = {"set_epoch"}
CODE = "".join(path.read_text() for path in (Path(__file__).parents[3] / "trainer").rglob("*.py"))


@pytest.mark.parametrize("kind", OVERRIDING)
def test_each_method_overrides_one_or_is_called_by_our_code(kind: type) -> None:
    defined = {name for name, value in vars(kind).items() if isinstance(value, FunctionType)}
    assert defined
    new = {name for name in defined if not any(hasattr(base, name) for base in kind.__mro__[1:])}
    assert {name for name in new if f".{name}(" not in CODE} <= SAMPLER_METHODS


@pytest.mark.parametrize("algorithm", ["dpo", "grpo"])
def test_log_probabilities_come_from_our_own_loss_head(
    bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    rewards = [{"type": "regex", "name": "has_e", "pattern": "e"}]
    rl: dict[str, Any] = {
        "dpo": {"algorithm": "dpo"},
        "grpo": {
            "algorithm": "grpo",
            "num_generations": 2,
            "max_completion_length": 4,
            "beta": 0.1,
            "rewards": rewards,
        },
    }[algorithm]
    bench = bench_of(method="RL", rl_config=rl, max_steps=1, batch_size=4)
    content = preference_rows.pairs if algorithm == "dpo" else preference_rows.prompts
    bench.put("train", content(rows.train_rows(8)))
    bench.put("eval", content(rows.held_out_rows(4)))
    calls = []
    original = reinforcement.log_probabilities

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    def fail(*_: Any) -> None:
        raise AssertionError("TRL's own head was called")

    monkeypatch.setattr(reinforcement, "log_probabilities", counted)
    monkeypatch.setattr(trl_utils._ChunkedLogProbFunction, "forward", staticmethod(fail))
    bench.to(Step.TRAIN)
    assert bench.job.steps[Step.TRAIN].state == "done"
    assert len(calls) >= 2  # for the policy and for its reference
