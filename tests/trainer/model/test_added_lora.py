"""Adapters added by hooks, beside PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gemtune.request.spec import Spec
from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.model.test_families import SHAPES, randomize_adapter
from trainer.model import added_lora
from trainer.model.engines import huggingface

TOKENS = torch.tensor([[2, 40, 50, 60, 70, 41]])
VARIANTS: dict[str, dict[str, Any]] = {
    "layers": {"target_modules": ["q_proj", "mlp.down_proj"]},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 4},
}


def adapter_of(base: Path, folder: Path, **training: Any) -> Path:
    """Write an adapter as the train step does, with random factors."""
    config = {"base_model_id": str(base), "method": "LoRA", "seed": 1} | training
    request = {"processed_dataset_id": "d", "modality": "text", "training_config": config}
    model: Any = huggingface.load(base, Spec.model_validate(request)).model
    randomize_adapter(model)
    folder.mkdir(exist_ok=True)
    huggingface.save(model, folder)
    return folder


def load(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=TOKENS).logits
    return result


def check_equal_to_peft(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> None:
    """Check that both compute the same logits to the bit, and the base's."""
    ours, peft = load(base, dtype), PeftModel.from_pretrained(load(base, dtype), str(adapter)).eval()
    of_base = logits(ours)
    lora = added_lora.add(ours, adapter)
    assert lora is not None
    adapted = logits(ours)
    assert torch.equal(adapted, logits(peft))
    assert not torch.equal(adapted, of_base)
    with lora.disabled():
        assert torch.equal(logits(ours), of_base)
    assert torch.equal(logits(ours), adapted), "the adapter is on again"


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_peft_in_every_family(tmp_path: Path, shape: str) -> None:
    base = tiny_gemma.build(tmp_path / "base", shape)
    adapter = adapter_of(base, tmp_path / "adapter")
    if "moe" in shape:
        assert added_lora.add(load(base), adapter) is None, "experts take PEFT"
    else:
        check_equal_to_peft(base, adapter)


def test_weights_in_16_bits_are_adapted_as_by_peft(tmp_path: Path, tiny: Path) -> None:
    check_equal_to_peft(tiny, adapter_of(tiny, tmp_path / "adapter"), torch.bfloat16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_that_only_add_products_need_no_peft(tmp_path: Path, tiny: Path, variant: str) -> None:
    check_equal_to_peft(tiny, adapter_of(tiny, tmp_path / "adapter", **VARIANTS[variant]))


def test_ranks_and_scales_of_single_layers_are_those_of_peft(tmp_path: Path, tiny: Path) -> None:
    adapter = untrained_results.write_adapter(tiny, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    of_q = {name: weight for name, weight in weights.items() if ".q_proj." in name}
    halved = {name: weight[:2] if "lora_A" in name else weight[:, :2] for name, weight in of_q.items()}
    save_file({name: weight.contiguous() for name, weight in (weights | halved).items()}, adapter / added_lora.WEIGHTS)
    change(adapter, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.0.*q_proj": 40})
    check_equal_to_peft(tiny, adapter)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"target_modules": "all-linear"},
        {"train_embeddings": True},
    ],
)
def test_adapters_that_do_more_are_left_to_peft(tmp_path: Path, tiny: Path, options: dict[str, Any]) -> None:
    adapter, model = adapter_of(tiny, tmp_path / "adapter", **options), load(tiny)
    before = logits(model)
    if options == {"target_modules": "all-linear"}:  # the train step writes the names of the layers
        change(adapter, target_modules="all-linear")
    assert added_lora.add(model, adapter) is None
    assert torch.equal(logits(model), before)


def change(adapter: Path, **options: Any) -> None:
    file = adapter / added_lora.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@pytest.mark.parametrize("option", ["fan_in_fan_out", "lora_bias", "layer_replication", "an_option_of_the_future"])
def test_an_option_that_is_not_known_is_left_to_peft(tmp_path: Path, tiny: Path, option: str) -> None:
    adapter = untrained_results.write_adapter(tiny, tmp_path / "adapter")
    assert added_lora.add(load(tiny), adapter) is not None
    change(adapter, **{option: True})
    assert added_lora.add(load(tiny), adapter) is None


@pytest.mark.parametrize("fault", ["missing", "strange", "of another shape", "of a layer that is not adapted"])
def test_factors_that_do_not_fit_are_left_to_peft_to_explain(tmp_path: Path, tiny: Path, fault: str) -> None:
    adapter, model = untrained_results.write_adapter(tiny, tmp_path / "adapter"), load(tiny)
    weights = load_file(adapter / added_lora.WEIGHTS)
    first = next(name for name in sorted(weights) if name.endswith(added_lora.B))
    match fault:
        case "missing":
            del weights[first]
        case "strange":
            weights["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(2, 2)
        case "of another shape":
            weights[first] = torch.zeros(len(weights[first]) + 1, weights[first].shape[1])
        case _:
            change(adapter, target_modules=["q_proj"])
    save_file(weights, adapter / added_lora.WEIGHTS)
    before = logits(model)
    assert added_lora.add(model, adapter) is None
    assert torch.equal(logits(model), before)
