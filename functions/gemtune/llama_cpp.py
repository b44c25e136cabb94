"""llama.cpp's converter, quantizer and runtime: which version, where it lies, and what it can turn into GGUF."""

from __future__ import annotations

from pathlib import Path

from gemtune import families
from gemtune.errors import Problem
from gemtune.families.generation import Family, ModelType

# The one version: its source distribution carries llama.cpp whole. The image and `make llama` build from these bytes.
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = f"llama.cpp-{VERSION}"
# Written last: what a build leaves without it is no build.
BUILT = "built.json"


def is_built(folder: Path) -> bool:
    """Whether the tools are there, whole."""
    return (folder / BUILT).is_file()


def problem_of_kind(model_type: str) -> Problem | None:
    """Why a model with this model_type cannot become GGUF; None if it can, or if it is refused for another reason."""
    family = families.of_model_type(model_type)
    return None if family is None else _problem(family, (family.model_types[model_type],))


def problem_of_name(repository: str) -> Problem | None:
    """The same by the name of a repository on the Hub; a name that says nothing is let through, and prepare looks."""
    family = families.of_name(repository)
    return None if family is None else _problem(family, tuple(family.model_types.values()))


def tools_missing(*, on_gcp: bool) -> Problem:
    """What to do where the tools are not."""
    hint = "run `make llama` once (minutes), or use format merged"
    if on_gcp:
        hint = "build the image with llama.cpp and set GEMTUNE_WITHOUT_GGUF to no, or use format merged"
    message = "this service has no llama.cpp, which writes GGUF"
    return Problem(("export_config", "format"), message, "gguf_tools_missing", hint)


def _problem(family: Family, kinds: tuple[ModelType, ...]) -> Problem | None:
    reasons = {kind.no_gguf for kind in kinds}
    if None in reasons:
        return None
    able = [each.name for each in families.FAMILIES if any(kind.no_gguf is None for kind in each.model_types.values())]
    message = f"{family.name} cannot be exported as gguf: {'; '.join(sorted(filter(None, reasons)))}"
    hint = f"gguf is for {', '.join(able)}; use format merged or adapter"
    return Problem(("export_config", "format"), message, "family_without_gguf", hint)
