"""Vision jobs on a tiny model: it learns from pictures.

Only the weights that a request asks for change.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gemtune.jobs.parts.results import Parity
from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench, vision_bench
from tests.trainer.steps.test_export_again import export_again
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_metrics import metrics_of_logits
from trainer.certificate import comparison, reference
from trainer.certificate.files import check
from trainer.export.trained_weights import REFERENCE
from trainer.rows.prepared import read_tokens

LEARNING = {"learning_rate": 5e-3, "max_steps": 24, "save_steps": 100, "batch_size": 8}


def weights(bench: Bench, place: str, attempt: int = 1) -> dict[str, torch.Tensor]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{attempt}"))
    return load_file(folder / ("model.safetensors" if place == "model" else "adapter_model.safetensors"))


def picture(number: int) -> Image.Image:
    part = rows.picture_rows(1, first=number)[0]["messages"][0]["content"][0]
    return Image.open(io.BytesIO(base64.b64decode(part["image"]["bytes"])))


def answers_of(model: Any, folder: str) -> list[str]:
    """Return a model's answers about eight new pictures.

    They are read with the processor saved next to the model.
    """
    from transformers import AutoProcessor

    processor, answers = AutoProcessor.from_pretrained(folder), []
    for number in range(200, 208):
        content = [{"type": "image", "image": picture(number)}, {"type": "text", "text": rows.QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        completion = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(completion, skip_special_tokens=True).strip())
    return answers


RIGHT = [f"{rows.HABIT} {colour} one." for colour in ("red", "blue") * 4]


def held_out_from_logits(bench: Bench, model: Any) -> tuple[float, float, float]:
    """Return the held-out metrics, computed from full logits.

    The inputs are those of transformers' own processor.
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(bench.base)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    rows_of_logits = []
    for number, row in enumerate(read_tokens(folder / "eval.parquet"), start=100):
        pixels = processor.image_processor([picture(number)], return_tensors="pt")["pixel_values"]
        ids = torch.tensor([row["input_ids"]])
        kinds = (ids == processor.tokenizer.image_token_id).long()
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=pixels, token_type_ids=kinds).logits[0].double()
        rows_of_logits.append((logits, row["labels"]))
    return metrics_of_logits(rows_of_logits)


