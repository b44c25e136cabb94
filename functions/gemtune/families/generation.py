"""Gemma generations as data.

Each has its model types, names, sizes, turn format, adapted layers, and the runtimes that can load it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from gemtune.families.configs.defaults import Defaults
from gemtune.families.llama_shapes import LlamaCpp
from gemtune.families.size import ModelSize
from gemtune.methods import MediaModality

# Linear layers of attention and MLP in the language model. All generations use these names.
ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = (*ATTENTION_LAYERS, "gate_proj", "up_proj", "down_proj")


NO_VISION_TOWER = "it has no vision tower"
NO_AUDIO = "it does not hear"


@dataclass(frozen=True, slots=True)
class ModelType:
    """A `model_type` of config.json that belongs to a generation.

    Each attribute is None where the feature works, else the reason why it does not:
    why_no_pictures: why training on pictures is not possible. None still requires a `vision_config` in the model.
    why_no_audio: why training on audio is not possible. None still requires an `audio_config` in the model.
    why_no_gguf: why llama.cpp does not compute what was trained.
    why_no_vllm_adapter: why vLLM cannot serve a LoRA adapter of such a model.

    encoder_free: whether it has no vision and audio encoders: its processors give the model one large patch per soft
    token of a picture, and the samples of audio themselves.
    tower: the child module whose linear layers an adapter is on if a job trains the vision tower.
    feature_extractor: path of transformers' class that reads audio, below `transformers.models`; "" where no job trains
    on audio.
    needs_timm: whether transformers builds such a model with the packages timm and torchvision.
    """

    why_no_pictures: str | None = NO_VISION_TOWER
    why_no_audio: str | None = NO_AUDIO
    why_no_gguf: str | None = None
    why_no_vllm_adapter: str | None = None
    encoder_free: bool = False
    tower: str = "vision_tower"
    feature_extractor: str = ""
    needs_timm: bool = False

    def why_no_media(self, modality: MediaModality) -> str | None:
        """Return why training on a modality is not possible, as above."""
        return self.why_no_pictures if modality == "vision" else self.why_no_audio


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """Turn format of a generation: the control tokens of its chat template.

    start, end: tokens around a turn.
    template: file in `trainer/conversation/` that replaces the chat template of a base model that has none.
    scanned: find the model's turns by searching for these tokens. Needed where the generation's templates do not
    render a conversation as a prefix of the same conversation with more turns.
    empty_thought: text at the end of a generation prompt that keeps the model from thinking.
    tool_call, tool_result: tokens around a call of a tool and around its result, both inside a model's turn. The model
    writes the first one of a result after its calls, and hands over with it.
    reserved: further tokens that must not occur in a user's text.
    """

    start: str
    end: str
    template: str
    scanned: bool = False
    empty_thought: str = ""
    tool_call: tuple[str, str] = ("", "")
    tool_result: tuple[str, str] = ("", "")
    reserved: tuple[str, ...] = ()

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Return the tokens that must not occur in the text of a message."""
        return (self.start, self.end, *filter(None, (*self.tool_call, *self.tool_result)), *self.reserved)

    @property
    def hands_over(self) -> str:
        """Return the token after which a model waits for results, or ""."""
        return self.tool_result[0]

    @property
    def thought(self) -> tuple[str, str, str] | None:
        """Return what is around a thought: token, heading, and last token.

        None if the models of the generation do not think.
        """
        match = re.fullmatch(r"(<[^<>]+>)([^<]*)(<[^<>]+>)", self.empty_thought)
        return None if match is None else (match[1], match[2], match[3])


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """Picture tokens of a generation, and the model inputs that go with them.

    written: the name, in tokenizer_config.json, of the token that the chat template writes for a picture.
    around: text that the processor adds before and after the tokens of a picture.
    by_aspect_ratio: the number of a picture's soft tokens depends on its aspect ratio, else it is the same for all.
    type_ids: the model's input that is 1 at soft tokens.
    trains_tower: whether the vision tower can be trained.
    processor: path of transformers' class that reads pictures with Pillow, below `transformers.models`. Encoder-free
    models are read without it.
    tower_type: the `model_type` of `vision_config`, where transformers chooses the tower's class by that.
    """

    written: str
    around: str
    by_aspect_ratio: bool
    type_ids: str
    trains_tower: bool
    processor: str
    tower_type: str | None = None


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Audio tokens of a generation, and how its models encode clips.

    around: text that the processor adds before and after the tokens of a clip.
    soft_id: id of the soft token where config.json does not state it.
    fixed_tokens: the number of a clip's soft tokens where config.json does not state it, if all clips have as many;
    None if it depends on the length.
    depends_on_batch: whether the audio tower encodes the end of a clip with what follows it, so that clips of several
    rows cannot be padded to one batch.
    """

    around: str = ""
    soft_id: int = 258_881
    fixed_tokens: int | None = None
    depends_on_batch: bool = False


@dataclass(frozen=True, slots=True)
class FusedLayers:
    """Class names of layers that fused implementations may replace.

    The replacements are gemtune's own or Liger's. Only layers whose replacement is tested against transformers are
    listed.
    """

    norm: str
    mlp: str
    attention: str
    layer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A generation of Gemma, with all that is specific to its models.

    model_types: the values of `model_type` in config.json.
    names: parts of a repository's name that identify the generation.
    names_without_pictures: why models of these names, or parts of names, cannot be trained on pictures.
    names_without_audio: the same for audio.
    sizes: model sizes by part of the repository's name; the longest matching part counts.
    turns: turn format of its chat templates. tool_turns: those of variants whose templates have calls of tools besides.
    licence: the Hub's name of the licence.
    defaults: what transformers takes for fields that a config.json omits.
    pictures: how its models read pictures; None where none of them sees.
    audio: how its models read audio, if they hear.
    multimodal_modules: child modules of the model that are not its language model (vision, audio, projectors).
    audio_modules: those of them that hear, which no job trains.
    experts: 3-D parameters of a mixture of experts, which an adapter reaches through PEFT's `target_parameters`.
    experts_limit: which programs do not load an adapter on them as they load others.
    unquantized: suffixes of the names of linear layers that QLoRA leaves in 16 bits.
    fused: layers that have fused implementations; None where there are none.
    llama_cpp: shapes that llama.cpp computes; None where it was not compared with transformers.
    heads_divide_width: whether transformers takes only widths that are a multiple of the number of attention heads.
    never_null: fields of a config.json that are null in models of other generations only.
    rotations_by_layer: whether a config.json has to state how sliding and global layers rotate positions.
    widths_by_layer: whether a config.json may state the width of each layer's MLP.
    global_head: width of the heads of global layers that a config.json does not state; None where all heads are alike.
    """

    name: str
    model_types: Mapping[str, ModelType]
    names: tuple[str, ...]
    sizes: Mapping[str, ModelSize]
    turns: TurnFormat
    licence: str
    defaults: Defaults
    tool_turns: tuple[TurnFormat, ...] = ()
    pictures: PictureFormat | None = None
    audio: AudioFormat = AudioFormat()
    multimodal_modules: tuple[str, ...] = ()
    audio_modules: tuple[str, ...] = ()
    names_without_pictures: Mapping[str, str] = field(default_factory=dict)
    names_without_audio: Mapping[str, str] = field(default_factory=dict)
    experts: tuple[str, ...] = ()
    experts_limit: str | None = None
    unquantized: tuple[str, ...] = ()
    fused: FusedLayers | None = None
    llama_cpp: LlamaCpp | None = None
    heads_divide_width: bool = False
    never_null: tuple[str, ...] = ()
    rotations_by_layer: bool = False
    widths_by_layer: bool = False
    global_head: int | None = None

    @property
    def why_tower_is_frozen(self) -> str | None:
        """Return why no job can train the vision tower.

        None if one can.
        """
        if self.pictures is None or self.pictures.trains_tower:
            return None
        return f"the vision tower of {self.name} cannot be trained here"

    def needs_timm(self, config: Mapping[str, object] | None) -> bool:
        """Return whether transformers builds a model with timm.

        config: its config.json. If that is not at hand, the answer is that of the generation's models on the Hub.
        """
        if config is None:
            return any(kind.needs_timm for kind in self.model_types.values())
        kind = self.model_types.get(str(config.get("model_type")))
        return kind is not None and kind.needs_timm

    def adaptable_layers(self, size: ModelSize | None) -> tuple[str, ...]:
        """Return the layers of the language model that an adapter can be on.

        They are the ends of their names, as PEFT's `target_modules` has them; those of experts go to its
        `target_parameters`. size: of the model; None if it is not known.
        """
        missing: tuple[str, ...] = ("altup_",)  # lists of layers, which PEFT cannot adapt by this name
        if size is not None and size.experts is None:
            missing += ("router", "experts")
        if size is not None and not size.per_layer_input:
            missing += ("per_layer",)
        more = (*self.unquantized, *self.experts)
        return (*LINEAR_LAYERS, *(name for name in more if not name.startswith(missing)))

    def is_named(self, repository: str) -> bool:
        """Return whether a repository's name identifies this generation."""
        return longest_part_in(self.names, repository) is not None

    def why_no_media_by_name(self, modality: MediaModality, repository: str) -> str | None:
        """Return why the named model cannot be trained on a modality.

        None if it can, or if the name does not say.
        """
        by_name = self.names_without_pictures if modality == "vision" else self.names_without_audio
        part = longest_part_in(tuple(by_name), repository)
        if part is not None:
            return by_name[part]
        reasons = {kind.why_no_media(modality) for kind in self.model_types.values()}
        return None if None in reasons else next(iter(sorted(filter(None, reasons), key=len, reverse=True)))


@lru_cache(maxsize=1024)  # every rule about a base model calls this with the same few names
def longest_part_in(parts: tuple[str, ...], repository: str) -> str | None:
    """Return the longest of `parts` that is a whole word in a name.

    The owner in front of the slash does not count. None if none of the parts occurs.
    """
    name = repository.rpartition("/")[2].lower()
    longest_first = sorted(parts, key=len, reverse=True)
    return next(
        (part for part in longest_first if re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9.])", name)), None
    )
