"""A generation of Gemma as data: model types, names, sizes, turns, adapted layers, and which runtimes load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gemtune.families.size import ModelSize

# Attention and MLP of the language model, by the names that all generations share.
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class ModelType:
    """A `model_type` of config.json that belongs to a generation.

    no_pictures: why such a model is not trained on pictures here, None if it is where it has a vision tower. no_gguf:
    why llama.cpp cannot run it as trained, None if it can. no_vllm_adapter: the same for a LoRA adapter in vLLM.
    """

    no_pictures: str | None = "it has no vision tower"
    no_gguf: str | None = None
    no_vllm_adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Turns:
    """The turn format of a generation.

    start, end: tokens around a turn. template: the file in `trainer/conversation/` that stands in for the chat template
    of a base model that has none. scanned: whether the model's turns are found by these tokens, because templates of
    the generation do not render a conversation as the beginning of a longer one. empty_thought: what a generation
    prompt may end in when the model is not to think. tool_result: tokens around a tool's result inside a model's turn.
    reserved: further tokens that a user's text must not hold.
    """

    start: str
    end: str
    template: str
    scanned: bool = False
    empty_thought: str = ""
    tool_result: tuple[str, str] = ("", "")
    reserved: tuple[str, ...] = ()

    @property
    def controls(self) -> tuple[str, ...]:
        """Tokens that mean something to the chat template, and so cannot be part of what somebody says."""
        return (self.start, self.end, *filter(None, self.tool_result), *self.reserved)


@dataclass(frozen=True, slots=True)
class FusedLayers:
    """Class names, in transformers, of the layers that gemtune's own or Liger's functions may stand in for. Only
    layers that tests compare with transformers' are named."""

    norm: str
    mlp: str
    attention: str
    layer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A generation of Gemma.

    names: parts of a repository's name that say the generation. text_only: those of models without a vision tower.
    sizes: by parts of a repository's name, the longest match counts. senses: children of the model that are not its
    language model. experts: 3-D parameters of a mixture of experts that an adapter reaches by PEFT's
    `target_parameters`. unquantized: ends of names of linear layers that stay in 16 bits where attention and MLP are of
    4. licence: the Hub's name of the licence.
    """

    name: str
    model_types: Mapping[str, ModelType]
    names: tuple[str, ...]
    text_only: tuple[str, ...]
    sizes: Mapping[str, ModelSize]
    turns: Turns
    licence: str
    senses: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    unquantized: tuple[str, ...] = ()
    fused: FusedLayers | None = None

    def is_named(self, repository: str) -> bool:
        """Whether a repository's name says that its model is of this generation."""
        return part_in(self.names, repository) is not None

    def no_pictures_by_name(self, repository: str) -> str | None:
        """Why the model of a repository is not trained on pictures; None if it is, or if its name does not say."""
        if part_in(self.text_only, repository) is not None:
            return "it has no vision tower"
        reasons = {kind.no_pictures for kind in self.model_types.values()}
        return None if None in reasons else next(iter(sorted(filter(None, reasons), key=len, reverse=True)))


@lru_cache(maxsize=1024)  # every rule about a base model asks, and of the same few names
def part_in(parts: tuple[str, ...], repository: str) -> str | None:
    """The longest of `parts` that stands as a word of its own in the last part of a repository's name."""
    name = repository.rpartition("/")[2].lower()
    longest_first = sorted(parts, key=len, reverse=True)
    return next(
        (part for part in longest_first if re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9.])", name)), None
    )
