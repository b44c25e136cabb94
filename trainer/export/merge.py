"""Merge of an adapter into its base model, tensor by tensor.

W + scale · B·A is computed in float32 and rounded once. Changed weights are rounded to bf16 stochastically (see
`stochastic_rounding`), all others to the nearest. The model is never loaded: peak memory is near that of its largest
tensor, instead of twice the model.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from gemtune.errors import StepError
from gemtune.machines.export_memory import SHARD_BYTES
from gemtune.request.exports import MergedExport, MergedQuantization, merged_export
from trainer.base_model import folder_contents
from trainer.base_model.four_bits import is_quantized, skipped_modules
from trainer.export import stochastic_rounding, tokenizer_files
from trainer.export.lora_weights import LoraWeights, canonical_name
from trainer.export.tensor_file import TensorFile
from trainer.new_tokens.embedding import NewTokens

if TYPE_CHECKING:
    import torch

# (name, tensor, trained) -> the tensors that are stored for it, by name
Encoding = Callable[[str, "torch.Tensor", bool], Mapping[str, "torch.Tensor"]]

# Name of one of several files of weights.
SHARD = "model-{:05}-of-{:05}.safetensors"

# Sections of config.json that configure models of their own, each with a dtype.
PARTS = ("text_config", "vision_config", "audio_config")
# Canonical names of the matrices that have a row per token.
EMBEDDINGS = ("embed_tokens", "lm_head")


def merge(
    base: Path,
    adapter: Path | None,
    folder: Path,
    quantization: MergedQuantization,
    *,
    new_tokens: NewTokens | None = None,
    tokenizer: Path | None = None,
    check_stop: Callable[[], None] = lambda: None,
    written: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write the merged model to `folder`, in transformers' format.

    Its weights are written shard by shard, each of up to SHARD_BYTES, whatever files the base model has.

    base: the base model, or, without an adapter, the model whose weights were all trained. quantization: `none` (bf16),
    `fp16` or `q4` (NF4 of bitsandbytes). new_tokens: those of the adapter; without one, the base model gets their first
    rows. tokenizer: folder with the tokenizer and chat template that training used; None: the adapter, if there is one.
    check_stop: called before each tensor; raises to stop. written: called with each complete shard, and may take it
    away. Raises StepError `base_model_quantized`, `bad_adapter`, `not_in_fp16`.
    """
    config = folder_contents.config_of(base)
    if "quantization_config" in config:
        message = "the base model's weights are quantized; a merge needs them in full precision"
        raise StepError("base_model_quantized", message, hint="train on the unquantized model it was made from")
    folder.mkdir()
    lora = None if adapter is None else LoraWeights(adapter)
    files = sorted(folder_contents.weight_files(base), key=lambda path: path.name)
    if lora is not None:
        lora.check_weights_exist(canonical_name(name) for path in files for name in _names(path))
    encode = encoding_of(quantization)()
    weight_map: dict[str, str] = {}
    total = 0
    shards = _shards(files)
    for number, shard in enumerate(shards, start=1):
        file = folder / (folder_contents.WHOLE if len(shards) == 1 else SHARD.format(number, len(shards)))
        with TensorFile(file, [stored for _, name in shard for stored in _names_of(name, quantization)]) as target:
            for name, weight in _tensors(shard):
                check_stop()
                merged, trained = _merged(canonical_name(name), weight, lora, new_tokens)
                for stored, tensor in encode(name, merged, trained).items():
                    total += target.add(stored, tensor)
                    weight_map[stored] = file.name
        written(file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / folder_contents.INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    tokenizer_files.copy_companion_files(base, folder)
    if (source := tokenizer or adapter) is not None:
        tokenizer_files.copy_companion_files(source, folder)
    tokenizer_files.write_generation_config(base, folder)
    config = with_vocabulary(config, rows_of_embedding(base, new_tokens))
    described = config_for(config, merged_export(quantization))
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def _merged(
    canonical: str, weight: torch.Tensor, lora: LoraWeights | None, new_tokens: NewTokens | None
) -> tuple[torch.Tensor, bool]:
    """Return a merged weight, and whether training changed it.

    canonical: its canonical name.
    """
    if lora is None:
        if new_tokens is not None and canonical in EMBEDDINGS:
            weight = new_tokens.extended(weight)
        return weight, True
    merged = lora.merged(canonical, weight)
    # Rows of new tokens have the embedding's type, and the others stay as they are.
    return merged, merged is not weight and canonical not in lora.rows


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sorted(file.keys())


def _shards(files: Sequence[Path]) -> list[list[tuple[Path, str]]]:
    """Group tensors, as (file, name), into shards of up to SHARD_BYTES.

    Counted as stored in 16 bits. A larger tensor has a shard of its own.
    """
    from safetensors import safe_open

    shards: list[list[tuple[Path, str]]] = []
    room = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                size = 2 * math.prod(file.get_slice(name).get_shape())
                if size > room or not shards:
                    shards.append([])
                    room = SHARD_BYTES
                shards[-1].append((path, name))
                room -= size
    return shards


def _tensors(shard: Sequence[tuple[Path, str]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a shard with their names."""
    from safetensors import safe_open

    for path, entries in itertools.groupby(shard, key=lambda entry: entry[0]):
        with safe_open(path, framework="pt") as file:
            for _, name in entries:
                yield name, file.get_tensor(name)


def _bf16() -> Encoding:
    import torch

    def encode(name: str, weight: torch.Tensor, trained: bool) -> dict[str, torch.Tensor]:
        if trained and weight.dtype == torch.float32:
            return {name: stochastic_rounding.bfloat16(name, weight)}
        return {name: weight.to(torch.bfloat16) if weight.is_floating_point() else weight}

    return encode


def _fp16() -> Encoding:
    """Return the encoding as fp16. It raises StepError `not_in_fp16`.

    fp16 ends at 65,504.
    """
    import torch

    def encode(name: str, weight: torch.Tensor, trained: bool) -> dict[str, torch.Tensor]:
        half = weight.to(torch.float16) if weight.is_floating_point() else weight
        low, high = half.aminmax()  # isfinite() of the whole tensor would make three copies of an embedding
        is_finite = bool(torch.isfinite(low) and torch.isfinite(high))
        # Bounds of layers of Gemma 4 that do not clip are infinite, which fp16 can hold; NaN is never right.
        if not is_finite and (bool(weight.isnan().any()) or not torch.equal(half.isinf(), weight.isinf())):
            message = f"{name} has values that fp16 cannot hold"
            raise StepError("not_in_fp16", message, hint="export with quantization none, which is bf16")
        return {name: half}

    return encode


# Tensors that bitsandbytes stores in addition to the 4-bit values of a quantized weight.
NF4_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")


def _nf4() -> Encoding:
    """Return the encoding of the language model's linear layers as NF4.

    With double quantization (https://arxiv.org/abs/2305.14314); all other tensors are stored as bf16.
    """
    from bitsandbytes.functional import quantize_4bit

    as_bf16 = _bf16()

    def encode(name: str, weight: torch.Tensor, trained: bool) -> dict[str, torch.Tensor]:
        half = as_bf16(name, weight, trained)
        if not is_quantized(name):
            return dict(half)
        packed, state = quantize_4bit(half[name].contiguous(), quant_type="nf4", compress_statistics=True)
        parts = {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
        return {name: packed} | {part: _aligned(tensor) for part, tensor in parts.items()}

    return encode


def _names_of(name: str, quantization: str) -> list[str]:
    parts = NF4_PARTS if quantization == "q4" and is_quantized(name) else ()
    return [name, *(f"{name}.{part}" for part in parts)]


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Pad bytes with spaces to a multiple of 8, to align the next tensor.

    Only bitsandbytes' quantization state, a JSON text, has another length.
    """
    import torch

    missing = -len(tensor) % 8 if tensor.dtype == torch.uint8 else 0
    return torch.cat([tensor, torch.full((missing,), ord(" "), dtype=torch.uint8)]) if missing else tensor


def encoding_of(quantization: MergedQuantization) -> Callable[[], Encoding]:
    """Return the factory of an encoding. Calling it imports torch."""
    match quantization:
        case "none":
            return _bf16
        case "fp16":
            return _fp16
        case "q4":
            return _nf4
    assert_never(quantization)


def rows_of_embedding(base: Path, new_tokens: NewTokens | None) -> int | None:
    """Return the rows of a base model's embedding with new tokens.

    None without new tokens, or if it had enough rows for them.
    """
    from safetensors import safe_open

    if new_tokens is None:
        return None
    for path in folder_contents.weight_files(base):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                if canonical_name(name) == "embed_tokens":
                    rows: int = file.get_slice(name).get_shape()[0]
                    after = new_tokens.rows_after(rows)
                    return after if after > rows else None
    return None


def with_vocabulary(config: Mapping[str, Any], rows: int | None) -> dict[str, Any]:
    """Return a config.json with a number of rows in the embedding.

    rows: None if it stays as it is.
    """
    if rows is None:
        return dict(config)
    text = config.get("text_config")
    if isinstance(text, Mapping):
        return dict(config) | {"text_config": with_vocabulary(text, rows)}
    # Gemma 4 states the rows of embeddings per layer even without such embeddings, and llama.cpp's converter cuts the
    # embedding to as many.
    names = ["vocab_size", *(name for name in ("vocab_size_per_layer_input",) if name in config)]
    return dict(config) | dict.fromkeys(names, rows)


def config_for(config: Mapping[str, Any], export: MergedExport) -> dict[str, Any]:
    """Return config.json with the dtype and quantization of the export."""
    parts = {key: _config_of_part(value, export.dtype) for key, value in config.items() if key in PARTS}
    written = dict(config) | parts
    written.pop("torch_dtype", None)
    written["dtype"] = export.dtype
    quantized = _quantization_config(config, export)
    return written if quantized is None else written | {"quantization_config": quantized}


def _quantization_config(config: Mapping[str, Any], export: MergedExport) -> dict[str, Any] | None:
    """Return config.json's section about quantized weights, or None."""
    if export.quantization != "q4":
        return None
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": skipped_modules(folder_contents.family_of_config(config)),
    }


def _config_of_part(part: Any, dtype: str) -> Any:
    if not isinstance(part, dict):  # null if a model has no such part
        return part
    others = {key: value for key, value in part.items() if key not in ("torch_dtype", "dtype")}
    return others | {"dtype": dtype}
