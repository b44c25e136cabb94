"""Check of every weight of a merged export against base + scale · B·A.

Logits of some rows do not show a single norm that is off by one; this does. It streams: one tensor is in memory at a
time, and temporary copies are of a chunk of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from gemtune.request.exports import MergedQuantization
from trainer.base_model import folder_contents
from trainer.base_model.four_bits import is_quantized
from trainer.certificate.files.systematic import DEVIATIONS, Systematic, scaled_row
from trainer.export.lora_weights import LoraWeights, canonical_name
from trainer.export.merge import NF4_PARTS

# Values per chunk.
CHUNK = 1 << 22
# Relative error of a float32 product that another number of threads sums in another order.
FLOAT32_ERROR = 1e-5
# Root mean square error of a 4-bit tensor, as a multiple of that of quantizing the trained weights afresh. Measured:
# 1.00. Noise of 3% of the weights' standard deviation makes it 1.05.
NF4_ERROR = 1.05
# Scale of a row in 4 bits relative to that of quantizing afresh, and of a block, apart from chance. Both round to bf16
# first, one of them by chance, so that some values fall on the other side of a step. Measured on Gemma 3 270M: up to
# 0.042 for rows, and 0.21 for blocks, where chance may make another 0.25.
NF4_SCALE = 0.1
# Values that share a scale, and the relative step of bf16.
NF4_BLOCK, BF16_STEP = 64, 2.0**-7
# Bits of a float32 number's exponent.
EXPONENT = 0x7F800000
# Number of tensors that a message names.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the trained model, by its name in the base model's files.

    value: exact, in float32 if training changed it. trained: whether training may have changed it. before: the base
    model's value, if an adapter was added to it; None without an adapter, and for rows of new tokens.
    """

    name: str
    value: torch.Tensor
    trained: bool
    before: torch.Tensor | None = None


class TrainedModel:
    """Tensors of the trained model, computed from base and adapter one by one.

    adapter: None if all weights were trained; then `base` holds them.
    """

    def __init__(self, base: Path, adapter: Path | None):
        from safetensors import safe_open

        self._lora = None if adapter is None else LoraWeights(adapter)
        self._files: dict[str, Any] = {}
        for path in sorted(folder_contents.weight_files(base)):
            file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(sorted(file.keys()), file)

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    def weight(self, name: str) -> Weight:
        base: torch.Tensor = self._files[name].get_tensor(name)
        if self._lora is None:
            return Weight(name, base, trained=True)
        merged = self._lora.merged(canonical_name(name), base)
        is_added = merged is not base and merged.shape == base.shape and merged.dtype == torch.float32
        return Weight(name, merged, trained=merged is not base, before=base if is_added else None)


def merged_problems(trained: TrainedModel, folder: Path, quantization: MergedQuantization) -> list[str]:
    """Return in sentences which tensors of a merged export are wrong."""
    from safetensors import safe_open

    stored: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in sorted(folder_contents.weight_files(folder)):
        file = safe_open(path, framework="pt")
        names = sorted(file.keys())
        if twice := sorted(set(names) & set(stored)):
            return [f"{twice[0]} is in two files, {places[twice[0]]} and {path.name}"]
        stored |= dict.fromkeys(names, file)
        places |= dict.fromkeys(names, path.name)
    if (folder / folder_contents.INDEX).is_file():
        stated = folder_contents.weight_map(folder)
        if misplaced := sorted(name for name in {*places, *stated} if places.get(name) != stated.get(name)):
            name = misplaced[0]
            return [f"{folder_contents.INDEX} has {name} in {stated.get(name)}, and it is in {places.get(name)}"]
    four_bits = quantization == "q4"
    parts = {f"{name}.{part}" for name in trained.names if four_bits and is_quantized(name) for part in NF4_PARTS}
    if set(stored) != set(trained.names) | parts:
        return [_differing_names(set(trained.names) | parts, set(stored))]
    problems = []
    for name in trained.names:
        weight, tensor = trained.weight(name), stored[name].get_tensor(name)
        if four_bits and is_quantized(name):
            quantized = {part: stored[f"{name}.{part}"].get_tensor(f"{name}.{part}") for part in NF4_PARTS}
            problem = _nf4_problem(weight, tensor, quantized)
        else:
            problem = _rounding_problem(weight, tensor, torch.float16 if quantization == "fp16" else torch.bfloat16)
        if problem is not None:
            problems.append(f"{name} {problem}")
    return summary(problems)


def summary(problems: Sequence[str]) -> list[str]:
    """Return the first problems and how many more there are."""
    more = [f"and {len(problems) - NAMED} more tensors"] if len(problems) > NAMED else []
    return [*problems[:NAMED], *more]


def _differing_names(expected: set[str], actual: set[str]) -> str:
    missing, extra = sorted(expected - actual), sorted(actual - expected)
    listed = [
        f"{len(names)} tensors are {what}: {names[0]}, …"
        for names, what in ((missing, "missing"), (extra, "too many"))
        if names
    ]
    return "; ".join(listed)


