"""Jobs with pictures or audio on tiny models of Gemma 3n and 4."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.methods import MediaModality
from tests import tiny_gemma
from tests.tiny_shapes import SHAPES, gemma3n_processor, gemma3n_settings
from tests.trainer.conftest import Bench
from tests.trainer.tones import QUESTION, encoded, samples
from tests.trainer.training.rl_trainers import prepared_folder
from tests.trainer.training.test_metrics import metrics_of_logits
from trainer.rows.prepared import AUDIO, PICTURES, read_tokens

BenchOf = Callable[..., Bench]
# Returns the inputs of a model for a row: (model's folder, token ids, numbers of its media).
Inputs = Callable[[Path, list[int], tuple[int, ...]], dict[str, torch.Tensor]]


def scaled_models(folder: Path, scales: Mapping[str, float]) -> Callable[[str], Path]:
    """Return a function from a shape to the folder of its tiny model.

    Some weights are scaled: with those of a new model all media have almost the same embeddings, and all tokens almost
    the same logits. The padding has an embedding, as in published models: of a token whose embedding is zero, and that
    sees no other, Gemma 3n has no gradients. scales: factors of weights by the ends of their names.
    """
    built: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in built:
            built[shape] = tiny_gemma.build(folder / shape, shape)
            weights = load_file(built[shape] / "model.safetensors")
            for name in weights:
                weights[name] *= next((factor for end, factor in scales.items() if name.endswith(end)), 1)
                if "embed_tokens" in name:
                    weights[name][0] = weights[name][-1]
            save_file(weights, built[shape] / "model.safetensors", metadata={"format": "pt"})
        return built[shape]

    return folder_of


def media_benches(
    folder: Path,
    models: Callable[[str], Path],
    modality: MediaModality,
    chat: Callable[..., dict[str, Any]],
    held_out: Sequence[tuple[int, ...]],
) -> BenchOf:
    """Return a factory of jobs on a tiny model of a shape.

    chat: returns the row with media of these numbers. held_out: numbers of the media of each held-out row.
    """
    benches: list[Bench] = []

    def make(shape: str, **training: Any) -> Bench:
        bench = Bench(folder / f"home-{len(benches)}", models(shape), **training)
        bench.fields["modality"] = modality
        bench.put("train", [chat(number) for number in range(24)])
        bench.put("eval", [chat(*numbers) for numbers in held_out])
        benches.append(bench)
        return bench

    return make


def assert_compared_with_media(bench: Bench, perplexity: float | None = None) -> None:
    """Assert that a certificate compared the held-out rows with their media.

    perplexity: of the trained model on all of these rows, by another computation; None not to compare it.
    """
    certificate = bench.job.certificate
    assert certificate is not None
    held_out = list(read_tokens(prepared_folder(bench) / "eval.parquet"))
    with_media = sum(bool(row.get(PICTURES) or row.get(AUDIO)) for row in held_out)
    compared = certificate.source, certificate.rows, certificate.media_rows
    assert compared == ("held-out rows", len(held_out), with_media)
    assert certificate.answers_right == certificate.answers_right_trained
    if perplexity is not None:
        assert certificate.perplexity_trained == pytest.approx(perplexity, rel=1e-3)


def reference_metrics(
    bench: Bench, model: Any, inputs: Inputs, held_out: Sequence[tuple[int, ...]]
) -> tuple[float, float, float]:
    """Return held-out loss, accuracy and perplexity, from full logits."""
    rows_of_logits = []
    for row, numbers in zip(read_tokens(prepared_folder(bench) / "eval.parquet"), held_out, strict=True):
        with torch.no_grad():
            logits = model(**inputs(bench.base, row["input_ids"], numbers)).logits[0].double()
        rows_of_logits.append((logits, row["labels"]))
    return metrics_of_logits(rows_of_logits)


def describe_gemma3n(folder: Path) -> Path:
    """Write the small files of a tiny Gemma 3n.

    They are all that prepare reads. Returns the folder.
    """
    tokenizer = tiny_gemma.write_tokenizer(folder, SHAPES["gemma3n"])
    tokenizer.save_pretrained(folder)
    gemma3n_processor(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(gemma3n_settings(tokenizer, 32) | {"model_type": "gemma3n"}))
    return folder


def assert_as_plain_peft(
    bench: Bench, ours: Any, loss: torch.Tensor, inputs: Inputs, held_out: Sequence[tuple[int, ...]]
) -> None:
    """Assert that transformers and PEFT compute a loss and its gradients, too.

    ours: the trained model with the gradients. loss: the sum over the tokens of the held-out rows.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    config = ours.peft_config["default"]
    plain = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(bench.base),
        LoraConfig(r=config.r, lora_alpha=config.lora_alpha, target_modules=config.target_modules),
    )
    weights = {name: weight for name, weight in ours.state_dict().items() if "lora_" in name}
    assert not plain.load_state_dict(weights, strict=False).unexpected_keys
    total = torch.zeros(())
    for row, numbers in zip(read_tokens(prepared_folder(bench) / "eval.parquet"), held_out, strict=True):
        logits = plain(**inputs(bench.base, row["input_ids"], numbers)).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum")
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    expected = {name: weight.grad for name, weight in plain.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in ours.named_parameters() if weight.requires_grad}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = max(float(expected[name].abs().max()), 1e-4)
        assert float((gradient - expected[name]).abs().max()) < 2e-3 * scale, name


def assert_only_language_model_changed(bench: Bench) -> None:
    """Assert that Full training changed weights of the language model only."""
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/model/1"))
    before, after = load_file(bench.base / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype))}
    assert changed
    assert all(".language_model." in name for name in changed)


def run_readme_on_speech(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Run the Python example of an audio export on a tone; return its answer."""
    folder = Path(bench.job.adapter_path or "")
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    (folder / "speech.wav").write_bytes(encoded(samples(number)))
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code.replace("What is said?", QUESTION), {})
    printed: str = capsys.readouterr().out
    return printed.strip().splitlines()[-1]
