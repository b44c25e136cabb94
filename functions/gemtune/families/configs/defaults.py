"""Values that transformers takes for fields that a config.json omits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gemtune.families.configs.fields import LARGEST_VALUES, is_count, shown

SLIDING, GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults of transformers for the language model of a generation.

    All but these have the names of fields, see `completed`:
    global_every: every so many layers one has global attention, the last of them; None if no layer has a window.
    global_every_field: the field of config.json that may say otherwise; "" if there is none.
    last_is_global: whether transformers gives the last layer global attention, whatever config.json says.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_kv_shared_layers: int = 0
    head_dim: int = 256
    pad_token_id: int = 0
    eos_token_id: int = 1
    bos_token_id: int = 2
    global_every: int | None = None
    global_every_field: str = ""
    last_is_global: bool = False

    def completed(self, text: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a language model with those that it omits.

        Types of layers are those that transformers gives them; they stay omitted if the number of layers is not valid.
        """
        fields = {name: getattr(self, name) for name in FIELDS} | dict(text)
        types = self._layer_types(fields)
        return fields if types is None else fields | {"layer_types": types}

    def damage(self, text: Mapping[str, Any]) -> Iterator[str]:
        """Yield why transformers cannot tell which layers have a window."""
        field = self.global_every_field
        if field in text and text.get("layer_types") is None and not is_count(text[field]):
            yield f"{field} is {shown(text[field])} in its config.json, and not a whole number above 0"

    def _layer_types(self, text: Mapping[str, Any]) -> list[Any] | None:
        types, layers = text.get("layer_types"), text["num_hidden_layers"]
        if types is None:
            period = text.get(self.global_every_field, self.global_every)
            if not (is_count(layers) and is_count(period)) or layers > LARGEST_VALUES["num_hidden_layers"]:
                return None
            types = [SLIDING if (layer + 1) % period else GLOBAL for layer in range(layers)]
        if not isinstance(types, list) or not types:
            return None
        return [*types[:-1], GLOBAL] if self.last_is_global else types


FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("num_kv_shared_layers", "head_dim", "pad_token_id", "eos_token_id", "bos_token_id"),
)
