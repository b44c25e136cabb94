"""llama.cpp's converter, quantizer and runtime: which version, where it lies, and what it can turn into GGUF."""

from __future__ import annotations

import re
from pathlib import Path

from gemtune.errors import Problem

# The one version: its source distribution carries llama.cpp whole. The image and `make llama` build from these bytes.
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = f"llama.cpp-{VERSION}"
# Written last: what a build leaves without it is no build.
BUILT = "built.json"

# model_type of the families that the converter and the runtime know, and that tests convert. `gemma3` sees pictures:
# its text model becomes one file, what sees another.
FAMILIES = {"gemma": "Gemma 1", "gemma2": "Gemma 2", "gemma3_text": "Gemma 3", "gemma3": "Gemma 3 with pictures"}
_OTHERS = re.compile(r"gemma-?(3n|[4-9])|(t5|recurrent|pali|embedding|vault|diffusion)-?gemma")


def is_built(folder: Path) -> bool:
    """Whether the tools are there, whole."""
    return (folder / BUILT).is_file()


def problem_of_kind(model_type: str) -> Problem | None:
    """Whether a model with this model_type can become GGUF."""
    return None if model_type in FAMILIES else _problem(model_type)


def problem_of_name(repository: str) -> Problem | None:
    """The same by the name of a repository on the Hub; a name that says nothing is let through, and prepare looks."""
    match = _OTHERS.search(repository.rsplit("/", 1)[-1].lower())
    return None if match is None else _problem(match[0])


def tools_missing(*, on_gcp: bool) -> Problem:
    """What to do where the tools are not."""
    hint = "run `make llama` once (minutes), or use format merged"
    if on_gcp:
        hint = "build the image with llama.cpp and set GEMTUNE_WITHOUT_GGUF to no, or use format merged"
    message = "this service has no llama.cpp, which writes GGUF"
    return Problem(("export_config", "format"), message, "gguf_tools_missing", hint)


def _problem(family: str) -> Problem:
    message = f"{family[:40]} models cannot be exported as gguf"
    hint = f"gguf is for {', '.join(FAMILIES.values())}; use format merged or adapter"
    return Problem(("export_config", "format"), message, "family_without_gguf", hint)
