"""Estimated activation memory, compared with the tensors a forward pass saves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune.machines import memory, model_size
from gemtune.machines.memory import TrainingLoad
from gemtune.methods import Method
from gemtune.request.spec import Spec
from tests import tiny_gemma
from tests.trainer.model.on_cpu.test_on_cpu import model as tiny_model
from tests.trainer.saved_tensors import saved_bytes
from trainer.model import gradient_checkpointing
from trainer.model.engines import huggingface
from trainer.model.engines.huggingface import load
from trainer.model.hidden_states import head_inputs
from trainer.model.on_cpu import install
from trainer.training import batches
from trainer.training.sft import disable_input_casts

ROWS, LAYERS = 2, 3


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of three random layers as wide as those of Gemma 3 270M."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("models") / "wide"
    config = Gemma3TextConfig(
        vocab_size=512,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def saved_bytes_of(model: Any, length: int, dtype: torch.dtype) -> int:
    """Return the bytes that the trainer's forward pass saves for backward."""
    tokens = [[(7 * position + row) % 500 + 4 for position in range(length)] for row in range(ROWS)]
    batch = batches.flatten_rows([[{"input_ids": row, "labels": row} for row in tokens]])
    return saved_bytes(model, lambda: head_inputs(model, batch, dtype))


KINDS = [
    ("LoRA", 0.0, "gpu"),
    ("LoRA", 0.05, "gpu"),
    ("QLoRA", 0.0, "gpu"),
    ("QLoRA", 0.05, "gpu"),
    ("Full", 0.0, "gpu"),
    ("LoRA", 0.0, "float32"),
    ("LoRA", 0.05, "float32"),
    ("Full", 0.0, "float32"),
    ("QLoRA", 0.0, "cpu"),
    ("QLoRA", 0.05, "cpu"),
]


@pytest.mark.parametrize(("method", "dropout", "where"), KINDS)
def test_saved_activations_are_estimated_within_15_percent(
    wide_model: Path, method: Method, dropout: float, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cover layers as on a GPU, in bfloat16 or float32, and those for a CPU.

    `where` is gpu, float32 or cpu.
    """
    dtype = torch.float32 if where == "float32" else torch.bfloat16
    monkeypatch.setattr(huggingface, "compute_dtype", lambda stored: dtype)
    if where != "cpu":
        monkeypatch.setattr(install, "install", lambda model: None)
    training = {"base_model_id": str(wide_model), "method": method, "lora_dropout": dropout}
    model = load(
        wide_model, Spec.model_validate({"processed_dataset_id": "x", "training_config": training})
    ).model.train()
    disable_input_casts(model)
    # The difference leaves out weights that are cast, which are saved once for any number of tokens.
    counted = saved_bytes_of(model, 128, dtype) - saved_bytes_of(model, 64, dtype)
    assert gradient_checkpointing.activation_bytes(model, ROWS * 64, dtype) == pytest.approx(counted, rel=0.15)

    # memory.py assumes the default dropout and no CPU layers; where that is wrong, it overestimates.
    estimated = LAYERS * estimate_per_layer(method) * dtype.itemsize / 2
    assert estimated >= counted
    if where != "cpu":
        assert estimated <= (2.2 if dropout == 0 else 1.6) * counted


def estimate_per_layer(method: Method) -> float:
    """Return what memory.py estimates for one more layer, in bfloat16."""
    size = model_size.by_name("gemma-3-270m")
    assert size is not None
    load = TrainingLoad(method, ROWS, 64, 16, "text")
    more, less = (memory.work_bytes(size.with_first_layers(n), load, checkpointing=False) for n in (2, 1))
    return more - less


def test_our_layers_are_recognized_by_type(tmp_path: Path) -> None:
    """Recognition does not use the name of a module or function.

    Otherwise a rename would silently change the estimates. 4-bit linear layers, and trained ones as here, remain
    PEFT's.
    """
    folder = tiny_gemma.build(tmp_path / "tiny")
    plain, installed, partly_installed, foreign = (
        tiny_model(folder, ours=ours) for ours in (False, True, False, False)
    )
    for parameter in partly_installed.parameters():
        parameter.requires_grad_(parameter.ndim > 1)
    install.install(partly_installed)

    def _linear(module: Any, *inputs: Any) -> Any:
        return type(module).forward(module, *inputs)

    _linear.__module__ = install.__name__
    for module in foreign.modules():
        module.forward = partial(_linear, module)
    models = (plain, installed, partly_installed, foreign)
    assert [(install.is_installed(candidate), install.is_partly_installed(candidate)) for candidate in models] == [
        (False, False),
        (True, True),
        (False, True),
        (False, False),
    ]
    estimates = [gradient_checkpointing.activation_bytes(candidate, 480) for candidate in models]
    assert estimates[0] == estimates[3]
    assert len(set(estimates)) == 3
