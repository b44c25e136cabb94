"""Field-by-field comparison of an export's files with those of the training.

Tokenizer, chat template, special tokens, generation config and hyperparameters. The comparison of logits does not show
all of them: a model that lost the token that ends its answers predicts the same as before.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemtune.request.exports import GgufExport, MergedExport
from trainer.base_model import folder_contents, identity
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import merge, versions
from trainer.export.modelfile import modelfile, turns_of
from trainer.gguf.file_layout import contents
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import embedding
from trainer.store import manifest

# Keys of config.json that a merged export writes anew.
REWRITTEN = frozenset({"dtype", "torch_dtype", "quantization_config"})
# Keys of a GGUF file's metadata behind the architecture's name, keys of config.json that hold the same, and the value
# that llama.cpp takes if the file has none; without such a value the key has to be there.
HYPERPARAMETERS: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
    ("context_length", ("max_position_embeddings",), None),
    ("embedding_length", ("hidden_size",), None),
    ("block_count", ("num_hidden_layers",), None),
    ("attention.head_count", ("num_attention_heads",), None),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps",), None),
    ("attention.sliding_window", ("sliding_window",), None),
    ("attention.shared_kv_layers", ("num_kv_shared_layers",), 0.0),
    ("expert_used_count", ("num_experts_per_tok", "top_k_experts"), None),
    ("attn_logit_softcapping", ("attn_logit_softcapping",), None),
    ("final_logit_softcapping", ("final_logit_softcapping",), None),
)
# Keys of an mmproj file's metadata, and keys of `vision_config`.
OF_VISION = (
    ("patch_size", "patch_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.layer_norm_epsilon", "layer_norm_eps"),
)
# The same for the two bases of rotary position embeddings, which are written in several ways.
DEFAULT_ROPE_BASE = 10_000.0


def copied_problems(trained: Path, folder: Path) -> list[str]:
    """Return which files of an export differ from those of the training.

    For exports that are a copy of them: adapters, and whole models as they were trained.
    """
    written = {manifest.NAME, versions.NAME}
    expected = {path.name for path in trained.iterdir() if path.is_file()} - written
    actual = {path.name for path in folder.iterdir() if path.is_file()} - written
    problems = [f"{name} is missing" for name in sorted(expected - actual)]
    problems += [f"{name} was not written by the training" for name in sorted(actual - expected)]
    return problems + [
        f"{name} is not the file of the training"
        for name in sorted(expected & actual)
        if manifest.sha256(trained / name) != manifest.sha256(folder / name)
    ]


def merged_problems(base: Path, trained: Path, folder: Path, export: MergedExport) -> list[str]:
    """Return which settings of a merged export differ from the training's.

    trained: the folder of the trained weights, whose tokenizer files count; others come from the base model.
    """
    expected = {
        path.name: path
        for source in (base, trained)
        for pattern in merge.COMPANION_FILES
        for path in source.glob(pattern)
        if path.name not in merge.EXCLUDED_FILES
    }
    problems = []
    for name, path in sorted(expected.items()):
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif (folder / name).read_bytes() != path.read_bytes():
            problems.append(_differing_fields(name, path, folder / name))
    own = {"config.json", "generation_config.json", folder_contents.INDEX}
    added = {path.name for path in folder.iterdir()} & identity.DESCRIPTIONS - set(expected) - own
    problems += [f"{name} was not there in the training" for name in sorted(added)]
    rows = merge.rows_of_embedding(base, embedding.read(trained))
    config = merge.with_vocabulary(folder_contents.config_of(base), rows)
    before, after = (_without_dtypes(each) for each in (config, folder_contents.config_of(folder)))
    problems += _differing_values("config.json", before, after)
    if (dtype := folder_contents.config_of(folder).get("dtype")) != export.dtype:
        problems.append(f"dtype of config.json is {dtype!r}, not {export.dtype!r}")
    return problems


def _differing_fields(name: str, expected: Path, actual: Path) -> str:
    """Return which fields of a JSON file differ, or only that it does."""
    try:
        fields = _differing_values(name, json.loads(expected.read_text()), json.loads(actual.read_text()))
    except (ValueError, UnicodeDecodeError):
        fields = []
    return fields[0] if fields and name != "tokenizer.json" else f"{name} is not that of the training"


def _differing_values(name: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    absent = object()
    return [
        f"{key} of {name} is {_shown(actual.get(key))}, not {_shown(expected.get(key))}"
        for key in sorted({*expected, *actual})
        if expected.get(key, absent) != actual.get(key, absent)
    ]


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:80]


def _without_dtypes(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: _without_dtypes(value) for key, value in config.items() if key not in REWRITTEN}


def gguf_problems(model: LlamaModel, base: Path, trained: Path, folder: Path, export: GgufExport) -> list[str]:
    """Return which settings of a GGUF export differ from the training's.

    model: the file in llama.cpp. Raises StepError `template_not_for_gguf`, InvalidGguf.
    """
    template = ChatTemplate(trained, json_object(trained / "tokenizer_config.json"))
    problems = []
    if (model.chat_template or "") != template.text:
        problems.append("its chat template is not that of the training")
    if (folder / "Modelfile").read_text() != modelfile(turns_of(template), export.file_name):
        problems.append("the Modelfile is not the one that belongs to the chat template")
    problems += _token_problems(model, trained)
    return problems + _hyperparameter_problems(folder / export.file_name, folder_contents.config_of(base))


def projector_problems(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Return which settings of an mmproj file differ from the training's.

    Unified models have no tower, and numbers of heads and patches that nothing reads. Raises InvalidGguf.
    """
    if config.get("model_type") == "gemma4_unified":
        return []
    metadata, vision = contents(path).metadata, config.get("vision_config") or {}
    return [
        f"clip.vision.{key} of {path.name} is {metadata.get(f'clip.vision.{key}')}, not {vision[name]}"
        for key, name in OF_VISION
        if vision.get(name) is not None
        and not _is_same_number(float(vision[name]), float(metadata.get(f"clip.vision.{key}", 0)))
    ]


