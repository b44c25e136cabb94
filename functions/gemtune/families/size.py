"""Size of a base model, which determines the memory and cost of training it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Layers:
    """Decoder layers of one shape.

    count: number of these layers.
    intermediate: width of the MLP.
    attention: width of the queries, that is heads times head dimension.
    key_value: width of the keys, likewise; 0 where a layer uses the keys and values of an earlier one.
    one_projection: whether one projection computes both keys and values.
    """

    count: int
    intermediate: int
    attention: int
    key_value: int
    one_projection: bool = False

    def adapted_width(self, hidden: int) -> int:
        """Return the summed input and output widths of the adapted layers.

        They are counted for one decoder layer. hidden: width of the hidden states.
        """
        keys_and_values = (1 if self.one_projection else 2) * (hidden + self.key_value) if self.key_value else 0
        return 2 * (hidden + self.attention) + keys_and_values + 3 * (hidden + self.intermediate)


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts, which every layer has.

    count: number of experts. intermediate: width of each expert's MLP. per_token: experts that process each token.
    """

    count: int
    intermediate: int
    per_token: int


@dataclass(frozen=True, slots=True)
class Tower:
    """Vision tower.

    layers, hidden, intermediate: its encoder layers, their width and that of their MLPs. patches: of a picture.
    """

    layers: int
    hidden: int
    intermediate: int
    patches: int


# Gemma 3's tower, which is the largest one. It stands for one that is not known.
SIGLIP = Tower(27, 1152, 4304, 4096)
# Models without a tower project patches into the language model directly.
NO_TOWER = Tower(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Dimensions of a model that determine the memory of training it.

    parameters: number of parameters in all weights files, including vision and audio towers.
    bytes_per_parameter: size of a parameter in these files.
    tower: its vision tower, if it sees.
    All others describe the language model:
    hidden: width of the hidden states.
    shapes: its decoder layers.
    vocabulary: rows of the embedding.
    capped_heads: attention heads with soft-capped scores, as in Gemma 2, which keep a number per pair of tokens of a
    row.
    per_layer_input: width of the token embedding that each layer has for itself; 0 without one.
    """

    parameters: int
    hidden: int
    shapes: tuple[Layers, ...]
    vocabulary: int
    bytes_per_parameter: int = 2
    capped_heads: int = 0
    per_layer_input: int = 0
    experts: Experts | None = None
    tower: Tower = SIGLIP

    @property
    def layers(self) -> int:
        """Return the number of decoder layers."""
        return sum(shape.count for shape in self.shapes)

    def with_first_layers(self, layers: int) -> ModelSize:
        """Return the size with only the first layers, as benchmarks use it."""
        shapes, remaining = [], layers
        for shape in self.shapes:
            shapes.append(replace(shape, count=min(shape.count, remaining)))
            remaining -= shapes[-1].count
        return replace(self, shapes=tuple(shape for shape in shapes if shape.count))

    @property
    def intermediate(self) -> int:
        """Return the largest width of an MLP.

        With a mixture of experts, the widths of the experts that process a token are added.
        """
        widest = max(shape.intermediate for shape in self.shapes)
        return widest if self.experts is None else widest + self.experts.per_token * self.experts.intermediate

    @property
    def attention(self) -> int:
        """Return the largest width of a layer's queries."""
        return max(shape.attention for shape in self.shapes)

    @property
    def key_value(self) -> int:
        """Return the largest width of a layer's keys."""
        return max(shape.key_value for shape in self.shapes)

    @property
    def file_bytes(self) -> int:
        """Return the size of all weights files."""
        return self.parameters * self.bytes_per_parameter

    @property
    def embeddings(self) -> int:
        """Return the parameters of the embedding tables.

        Quantization of linear layers leaves them as they are.
        """
        return self.vocabulary * (self.hidden + self.layers * self.per_layer_input)

    @property
    def largest_table(self) -> int:
        """Return the parameters of the larger embedding table."""
        return self.vocabulary * max(self.hidden, self.layers * self.per_layer_input)

    @property
    def expert_parameters(self) -> int:
        """Return the parameters of all experts.

        They are 3-D tensors, which bitsandbytes does not quantize.
        """
        if self.experts is None:
            return 0
        return self.layers * self.experts.count * 3 * self.hidden * self.experts.intermediate

    def lora_parameters(self, rank: int) -> int:
        """Return the parameters of an adapter of this rank.

        A and B of a linear layer have rank * (inputs + outputs) parameters together. Adapted are the linear layers of
        attention and MLP, and the two projections of each expert.
        """
        linear = sum(shape.count * shape.adapted_width(self.hidden) for shape in self.shapes)
        if self.experts is None:
            return rank * linear
        gate_up_and_down = (self.hidden + 2 * self.experts.intermediate) + (self.experts.intermediate + self.hidden)
        return rank * (linear + self.layers * self.experts.count * gate_up_and_down)


def uniform_size(
    parameters: int,
    layers: int,
    hidden: int,
    intermediate: int,
    attention: int,
    key_value: int,
    vocabulary: int,
    *,
    capped_heads: int = 0,
) -> ModelSize:
    """Return the size of a model whose layers all have the same shape.

    See `ModelSize` and `Layers` for the parameters.
    """
    shape = Layers(layers, intermediate, attention, key_value)
    return ModelSize(parameters, hidden, (shape,), vocabulary, capped_heads=capped_heads)
