"""Vision jobs on a tiny model that sees: it learns from pictures, and only what should change does."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gemtune.job import Step
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.test_metrics import independent_of
from trainer.prepared import read_tokens

LEARNING = {"learning_rate": 5e-3, "max_steps": 24, "save_steps": 100, "batch_size": 8}


def weights(bench: Bench, place: str) -> dict[str, torch.Tensor]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/1"))
    return load_file(folder / ("model.safetensors" if place == "model" else "adapter_model.safetensors"))


def shown(number: int) -> Image.Image:
    asked = rows.picture_rows(1, first=number)[0]["messages"][0]["content"][0]
    return Image.open(io.BytesIO(base64.b64decode(asked["image"]["bytes"])))


def answers(model: Any, folder: str) -> list[str]:
    """What a model says of eight pictures that nobody trained on, read by the processor beside it."""
    from transformers import AutoProcessor

    processor, said = AutoProcessor.from_pretrained(folder), []
    for number in range(200, 208):
        content = [{"type": "image", "image": shown(number)}, {"type": "text", "text": rows.QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        written = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        said.append(processor.decode(written, skip_special_tokens=True).strip())
    return said


RIGHT = [f"{rows.HABIT} {colour} one." for colour in ("red", "blue") * 4]


def held_out_from_logits(bench: Bench, model: Any) -> tuple[float, float, float]:
    """The figures from full logits, with the inputs that transformers' own processor makes of the same rows."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(bench.base)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    found = []
    for number, row in enumerate(read_tokens(folder / "eval.parquet"), start=100):
        pixels = processor.image_processor([shown(number)], return_tensors="pt")["pixel_values"]
        ids = torch.tensor([row["input_ids"]])
        kinds = (ids == processor.tokenizer.image_token_id).long()
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=pixels, token_type_ids=kinds).logits[0].double()
        found.append((logits, row["labels"]))
    return independent_of(found)


def test_an_adapter_learns_colours_and_leaves_what_sees_as_it_was(seeing_bench_of: Callable[..., Bench]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = seeing_bench_of(**LEARNING).to(Step.EXPORT)
    job = bench.job
    assert job.status == "completed"
    assert job.metrics is not None
    assert job.metrics.baseline is not None
    curve = [loss for _, loss in bench.curve()]
    assert curve[-1] < curve[0] - 0.5

    base = AutoModelForImageTextToText.from_pretrained(bench.base)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    model = PeftModel.from_pretrained(base, job.adapter_path).eval()
    loss, accuracy, perplexity = held_out_from_logits(bench, model)
    assert job.metrics.eval_loss == pytest.approx(loss, rel=1e-4)
    assert job.metrics.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert job.metrics.perplexity == pytest.approx(perplexity, rel=1e-3)
    with model.disable_adapter():
        assert job.metrics.baseline.eval_loss == pytest.approx(held_out_from_logits(bench, model)[0], rel=1e-4)
    assert answers(model, job.adapter_path or "") == RIGHT

    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in before.items())
    adapted = set(weights(bench, "adapter"))
    assert all(".language_model.layers." in name for name in adapted)
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in adapted} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_a_full_fine_tuning_learns_colours_and_leaves_what_sees_as_it_was(
    seeing_bench_of: Callable[..., Bench],
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = seeing_bench_of(**LEARNING | {"method": "Full", "learning_rate": 1e-3}).to(Step.TRAIN)
    before, after = load_file(bench.base / "model.safetensors"), weights(bench, "model")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    seeing = {name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert seeing
    assert changed == set(before) - seeing
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1")
    assert answers(AutoModelForImageTextToText.from_pretrained(folder), folder) == RIGHT


def test_a_quantized_training_learns_colours_with_what_sees_unquantized(
    seeing_bench_of: Callable[..., Bench],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from gemtune.spec import Spec
    from trainer.engines import huggingface

    bench = seeing_bench_of(**LEARNING | {"method": "QLoRA"}).to(Step.TRAIN)
    assert bench.job.metrics is not None
    assert bench.job.metrics.accuracy == 1.0
    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    loaded = huggingface.load(bench.base, spec).model.get_base_model()
    in_four_bits = {name for name, weight in loaded.named_parameters() if weight.dtype == torch.uint8}
    assert in_four_bits
    assert all(".language_model.layers." in name for name in in_four_bits)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bench.base), folder).eval()
    assert answers(model, folder) == RIGHT