def token_count(trained: Path) -> int:
    """Return how many tokens the tokenizer of a folder has."""
    from tokenizers import Tokenizer

    return 1 + max(Tokenizer.from_file(str(trained / "tokenizer.json")).get_vocab().values())


def _token_problems(model: LlamaModel, trained: Path) -> list[str]:
    """Return how the vocabulary and its special tokens differ."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
    pieces, problems = model.pieces(), []
    # llama.cpp's converter writes the blanks of added tokens as they are, and SentencePiece marks them.
    wrong = [
        index
        for piece, index in tokenizer.get_vocab().items()
        if index < len(pieces) and pieces[index].replace("▁", " ") != piece.replace("▁", " ")
    ]
    if wrong:
        first = min(wrong)
        expected = tokenizer.id_to_token(first)
        problems.append(f"{len(wrong)} tokens differ, such as {first}: {pieces[first]!r}, not {expected!r}")
    config = json_object(trained / "tokenizer_config.json")
    bos = config.get("bos_token")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    if isinstance(bos, str) and model.bos_token != tokenizer.token_to_id(bos):
        problems.append(f"its first token is {model.bos_token}, not {bos!r}")
    ends = json_object(trained / "generation_config.json").get("eos_token_id")
    ending = ends if isinstance(ends, list) else [] if ends is None else [ends]
    problems += [
        f"it does not stop at token {token} ({tokenizer.id_to_token(token)!r}), which ends an answer"
        for token in ending
        if not model.ends(token)
    ]
    return problems


def _hyperparameter_problems(path: Path, config: Mapping[str, Any]) -> list[str]:
    metadata = contents(path).metadata
    section = config.get("text_config")
    text: Mapping[str, Any] = section if isinstance(section, dict) else config
    arch = str(metadata.get("general.architecture"))
    expected = {
        key: (next((text[name] for name in names if text.get(name) is not None), None), default)
        for key, names, default in HYPERPARAMETERS
    }
    # `head_dim` is the size of the heads of sliding layers, if global layers have heads of another size.
    head_size = "attention.key_length_swa"
    head_size = head_size if f"{arch}.{head_size}" in metadata else "attention.key_length"
    expected[head_size] = (text.get("head_dim"), None)
    expected["rope.freq_base"] = (_rope_base(text, "full_attention", "rope_theta"), DEFAULT_ROPE_BASE)
    expected["rope.freq_base_swa"] = (_rope_base(text, "sliding_attention", "rope_local_base_freq"), DEFAULT_ROPE_BASE)
    expected["rope.scaling.factor"] = (_rope_factor(text), 1.0)
    problems = []
    for key, (value, default) in expected.items():
        actual = metadata.get(f"{arch}.{key}", default)
        if value is None or isinstance(value, list | dict):
            continue
        if actual is None or not _is_same_number(float(value), float(actual)):
            problems.append(f"{arch}.{key} is {actual}, not {value}")
    return problems


def _rope_base(text: Mapping[str, Any], kind: str, older_key: str) -> float | None:
    """Return the base of rotary embeddings of a kind of layer, if stated."""
    parameters = text.get("rope_parameters")
    if isinstance(parameters, dict):
        of_kind = parameters.get(kind)
        section = of_kind if isinstance(of_kind, dict) else parameters if kind == "full_attention" else {}
        base = section.get("rope_theta")
        return None if base is None else float(base)
    base = text.get(older_key)
    return None if base is None else float(base)


def _rope_factor(text: Mapping[str, Any]) -> float:
    """Return the divisor of positions in layers without a window."""
    stated = text.get("rope_parameters") or text.get("rope_scaling") or {}
    parameters = stated.get("full_attention") or stated
    kind, factor = parameters.get("rope_type", parameters.get("type", "default")), parameters.get("factor")
    return 1.0 if kind == "default" or factor is None else float(factor)


def _is_same_number(expected: float, actual: float) -> bool:
    """Return whether a float32 of a file holds a number."""
    return struct.pack("<f", expected) == struct.pack("<f", actual)
