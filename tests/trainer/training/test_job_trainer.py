"""The part that all trainers share, without a model.

These are arguments, stops, best evaluations, and losses that were not logged yet.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import StepError
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.request.training_config import TrainingConfig
from trainer.store import checkpoints
from trainer.training import best_weights, job_trainer
from trainer.training.interface import Hooks, Setup


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m"} | fields)


def setup(config: TrainingConfig, *, total_steps: int = 200, held_out: Path | None = Path("held_out")) -> Setup:
    hooks: Any = None
    return Setup(
        loaded=None,
        config=config,
        base=Path("base"),
        train=Path("train"),
        held_out=held_out,  # type: ignore[arg-type]
        output=Path("out"),
        total_steps=total_steps,
        max_length=64,
        hooks=hooks,
    )


def test_each_field_of_a_request_becomes_the_matching_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    request = config(
        learning_rate=3e-4,
        batch_size=2,
        gradient_accumulation_steps=3,
        epochs=5,
        lr_scheduler_type="cosine",
        warmup_ratio=0.12,
        weight_decay=0.01,
        logging_steps=7,
        eval_strategy="steps",
        eval_steps=11,
        batch_eval_metrics=True,
        save_steps=13,
        seed=17,
    )
    assert job_trainer.arguments(setup(request)) == {
        "output_dir": "out",
        "learning_rate": 3e-4,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 5,
        "max_steps": -1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 24,
        "weight_decay": 0.01,
        "optim": "adamw_torch_fused",
        "logging_steps": 7,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps",
        "eval_steps": 11,
        "batch_eval_metrics": True,
        "restore_callback_states_from_checkpoint": True,
        "save_strategy": "steps",
        "save_steps": 13,
        "seed": 17,
        "data_seed": 17,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def test_a_gpu_is_used_and_full_fine_tuning_uses_8_bit_adamw_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(job_trainer, "find_spec", lambda name: object() if name == "bitsandbytes" else None)
    optimizers = {
        method: job_trainer.arguments(setup(config(method=method)))["optim"] for method in ("LoRA", "QLoRA", "Full")
    }
    assert optimizers == {"LoRA": "adamw_torch_fused", "QLoRA": "adamw_torch_fused", "Full": "adamw_bnb_8bit"}
    arguments = job_trainer.arguments(setup(config()))
    assert (arguments["use_cpu"], arguments["dataloader_pin_memory"]) == (False, True)
    monkeypatch.setattr(job_trainer, "find_spec", lambda name: None)
    assert job_trainer.arguments(setup(config(method="Full")))["optim"] == "adamw_torch_fused"


def test_without_held_out_rows_nothing_is_evaluated() -> None:
    request = config(eval_strategy="epoch", max_steps=9)
    assert job_trainer.arguments(setup(request, held_out=None))["eval_strategy"] == "no"
    assert job_trainer.arguments(setup(request))["eval_strategy"] == "epoch"
    assert job_trainer.arguments(setup(request))["max_steps"] == 9


@pytest.mark.parametrize(
    ("save_steps", "total", "expected"),
    [(None, 1, 1), (None, 10, 1), (None, 11, 2), (None, 995, 100), (None, 5000, 100), (7, 5000, 7)],
)
def test_a_checkpoint_is_saved_ten_times_or_every_hundred_train_steps(
    save_steps: Any, total: int, expected: int
) -> None:
    assert job_trainer.save_steps(config(save_steps=save_steps), total) == expected


def test_metrics_are_logged_under_the_names_that_early_stopping_reads() -> None:
    assert job_trainer.log_entry(EvaluationMetrics(eval_loss=1.5, accuracy=0.5)) == {
        "eval_loss": 1.5,
        "eval_accuracy": 0.5,
    }


# Best evaluations.

GRPO = {"method": "RL", "rl_config": {"algorithm": "grpo", "rewards": [{"type": "exact_answer"}]}}


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({}, {}),
        ({"early_stopping_patience": 2}, {"metric_for_best_model": "eval_loss", "greater_is_better": False}),
        ({"load_best_model_at_end": True}, {"metric_for_best_model": "eval_loss", "greater_is_better": False}),
        (GRPO | {"load_best_model_at_end": True}, {"metric_for_best_model": "eval_reward", "greater_is_better": True}),
    ],
)
def test_evaluations_are_compared_by_loss_or_reward(fields: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert best_weights.arguments(config(eval_strategy="steps", **fields)) == arguments


@pytest.mark.parametrize(
    ("value", "best", "greater", "is_new"),
    [
        (1.0, None, False, True),
        (1.0, 1.5, False, True),
        (1.5, 1.5, False, False),
        (2.0, 1.5, False, False),
        (1.0, None, True, True),
        (2.0, 1.5, True, True),
        (1.5, 1.5, True, False),
        (1.0, 1.5, True, False),
        (float("nan"), None, False, False),
        (-1e300, None, True, True),
    ],
)
def test_only_a_value_better_than_all_before_is_a_new_best(value: Any, best: Any, greater: Any, is_new: bool) -> None:
    args: Any = SimpleNamespace(metric_for_best_model="eval_x", greater_is_better=greater)
    state = TrainerState(best_metric=best)
    assert best_weights.is_new_best(args, state, {"eval_x": value}) is is_new


class StandIn:
    """Stand-in for a trainer, as far as the tested functions use one."""

    def __init__(self, **state: Any):
        self.state = TrainerState(**state)
        self.args = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
        self.callback_handler = SimpleNamespace(callbacks=[])
        self.loaded: list[str] = []
        self._tr_loss, self._globalstep_last_logged = torch.tensor(0.0), 0
        self.sums: dict[str, list[float]] = {}

    def add_callback(self, callback: Any) -> None:
        self.callback_handler.callbacks.append(callback)

    def unlogged_metrics(self) -> dict[str, list[float]]:
        return self.sums

    def _load_from_checkpoint(self, folder: str) -> None:
        self.loaded.append(folder)


def save_checkpoint(folder: Path, train_step: int) -> FolderObjects:
    export, local = FolderObjects(folder / "export", "export"), folder / f"checkpoint-{train_step}"
    local.mkdir()
    for name in checkpoints.REQUIRED_FILES:
        (local / name).write_text("{}")
    checkpoints.Saving.begin(export, job_prefix="jobs/x", attempt=1, train_step=train_step).finish(local)
    return export


def test_the_best_weights_are_restored_when_the_last_are_worse(tmp_path: Path) -> None:
    export, into = save_checkpoint(tmp_path, 6), tmp_path / "work"
    trainer: Any = StandIn(best_metric=1.0, best_global_step=6)
    assert best_weights.restore(trainer, {"eval_loss": 1.5}, export, "jobs/x", into) == 6
    assert trainer.loaded == [export.uri("jobs/x/checkpoints/1/checkpoint-6")]  # read in place, and left there
    assert Path(trainer.loaded[0]).is_dir()
    assert not into.exists()


@pytest.mark.parametrize(("best", "last"), [(None, 1.5), (6, 1.0), (6, 0.5)])
def test_the_last_weights_stay_when_none_were_better(tmp_path: Path, best: int | None, last: float) -> None:
    export = save_checkpoint(tmp_path, 6)
    trainer: Any = StandIn(best_metric=1.0, best_global_step=best)
    assert best_weights.restore(trainer, {"eval_loss": last}, export, "jobs/x", tmp_path / "work") is None
    assert trainer.loaded == []


def test_missing_best_weights_are_logged_and_the_last_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer: Any = StandIn(best_metric=1.0, best_global_step=4)
    with caplog.at_level(logging.WARNING):
        export = save_checkpoint(tmp_path, 6)
        assert best_weights.restore(trainer, {"eval_loss": 2.0}, export, "jobs/x", tmp_path) is None
    assert "train_step 4" in caplog.text
    assert trainer.loaded == []


# Stops, and losses that were not logged yet.


class RecordingHooks:
    """Hooks that record their calls."""

    def __init__(self, *, must_stop: bool = False, must_save: bool = False):
        self.saved: list[Any] = []
        self.stepped: list[Any] = []
        self.hooks = Hooks(
            stepped=lambda trainer, logs: self.stepped.append(dict(logs)),
            evaluated=lambda train_step, figures: None,
            saved=lambda *words: self.saved.append(words),
            must_stop=lambda: must_stop,
            must_save=lambda: must_save,
        )


def callbacks_of(trainer: Any, kind: type) -> list[Any]:
    return [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)]


def attach_callback(trainer: Any, recording: RecordingHooks, **fields: Any) -> Any:
    job_trainer.attach_hooks(trainer, recording.hooks, config(**fields))
    (callback,) = callbacks_of(trainer, job_trainer.JobCallback)
    return callback


def test_compiled_code_may_take_so_much_memory_as_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(job_trainer, "limit_primitive_caches", limits.append)
    attach_callback(StandIn(), RecordingHooks())
    assert limits == [torch.get_num_threads()]


def args(**fields: Any) -> Any:
    return SimpleNamespace(
        **(
            {
                "eval_strategy": "no",
                "output_dir": "/out",
                "metric_for_best_model": "eval_loss",
                "greater_is_better": False,
            }
            | fields
        )
    )


def test_a_checkpoint_that_is_due_by_time_is_saved_and_training_goes_on() -> None:
    for must_save in (True, False):
        trainer, control = StandIn(global_step=3), TrainerControl()
        attach_callback(trainer, RecordingHooks(must_save=must_save)).on_step_end(args(), trainer.state, control)
        assert (control.should_save, control.should_training_stop) == (must_save, False)


def test_a_requested_stop_ends_the_training_with_a_checkpoint() -> None:
    for must_stop in (True, False):
        trainer, control = StandIn(global_step=3), TrainerControl()
        attach_callback(trainer, RecordingHooks(must_stop=must_stop)).on_step_end(args(), trainer.state, control)
        assert (control.should_save, control.should_training_stop) == (must_stop, must_stop)


@pytest.mark.parametrize(("epoch", "waits"), [(2.0, True), (1.5, False)])
def test_a_checkpoint_at_the_end_of_an_epoch_waits_for_its_evaluation(epoch: float, waits: bool) -> None:
    trainer, control = StandIn(global_step=6, max_steps=9, epoch=epoch), TrainerControl(should_save=True)
    callback = attach_callback(trainer, RecordingHooks())
    callback.on_step_end(args(eval_strategy="epoch"), trainer.state, control)
    assert control.should_save is not waits
    control.should_evaluate = True
    callback.on_epoch_end(args(eval_strategy="epoch"), trainer.state, control)
    assert (control.should_save, control.should_evaluate) == (waits, waits)
    callback.on_epoch_end(args(eval_strategy="epoch"), trainer.state, control)
    assert control.should_save is False


def test_the_last_epoch_is_evaluated_even_if_max_steps_ends_it_early() -> None:
    trainer, control = StandIn(global_step=9, max_steps=9, epoch=1.5), TrainerControl(should_evaluate=True)
    attach_callback(trainer, RecordingHooks()).on_epoch_end(args(eval_strategy="epoch"), trainer.state, control)
    assert control.should_evaluate is True


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training(loss: float) -> None:
    trainer, recording = StandIn(global_step=4), RecordingHooks()
    callback = attach_callback(trainer, recording)
    with pytest.raises(StepError) as caught:
        callback.on_log(args(), trainer.state, TrainerControl(), logs={"loss": loss})
    assert caught.value.code == "loss_not_finite"
    assert "train_step 4" in caught.value.message
    callback.on_log(args(), trainer.state, TrainerControl(), logs={"eval_loss": loss})
    callback.on_log(args(), trainer.state, TrainerControl(), logs={"loss": 2.0})
    assert recording.stepped == [{"loss": 2.0}]


def test_a_new_best_evaluation_is_saved_if_the_best_is_to_be_restored() -> None:
    for keeps, loss, saves in ((True, 1.0, True), (True, 2.0, False), (False, 1.0, False)):
        trainer, control = StandIn(best_metric=1.5, global_step=4), TrainerControl()
        callback = attach_callback(trainer, RecordingHooks(), load_best_model_at_end=keeps, eval_strategy="steps")
        callback.on_evaluate(args(), trainer.state, control, metrics={"eval_loss": loss})
        assert control.should_save is saves


def test_a_checkpoint_is_reported_with_the_best_train_step() -> None:
    trainer, recording = StandIn(global_step=6, best_global_step=4), RecordingHooks()
    attach_callback(trainer, recording).on_save(args(), trainer.state, TrainerControl())
    assert recording.saved == [(6, Path("/out/checkpoint-6"), 4)]


def test_losses_not_logged_before_a_checkpoint_are_logged_after_it() -> None:
    before: Any = StandIn(global_step=5)
    before._tr_loss, before._globalstep_last_logged, before.sums = torch.tensor(3.5), 4, {"reward": [1.0, 2.0]}
    callback = attach_callback(before, RecordingHooks())
    callback.on_step_end(args(), before.state, TrainerControl(should_save=True))
    (window,) = callbacks_of(before, job_trainer.LossWindow)
    state = window.state()
    after: Any = StandIn(global_step=5)
    callback = attach_callback(after, RecordingHooks())
    after.callback_handler.callbacks[0] = job_trainer.LossWindow.from_state(state)
    callback.on_train_begin(args(), after.state, TrainerControl())
    assert (after._tr_loss.item(), after._globalstep_last_logged, after.sums) == (3.5, 4, {"reward": [1.0, 2.0]})


def test_a_train_step_that_is_logged_leaves_nothing_for_later() -> None:
    trainer: Any = StandIn(global_step=5)
    trainer._tr_loss, trainer._globalstep_last_logged, trainer.sums = torch.tensor(3.5), 4, {"reward": [1.0]}
    control = TrainerControl(should_save=True, should_log=True)
    attach_callback(trainer, RecordingHooks()).on_step_end(args(), trainer.state, control)
    (window,) = callbacks_of(trainer, job_trainer.LossWindow)
    assert window.state()["attributes"] == {"summed": 0.0, "logged_at": 5, "figures": {}}


@pytest.mark.parametrize(
    ("train_step", "patience_left", "finished"), [(9, 1, True), (8, 1, False), (8, 0, True), (10, 1, True)]
)
def test_a_training_is_finished_after_its_last_train_step_or_out_of_patience(
    tmp_path: Path, train_step: int, patience_left: int, finished: bool
) -> None:
    trainer: Any = StandIn(global_step=train_step, max_steps=9)
    attach_callback(trainer, RecordingHooks(), early_stopping_patience=3, eval_strategy="steps")
    (stopping,) = callbacks_of(trainer, job_trainer.EarlyStopping)
    stopping.early_stopping_patience_counter = 3 - patience_left
    assert job_trainer.is_finished(trainer) is finished
    trainer.state.stateful_callbacks = {"EarlyStopping": stopping.state()}
    trainer.state.save_to_json(str(tmp_path / "trainer_state.json"))
    resumed: Any = StandIn(global_step=0, max_steps=9)
    assert job_trainer.restore_if_finished(resumed, tmp_path) is finished
    assert resumed.loaded == ([str(tmp_path)] if finished else [])
    assert resumed.state.global_step == (train_step if finished else 0)
