"""Check of every tensor of a GGUF file against base + scale · B·A.

Each tensor is dequantized, chunk by chunk, and compared with the trained one under llama.cpp's name for it. Norms of
Gemma 1 to 3 are stored as 1 + weight, as llama.cpp multiplies by them directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gemtune.request.exports import GgufExport, GgufQuantization
from trainer.base_model import folder_contents, vision_parts
from trainer.certificate.files.systematic import Systematic, scaled_row
from trainer.certificate.files.weights import TrainedModel, Weight, spacing, summary
from trainer.export.lora_weights import canonical_name
from trainer.export.merge import EMBEDDINGS
from trainer.gguf.dither import LOW_BITS, Floats, dequantized, float32, grid_steps
from trainer.gguf.file_layout import Entry, InvalidGguf, contents

# Values per chunk.
CHUNK = 1 << 20
# Root mean square error of a quantized tensor, as a multiple of step / sqrt(12), the error of rounding to the nearest.
# Measured: 0.9 to 1.2 (`trainer.gguf.dither`). Dither adds as much noise again.
ERROR = 1.35
# The same for a single row, whose few blocks vary more. Measured on q8_0 and q4_k_m of Gemma 3 270M: up to 1.64 times
# the error of the row's own steps, which are up to 8 times those of the tensor.
ROW_ERROR = 3.0
# Largest multiple of a block's scale that a value can be, by type. Scales are float16 numbers, which are wrong by up to
# UNDERFLOW near 0: rows of values that small, as tokens have that training never met, are stored as 0.
MULTIPLES = {
    "Q4_0": 8,
    "Q5_0": 16,
    "Q5_1": 32,
    "Q8_0": 128,
    "Q2_K": 48,
    "Q3_K": 128,
    "Q4_K": 960,
    "Q5_K": 2048,
    "Q6_K": 4096,
}
UNDERFLOW = 2.0**-25
# Types of at most 16 levels, where a small addition moves a value by a whole step or not at all. If the base model's
# weights lie between two levels, as weights do that were quantized before, the file holds a multiple of what training
# added: 7 times that in q2_k of Gemma 3 270M. How much of it is too much is left to the comparison of logits.
FEW_LEVELS = frozenset({"Q2_K", "Q3_K", "Q4_0", "Q4_K"})
# Types that the matrices of a file may have. llama.cpp chooses among them by the tensor, and by its width: 256 values
# do not divide every row. Single values and norms are of 16 or 32 bits in every file.
_EXACT = frozenset({"F32", "F16", "BF16"})
KINDS: Mapping[GgufQuantization, frozenset[str]] = {
    "f16": _EXACT,
    "q8_0": _EXACT | {"Q8_0"},
    "q5_k_m": _EXACT | {"Q5_K", "Q6_K", "Q5_1", "Q8_0"},
    "q4_k_m": _EXACT | {"Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q5_1", "Q8_0"},
    "q2_k": _EXACT | {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q5_0", "Q5_1", "Q8_0"},
}
# A tensor that llama.cpp's converter adds to those of Gemma 4: the divisors of the frequencies of rotary embeddings. A
# dimension that is not rotated has a divisor of at least STOPPED.
ROPE_FACTORS, STOPPED = "rope_freqs.weight", 1e20
# Types of the model whose norms multiply by 1 + weight.
SHIFTED_NORMS = re.compile(r"gemma[23]?(_text)?$")
PLAIN: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of the file. kind: ggml's name of its type."""

    path: Path
    entry: Entry
    kind: str
    block: tuple[int, int]

    def chunk(self, begin: int, count: int) -> tuple[Floats, Floats | None]:
        """Return values from `begin` on, and the steps of their blocks."""
        values, size = self.block
        if self.kind == "BF16":
            bits = np.memmap(self.path, np.uint16, "r", self.entry.offset + begin * 2, (count,))
            return float32(np.asarray(bits)), None
        if self.kind in PLAIN:
            at = self.entry.offset + begin * np.dtype(PLAIN[self.kind]).itemsize
            return np.memmap(self.path, PLAIN[self.kind], "r", at, (count,)).astype(np.float32), None
        at, blocks = self.entry.offset + begin // values * size, count // values
        raw = np.array(np.memmap(self.path, np.uint8, "r", at, (blocks, size)))
        return dequantized(raw, self.kind).reshape(-1), grid_steps(raw, self.kind).reshape(-1)


