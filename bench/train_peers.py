"""Training of one peer of `bench.train`.

`python -m bench.train_peers PEER SHAPE MODEL STEPS ROWS`. ROWS is a file of tokenized rows, as this project's training
never loads a tokenizer. All peers get the same rows in the same order, the same adapter (rank 16 on every linear layer,
from one seed, no dropout), the same optimizer and a constant learning rate.

Prints one JSON object per line: `{"seconds_before": …}` when it is ready, `{"seconds": …}` after each train_step, and
`{"losses": […], "peak_mb": …}` at the end, where the peak is of a GPU's allocated memory, or of resident memory without
a GPU. Each train_step waits for a line on standard input.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bench.train_rows import SHAPES, Rows, Shape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from gemtune.request.spec import Spec
    from trainer.training.preference.dpo import DpoTrainer
    from trainer.training.sft import SftTrainer

BEGAN = time.perf_counter()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
LEARNING_RATE, SEED = 2e-4, 0


def main() -> None:
    """Train with the peer of the command line."""
    train(PEERS | ROUNDING_PEERS | DPO_PEERS)


def train(peers: Mapping[str, Peer]) -> None:
    """Train with one of the peers, which the command line names."""
    peer, shape, folder, steps = sys.argv[1], SHAPES[sys.argv[2]], Path(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries goes to standard error
    trainer = peers[peer](folder, shape, steps, json.loads(Path(sys.argv[5]).read_text()))
    trainer.add_callback(_in_turns(answers))
    print(json.dumps({"seconds_before": time.perf_counter() - BEGAN}), file=answers)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"losses": losses, "peak_mb": _peak_mb()}), file=answers)


def _peak_mb() -> float:
    """Return the peak memory: allocated on the GPU, or resident without one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_turns(answers: TextIO) -> TrainerCallback:
    from transformers import TrainerCallback

    class StepGate(TrainerCallback):
        """Callback that runs one train_step per line on standard input.

        A step's time includes loading its batch, and logging the step before.
        """

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self._wait()

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            print(json.dumps({"seconds": time.perf_counter() - self._began}), file=answers)
            if state.global_step < state.max_steps:
                self._wait()

        def _wait(self) -> None:
            sys.stdin.readline()
            self._began = time.perf_counter()

    return StepGate()


def gemtune(folder: Path, shape: Shape, steps: int, rows: Rows, **more: Any) -> Trainer:
    """Return this project's trainer, as the train step creates it."""
    from gemtune.request.spec import Spec
    from gemtune.request.training_config import TrainingConfig
    from trainer.process.thread_waiting import limit_spinning

    limit_spinning()
    config = TrainingConfig(
        base_model_id=str(folder),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        lora_dropout=0.0,
        batch_size=shape.rows_per_step,
        gradient_accumulation_steps=1,
        max_steps=steps,
        save_steps=10 * steps,
        seed=SEED,
        **more,
    )
    spec = Spec(processed_dataset_id="bench", training_config=config)
    seed()
    trainer = own_trainer(folder, spec, rows, evaluates=False)
    trainer.args.train_sampling_strategy = "sequential"
    return trainer


def own_trainer(folder: Path, spec: Spec, rows: Rows, *, evaluates: bool) -> SftTrainer | DpoTrainer:
    """Return a trainer as the train step creates it, with empty hooks.

    evaluates: the rows are also its held-out rows.
    """
    from trainer.model.engines import huggingface
    from trainer.rows.prepared import TokenFile
    from trainer.training.interface import Hooks, Setup

    loaded, config = huggingface.load(folder, spec), spec.training_config
    assert config.max_steps is not None
    work = Path(tempfile.mkdtemp())
    with TokenFile(work / "rows.parquet", tuple(rows[0])) as file:
        for row in rows:
            file.add(row)
    setup = Setup(
        loaded,
        config,
        folder,
        work / "rows.parquet",
        work / "rows.parquet" if evaluates else None,
        output=work / "out",
        total_steps=config.max_steps,
        max_length=2048,
        hooks=Hooks(lambda *_: None, lambda *_: None, lambda *_: None, lambda: False),
    )
    if config.rl_config is not None:
        from trainer.training.preference import dpo

        return dpo.make(setup)
    from trainer.training import sft

    return sft.make(setup)


def _trl(folder: Path, shape: Shape, steps: int, rows: Rows, **more: Any) -> Trainer:
    """Return the trainer of a plain TRL script, with TRL's defaults."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    defaults = {"attn_implementation": "sdpa", "dtype": "auto"}
    model = _peft(folder, **{name: more.pop(name, default) for name, default in defaults.items()})
    arguments = SFTConfig(**arguments_of(shape, steps) | more, max_length=None, dataset_kwargs=PREPARED)
    return SFTTrainer(
        model=model,
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list(rows),
    )


def _transformers(folder: Path, shape: Shape, steps: int, rows: Rows) -> Trainer:
    """Return transformers' Trainer with PEFT."""
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    return Trainer(
        model=_peft(folder),
        args=TrainingArguments(**arguments_of(shape, steps)),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder), padding=True),
        train_dataset=Dataset.from_list(rows),
    )


Peer = Callable[[Path, Shape, int, Rows], "Trainer"]
PREPARED = {"skip_prepare_dataset": True}
PEERS: dict[str, Peer] = {
    "gemtune": gemtune,
    "trl": _trl,
    "trl without checkpointing": lambda *job: _trl(*job, gradient_checkpointing=False),
    "transformers": _transformers,
}
# More peers of `bench.curve`: the same sums in another order, and with hardly any rounding.
ROUNDING_PEERS: dict[str, Peer] = {
    "trl, eager attention": lambda *job: _trl(*job, attn_implementation="eager"),
    "trl, float32": lambda *job: _trl(*job, dtype="float32", bf16=False),
}


def _gemtune_dpo(folder: Path, shape: Shape, steps: int, rows: Rows) -> Trainer:
    return gemtune(folder, shape, steps, rows, method="RL", rl_config={"algorithm": "dpo"})


def _trl_dpo(folder: Path, shape: Shape, steps: int, rows: Rows, **more: Any) -> Trainer:
    """Return the trainer of a plain DPO script with TRL, on tokenized rows."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    arguments = DPOConfig(**arguments_of(shape, steps) | more, max_length=None)
    return Prepared(
        model=_peft(folder, attn_implementation="sdpa"),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


# The peers of `bench.preferences`.
DPO_PEERS: dict[str, Peer] = {
    "gemtune, DPO": _gemtune_dpo,
    "trl, DPO": _trl_dpo,
    "trl, DPO without checkpointing": lambda *job: _trl_dpo(*job, gradient_checkpointing=False),
}


def _peft(folder: Path, *, dtype: str = "auto", **settings: Any) -> PeftModel:
    """Load the model and add an adapter, from the same seed for all peers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    seed()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **settings)
    lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def seed() -> None:
    """Seed all random generators, before an adapter's A is drawn."""
    from transformers import set_seed

    set_seed(SEED)


def arguments_of(shape: Shape, steps: int) -> dict[str, Any]:
    """Return the arguments that transformers' and TRL's trainers share."""
    import torch

    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps,
        "per_device_train_batch_size": shape.rows_per_step,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        "seed": SEED,
    }


if __name__ == "__main__":
    main()
