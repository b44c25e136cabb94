"""Loading of a model that only computes: a whole one, or base and adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gemtune.errors import StepError
from trainer.base_model import folder_contents
from trainer.base_model.four_bits import keep_unpacked
from trainer.model.attention.choice import FLASH_MOST_HEAD, MASKED, Layers, Situation, choose
from trainer.new_tokens import embedding

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from trainer.base_model.language_model import LanguageModel


def load(
    folder: Path,
    adapter: Path | None,
    *,
    dtype: torch.dtype | Literal["auto"],
    attention: str | dict[str, str],
    with_media: bool = False,
    four_bits: BitsAndBytesConfig | None = None,
    device: str | None = None,
) -> LanguageModel:
    """Load a model folder with transformers, and an adapter on it with PEFT.

    The model generates as the adapter's generation config says. folder: the model, or the base model of the adapter.
    four_bits: how to quantize the weights while loading. device: None for the CPU. Raises StepError `bad_adapter`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if with_media else AutoModelForCausalLM
    # A None for it would hide the folder's own quantization_config from transformers.
    quantized = {} if four_bits is None else {"quantization_config": four_bits}
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation=attention, device_map=device, **quantized)
    keep_unpacked(model, uneven_only=True)
    if adapter is None:
        whole: LanguageModel = model.eval()
        return whole
    return wrap(model, adapter)


def read_whole(folder: Path, *, with_media: bool, **options: Any) -> PreTrainedModel:
    """Load a model that has all the weights its config.json describes.

    transformers only warns about missing ones, and computes with random ones. options: of `from_pretrained`. Raises
    StepError `bad_base_model`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText if with_media else AutoModelForCausalLM
    model, weights = kind.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    missing = {name for name, _ in model.named_parameters()} & set(weights["missing_keys"])
    wrong = sorted(missing | {str(name) for name, *_ in weights["mismatched_keys"]})
    if wrong:
        message = f"the base model's files lack {len(wrong)} weights that its config.json describes, such as {wrong[0]}"
        raise StepError("bad_base_model", message, hint="use the config.json that was saved with the weights")
    loaded: PreTrainedModel = model
    return loaded


def wrap(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Load an adapter on its base model with PEFT.

    Raises StepError `bad_adapter`.
    """
    from peft import PeftModel

    new_tokens = embedding.read(adapter)
    if new_tokens is not None:
        new_tokens.add_rows(model)
    take_generation_config(model, adapter)
    adapted = PeftModel.from_pretrained(model, str(adapter))
    check_adapter(adapted, adapter, hint="use the base model that the adapter was trained on")
    return adapted.eval()


def take_generation_config(model: PreTrainedModel, adapter: Path) -> None:
    """Let a model generate as the adapter's generation config says."""
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(adapter)


def check_adapter(model: PeftModel, folder: Path, *, hint: str) -> None:
    """Check that a loaded adapter has exactly the weights of its folder.

    PEFT only warns, and the model would answer as the base model does. Raises StepError `bad_adapter`.
    """
    from peft.utils import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        differing = set(file.keys()) ^ set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if differing:
        message = f"the adapter does not fit the base model: {sorted(differing)[0]}, …"
        raise StepError("bad_adapter", message, hint=hint)


def masked_attention(folder: Path) -> str | dict[str, str]:
    """Return the attention with masks that a model's layers support.

    Of transformers' implementations with masks, only the eager one caps scores as Gemma 2 does, and audio towers
    support no other.
    """
    config = folder_contents.config_of(folder)
    layers = Layers(head=FLASH_MOST_HEAD, cap=config.get("attn_logit_softcapping"))
    name = MASKED[choose(layers, Situation("cpu", is_packed=False)).implementation.name]
    has_audio = isinstance(config.get("audio_config"), dict)
    return {"text_config": name, "vision_config": "sdpa", "audio_config": "eager"} if has_audio else name
