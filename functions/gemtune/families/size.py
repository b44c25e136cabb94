"""The size of a base model: what the memory and the cost of a training depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# More than any model has: a config.json that says more is damaged, or made to keep its readers busy.
LARGEST_VALUES: Mapping[str, int] = {
    "num_hidden_layers": 1024, "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 2**16,
    "hidden_size": 2**20, "intermediate_size": 2**24, "vocab_size": 2**24, "num_experts": 2**16,
    "moe_intermediate_size": 2**24, "top_k_experts": 2**16, "hidden_size_per_layer_input": 2**20,
    "global_head_dim": 2**16, "num_global_key_value_heads": 4096, "num_kv_shared_layers": 1024,
    "mm_tokens_per_image": 2**16,
}  # fmt: skip


def field_over_limit(config: Mapping[str, Any]) -> str | None:
    """The first field of a config.json, or of its text part, that says more than any model has."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for name, most in LARGEST_VALUES.items():
            values = part[name] if isinstance(part.get(name), list) else [part.get(name)]
            if any(isinstance(value, int | float) and value > most for value in values):
                return name
    return None


@dataclass(frozen=True, slots=True)
class Layers:
    """Decoder layers of one shape.

    intermediate: width of the MLP. attention, key_value: heads times their dimension; key_value is 0 where a layer
    reads the keys and values of an earlier one. one_projection: keys and values are one projection.
    """

    count: int
    intermediate: int
    attention: int
    key_value: int
    one_projection: bool = False

    def adapted_width(self, hidden: int) -> int:
        """Sum of inputs and outputs of the linear layers that an adapter changes, in one layer."""
        keys_and_values = (1 if self.one_projection else 2) * (hidden + self.key_value) if self.key_value else 0
        return 2 * (hidden + self.attention) + keys_and_values + 3 * (hidden + self.intermediate)


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture of experts of every layer: how many, how wide each MLP is, and how many read a token."""

    count: int
    intermediate: int
    per_token: int


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a training's memory depends on.

    parameters: of all weights files, vision and audio towers included. The others describe the language model:
    shapes: its layers. vocabulary: rows of the embedding. capped_heads: heads whose scores are capped, as in Gemma 2,
    which keeps a number per pair of a row's tokens. per_layer_input: width of each layer's own embedding of a token.
    bytes_per_parameter: as the files have them.
    """

    parameters: int
    hidden: int
    shapes: tuple[Layers, ...]
    vocabulary: int
    bytes_per_parameter: int = 2
    capped_heads: int = 0
    per_layer_input: int = 0
    experts: Experts | None = None

    @property
    def layers(self) -> int:
        return sum(shape.count for shape in self.shapes)

    def with_first_layers(self, layers: int) -> ModelSize:
        """The same model with its first layers only, which a measurement makes do with."""
        shapes, left = [], layers
        for shape in self.shapes:
            shapes.append(replace(shape, count=min(shape.count, left)))
            left -= shapes[-1].count
        return replace(self, shapes=tuple(shape for shape in shapes if shape.count))

    @property
    def intermediate(self) -> int:
        """The width of the widest MLP, or of all experts together that read one token."""
        widest = max(shape.intermediate for shape in self.shapes)
        return widest if self.experts is None else widest + self.experts.per_token * self.experts.intermediate

    @property
    def attention(self) -> int:
        """The width of the widest layer's queries."""
        return max(shape.attention for shape in self.shapes)

    @property
    def key_value(self) -> int:
        """The width of the widest layer's keys."""
        return max(shape.key_value for shape in self.shapes)

    @property
    def file_bytes(self) -> int:
        return self.parameters * self.bytes_per_parameter

    @property
    def embeddings(self) -> int:
        """Parameters of the embedding tables, which no quantization of linear layers reaches."""
        return self.vocabulary * (self.hidden + self.layers * self.per_layer_input)

    @property
    def expert_parameters(self) -> int:
        """Parameters of all experts: 3-D tensors, which bitsandbytes does not quantize."""
        if self.experts is None:
            return 0
        return self.layers * self.experts.count * 3 * self.hidden * self.experts.intermediate

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter: r * (in + out) for A and B of each linear layer of attention and MLP, and of each
        expert's two projections."""
        linear = sum(shape.count * shape.adapted_width(self.hidden) for shape in self.shapes)
        if self.experts is None:
            return rank * linear
        gate_up_and_down = (self.hidden + 2 * self.experts.intermediate) + (self.experts.intermediate + self.hidden)
        return rank * (linear + self.layers * self.experts.count * gate_up_and_down)


def uniform_size(
    parameters: int, layers: int, hidden: int, intermediate: int, attention: int, key_value: int, vocabulary: int,
    *, capped_heads: int = 0,
) -> ModelSize:  # fmt: skip
    """The size of a model whose layers all have one shape."""
    shape = Layers(layers, intermediate, attention, key_value)
    return ModelSize(parameters, hidden, (shape,), vocabulary, capped_heads=capped_heads)
