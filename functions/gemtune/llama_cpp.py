"""The llama.cpp build that writes GGUF: version, folder, and usable models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# The image compiles llama.cpp with this file and trainer/gguf/llama_cpp_build.py alone, so all else is imported late.
if TYPE_CHECKING:
    from gemtune.errors import Problem
    from gemtune.families.generation import Family, ModelType

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


def problem_of_model_type(model_type: str) -> Problem | None:
    """Return why models of this type cannot be converted to GGUF, or None.

    An unknown model_type gives None too: it is rejected elsewhere.
    """
    from gemtune import families

    family = families.of_model_type(model_type)
    return None if family is None else _problem(family, (family.model_types[model_type],))


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

    reasons = {model_type.why_no_gguf for model_type in model_types}
    if None in reasons:
        return None
    convertible = [
        each.name for each in families.FAMILIES if any(kind.why_no_gguf is None for kind in each.model_types.values())
    ]
    message = f"{family.name} cannot be exported as gguf: {'; '.join(sorted(filter(None, reasons)))}"
    hint = f"gguf is available for {', '.join(convertible)}; use format merged or adapter"
    return Problem(("export_config", "format"), message, "family_without_gguf", hint)