def problems(
    trained: TrainedModel, base: Path, path: Path, export: GgufExport, tokens: int, *, was_dithered: bool
) -> list[str]:
    """Return in sentences which tensors of a GGUF file are wrong.

    base: the folder with config.json. tokens: number of tokens of the trained model's tokenizer. Raises InvalidGguf.
    """
    config = folder_contents.config_of(base)
    entries = {entry.name: entry for entry in contents(path).entries}
    names = {name: llama_name for name in trained.names if (llama_name := _llama_name(name, config)) is not None}
    missing = {name: each for name, each in names.items() if each not in entries}
    tied = [name for name in missing if name.endswith("lm_head.weight") and _is_tied(config)]
    if lost := sorted(set(missing) - set(tied)):
        return [f"{path.name} lacks {len(lost)} tensors: {missing[lost[0]]}, …"]
    added = {ROPE_FACTORS} if str(config.get("model_type")).startswith("gemma4") else set()
    if extra := sorted(set(entries) - set(names.values()) - added):
        return [f"{path.name} has {len(extra)} tensors that the model does not: {extra[0]}, …"]
    coarse = [entry.name for entry in entries.values() if _kind_of(entry) not in KINDS[export.quantization]]
    if coarse:
        kind = _kind_of(entries[coarse[0]])
        return [f"{len(coarse)} tensors have a type that {export.quantization} does not: {coarse[0]} has {kind}, …"]
    shifted = bool(SHIFTED_NORMS.match(str(config.get("model_type"))))
    wrong = []
    rope_factors = _tensor(path, entries[ROPE_FACTORS]) if ROPE_FACTORS in entries else None
    if not _has_rope_factors(rope_factors, config):
        wrong.append(f"{ROPE_FACTORS} rotates other dimensions than the model")
    for name, llama_name in names.items():
        if name in tied:
            continue
        shift = 1.0 if shifted and name.endswith("norm.weight") else 0.0
        weight = _of_tokens(trained.weight(name), entries[llama_name], tokens)
        problem = _problem(_tensor(path, entries[llama_name]), weight, shift, was_dithered=was_dithered)
        if problem is not None:
            wrong.append(f"{llama_name} {problem}")
    return summary(wrong)


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether the embedding is the output head, too."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    return bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", True)))


def _kind_of(entry: Entry) -> str:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType(entry.kind).name


def _of_tokens(weight: Weight, entry: Entry, tokens: int) -> Weight:
    """Return an embedding or head without the rows that a file may leave out.

    These are rows at its end that belong to no token. tokens: number of tokens of the tokenizer.
    """
    if canonical_name(weight.name) not in EMBEDDINGS:
        return weight
    rows = entry.shape[0]
    if not tokens <= rows < len(weight.value):
        return weight
    return replace(weight, value=weight.value[:rows], before=None if weight.before is None else weight.before[:rows])


def _has_rope_factors(tensor: _Tensor | None, config: Mapping[str, Any]) -> bool:
    """Return whether frequencies are divided as the model's config says.

    The frequencies of rotated dimensions are kept. All others are divided by a number that makes them 0.
    """
    text = config.get("text_config")
    stated = (text if isinstance(text, dict) else config).get("rope_parameters") or {}
    share = (stated.get("full_attention") or stated).get("partial_rotary_factor")
    if share is None:
        return True
    if tensor is None:
        return False
    factors, _ = tensor.chunk(0, tensor.entry.count)
    rotated = int(len(factors) * share)
    return bool((factors[:rotated] == 1).all() and (factors[rotated:] >= STOPPED).all())


