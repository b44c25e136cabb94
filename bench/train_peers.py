"""One training of `bench.train`, in a process of its own: `python -m bench.train_peers PEER SHAPE MODEL STEPS ROWS`.

ROWS is a file of rows, made beforehand: a training of this project reads tokens, and never loads a tokenizer. Prints
one JSON object: seconds of each train_step, its loss, peak resident memory in MB, and seconds before
the first train_step. Every peer gets the same rows in the same order, the same adapter (rank 16 on every linear layer,
drawn from one seed, no dropout), the same optimizer and a constant learning rate.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.train_rows import SHAPES, Rows, Shape

BEGAN = time.perf_counter()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
LEARNING_RATE, SEED = 2e-4, 0


def main() -> None:
    peer, shape, folder, steps = sys.argv[1], SHAPES[sys.argv[2]], Path(sys.argv[3]), int(sys.argv[4])
    trainer = PEERS[peer](folder, shape, steps, json.loads(Path(sys.argv[5]).read_text()))
    clock = _clock()
    trainer.add_callback(clock)
    prepared = time.perf_counter() - BEGAN
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    measured = {
        "seconds": clock.seconds,
        "losses": losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds_before": prepared,
    }
    print(json.dumps(measured))


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds of each train_step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._last = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self._last = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self._last)
            self._last = now

    return Clock()


def _gemtune(folder: Path, shape: Shape, steps: int, rows: Rows) -> Any:
    """The trainer of this project, as the train step makes it."""
    from gemtune.job import Step
    from gemtune.spec import Spec, TrainingConfig
    from trainer.imports import leave_out_unused

    config = TrainingConfig(
        base_model_id=str(folder), learning_rate=LEARNING_RATE, lr_scheduler_type="constant", lora_dropout=0.0,
        batch_size=shape.rows_a_step, gradient_accumulation_steps=1, max_steps=steps, save_steps=10 * steps, seed=SEED,
    )  # fmt: skip
    spec = Spec(processed_dataset_id="bench", training_config=config)
    leave_out_unused(Step.TRAIN, spec)
    from trainer import sft
    from trainer.engines import huggingface
    from trainer.job_trainer import Hooks
    from trainer.prepared import TokenFile

    _seed()
    loaded = huggingface.load(folder, spec)
    work = Path(tempfile.mkdtemp())
    with TokenFile(work / "train.parquet") as file:
        for row in rows:
            file.add(row)
    hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None, lambda: False)
    trainer = sft.make(
        loaded, config, work / "train.parquet", None, output=work / "out", total_steps=steps, max_length=2048,
        hooks=hooks,
    )  # fmt: skip
    trainer.args.train_sampling_strategy = "sequential"
    return trainer


def _trl(folder: Path, shape: Shape, steps: int, rows: Rows, **more: Any) -> Any:
    """A plain TRL script: its defaults wherever the job says nothing."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(**_arguments(shape, steps), max_length=None, dataset_kwargs=_PREPARED, **more)
    return SFTTrainer(
        model=_peft(folder), args=arguments, processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip


def _transformers(folder: Path, shape: Shape, steps: int, rows: Rows) -> Any:
    """transformers' Trainer and PEFT."""
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    return Trainer(
        model=_peft(folder), args=TrainingArguments(**_arguments(shape, steps)),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder), padding=True),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip


_PREPARED = {"skip_prepare_dataset": True}
PEERS: dict[str, Callable[[Path, Shape, int, Rows], Any]] = {
    "gemtune": _gemtune,
    "trl": _trl,
    "trl without checkpointing": lambda *job: _trl(*job, gradient_checkpointing=False),
    "transformers": _transformers,
}


def _peft(folder: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    _seed()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def _seed() -> None:
    from transformers import set_seed

    set_seed(SEED)


def _arguments(shape: Shape, steps: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(), "max_steps": steps, "per_device_train_batch_size": shape.rows_a_step,
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "logging_steps": 1, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "bf16": True, "disable_tqdm": True, "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential", "seed": SEED,
    }  # fmt: skip


if __name__ == "__main__":
    main()
