"""Adapters on chosen layers, rsLoRA and DoRA, beside plain PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gemtune import families
from gemtune.errors import StepError
from gemtune.families.generation import LINEAR_LAYERS
from gemtune.jobs.status import Step
from gemtune.machines import model_size
from gemtune.request.spec import Spec
from tests import rows, tiny_gemma
from tests.tiny_shapes import SHAPES
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import adapter
from tests.trainer.training.test_base_job import divergence, largest_difference
from trainer.base_model.folder_contents import config_of
from trainer.model.engines import huggingface
from trainer.rows.prepared import read_tokens

VARIANTS: dict[str, dict[str, Any]] = {
    "layers": {"target_modules": ["q_proj", "mlp.down_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 4},
    "DoRA": {"use_dora": True},
    "DoRA on layers": {"use_dora": True, "use_rslora": True, "target_modules": ["o_proj", "up_proj"]},
}
STEPS, RATE = 3, 5e-3


def load_plain(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")


def plain_training(
    load: Callable[[], Any], conversations: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[list[float], Any]:
    """Train with transformers and PEFT alone; return losses and the model.

    load: loads the base model.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(42)
    model = load()
    stated = {"target_modules": list(LINEAR_LAYERS), "lora_alpha": 16} | options
    model = get_peft_model(model, LoraConfig(r=16, lora_dropout=0.0, task_type="CAUSAL_LM", **stated)).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        total, count = torch.zeros(()), 0
        for row in conversations:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
            count += int((labels != -100).sum())
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_and_merges_as_with_plain_peft(bench_of: Callable[..., Bench], variant: str) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    options = VARIANTS[variant]
    bench = bench_of(max_steps=STEPS, learning_rate=RATE, batch_size=6, lora_dropout=0.0, eval_strategy="no", **options)
    bench.put("train", rows.train_rows(6))
    bench.export = {"format": "merged"}
    bench.to(Step.EXPORT)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    losses, plain = plain_training(lambda: load_plain(bench.base), list(read_tokens(folder / "train.parquet")), options)
    assert [loss for _, loss in bench.curve()] == pytest.approx(losses, rel=1e-5)
    expected = {name: weight.detach().contiguous() for name, weight in get_peft_model_state_dict(plain).items()}
    assert largest_difference(expected, adapter(bench)) < 1e-4
    loaded = PeftModel.from_pretrained(
        load_plain(bench.base), bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    )
    with torch.no_grad():
        tokens = torch.arange(10, 30)[None]
        assert torch.allclose(loaded(tokens).logits, plain.eval()(tokens).logits, atol=1e-4)
    assert 0 <= divergence(plain.merge_and_unload(), bench.job.adapter_path) < 1e-4


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.timm] if shape == "gemma3n" else []) for shape in SHAPES]
)
def test_every_layer_that_a_request_may_name_gets_an_adapter(tmp_path: Path, shape: str) -> None:
    base = tiny_gemma.build(tmp_path / shape, shape)
    config = config_of(base)
    family_and_type = families.of_config(config)
    assert family_and_type is not None
    possible = family_and_type[0].adaptable_layers(model_size.of_folder(config, 0))
    for name in possible:
        training = {"base_model_id": str(base), "target_modules": [name], "lora_dropout": 0.0}
        spec = Spec.model_validate({"processed_dataset_id": "chats", "training_config": training})
        model = huggingface.load(base, spec).model
        trained = [path for path, weight in model.named_parameters() if weight.requires_grad]
        assert trained
        assert not [path for path in trained if any(f".{part}." in path for part in ("vision_tower", "audio_tower"))]
        module = name.removesuffix(".gate_up_proj").removesuffix(".down_proj") if "experts" in name else name
        assert all(f".{module}." in path for path in trained)


def test_a_layer_that_the_model_does_not_have_is_refused_when_it_is_loaded(tiny: Path) -> None:
    training = {"base_model_id": str(tiny), "target_modules": ["q_proj", "router.proj", "lm_head_"]}
    spec = Spec.model_validate({"processed_dataset_id": "chats", "training_config": training})
    with pytest.raises(StepError, match=r"no layers router\.proj, lm_head_") as caught:
        huggingface.load(tiny, spec)
    assert caught.value.code == "no_such_layer"
