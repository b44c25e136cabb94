"""Jobs with pictures or audio on tiny models of Gemma 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemtune.methods import MediaModality
from tests import tiny_gemma
from tests.trainer.conftest import Bench
from tests.trainer.training.rl_trainers import prepared_folder
from tests.trainer.training.test_metrics import metrics_of_logits
from trainer.rows.prepared import AUDIO, PICTURES, read_tokens

BenchOf = Callable[..., Bench]
# Returns the inputs of a model for a row: (model's folder, token ids, numbers of its media).
Inputs = Callable[[Path, list[int], tuple[int, ...]], dict[str, torch.Tensor]]


def scaled_models(folder: Path, scales: Mapping[str, float]) -> Callable[[str], Path]:
    """Return a function from a shape to the folder of its tiny model.

    Some weights are scaled: with those of a new model all media have almost the same embeddings, and all tokens almost
    the same logits. scales: factors of weights by the ends of their names.
    """
    built: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in built:
            built[shape] = tiny_gemma.build(folder / shape, shape)
            weights = load_file(built[shape] / "model.safetensors")
            for name in weights:
                weights[name] *= next((factor for end, factor in scales.items() if name.endswith(end)), 1)
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