def _rounding_problem(weight: Weight, stored: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Return how a tensor differs from the trained one, or None.

    An untrained tensor has to be equal bit by bit.
    """
    exact = weight.value
    if stored.shape != exact.shape:
        return f"has the shape {tuple(stored.shape)}, not {tuple(exact.shape)}"
    if not exact.is_floating_point():
        return None if torch.equal(exact, stored) else "is not the base model's"
    if stored.dtype != dtype:
        return f"is stored as {stored.dtype}, not {dtype}"
    systematic = Systematic()
    befores = repeat(None) if weight.before is None else _chunks(weight.before)
    for ours, theirs, before in zip(_chunks(exact), _chunks(stored), befores, strict=False):
        if not weight.trained or ours.dtype == dtype:
            if not torch.equal(ours.to(dtype).view(torch.int16), theirs.view(torch.int16)):
                return "is not the base model's" if not weight.trained else "is not the trained one"
            continue
        plain = ours.float()
        error, allowed = theirs.float() - plain, spacing(plain, dtype)
        if not bool((error.abs() <= allowed).all()):
            if bool(plain.isinf().all()) and torch.equal(theirs.float(), plain):
                continue  # bounds of layers of Gemma 4 that do not clip, whose difference is no number
            return f"differs from base + scale · B·A by up to {float(error.abs().max()):.3g}"
        # A value that is rounded up or down by chance has a variance of up to a quarter of the squared step.
        systematic.add(plain, error, allowed.square() / 4, None if before is None else plain - before.float())
    return systematic.problem(in_blocks=False)


def spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return how far rounding to a 16-bit type may move float32 values.

    bf16 is rounded up or down by chance, so by up to a whole step; fp16 to the nearest, by half a step.
    """
    below, smallest = (7, -126) if dtype == torch.bfloat16 else (11, -25)
    powers = (values.view(torch.int32) & EXPONENT).view(torch.float32)  # of two, at most the value
    return (powers * 2.0**-below).clamp_(min=2.0**smallest).add_(values.abs(), alpha=FLOAT32_ERROR)


def _nf4_problem(weight: Weight, stored: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> str | None:
    """Return how a 4-bit tensor differs from the trained one, or None."""
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit

    exact = weight.value.to(torch.bfloat16)
    packed, state = quantize_4bit(exact.contiguous(), quant_type="nf4", compress_statistics=True)
    if (setting := _differing_setting(state.as_dict(packed=True), parts)) is not None:
        return f"has another {setting} of 4 bits than quantizing gives"
    try:
        values = dequantize_4bit(stored, QuantState.from_dict(dict(parts), device=torch.device("cpu")))
    except (ValueError, KeyError, RuntimeError, AssertionError) as error:
        return f"cannot be dequantized: {str(error)[:100]}"
    if values.shape != exact.shape:
        return f"has the shape {tuple(values.shape)}, not {tuple(exact.shape)}"
    afresh = dequantize_4bit(packed, state)
    actual, honest = ((each.float() - weight.value.float()).reshape(len(exact), -1) for each in (values, afresh))
    whole = float(actual.square().mean().sqrt()), float(honest.square().mean().sqrt())
    rows = actual.square().mean(1).sqrt(), honest.square().mean(1).sqrt()
    is_within = whole[0] <= NF4_ERROR * whole[1] + 1e-12 and bool((rows[0] <= 1.5 * rows[1] + whole[1] / 2).all())
    if not is_within:  # also for values that are not numbers
        return f"has {whole[0] / max(whole[1], 1e-12):.2f} times the error of 4 bits"
    ours = weight.value.float().reshape(len(exact), -1)
    squares, difference = ours.square().sum(1).clamp(min=1e-24), (actual - honest) * ours
    scales, chance = difference.sum(1) / squares, DEVIATIONS * difference.square().sum(1).sqrt() / squares
    if not bool((scales.abs() <= NF4_SCALE + chance).all()):
        return f"has a row scaled by {1 + float(scales[scales.abs().argmax()]):.3f}"
    if (block := _scaled_nf4_block(ours, actual, honest)) is not None:
        return block
    systematic = Systematic()
    added = None if weight.before is None else ours - weight.before.float().reshape(ours.shape)
    systematic.add(ours, actual, honest.square(), added)
    return systematic.problem(in_blocks=True)


def _differing_setting(afresh: Mapping[str, torch.Tensor], parts: Mapping[str, torch.Tensor]) -> str | None:
    """Return which constant of a tensor in 4 bits is another one, or None.

    These are the tables of levels, and the settings of bitsandbytes except the offset of scales. Both: the parts that
    are stored beside a tensor, by their names in NF4_PARTS.
    """
    *_, state = NF4_PARTS
    for name in ("quant_map", "nested_quant_map"):
        if not torch.equal(afresh[name], parts[name]):
            return name
    ours, theirs = (json.loads(bytes(each[state].tolist())) | {"nested_offset": None} for each in (afresh, parts))
    return next((str(key) for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)), None)


def _scaled_nf4_block(exact: torch.Tensor, actual: torch.Tensor, honest: torch.Tensor) -> str | None:
    """Return by how much the worst block in 4 bits is scaled, or None.

    The last block may be shorter, as bitsandbytes fills it up. actual, honest: errors of the file, and of quantizing
    afresh.
    """
    missing = -exact.numel() % NF4_BLOCK
    ours, theirs, errors, present = (
        torch.nn.functional.pad(each.reshape(-1), (0, missing)).reshape(-1, NF4_BLOCK)
        for each in (exact, actual, honest, torch.ones_like(exact))
    )
    # A value that is rounded to bf16 by chance may fall on the other side of a step.
    mean = errors.square().sum(1, keepdim=True) / present.sum(1, keepdim=True)
    variance = (mean + (ours * BF16_STEP).square()) * present
    return scaled_row(ours, theirs, variance, 0.0, part="block", tolerance=NF4_SCALE)


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from tensor.reshape(-1).split(CHUNK)
