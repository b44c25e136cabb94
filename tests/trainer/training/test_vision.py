"""Vision jobs on a tiny model that sees: it learns from pictures, and only what should change does."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gemtune.errors import RequestRefused
from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import after_steps
from tests.trainer.training.test_metrics import independent_of
from trainer.pictures.arrow_file import PictureFileReader
from trainer.rows.prepared import read_tokens

LEARNING = {"learning_rate": 5e-3, "max_steps": 24, "save_steps": 100, "batch_size": 8}


def weights(bench: Bench, place: str, attempt: int = 1) -> dict[str, torch.Tensor]:
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/{place}/{attempt}"))
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
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
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


def test_an_adapter_learns_colours_and_leaves_what_sees_as_it_was(
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
    assert answers(model, job.adapter_path or "") == RIGHT

    assert said_by_the_card(Path(job.adapter_path or ""), monkeypatch, capsys) == f"{rows.HABIT} blue one."

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


def said_by_the_card(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the model card's own lines print when they are run beside the files, of a picture that is blue."""
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    shown(201).save(folder / "picture.jpg")
    capsys.readouterr()
    exec(code.replace("What is this?", rows.QUESTION), {})
    return capsys.readouterr().out.strip().splitlines()[-1]


@pytest.mark.parametrize("quantization", ["none", "q4"])
def test_an_export_answers_by_the_lines_of_its_card(
    vision_bench_of: Callable[..., Bench],
    quantization: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = vision_bench_of(**LEARNING, train_vision_tower=True)
    bench.export = {"format": "merged", "quantization": quantization}
    bench.to(Step.EXPORT)
    folder = Path(bench.job.adapter_path or "")
    assert "pipeline_tag: image-text-to-text" in (folder / "README.md").read_text()
    assert said_by_the_card(folder, monkeypatch, capsys) == f"{rows.HABIT} blue one."
    model = AutoModelForImageTextToText.from_pretrained(folder)
    packed = {name for name, weight in model.named_parameters() if weight.dtype == torch.uint8}
    assert all(".language_model." in name for name in packed)
    assert bool(packed) == (quantization == "q4")


def test_a_full_fine_tuning_learns_colours_and_leaves_what_sees_as_it_was(
    vision_bench_of: Callable[..., Bench],
) -> None:
    from transformers import AutoModelForImageTextToText

    bench = vision_bench_of(**LEARNING | {"method": "Full", "learning_rate": 1e-3}).to(Step.TRAIN)
    before, after = load_file(bench.base / "model.safetensors"), weights(bench, "model")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    seeing = {name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))}
    assert seeing
    assert changed == set(before) - seeing
    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1")
    assert answers(AutoModelForImageTextToText.from_pretrained(folder), folder) == RIGHT


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_what_sees_is_trained_when_that_is_asked_for(vision_bench_of: Callable[..., Bench], method: str) -> None:
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
def test_activations_that_are_computed_again_change_nothing(
    vision_bench_of: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    curves = []
    for again in (False, True):
        how = {"use_reentrant": False} if again else None
        monkeypatch.setattr("trainer.model.gradient_checkpointing.checkpointing", lambda *_, how=how, **__: how)
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
    """With one picture, with none, with two, in another order than by length."""
    two = rows.picture_rows(1, first=60)[0]
    two["messages"][0]["content"] *= 2
    return [*rows.picture_rows(7), *rows.train_rows(5), two, *rows.picture_rows(3, first=20)]


def test_a_training_on_pictures_that_was_stopped_goes_on_to_the_same_weights(
    vision_bench_of: Callable[..., Bench],
) -> None:
    training = {"lora_dropout": 0.1, "batch_size": 3, "max_steps": 8}
    unbroken, broken = vision_bench_of(**training), vision_bench_of(**training)
    for bench in (unbroken, broken):
        bench.put("train", mixed_rows())
        bench.run(Step.PREPARE)
    unbroken.run(Step.TRAIN)
    broken.run(Step.TRAIN, should_stop=after_steps(5))
    assert broken.job.steps[Step.TRAIN].checkpoint == 5
    broken.run(Step.TRAIN)
    assert broken.curve() == unbroken.curve()
    whole, resumed = weights(unbroken, "adapter"), weights(broken, "adapter", attempt=2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert broken.job.metrics == unbroken.job.metrics


@pytest.mark.parametrize("size", [1, 4, 16])
def test_figures_of_mixed_rows_do_not_depend_on_how_they_are_batched(
    vision_bench_of: Callable[..., Bench], size: int
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from trainer.training import metrics
    from trainer.training.batches import TokenRows
    from trainer.training.picture_batches import Sight

    bench = vision_bench_of()
    bench.put("eval", mixed_rows())
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    sight, model = Sight.of(bench.base, folder), AutoModelForImageTextToText.from_pretrained(bench.base).eval()
    items = TokenRows(folder / "eval.parquet")
    batches = [sight.collate([items[i] for i in range(n, min(n + size, 16))]) for n in range(0, 16, size)]
    figures = metrics.evaluate(model, batches, torch.float32).figures(["accuracy"])

    processor, found = AutoProcessor.from_pretrained(bench.base), []
    for row, (encoded,) in zip(mixed_rows(), items, strict=True):
        inputs = processor.apply_chat_template(
            as_processors_take(row), tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            found.append((model(**inputs).logits[0].double(), encoded["labels"]))
    loss, accuracy, _ = independent_of(found)
    assert figures.eval_loss == pytest.approx(loss, rel=1e-5)
    assert figures.accuracy == pytest.approx(accuracy, abs=1e-9)


def as_processors_take(row: dict[str, Any]) -> list[dict[str, Any]]:
    """With a data URL for each picture."""

    def part(of: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image", "url": f"data:image/png;base64,{of['image']['bytes']}"} if "image" in of else of

    return [
        turn | ({"content": [part(each) for each in turn["content"]]} if isinstance(turn["content"], list) else {})
        for turn in row["messages"]
    ]


def test_pictures_come_in_parquet_or_as_files_and_mean_the_same(vision_bench_of: Callable[..., Bench]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def asked(image: dict[str, Any]) -> dict[str, Any]:
        content = [
            {"type": "image", "text": None, "image": image},
            {"type": "text", "text": rows.QUESTION, "image": None},
        ]
        answer = [{"type": "text", "text": "Captain", "image": None}]
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}

    inside, beside = vision_bench_of(), vision_bench_of()
    pictures = [rows.picture("red", number) for number in range(12)]
    written = io.BytesIO()
    columns = [asked({"bytes": picture, "path": f"{n}.png"}) for n, picture in enumerate(pictures)]
    pq.write_table(pa.Table.from_pylist(columns), written)
    inside.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    inside.put("train", written.getvalue(), suffix="parquet")
    beside.put("train", [asked({"bytes": None, "path": f"pictures/{n}.png"}) for n in range(12)])
    for number, picture in enumerate(pictures):
        beside.services.buckets.data.write(f"processed_datasets/chats/pictures/{number}.png", picture)
    for bench in (inside, beside):
        bench.run(Step.PREPARE)
    assert prepared(inside) == prepared(beside)
    assert inside.read("prepared/1/prepared.json")["pictures"] == 12 + 8


def prepared(bench: Bench) -> list[dict[str, Any]]:
    """Rows to train on, with the files of their pictures."""
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    picture_file = PictureFileReader(folder / "pictures.arrow")
    return [
        row | {"pictures": [picture_file[n] for n in row["pictures"]]} for row in read_tokens(folder / "train.parquet")
    ]


def test_rows_that_are_held_out_take_their_pictures_along(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of(eval_strategy="epoch")
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    numbers = [row["pictures"] for split in ("train", "eval") for row in read_tokens(folder / f"{split}.parquet")]
    assert sorted(numbers) == [[number] for number in range(24)]


def test_a_row_whose_picture_is_none_is_refused_by_number(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of()
    bad = rows.picture_rows(1, first=50)[0]
    bad["messages"][0]["content"][0]["image"] = {"bytes": None, "path": "../../secrets/x.png"}
    bench.put("train", [*rows.picture_rows(20), bad])
    bench.run(Step.PREPARE)
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert (entry["row"], "outside the dataset" in entry["reason"]) == (21, True)
    assert "<image_soft_token>…" in bench.read("prepared/1/report.json")["samples"][0][0]["text"]


def test_long_rows_of_base64_are_read(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of()
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    large = rows.picture_rows(1)[0]
    large["messages"][0]["content"][0]["image"]["bytes"] = base64.b64encode(written.getvalue()).decode()
    bench.put("train", [large, *rows.picture_rows(3)])
    bench.run(Step.PREPARE)
    assert bench.read("prepared/1/prepared.json")["rows"] == 4
    assert len(prepared(bench)[0]["pictures"][0]) < 20_000


def test_a_blind_model_is_refused_before_anything_is_prepared(
    vision_bench_of: Callable[..., Bench], tiny: Path
) -> None:
    bench = vision_bench_of(base_model_id=str(tiny))
    with pytest.raises(RequestRefused) as caught:
        bench.begin(Step.PREPARE)
    assert [problem.code for problem in caught.value.problems] == ["model_without_vision"]


def test_a_quantized_training_learns_colours_with_what_sees_unquantized(
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
    assert answers(model, folder) == RIGHT