def projector_problems(trained: TrainedModel, base: Path, path: Path) -> list[str]:
    """Return in sentences which vision weights of an mmproj file are wrong.

    A weight that llama.cpp stores in another layout is compared without regard to the order of its values. Raises
    InvalidGguf.
    """
    entries = {entry.name: entry for entry in contents(path).entries}
    wrong, moved = [], []
    for name in trained.names:
        if not set(name.split(".")) & set(vision_parts.NAMES):
            continue
        weight = trained.weight(name)
        entry = next((entries[each] for each in _projector_names(name, base) if each in entries), None)
        if entry is None or entry.shape != tuple(weight.value.shape):
            moved.append(weight)
            continue
        del entries[entry.name]
        shift = 1.0 if entry.name == "mm.soft_emb_norm.weight" else 0.0
        problem = _problem(_tensor(path, entry), weight, shift, was_dithered=False)
        if problem is not None:
            wrong.append(f"{entry.name} of {path.name} {problem}")
    for weight in map(_as_converted, moved):
        same = next((each for each in entries.values() if _has_values(_tensor(path, each), weight)), None)
        if same is None:
            wrong.append(f"no tensor of {path.name} has the values of {weight.name}")
        else:
            del entries[same.name]
    return summary(wrong)


def _as_converted(weight: Weight) -> Weight:
    """Return a weight as llama.cpp's converter writes it.

    It applies softplus to the scales of audio layers.
    """
    if not weight.name.endswith(("per_dim_scale", "per_dim_key_scale")):
        return weight
    return Weight(weight.name, torch.nn.functional.softplus(weight.value.to(torch.bfloat16).float()), trained=True)


def _projector_names(name: str, base: Path) -> list[str]:
    """Return the names that a vision weight may have in an mmproj file.

    The stems come from llama.cpp's own table, in the gguf package; its converter renames the layers of Gemma 4 first.
    """
    vision = folder_contents.config_of(base).get("vision_config") or {}
    table = _projector_table(int(vision.get("num_hidden_layers", 0)))
    dotted = name.replace("_weight", ".weight")
    stem, _, kind = dotted.rpartition(".")
    if kind not in {"weight", "bias"} and dotted in table:  # a parameter of its own, such as a table of positions
        stem, kind = dotted, "weight"
    plain = stem.removeprefix("model.")
    renamed = plain.replace("vision_tower.encoder.", "vision_model.model.")
    stems = (stem, plain, renamed, renamed.removesuffix(".linear"))
    return [f"{table[each]}.{kind}" for each in stems if each in table]


@cache
def _projector_table(layers: int) -> Mapping[str, str]:
    """Return llama.cpp's names of vision modules by all other names."""
    import gguf

    return {name: each[1] for name, each in gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, layers).mapping.items()}


def _has_values(tensor: _Tensor, weight: Weight) -> bool:
    """Return whether a tensor has the values of a weight, in any order."""
    if tensor.entry.count != weight.value.numel():
        return False
    stored, _ = tensor.chunk(0, tensor.entry.count)
    is_rounded = not (weight.trained and weight.value.dtype == torch.float32)
    exact = (weight.value.to(torch.bfloat16) if is_rounded else weight.value).reshape(-1).float().sort().values
    allowed = spacing(exact, torch.float16)
    if not is_rounded:
        allowed = allowed + spacing(exact, torch.bfloat16)
    values = torch.from_numpy(stored).sort().values
    # Bounds of layers that do not clip are infinite.
    return bool(((values == exact) | (exact.isfinite() & ((values - exact).abs() <= allowed))).all())


def _tensor(path: Path, entry: Entry) -> _Tensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(entry.kind)
    if kind.name not in {"F32", "F16", "BF16", *LOW_BITS}:
        raise InvalidGguf(f"{entry.name} of {path.name} has the unexpected type {kind.name}")
    return _Tensor(path, entry, kind.name, GGML_QUANT_SIZES[kind])


