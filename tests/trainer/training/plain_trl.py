"""Plain TRL on PEFT's adapter, beside jobs that train on from each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gemtune.jobs.status import Step
from tests import preference_rows, rows
from tests.trainer.conftest import Bench

HAS_AN_E = {"type": "regex", "name": "has_e", "pattern": "e"}
SHORT = {"type": "length", "at_most": 3, "weight": 0.25}
BETA = 0.3
DPO = {"method": "RL", "rl_config": {"algorithm": "dpo", "beta": BETA}, "batch_size": 4, "max_steps": 3}
GRPO = {
    "method": "RL",
    "rl_config": {
        "algorithm": "grpo",
        "beta": BETA,
        "num_generations": 4,
        "max_completion_length": 6,
        "rewards": [HAS_AN_E, SHORT],
    },
    "batch_size": 8,
    "max_steps": 3,
    "learning_rate": 2e-2,
}
# The plain formula, but not for vision towers, which would take most of the time of tests on pictures with it.
ATTENTION: Mapping[str, Any] = {
    "text": "eager",
    "vision": {"": "eager", "text_config": "eager", "audio_config": "eager", "vision_config": "sdpa"},
}
PAIRS = preference_rows.pairs(rows.train_rows(4))


def go_on(bench: Bench, train: list[dict[str, Any]], held_out: list[dict[str, Any]], **training: Any) -> Bench:
    """Turn the bench to a new job that trains on from its last one."""
    same = {"base_model_id": bench.training["base_model_id"], "learning_rate": 5e-3, "gradient_accumulation_steps": 1}
    bench.training = same | {"base_job_id": bench.job_id} | training
    bench.job_id = ""
    bench.put("train", train)
    bench.put("eval", held_out)
    return bench


def adapter_folder(bench: Bench) -> Path:
    attempt = bench.job.steps[Step.TRAIN].attempt
    return Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/{attempt}"))


def plain_model(bench: Bench, folder: Path) -> Any:
    """Return the base model with an adapter, as PEFT loads it to train it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    attention = ATTENTION[bench.fields.get("modality", "text")]
    base: Any = AutoModelForCausalLM.from_pretrained(bench.base, dtype=torch.float32, attn_implementation=attention)
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def plain_arguments(output: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(output),
        "learning_rate": training.get("learning_rate", 5e-3),
        "per_device_train_batch_size": training["batch_size"],
        "gradient_accumulation_steps": 1,
        "max_steps": training["max_steps"],
        "logging_steps": 1,
        "seed": 42,
        "data_seed": 42,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "beta": BETA,
    }


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def plain_dpo(bench: Bench, start: Path, output: Path, **training: Any) -> Any:
    """Train the pairs with TRL alone, from an adapter on.

    training: other values than those of DPO.
    """
    trainer = dpo_trainer(bench, start, output, training)
    trainer.train()
    return trainer


def dpo_trainer(bench: Bench, start: Path, output: Path, training: Mapping[str, Any]) -> Any:
    """Return TRL's trainer of the pairs."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    conversations = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            **{name: [{"role": "assistant", "content": pair[name]}] for name in ("chosen", "rejected")},
        }
        for pair in PAIRS
    ]
    trainer: Any = DPOTrainer(
        model=plain_model(bench, start),
        args=DPOConfig(**plain_arguments(output, DPO | dict(training)), max_length=None),
        train_dataset=Dataset.from_list(conversations),
        processing_class=AutoTokenizer.from_pretrained(bench.base),
    )
    return trainer


def plain_grpo(bench: Bench, start: Path, output: Path, **training: Any) -> Any:
    """Train with TRL alone, from an adapter on.

    training: other values than those of GRPO.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer

    prompts = Dataset.from_list([{"prompt": [row["messages"][0]]} for row in rows.train_rows(12)])
    trainer = grpo_trainer(bench, start, output, prompts, AutoTokenizer.from_pretrained(bench.base), training)
    trainer.train()
    return trainer


def grpo_trainer(
    bench: Bench,
    start: Path,
    output: Path,
    prompts: Any,
    processing: Any,
    training: Mapping[str, Any],
    *,
    suppressed: int | None = None,
) -> Any:
    """Return TRL's trainer of prompts.

    processing: tokenizer or processor. suppressed: id of a token that no completion has.
    """
    from trl import GRPOConfig, GRPOTrainer

    def has_e(completions: list[Any], **_: Any) -> list[float]:
        return [float("e" in each[0]["content"]) for each in completions]

    def short(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [max(0.0, min(1.0, 1 - (len(ids) - 3) / 3)) for ids in completion_ids]

    rewards: Any = [has_e, short]
    trainer: Any = GRPOTrainer(
        model=plain_model(bench, start),
        reward_funcs=rewards,
        args=GRPOConfig(
            **plain_arguments(output, GRPO | dict(training)),
            num_generations=4,
            max_completion_length=6,
            reward_weights=[1.0, 0.25],
            loss_type="dapo",
            generation_kwargs=None if suppressed is None else {"suppress_tokens": [suppressed]},
        ),
        train_dataset=prompts,
        processing_class=processing,
    )
    return trainer


def largest_difference(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def saved(trainer: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return the adapter that TRL trained, by the names of PEFT's file."""
    trainer.model.save_pretrained(folder, selected_adapters=["default"])
    return load_file(folder / "adapter_model.safetensors")