def test_an_adapter_learns_colours_without_changing_the_vision_tower(
    vision_bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = vision_bench_of(**LEARNING).to(Step.EXPORT)
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
    assert answers_of(model, job.adapter_path or "") == RIGHT
    certificate = certificate_of(bench)
    assert (certificate.source, certificate.rows, certificate.media_rows) == ("held-out rows", 8, 8)
    assert certificate.perplexity_trained == pytest.approx(perplexity, rel=1e-3)
    assert certificate.answers_right == certificate.answers_right_trained > 0

    assert run_code_of_card(Path(job.adapter_path or ""), monkeypatch, capsys) == f"{rows.HABIT} blue one."

    merged = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in model.named_parameters()}
    assert all(torch.equal(weight, merged[name]) for name, weight in before.items())
    adapted = set(weights(bench, "adapter"))
    assert all(".language_model.layers." in name for name in adapted)
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in adapted} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def run_code_of_card(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the model card's example on a blue picture; return what it prints."""
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    picture(201).save(folder / "picture.jpg")
    capsys.readouterr()
    exec(code.replace("What is this?", rows.QUESTION), {})
    return capsys.readouterr().out.strip().splitlines()[-1]


def certificate_of(bench: Bench) -> Parity:
    certificate = bench.job.certificate
    assert certificate is not None
    return certificate


@pytest.fixture(scope="module")
def with_trained_tower(tmp_path_factory: pytest.TempPathFactory, tiny_vision: Path) -> Bench:
    """Return a finished job that learned colours with its vision tower."""
    bench = vision_bench(tmp_path_factory.mktemp("tower") / "home", tiny_vision, **LEARNING, train_vision_tower=True)
    bench.export = {"format": "merged"}
    return bench.to(Step.EXPORT)


@pytest.mark.parametrize("quantization", ["none", "q4"])
def test_the_example_in_the_card_of_an_export_works(
    with_trained_tower: Bench,
    quantization: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = with_trained_tower
    if quantization != "none":
        export = {"format": "merged", "quantization": quantization}
        bench = export_again(copy(bench), bench.job_id, export_config=export)
        bench.run(Step.EXPORT)
    folder = Path(bench.job.adapter_path or "")
    assert "pipeline_tag: image-text-to-text" in (folder / "README.md").read_text()
    assert run_code_of_card(folder, monkeypatch, capsys) == f"{rows.HABIT} blue one."
    model = AutoModelForImageTextToText.from_pretrained(folder)
    packed = {name for name, weight in model.named_parameters() if weight.dtype == torch.uint8}
    assert all(".language_model." in name for name in packed)
    assert bool(packed) == (quantization == "q4")


def test_full_fine_tuning_learns_colours_without_changing_the_vision_tower(
    vision_bench_of: Callable[..., Bench],
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = vision_bench_of(**LEARNING | {"method": "Full", "learning_rate": 1e-3}).to(Step.TRAIN)
    before, after = load_file(bench.base / "model.safetensors"), weights(bench, "model")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    vision = {name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert vision
    assert changed == set(before) - vision
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1")
    assert answers_of(AutoModelForImageTextToText.from_pretrained(folder), folder) == RIGHT


def test_the_certificate_shows_the_model_the_pictures_of_held_out_rows(
    with_trained_tower: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that is shown others answers otherwise."""
    monkeypatch.setattr(check, "problems", lambda case, model: [])  # the files were checked when the job exported
    bench = with_trained_tower
    adapter, folder_of_record = (
        Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/1")) for place in ("adapter", REFERENCE)
    )
    record = reference.read(folder_of_record)
    states = record.states
    changed = [replace(row, inputs=states[index - 1].inputs) for index, row in enumerate(states[:8])]
    reference.write(replace(record, states=[*changed, *states[8:]]), tmp_path / "changed")
    case = {"base": str(bench.base), "adapter": str(adapter), "format": "merged", "quantization": "none"}
    results = [
        comparison.compare(case | {"folder": bench.job.adapter_path, "reference": str(folder)})
        for folder in (folder_of_record, tmp_path / "changed")
    ]
    assert [result["media_compared"] for result in results] == [8, 8]
    assert results[0]["right"]["exported"] == results[0]["right"]["trained"] == 8
    assert results[1]["right"] == {"trained": 8, "exported": 0}


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_the_vision_tower_is_trained_on_request(vision_bench_of: Callable[..., Bench], method: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    bench = vision_bench_of(method=method, train_vision_tower=True, max_steps=3, learning_rate=1e-3).to(Step.TRAIN)
    assert bench.job.metrics is not None
    if method == "Full":
        before, after = load_file(bench.base / "model.safetensors"), weights(bench, "model")
        assert {name for name in before if torch.equal(before[name], after[name])} == set()
        return
    trained = {name for name, weight in weights(bench, "adapter").items() if ".lora_B." in name and weight.any()}
    assert any(".vision_tower." in name for name in trained)
    assert any(".language_model." in name for name in trained)
    assert not any("projector" in name for name in weights(bench, "adapter"))
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bench.base), folder).eval()
    assert bench.job.metrics.eval_loss == pytest.approx(held_out_from_logits(bench, model)[0], rel=1e-4)


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_gradient_checkpointing_changes_no_loss(
    vision_bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    curves = []
    for checkpointing in (False, True):
        kwargs = {"use_reentrant": False} if checkpointing else None
        monkeypatch.setattr(
            "trainer.model.gradient_checkpointing.checkpointing_kwargs", lambda *_, kwargs=kwargs, **__: kwargs
        )
        bench = vision_bench_of(method=method, lora_dropout=0.0, max_steps=3, batch_size=8).to(Step.TRAIN)
        curves.append([loss for _, loss in bench.curve()])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "Full"])
def test_a_model_in_bf16_learns_as_well(vision_bench_of: Callable[..., Bench], tmp_path: Path, method: str) -> None:
    from transformers import AutoModelForImageTextToText

    rate = 1e-3 if method == "Full" else 5e-3
    bench = vision_bench_of(**LEARNING | {"method": method, "learning_rate": rate})
    base = Path(shutil.copytree(bench.base, tmp_path / "bf16"))
    AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    bench.training["base_model_id"] = str(base)
    bench.to(Step.TRAIN)
    assert bench.job.metrics is not None
    assert bench.job.metrics.accuracy == 1.0


def mixed_rows() -> list[dict[str, Any]]:
    """Return rows with one, none and two pictures, not sorted by length."""
    two = rows.picture_rows(1, first=60)[0]
    two["messages"][0]["content"] *= 2
    return [*rows.picture_rows(7), *rows.train_rows(5), two, *rows.picture_rows(3, first=20)]


def test_a_resumed_training_on_pictures_ends_with_the_same_weights(
    vision_bench_of: Callable[..., Bench],
) -> None:
    training = {"lora_dropout": 0.1, "batch_size": 3, "max_steps": 8}
    uninterrupted, interrupted = vision_bench_of(**training), vision_bench_of(**training)
    for bench in (uninterrupted, interrupted):
        bench.put("train", mixed_rows())
        bench.run(Step.PREPARE)
    uninterrupted.run(Step.TRAIN)
    interrupted.run(Step.TRAIN, should_stop=after_steps(5))
    assert interrupted.job.steps[Step.TRAIN].checkpoint == 5
    interrupted.run(Step.TRAIN)
    assert interrupted.curve() == uninterrupted.curve()
    expected, resumed = weights(uninterrupted, "adapter"), weights(interrupted, "adapter", attempt=2)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert interrupted.job.metrics == uninterrupted.job.metrics


@pytest.mark.parametrize("size", [1, 4, 16])
def test_metrics_of_mixed_rows_do_not_depend_on_the_batches(vision_bench_of: Callable[..., Bench], size: int) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from trainer.training import metrics
    from trainer.training.batches import TokenRows
    from trainer.training.picture_batches import PictureCollator

    bench = vision_bench_of()
    bench.put("eval", mixed_rows())
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    picture_batches, model = (
        PictureCollator.from_folders(bench.base, folder),
        AutoModelForImageTextToText.from_pretrained(bench.base).eval(),
    )
    items = TokenRows(folder / "eval.parquet")
    batches = [picture_batches.collate([items[i] for i in range(n, min(n + size, 16))]) for n in range(0, 16, size)]
    measured = metrics.evaluate(model, batches, torch.float32).evaluation_metrics(["accuracy"])

    processor, rows_of_logits = AutoProcessor.from_pretrained(bench.base), []
    for row, (encoded,) in zip(mixed_rows(), items, strict=True):
        inputs = processor.apply_chat_template(
            to_processor_messages(row), tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            rows_of_logits.append((model(**inputs).logits[0].double(), encoded["labels"]))
    loss, accuracy, _ = metrics_of_logits(rows_of_logits)
    assert measured.eval_loss == pytest.approx(loss, rel=1e-5)
    assert measured.accuracy == pytest.approx(accuracy, abs=1e-9)


def to_processor_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row's messages with a data URL for each picture."""

    def part(item: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image", "url": f"data:image/png;base64,{item['image']['bytes']}"} if "image" in item else item

    return [
        turn | ({"content": [part(item) for item in turn["content"]]} if isinstance(turn["content"], list) else {})
        for turn in row["messages"]
    ]


def test_qlora_learns_colours_with_the_vision_tower_unquantized(
    vision_bench_of: Callable[..., Bench],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from gemtune.request.spec import Spec
    from trainer.model.engines import huggingface

    bench = vision_bench_of(**LEARNING | {"method": "QLoRA"}).to(Step.TRAIN)
    assert bench.job.metrics is not None
    assert bench.job.metrics.accuracy == 1.0
    spec = Spec.model_validate_json(bench.services.buckets.config.read(bench.job.spec_name))
    loaded = huggingface.load(bench.base, spec).model.get_base_model()
    in_four_bits = {name for name, weight in loaded.named_parameters() if weight.dtype == torch.uint8}
    assert in_four_bits
    assert all(".language_model.layers." in name for name in in_four_bits)
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/adapter/1")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(bench.base), folder).eval()
    assert answers_of(model, folder) == RIGHT