def _problem(tensor: _Tensor, weight: Weight, shift: float, *, was_dithered: bool) -> str | None:
    """Return how a tensor differs from the trained one beyond its rounding."""
    exact, entry = weight.value, tensor.entry
    if entry.count != exact.numel() or (exact.ndim > 1 and entry.shape != tuple(exact.shape)):
        return f"has the shape {entry.shape}, not {tuple(exact.shape)}"
    width = exact.shape[-1] if exact.ndim > 1 else exact.numel()
    flat, step = exact.reshape(-1), max(1, CHUNK // width) * width
    actual = expected = 0.0
    before = None if weight.before is None else weight.before.reshape(-1)
    systematic = Systematic()
    for begin in range(0, len(flat), step):
        ours = flat[begin : begin + step].float()
        stored_values, steps = tensor.chunk(begin, len(ours))
        merged = ours if weight.trained and exact.dtype == torch.float32 else ours.to(torch.bfloat16).float()
        error = torch.from_numpy(stored_values) - (merged + shift)
        if (
            tensor.kind == "F16"
            and not shift
            and merged is not ours
            and torch.equal(merged.half().float() - merged, error)
        ):
            continue  # rounded to the nearest, as most tensors that are not trained
        allowed = spacing(ours, torch.bfloat16) if merged is ours else torch.zeros_like(ours)
        if steps is None:
            if tensor.kind == "F16":
                allowed = allowed + spacing(ours + shift, torch.float16)
            elif shift:
                allowed = allowed + 1e-7 * (ours.abs() + shift)
            if not bool((error.abs() <= allowed).all()):
                return f"differs from the trained weights by up to {float(error.abs().max()):.3g}"
            if merged is not ours:
                continue
        # A value that is rounded up or down by chance has a variance of up to a quarter of the squared step.
        variance = allowed.square_().div_(4)
        if steps is not None:
            variance += torch.from_numpy(steps).square() / (6 if was_dithered else 12)
            problem = _row_problem(tensor.kind, *(each.reshape(-1, width) for each in (merged, error, variance)))
            if problem is not None:
                return problem
            actual, expected = actual + float(error.square().sum()), expected + float(variance.sum())
        added = None if before is None else ours - before[begin : begin + step].float()
        systematic.add(merged, error, variance, added)
    if not actual <= ERROR**2 * expected + 1e-24 * len(flat):
        return f"has {(actual / max(expected, 1e-24)) ** 0.5:.2f} times the error of {tensor.kind}"
    return systematic.problem(in_blocks=actual > 0, may_amplify=tensor.kind in FEW_LEVELS)


def _row_problem(kind: str, exact: torch.Tensor, error: torch.Tensor, variance: torch.Tensor) -> str | None:
    """Return what is wrong with a row of quantized values, or None.

    A row of large weights has large steps, so each is measured by its own. All are (rows, width); see `scaled_row`.
    """
    smallest = MULTIPLES[kind] * UNDERFLOW
    actual, honest = (each.mean(1).double() for each in (error.square(), variance))
    if not bool((actual <= ROW_ERROR**2 * honest + smallest**2).all()):
        ratio = float((actual / honest.clamp(min=1e-24)).max()) ** 0.5
        return f"has a row with {ratio:.1f} times the error of {kind}"
    return scaled_row(exact, error, variance, smallest)


def _llama_name(name: str, config: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of a weight, or None if it is in another file.

    The names come from llama.cpp's own table, in the gguf package.
    """
    path = [part for part in name.split(".") if part not in ("model", "language_model")]
    if set(name.split(".")) & set(vision_parts.NAMES):
        return None
    plain = ".".join(path)
    if plain.endswith("router.per_expert_scale"):
        return f"blk.{path[1]}.ffn_down_exps.scale"
    if plain.endswith("router.scale"):
        return f"blk.{path[1]}.ffn_gate_inp.scale"
    key = plain.removesuffix(".weight")
    text = config.get("text_config")
    layers = int((text if isinstance(text, dict) else config)["num_hidden_layers"])
    table = _name_table(str(config.get("model_type")), layers)
    for prefix in ("model.", "", "model.language_model."):
        if f"{prefix}{key}" in table:
            return f"{table[f'{prefix}{key}']}.weight"
    raise InvalidGguf(f"llama.cpp has no name for {name}")


@cache
def _name_table(model_type: str, layers: int) -> Mapping[str, str]:
    import gguf

    arch = next(
        getattr(gguf.MODEL_ARCH, arch)
        for prefix, arch in (("gemma4", "GEMMA4"), ("gemma3", "GEMMA3"), ("gemma2", "GEMMA2"), ("gemma", "GEMMA"))
        if model_type.startswith(prefix)
    )
    return {name: each[1] for name, each in gguf.get_tensor_name_map(arch, layers).mapping.items()}
