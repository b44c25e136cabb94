"""The llama.cpp build that writes GGUF: version, folder, and usable models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# The image compiles llama.cpp with this file and trainer/gguf/llama_cpp_build.py alone, so all else is imported late.
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from gemtune.errors import Problem
    from gemtune.families.generation import Family, ModelType
    from gemtune.families.llama_shapes import LlamaCpp, Sparsity

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
    problem, reason = _problem(family, model_type), next(_other_shapes(config, family), None)
    if problem is not None or reason is None:
        return problem
    message = f"this model cannot be exported as gguf: {reason}"
    return Problem(("export_config", "format"), message, "family_without_gguf", "use format merged or adapter")


def problem_of_repository(repository: str) -> Problem | None:
    """Return why a Hub repository's model cannot be converted, or None.

    The repository's name decides: models on the Hub are of the first type of their family. A name of no known family
    gives None; the prepare step checks the model itself.
    """
    from gemtune import families

    family = families.of_name(repository)
    return None if family is None else _problem(family, next(iter(family.model_types.values())))


def tools_missing(*, on_gcp: bool) -> Problem:
    """Return the problem of a GGUF export on a service without llama.cpp."""
    from gemtune.errors import Problem

    hint = "run `make llama` once (it takes minutes), or use format merged"
    if on_gcp:
        hint = "build the image with llama.cpp and set GEMTUNE_WITHOUT_GGUF to no, or use format merged"
    message = "writing GGUF needs llama.cpp, which this service does not have"
    return Problem(("export_config", "format"), message, "gguf_tools_missing", hint)


def _problem(family: Family, model_type: ModelType) -> Problem | None:
    """Return a problem if llama.cpp cannot run models of this type."""
    from gemtune import families
    from gemtune.errors import Problem

    untried = (
        None if family.llama_cpp is not None else f"llama.cpp was not compared with transformers for {family.name}"
    )
    reason = model_type.why_no_gguf or untried
    if reason is None:
        return None
    convertible = [
        each.name
        for each in families.FAMILIES
        if each.llama_cpp is not None and next(iter(each.model_types.values())).why_no_gguf is None
    ]
    message = f"{family.name} cannot be exported as gguf: {reason}"
    hint = f"gguf is available for {', '.join(convertible)}; use format merged or adapter"
    return Problem(("export_config", "format"), message, "family_without_gguf", hint)


def _other_shapes(config: Mapping[str, Any], family: Family) -> Iterator[str]:
    """Yield what a config.json describes that llama.cpp does not compute.

    Its converter ignores most of these fields, and writes a file of another model. All were tried with tiny models, and
    tests/trainer/gguf/test_shapes.py repeats that. Fields that config.json omits have transformers' defaults.
    """
    from gemtune.families.configs.sections import language_model

    text, computed = family.defaults.completed(language_model(config)), family.llama_cpp
    if computed is None:
        return
    if text.get("attention_bias"):
        yield "llama.cpp has no biases in the attention of a Gemma"
    activation = text.get("hidden_activation") or text.get("hidden_act") or "gelu"
    if activation not in ACTIVATIONS:
        yield f"llama.cpp computes gelu in every Gemma, not {str(activation)[:40]}"
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    if not tied and not computed.untied_head:
        yield f"llama.cpp uses the embedding of {family.name} as its output head, and this model has another one"
    if "attn_logit_softcapping" in text and bool(text["attn_logit_softcapping"]) is not computed.capped_scores:
        yield f"llama.cpp {'caps' if computed.capped_scores else 'does not cap'} the scores of attention"
    if computed.capped_scores and "final_logit_softcapping" in text and not text["final_logit_softcapping"]:
        yield f"llama.cpp caps the logits of {family.name}"
    yield from _other_layers(text, family.name, computed)
    yield from _other_positions(text, family.name, computed)
    yield from _other_tables(text, family.name, computed)
    yield from _other_numbers(text, family.name, computed)


# Names of the activation that llama.cpp computes: its approximation differs from the exact one by less than it rounds.
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_python", "gelu_accurate")
SLIDING, GLOBAL = "sliding_attention", "full_attention"
# Base of rotary embeddings that llama.cpp takes if a file states none, and transformers if a config.json does.
ROPE_BASE = 10_000


def _other_layers(text: Mapping[str, Any], name: str, computed: LlamaCpp) -> Iterator[str]:
    """Yield how the attention of layers differs from what llama.cpp computes.

    text: the configuration of the language model, with its defaults. name: of its family.
    """
    period, stated = computed.window_period, text.get("layer_types")
    types = stated if isinstance(stated, list) else []
    if period is None and GLOBAL in types and SLIDING not in types:
        yield f"llama.cpp needs a sliding layer in {name}"
    if period is not None and types != _by_period(len(types), period):
        yield f"llama.cpp makes one layer of {name} in {period} a global one, the last of each {period}"
    if period is not None and not text.get("sliding_window", True):
        yield f"llama.cpp needs the window of the sliding layers of {name}"
    shared = text.get("num_kv_shared_layers")
    if types and isinstance(shared, int) and shared and types[: len(types) - shared][-2:] != [SLIDING, GLOBAL]:
        yield (
            f"in a {name} that shares keys and values, llama.cpp needs a sliding layer and a global one as the last "
            "two that have their own"
        )
    if computed.layers_scaled_by_share is not None and not _divides_scores_alike(text, computed.layers_scaled_by_share):
        yield (
            f"llama.cpp divides the scores of {name} by the root of a head's width, or of hidden size / heads with "
            f"{computed.layers_scaled_by_share} layers, not by that of {str(text.get('query_pre_attn_scalar'))[:40]}"
        )


def _by_period(layers: int, period: int) -> list[str]:
    return [SLIDING if (layer + 1) % period else GLOBAL for layer in range(layers)]


def _divides_scores_alike(text: Mapping[str, Any], layers: int) -> bool:
    """Return whether llama.cpp scales the scores of attention as the model.

    layers: see `LlamaCpp.layers_scaled_by_share`. Gemma's configurations have 256 as default of both numbers.
    """
    scale, head = text.get("query_pre_attn_scalar", 256), text.get("head_dim", 256)
    if text.get("num_hidden_layers") != layers:
        return bool(scale == head)
    hidden, heads = text.get("hidden_size"), text.get("num_attention_heads")
    return not (isinstance(hidden, int) and isinstance(heads, int) and heads > 0) or scale == hidden // heads


def _other_positions(text: Mapping[str, Any], name: str, computed: LlamaCpp) -> Iterator[str]:
    """Yield how positions are rotated other than llama.cpp does.

    text, name: as in `_other_layers`.
    """
    stated = text.get("rope_parameters")
    stated = stated if isinstance(stated, dict) else {}
    scaling = text.get("rope_scaling")  # the older field, for layers without a window
    of_all = stated.get(GLOBAL, stated) if GLOBAL in stated or SLIDING not in stated else {}
    of_global = (scaling if isinstance(scaling, dict) else {}) | (of_all if isinstance(of_all, dict) else {})
    of_sliding = stated.get(SLIDING) if isinstance(stated.get(SLIDING), dict) else {}
    kind, types = _rope_type(of_global), computed.rope_types
    if of_global and kind not in types:
        yield (
            f"llama.cpp does not scale the positions of {name} by {kind}"
            if "default" in types
            else (f"llama.cpp rotates the positions of global layers of {name} by {', '.join(types)}, not by {kind}")
        )
    if of_global and "default" not in types and ("factor" in of_global or "partial_rotary_factor" not in of_global):
        yield f"llama.cpp needs a partial_rotary_factor of the global layers of {name}, and no factor"
    if of_sliding and _rope_type(of_sliding) != "default":
        yield f"llama.cpp does not scale the positions of sliding layers of {name}"
    base = of_all.get("rope_theta", text.get("rope_theta", ROPE_BASE)) if isinstance(of_all, dict) else ROPE_BASE
    if computed.fixed_rope_base and base != ROPE_BASE:
        yield f"llama.cpp rotates the positions of {name} with the base {ROPE_BASE:,}, not {str(base)[:40]}"


def _rope_type(stated: Mapping[str, Any]) -> str:
    return str(stated.get("rope_type", stated.get("type", "default")))[:40]


def _other_tables(text: Mapping[str, Any], name: str, computed: LlamaCpp) -> Iterator[str]:
    """Yield how sizes of tables and heads differ from what llama.cpp loads.

    text, name: as in `_other_layers`.
    """
    if text.get("hidden_size_per_layer_input"):
        tokens, rows = (text.get(field) for field in ("vocab_size", "vocab_size_per_layer_input"))
        adds_rows = computed.adds_rows and isinstance(tokens, int) and isinstance(rows, int) and rows < tokens
        if None not in (tokens, rows) and tokens != rows and not adds_rows:
            yield f"llama.cpp needs as many embeddings per layer of {name} as tokens"
    heads = text.get("head_dim"), text.get("global_head_dim")
    if None not in heads and heads[0] == heads[1]:
        yield f"llama.cpp's converter needs heads of another width in the global layers of {name}"


def _other_numbers(text: Mapping[str, Any], name: str, computed: LlamaCpp) -> Iterator[str]:
    """Yield which numbers differ from those in llama.cpp's code.

    text, name: as in `_other_layers`.
    """
    for field, value in computed.fixed.items():
        if text.get(field, value) != value:
            yield f"llama.cpp computes {name} with {field} {value}, not {str(text[field])[:40]}"
    own = computed.layers_with_keys
    if own is None or not _has_few_layers(text):
        return
    layers, shared = text["num_hidden_layers"], text.get("num_kv_shared_layers")
    if layers - shared != (own if shared else min(layers, own)):
        yield f"llama.cpp computes {name} with {own} layers that have keys and values of their own"
    if computed.sparsity is not None:
        yield from _other_sparsity(text, name, layers, computed.sparsity)


def _has_few_layers(text: Mapping[str, Any]) -> bool:
    """Return whether a configuration has numbers of layers that a model has."""
    from gemtune.families.configs.fields import LARGEST_VALUES

    return all(
        isinstance(count := text.get(field), int) and count <= LARGEST_VALUES[field]
        for field in ("num_hidden_layers", "num_kv_shared_layers")
    )


def _other_sparsity(text: Mapping[str, Any], name: str, layers: int, computed: Sparsity) -> Iterator[str]:
    """Yield how MLPs leave out activations otherwise than llama.cpp's."""
    sparse, stated = min(layers, computed.layers), text.get("activation_sparsity_pattern")
    expected = [computed.share] * sparse + [0.0] * (layers - sparse)
    # In transformers' default, a model without further layers has no such MLPs.
    default = expected if layers > sparse else [0.0] * layers
    if (default if stated is None else stated) != expected:
        yield f"llama.cpp leaves out {computed.share:.0%} of the activations in the first {sparse} layers of {name}"
    stated_width = text.get("intermediate_size")
    widths = [each for each in (stated_width if isinstance(stated_width, list) else [stated_width]) if each is not None]
    if len(set(map(str, widths))) > 1:
        yield f"llama.cpp needs MLPs of one width in {name}"
    if any(isinstance(width, int) and width < computed.least_width for width in widths):
        yield f"llama.cpp leaves out other activations than transformers in MLPs of {name} below {computed.least_width}"
