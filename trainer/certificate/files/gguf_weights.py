"""Check of every tensor of a GGUF file against base + scale · B·A.

Each tensor is dequantized, chunk by chunk, and compared with the trained one under llama.cpp's name for it. Norms of
Gemma 1 to 3 are stored as 1 + weight, as llama.cpp multiplies by them directly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gemtune.families.configs.sections import language_model
from gemtune.request.exports import GgufExport
from trainer.base_model import folder_contents, vision_parts
from trainer.certificate.files import gguf_tensor
from trainer.certificate.files.gguf_tensor import Tensor, tensor_in
from trainer.certificate.files.weights import TrainedModel, Weight, summary
from trainer.export.lora_weights import canonical_name
from trainer.export.merge import EMBEDDINGS
from trainer.gguf.dither import kind_name
from trainer.gguf.file_layout import Contents, Entry, InvalidGguf
from trainer.gguf.quantizer import dequantizer, quantized_types

# A tensor that llama.cpp's converter adds to those of Gemma 4: the divisors of the frequencies of rotary embeddings. A
# dimension that is not rotated has a divisor of at least STOPPED.
ROPE_FACTORS, STOPPED = "rope_freqs.weight", 1e20
# Types of the model whose norms multiply by 1 + weight.
SHIFTED_NORMS = re.compile(r"gemma[23]?(_text)?$")
# llama.cpp's architectures by the beginnings of model types, longer ones first.
ARCHITECTURES = {"gemma4": "GEMMA4", "gemma3n": "GEMMA3N", "gemma3": "GEMMA3", "gemma2": "GEMMA2", "gemma": "GEMMA"}
# Numbered matrices of Gemma 3n that are one tensor of a file.
STACKED = re.compile(r"(altup_(?:unembed_)?projections)\.(\d+)$")
# The table that has no rows for tokens of pictures and audio; llama.cpp's converter adds zeros.
TABLE_PER_LAYER = "embed_tokens_per_layer"


def problems(
    trained: TrainedModel,
    config: Mapping[str, Any],
    file: Contents,
    export: GgufExport,
    tokens: int,
    tools: Path,
    *,
    was_dithered: bool,
) -> list[str]:
    """Return in sentences which tensors of a GGUF file are wrong.

    config: the base model's config.json. tokens: number of tokens of the trained model's tokenizer. tools: llama.cpp's
    folder. Raises InvalidGguf, LoadError.
    """
    path, entries = file.path, {entry.name: entry for entry in file.entries}
    names = {name: llama_name for name in trained.names if (llama_name := name_in_gguf(name, config)) is not None}
    missing = {name: each for name, each in names.items() if each not in entries}
    tied = [name for name in missing if name.endswith("lm_head.weight") and folder_contents.is_tied(config)]
    if lost := sorted(set(missing) - set(tied)):
        return [f"{path.name} lacks {len(lost)} tensors: {missing[lost[0]]}, …"]
    if extra := sorted(set(entries) - set(names.values()) - _added_names(config)):
        return [f"{path.name} has {len(extra)} tensors that the model does not: {extra[0]}, …"]
    if others := _other_types(file, export, tools):
        return others
    shifted = bool(SHIFTED_NORMS.match(str(config.get("model_type"))))
    wrong, dequantize = [], dequantizer(tools)
    rope_factors = tensor_in(path, entries[ROPE_FACTORS]) if ROPE_FACTORS in entries else None
    if not _has_rope_factors(rope_factors, config):
        wrong.append(f"{ROPE_FACTORS} rotates other dimensions than the model")
    for name, llama_name in names.items():
        if name in tied:
            continue
        shift = 1.0 if shifted and name.endswith("norm.weight") else 0.0
        tensor = _part(tensor_in(path, entries[llama_name], dequantize), name)
        weight = _of_tokens(trained.weight(name), tensor.entry, tokens)
        if name.removesuffix(".weight").endswith(TABLE_PER_LAYER):
            tensor = _without_zeros(tensor, len(weight.value))
        problem = gguf_tensor.problem(tensor, weight, shift, was_dithered=was_dithered)
        if problem is not None:
            wrong.append(f"{llama_name} {problem}")
    return summary(wrong)


def _added_names(config: Mapping[str, Any]) -> set[str]:
    """Return the tensors that a file may have besides those of the model.

    llama.cpp needs the keys and values of all layers of a Gemma 3n, and computes those of the first ones.
    """
    kind, text = str(config.get("model_type")), language_model(config)
    if kind.startswith("gemma4"):
        return {ROPE_FACTORS}
    if not kind.startswith("gemma3n"):
        return set()
    layers, shared = int(text["num_hidden_layers"]), int(text["num_kv_shared_layers"])
    parts = ("attn_k", "attn_v", "attn_k_norm")
    return {f"blk.{layer}.{part}.weight" for layer in range(layers - shared, layers) for part in parts}


def _part(tensor: Tensor, name: str) -> Tensor:
    """Return the part of a tensor that is the named weight of the model."""
    stacked = STACKED.search(name.removesuffix(".weight"))
    if stacked is None:
        return tensor
    entry, number = tensor.entry, int(stacked[2])
    if len(entry.shape) != 3 or number >= entry.shape[0]:
        raise InvalidGguf(f"{entry.name} has the shape {entry.shape}, and no matrix {number}")
    values, size = tensor.block
    shape = entry.shape[1:]
    offset = entry.offset + number * (math.prod(shape) // values * size)
    return replace(tensor, entry=replace(entry, shape=shape, offset=offset))


def _without_zeros(tensor: Tensor, rows: int) -> Tensor:
    """Return the first rows of a tensor if all others are zeros."""
    entry = tensor.entry
    width = math.prod(entry.shape[1:])
    more = entry.count - rows * width
    if more <= 0 or tensor.chunk(rows * width, more)[0].any():
        return tensor
    return replace(tensor, entry=replace(entry, shape=(rows, *entry.shape[1:])))


def _other_types(file: Contents, export: GgufExport, tools: Path) -> list[str]:
    """Return in a sentence which tensors have another type.

    It is not the one that llama.cpp gives them. Raises LoadError.
    """
    expected = quantized_types(tools, file.path, export.llama_type)
    others = sorted(
        (entry.name, kind_name(entry.kind))
        for entry in file.entries
        if kind_name(entry.kind).upper() not in _types_of(entry, expected[entry.name], export)
    )
    if not others:
        return []
    name, kind = others[0]
    return [
        f"{len(others)} tensors have a type that {export.quantization} does not: {name} has {kind}, and llama.cpp "
        f"gives it {expected[name] or 'no type of fewer bits'}, …"
    ]


def _types_of(entry: Entry, quantized: str | None, export: GgufExport) -> frozenset[str]:
    """Return the types that a tensor may have.

    quantized: the one that the quantizer gives it; None if it leaves the tensor as the converter wrote it. Then it has
    32 bits, or, with more than one dimension, 16 bits, of the type that is then converted to.
    """
    if quantized is not None:
        return frozenset({quantized})
    if len(entry.shape) < 2:
        return frozenset({"F32"})
    return frozenset({"F32", "F16" if export.converted else "BF16"})


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


def _has_rope_factors(tensor: Tensor | None, config: Mapping[str, Any]) -> bool:
    """Return whether frequencies are divided as the model's config says.

    The frequencies of rotated dimensions are kept. All others are divided by a number that makes them 0.
    """
    stated = language_model(config).get("rope_parameters") or {}
    share = (stated.get("full_attention") or stated).get("partial_rotary_factor")
    if share is None:
        return True
    if tensor is None:
        return False
    factors, _ = tensor.chunk(0, tensor.entry.count)
    rotated = int(len(factors) * share)
    return bool((factors[:rotated] == 1).all() and (factors[rotated:] >= STOPPED).all())


def name_in_gguf(name: str, config: Mapping[str, Any]) -> str | None:
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
    key = STACKED.sub(r"\1", plain.removesuffix(".weight"))
    layers = int(language_model(config)["num_hidden_layers"])
    table = _name_table(str(config.get("model_type")), layers)
    for prefix in ("model.", "", "model.language_model."):
        if f"{prefix}{key}" in table:
            return f"{table[f'{prefix}{key}']}.weight"
    raise InvalidGguf(f"llama.cpp has no name for {name}")


@cache
def _name_table(model_type: str, layers: int) -> Mapping[str, str]:
    import gguf

    arch = next(
        getattr(gguf.MODEL_ARCH, arch) for prefix, arch in ARCHITECTURES.items() if model_type.startswith(prefix)
    )
    return {name: each[1] for name, each in gguf.get_tensor_name_map(arch, layers).mapping.items()}
