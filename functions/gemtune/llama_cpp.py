"""The llama.cpp build that writes GGUF: version, folder, and usable models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# The image compiles llama.cpp with this file and trainer/gguf/llama_cpp_build.py alone, so all else is imported late.
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from gemtune.errors import Problem
    from gemtune.families.generation import Family, LlamaCpp, ModelType

# Version of llama-cpp-python, whose source distribution contains all of llama.cpp. The trainer image and `make llama`
# both build from the archive with this SHA-256.
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = f"llama.cpp-{VERSION}"
# The build writes this file last; a folder without it holds an incomplete build.
BUILT = "built.json"
# llama.cpp's own programs, which the README of an export names; jobs need none of them.
PROGRAMS = ("llama-cli", "llama-server", "llama-mtmd-cli")
PROGRAMS_FOLDER = "bin"


def is_built(folder: Path) -> bool:
    """Return whether a folder holds a complete build."""
    return (folder / BUILT).is_file()


def has_programs(folder: Path) -> bool:
    """Return whether a complete build has llama.cpp's own programs."""
    return is_built(folder) and all((folder / PROGRAMS_FOLDER / name).is_file() for name in PROGRAMS)


def problem_of_config(config: Mapping[str, Any]) -> Problem | None:
    """Return why a model with this config.json cannot be converted, or None.

    An unknown model_type gives None too: it is rejected elsewhere.
    """
    from gemtune import families
    from gemtune.errors import Problem

    family_and_type = families.of_config(config)
    if family_and_type is None:
        return None
    family, model_type = family_and_type
    problem, reason = _problem(family, (model_type,)), next(_other_shapes(config, family), None)
    if problem is not None or reason is None:
        return problem
    message = f"this model cannot be exported as gguf: {reason}"
    return Problem(("export_config", "format"), message, "family_without_gguf", "use format merged or adapter")


def problem_of_repository(repository: str) -> Problem | None:
    """Return why a Hub repository's model cannot be converted, or None.

    The repository's name decides. A name of no known family gives None; the prepare step checks the model itself.
    """
    from gemtune import families

    family = families.of_name(repository)
    return None if family is None else _problem(family, tuple(family.model_types.values()))


def tools_missing(*, on_gcp: bool) -> Problem:
    """Return the problem of a GGUF export on a service without llama.cpp."""
    from gemtune.errors import Problem

    hint = "run `make llama` once (it takes minutes), or use format merged"
    if on_gcp:
        hint = "build the image with llama.cpp and set GEMTUNE_WITHOUT_GGUF to no, or use format merged"
    message = "writing GGUF needs llama.cpp, which this service does not have"
    return Problem(("export_config", "format"), message, "gguf_tools_missing", hint)


def _problem(family: Family, model_types: tuple[ModelType, ...]) -> Problem | None:
    """Return a problem if llama.cpp can run none of these model types."""
    from gemtune import families
    from gemtune.errors import Problem

    untried = (
        None if family.llama_cpp is not None else f"llama.cpp was not compared with transformers for {family.name}"
    )
    reasons = {model_type.why_no_gguf or untried for model_type in model_types}
    if None in reasons:
        return None
    convertible = [
        each.name
        for each in families.FAMILIES
        if each.llama_cpp is not None and any(kind.why_no_gguf is None for kind in each.model_types.values())
    ]
    message = f"{family.name} cannot be exported as gguf: {'; '.join(sorted(filter(None, reasons)))}"
    hint = f"gguf is available for {', '.join(convertible)}; use format merged or adapter"
    return Problem(("export_config", "format"), message, "family_without_gguf", hint)


def _other_shapes(config: Mapping[str, Any], family: Family) -> Iterator[str]:
    """Yield what a config.json describes that llama.cpp does not compute.

    Its converter ignores most of these fields, and the certificate does not notice all of them: tiny models with
    another activation passed it.
    """
    inner, computed = config.get("text_config"), family.llama_cpp
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    if computed is None:
        return
    if text.get("attention_bias"):
        yield "llama.cpp has no biases in the attention of a Gemma"
    activation = text.get("hidden_activation") or text.get("hidden_act") or "gelu"
    if not str(activation).startswith("gelu"):
        yield f"llama.cpp computes gelu in every Gemma, not {str(activation)[:40]}"
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    if not tied and not computed.untied_head:
        yield f"llama.cpp uses the embedding of {family.name} as its output head, and this model has another one"
    if "attn_logit_softcapping" in text and bool(text["attn_logit_softcapping"]) is not computed.capped_scores:
        yield f"llama.cpp {'caps' if computed.capped_scores else 'does not cap'} the scores of attention"
    if computed.capped_scores and "final_logit_softcapping" in text and not text["final_logit_softcapping"]:
        yield f"llama.cpp caps the logits of {family.name}"
    yield from _other_layers(text, family.name, computed)


def _other_layers(text: Mapping[str, Any], name: str, computed: LlamaCpp) -> Iterator[str]:
    """Yield how the attention of layers differs from what llama.cpp computes.

    text: the configuration of the language model. name: of its family.
    """
    types, period = text.get("layer_types"), computed.window_period
    if period is not None and isinstance(types, list):
        expected = ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(len(types))]
        if types != expected:
            yield f"llama.cpp makes one layer of {name} in {period} a global one, the last of each {period}"
    if not computed.scaled_positions and _scales_positions(text):
        yield f"llama.cpp does not scale the positions of {name}"
    scale, heads = text.get("query_pre_attn_scalar"), text.get("num_attention_heads")
    head, hidden = text.get("head_dim"), text.get("hidden_size")
    share = hidden / heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None
    if head is not None and isinstance(scale, int | float) and scale not in (head, share):
        yield f"llama.cpp divides the scores of {name} by the root of a head's width, not of {scale}"


def _scales_positions(text: Mapping[str, Any]) -> bool:
    """Return whether a text configuration has scaled rotary embeddings."""
    for field in ("rope_parameters", "rope_scaling"):
        stated = text.get(field)
        if isinstance(stated, dict) and stated.get("rope_type", stated.get("type", "default")) != "default":
            return True
    return False
