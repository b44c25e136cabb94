"""Writes GGUF with llama.cpp's own converter and quantizer, each in a process of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.llama_cpp import is_built, problem_of_model_type
from gemtune.request.exports import GgufExport
from trainer.base_model import folder_contents
from trainer.conversation.chat_template import json_object
from trainer.export.usage import PROJECTOR
from trainer.process import child

log = logging.getLogger(__name__)

# The embedding, by llama.cpp's name. An adapter leaves it as it was.
EMBEDDING = "token_embd.weight"


def write(
    model: Path, folder: Path, export: GgufExport, tools: Path, untrained: Collection[str] = (),
    *, check_stop: Callable[[], None] = lambda: None,
) -> int:  # fmt: skip
    """Write a whole model in full precision to `folder` as one GGUF file, and what sees pictures as another. `model`,
    a folder of the step's own, is changed on the way. Returns how many tensors were dithered.

    untrained: tensors, by llama.cpp's names, that are as they were in the base model. Raises StepError
    `family_without_gguf`, `gguf_tools_missing`, `gguf_failed`.
    """
    check_family(folder_contents.config_of(model))
    if not is_built(tools):
        raise StepError("gguf_tools_missing", f"llama.cpp is not in {tools}", hint="run `make llama`, and export again")
    _tell_added_tokens(model)
    _tell_of_no_experts(model)
    target = folder / export.file_name
    dithered = 0
    if export.converted:
        _convert(model, target, "f16", tools, check_stop)
    else:
        dithered = _quantized(model, target, export.llama_type, tools, untrained, check_stop)
    if "vision_config" in folder_contents.config_of(model):
        _convert(model, folder / PROJECTOR, "f16", tools, check_stop, "--mmproj")
    return dithered


def _quantized(
    model: Path, target: Path, llama_type: str, tools: Path, untrained: Collection[str],
    check_stop: Callable[[], None],
) -> int:  # fmt: skip
    """Quantize twice where weights lie on the grid of the first time. Returns how many tensors do."""
    exact = target.with_name("exact.gguf")  # bf16, as the weights are: quantized from anything less, they lose twice
    _convert(model, exact, "bf16", tools, check_stop)
    quantize = ["-m", "trainer.gguf.llama_library", "quantize", str(tools), str(exact), str(target), llama_type]
    _run(quantize, "quantized", check_stop)
    said = _run(["-m", "trainer.gguf.dither", str(tools), str(exact), str(target), *untrained], "dithered", check_stop)
    dithered = int(said.split()[-1])
    if dithered:
        log.info("%d tensors lay on the grid of %s and were dithered", dithered, llama_type)
        _run(quantize, "quantized", check_stop)
    exact.unlink()
    return dithered


def _tell_added_tokens(model: Path) -> None:
    """The converter learns from tokenizer_config.json which tokens are found whole in a text (`<b>`, pictures);
    transformers 5 writes them into tokenizer.json alone, and the file would split them into letters."""
    path = model / "tokenizer_config.json"
    config, tokenizer = json_object(path), json_object(model / "tokenizer.json")
    added = {str(token["id"]): token for token in tokenizer.get("added_tokens", ())}
    if added and not config.get("added_tokens_decoder"):
        path.write_text(json.dumps(config | {"added_tokens_decoder": added}))


def _tell_of_no_experts(model: Path) -> None:
    """The converter asks every Gemma 4 how wide its experts are; configurations of unified models have no such key."""
    path = model / "config.json"
    config = folder_contents.config_of(model)
    text = config.get("text_config")
    if config.get("model_type") == "gemma4_unified" and isinstance(text, dict):
        path.write_text(json.dumps(config | {"text_config": {"moe_intermediate_size": None} | text}, indent=2) + "\n")


def check_family(config: Mapping[str, Any]) -> None:
    """Raises StepError `family_without_gguf`."""
    problem = problem_of_model_type(str(config.get("model_type")))
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)


def _convert(model: Path, target: Path, outtype: str, tools: Path, check_stop: Callable[[], None], *more: str) -> None:
    script = str(tools / "convert_hf_to_gguf.py")
    _run([script, str(model), "--outtype", outtype, "--outfile", str(target), *more], "converted", check_stop)
    if not target.is_file():
        raise StepError("gguf_failed", f"llama.cpp's converter left no {target.name}")


def _run(arguments: list[str], what: str, check_stop: Callable[[], None]) -> str:
    """What it said."""
    ended = child.run(arguments, check_stop)
    if ended.code != 0:
        ended.check_machine()
        message = f"the model could not be {what}: {ended.last_words}"
        raise StepError("gguf_failed", message, hint="export it as merged; the training result is kept")
    return ended.said
