"""GGUF conversion by llama.cpp's converter and quantizer, in child processes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.families.configs.sections import language_model
from gemtune.llama_cpp import is_built, problem_of_config
from gemtune.request.exports import GgufExport
from trainer.base_model import folder_contents
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.export.modelfile import hand_over_token
from trainer.process import child

log = logging.getLogger(__name__)

# llama.cpp's name of the embedding, which LoRA does not change.
EMBEDDING = "token_embd.weight"
# llama.cpp's script for copies of a file with other metadata.
NEW_METADATA = "gguf-py/gguf/scripts/gguf_new_metadata.py"
# Weights of a layer's keys and values, and the file of those that llama.cpp's converter wants besides.
KEYS_AND_VALUES = re.compile(r"\.layers\.\d+\.self_attn\.(k_proj|v_proj|k_norm)\.weight$")
UNUSED = "model-unused.safetensors"
# Tokens after calls of tools at which llama.cpp stops by itself.
KNOWN_ENDS = ("<|tool_response>",)


def write(
    model: Path,
    folder: Path,
    export: GgufExport,
    tools: Path,
    untrained: Collection[str] = (),
    *,
    check_stop: Callable[[], None] = lambda: None,
    check_exact: Callable[[Path], None] = lambda file: None,
) -> int:
    """Write a model as a GGUF file; return how many tensors were dithered.

    The vision encoder of a vision model becomes a second file, PROJECTOR. model: a folder with the whole model in bf16;
    its configuration files are modified in place. tools: the folder of llama.cpp. untrained: llama.cpp's names of
    tensors that training did not change. check_exact: called with the file in 16 bits, before it is quantized; may
    raise anything. Raises StepError `family_without_gguf`, `gguf_tools_missing`, `gguf_failed`.
    """
    check_family(folder_contents.config_of(model))
    if not is_built(tools):
        raise StepError("gguf_tools_missing", f"llama.cpp is not in {tools}", hint="run `make llama`, and export again")
    _match_tokens_to_rows(model)
    _add_token_list(model)
    _add_expert_width(model)
    _add_unused_keys(model)
    target = folder / export.file_name
    dithered = 0
    if export.converted:
        _convert(model, target, "f16", tools, check_stop)
        check_exact(target)
    else:
        exact = target.with_name("exact.gguf")  # in bf16, the precision of the weights, which are rounded only once
        _convert(model, exact, "bf16", tools, check_stop)
        check_exact(exact)
        dithered = quantize(exact, target, export.llama_type, tools, untrained, check_stop)
        exact.unlink()
    _end_at_calls(model, target, tools, check_stop)
    if "vision_config" in folder_contents.config_of(model):
        _convert(model, folder / PROJECTOR, "f16", tools, check_stop, "--mmproj")
    return dithered


def quantize(
    exact: Path,
    target: Path,
    llama_type: str,
    tools: Path,
    untrained: Collection[str],
    check_stop: Callable[[], None] = lambda: None,
) -> int:
    """Quantize a file in 16 bits; return how many tensors were dithered.

    `dither` dithers the tensors whose weights are already on the quantization grid; if there are any, the model is
    quantized again. It does so in the file in 16 bits itself. untrained: see `write`. Raises StepError `gguf_failed`.
    """
    command = ["-P", "-m", "trainer.gguf.quantizer", "quantize", str(tools), str(exact), str(target), llama_type]
    run(command, "quantized", check_stop)
    dither = ["-P", "-m", "trainer.gguf.dither", str(tools), str(exact), str(target), *untrained]
    dithered = int(run(dither, "dithered", check_stop).split()[-1])
    if dithered:
        log.info("dithered %d tensors whose weights were on the grid of %s", dithered, llama_type)
        run(command, "quantized", check_stop)
    return dithered


def _end_at_calls(model: Path, target: Path, tools: Path, check_stop: Callable[[], None]) -> None:
    """Let llama.cpp's programs end an answer after its calls of tools.

    The token after which the model waits for results becomes the file's end of a message. llama.cpp's converter has no
    option for that, so that the script that came with it copies the file.
    """
    token = hand_over_token(ChatTemplate(model, json_object(model / "tokenizer_config.json")))
    if not token or token in KNOWN_ENDS:
        return
    script, copy = str(tools / NEW_METADATA), target.with_name("copy.gguf")
    added = json_object(model / "tokenizer.json").get("added_tokens", ())
    number = next((each["id"] for each in added if each["content"] == token), None)
    if number is None:
        return
    run([script, str(target), str(copy), "--special-token-by-id", "eom", str(number), "--force"], "copied", check_stop)
    copy.replace(target)


def _match_tokens_to_rows(model: Path) -> None:
    """Give the tokenizer exactly the tokens that have rows in the embedding.

    llama.cpp loads no other file. For older generations its converter does so itself: it writes tokens of the same
    names for spare rows, and leaves out tokens without a row, which no text of a training contains.
    """
    llama_cpp = folder_contents.family_of(model).llama_cpp
    rows = folder_contents.vocab_size(folder_contents.config_of(model))
    if llama_cpp is None or llama_cpp.matches_rows or rows is None:
        return
    path, settings = model / "tokenizer.json", model / "tokenizer_config.json"
    tokenizer, config = json_object(path), json_object(settings)
    added = tokenizer.get("added_tokens", [])
    spare = sorted(set(range(rows)) - set(tokenizer["model"]["vocab"].values()) - {token["id"] for token in added})
    without_row = {token["content"] for token in added if token["id"] >= rows}
    if not spare and not without_row:
        return
    flags = {"special": True} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    padding = [{"id": row, "content": f"[PAD{row}]"} | flags for row in spare]
    with_row = [token for token in added if token["id"] < rows]
    path.write_text(json.dumps(tokenizer | {"added_tokens": [*with_row, *padding]}, ensure_ascii=False))
    special = config.pop("extra_special_tokens", None) or config.pop("additional_special_tokens", None) or ()
    if isinstance(special, dict):  # tokens by name, which may stand beside the other fields as well
        config, special = config | special, ()
    special = [*special, *(token["content"] for token in padding)]
    config.pop("added_tokens_decoder", None)  # `_add_token_list` writes it anew
    config = {name: value for name, value in config.items() if _text(value) not in without_row}
    config["extra_special_tokens"] = [token for token in special if _text(token) not in without_row]
    settings.write_text(json.dumps(config, ensure_ascii=False))


def _text(token: Any) -> str:
    """Return the text of a token as tokenizer_config.json has it.

    "" for anything else.
    """
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _add_token_list(model: Path) -> None:
    """List the added tokens (`<b>`, pictures) in tokenizer_config.json.

    There llama.cpp's converter looks up which tokens are never split. transformers 5 writes them to tokenizer.json
    only; without this list the GGUF file's tokenizer would split them into letters.
    """
    path = model / "tokenizer_config.json"
    config, tokenizer = json_object(path), json_object(model / "tokenizer.json")
    added = {str(token["id"]): token for token in tokenizer.get("added_tokens", ())}
    if added and not config.get("added_tokens_decoder"):
        path.write_text(json.dumps(config | {"added_tokens_decoder": added}))


def _add_expert_width(model: Path) -> None:
    """Add `moe_intermediate_size` to config.json of a unified Gemma 4 model.

    llama.cpp's converter needs the key for every Gemma 4, and those models lack it.
    """
    path = model / "config.json"
    config = folder_contents.config_of(model)
    text = config.get("text_config")
    if config.get("model_type") == "gemma4_unified" and isinstance(text, dict):
        path.write_text(json.dumps(config | {"text_config": {"moe_intermediate_size": None} | text}, indent=2) + "\n")


def _add_unused_keys(model: Path) -> None:
    """Add keys and values of layers that share those of others, as zeros.

    llama.cpp loads no Gemma 3n without these weights, which it does not use. Google's files have them, and those that
    transformers wrote do not.
    """
    llama_cpp = folder_contents.family_of(model).llama_cpp
    if llama_cpp is None or llama_cpp.layers_with_keys is None:
        return
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    shapes: dict[str, list[int]] = {}
    for path in folder_contents.weight_files(model):
        with safe_open(path, framework="np") as file:
            shapes |= {
                name: file.get_slice(name).get_shape() for name in sorted(file.keys()) if KEYS_AND_VALUES.search(name)
            }
    layers = int(language_model(folder_contents.config_of(model))["num_hidden_layers"])
    of_first = {name: shape for name, shape in shapes.items() if ".layers.0." in name}
    missing = {
        name.replace(".layers.0.", f".layers.{layer}."): np.zeros(shape, np.float16)
        for layer in range(layers)
        for name, shape in of_first.items()
        if name.replace(".layers.0.", f".layers.{layer}.") not in shapes
    }
    if not missing:
        return
    save_file(missing, model / UNUSED)
    index = model / folder_contents.INDEX
    if index.is_file():
        weight_map = folder_contents.weight_map(model) | dict.fromkeys(missing, UNUSED)
        index.write_text(json.dumps(json_object(index) | {"weight_map": weight_map}))


def check_family(config: Mapping[str, Any]) -> None:
    """Raise StepError `family_without_gguf` for an unsupported model."""
    problem = problem_of_config(config)
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)


def _convert(model: Path, target: Path, outtype: str, tools: Path, check_stop: Callable[[], None], *more: str) -> None:
    """Run llama.cpp's converter. more: further options of it.

    Raises StepError `gguf_failed`.
    """
    script = str(tools / "convert_hf_to_gguf.py")
    run([script, str(model), "--outtype", outtype, "--outfile", str(target), *more], "converted", check_stop)
    if not target.is_file():
        raise StepError("gguf_failed", f"llama.cpp's converter did not write {target.name}")


def run(arguments: Sequence[str], action: str, check_stop: Callable[[], None]) -> str:
    """Run a Python process and return its output.

    action: a past participle, for the message. Raises StepError `gguf_failed`.
    """
    ended = child.run(arguments, check_stop)
    if ended.code != 0:
        ended.check_machine()
        message = f"the model could not be {action}: {ended.last_lines}"
        raise StepError("gguf_failed", message, hint="export it as merged; the training result is kept")
    return ended.output
