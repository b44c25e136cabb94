"""How large a base model is: from its name where the family is known, else from what its folder holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a training's memory depends on.

    parameters: of the whole file, vision and audio towers too; the others are of the text model. attention, key_value:
    heads times their dimension. bytes_a_parameter: as the file has them. capped_heads: those whose scores are capped,
    as in Gemma 2, which keeps a number for each pair of a row's tokens.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    key_value: int
    vocabulary: int
    bytes_a_parameter: int = 2
    capped_heads: int = 0

    @property
    def file_bytes(self) -> int:
        return self.parameters * self.bytes_a_parameter

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter on every linear layer of the text model: A and B of rank r have r * (in + out) parameters."""
        query_and_output = 2 * (self.hidden + self.attention)
        key_and_value = 2 * (self.hidden + self.key_value)
        mlp = 3 * (self.hidden + self.intermediate)
        return self.layers * rank * (query_and_output + key_and_value + mlp)


# From the published configurations; the parameters of Gemma 1 to 3 are those that transformers counts.
_G1_2B = ModelSize(2_506_172_416, 18, 2048, 16384, 2048, 256, 256_000)
_G1_7B = ModelSize(8_537_680_896, 28, 3072, 24576, 4096, 4096, 256_000)
_G2_2B = ModelSize(2_614_341_888, 26, 2304, 9216, 2048, 1024, 256_000, capped_heads=8)
_G2_9B = ModelSize(9_241_705_984, 42, 3584, 14336, 4096, 2048, 256_000, capped_heads=16)
_G2_27B = ModelSize(27_227_128_320, 46, 4608, 36864, 4096, 2048, 256_000, capped_heads=32)
_G3_270M = ModelSize(268_098_176, 18, 640, 2048, 1024, 256, 262_144)
_G3_1B = ModelSize(999_885_952, 26, 1152, 6912, 1024, 256, 262_144)
_G3_4B = ModelSize(4_300_079_472, 34, 2560, 10240, 2048, 1024, 262_208)
_G3_12B = ModelSize(12_187_325_040, 48, 3840, 15360, 4096, 2048, 262_208)
_G3_27B = ModelSize(27_432_406_640, 62, 5376, 21504, 4096, 2048, 262_208)
_KNOWN = (_G3_270M, _G3_1B, _G1_2B, _G2_2B, _G3_4B, _G1_7B, _G2_9B, _G3_12B, _G2_27B, _G3_27B)


def like(parameters: int, *, bytes_a_parameter: int = 2) -> ModelSize:
    """A model of which only the parameters are known: the rest as the next larger one of the family has it."""
    nearest = next((known for known in _KNOWN if known.parameters >= parameters), _KNOWN[-1])
    return replace(nearest, parameters=parameters, bytes_a_parameter=bytes_a_parameter)


# By the part of a repository's name that says family and size; what others made of a model keeps that part. Of 3n and
# 4 the parameters are the published ones, rounded up, with the embeddings that "effective" sizes leave out.
_BY_NAME: Mapping[str, ModelSize] = {
    "gemma-2b": _G1_2B, "gemma-1.1-2b": _G1_2B, "codegemma-2b": _G1_2B, "codegemma-1.1-2b": _G1_2B,
    "gemma-7b": _G1_7B, "gemma-1.1-7b": _G1_7B, "codegemma-7b": _G1_7B, "codegemma-1.1-7b": _G1_7B,
    "gemma-2-2b": _G2_2B, "shieldgemma-2b": _G2_2B, "txgemma-2b": _G2_2B,
    "gemma-2-9b": _G2_9B, "shieldgemma-9b": _G2_9B, "txgemma-9b": _G2_9B,
    "gemma-2-27b": _G2_27B, "shieldgemma-27b": _G2_27B, "txgemma-27b": _G2_27B,
    "gemma-3-270m": _G3_270M, "functiongemma-270m": _G3_270M, "gemma-3-1b": _G3_1B,
    "gemma-3-4b": _G3_4B, "medgemma-4b": _G3_4B, "medgemma-1.5-4b": _G3_4B, "translategemma-4b": _G3_4B,
    "gemma-3-12b": _G3_12B, "translategemma-12b": _G3_12B,
    "gemma-3-27b": _G3_27B, "medgemma-27b": _G3_27B, "translategemma-27b": _G3_27B,
    "gemma-3n-e2b": like(5_500_000_000), "gemma-3n-e4b": like(7_900_000_000),
    "gemma-4-e2b": like(5_200_000_000), "gemma-4-e4b": like(8_000_000_000),
    "gemma-4-26b": like(26_000_000_000), "gemma-4-31b": like(31_000_000_000),
}  # fmt: skip
_NAMES = re.compile(rf"(?<![a-z0-9])({'|'.join(map(re.escape, sorted(_BY_NAME, key=len, reverse=True)))})(?![a-z0-9.])")


def by_name(repository: str) -> ModelSize | None:
    """The size of a model of the Hub, if its name says so."""
    found = _NAMES.search(repository.rpartition("/")[2].lower())
    return None if found is None else _BY_NAME[found[1]]


_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def of_folder(config: Mapping[str, Any], weights_bytes: int) -> ModelSize:
    """The size of a model with this config.json whose files of weights have so many bytes in all."""
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    # transformers 5 writes `dtype`, earlier ones `torch_dtype`; what a file does not say is float32.
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    width = _BYTES.get(str(named), 4)
    guess = like(weights_bytes // width, bytes_a_parameter=width)
    layers, hidden = _count(text, "num_hidden_layers"), _count(text, "hidden_size")
    heads, intermediate = _count(text, "num_attention_heads"), _count(text, "intermediate_size")
    if layers is None or hidden is None or heads is None or intermediate is None:
        return guess
    head = _count(text, "head_dim") or hidden // heads
    return ModelSize(
        parameters=guess.parameters,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        attention=heads * head,
        key_value=(_count(text, "num_key_value_heads") or heads) * head,
        vocabulary=_count(text, "vocab_size") or guess.vocabulary,
        bytes_a_parameter=width,
        capped_heads=heads if text.get("attn_logit_softcapping") else 0,
    )


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if isinstance(value, list):  # Gemma 3n has one width a layer
        value = max((each for each in value if isinstance(each, int)), default=None)
    return value if isinstance(value, int) and value > 0 else None
