"""Names of exports that lose more of the training than their format may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from gemtune.request.exports import Export, GgufExport
from trainer.base_model import folder_contents


def rename_weights(folder: Path, export: Export, rename: Callable[[Path, Path], object] = Path.rename) -> None:
    """Put `lossy` into the names of an export's weight files.

    The files that name them are changed too: the Modelfile, or the index, which is written if there is none, since
    transformers finds weights of another name by it. rename: renames a file of weights.
    """
    if isinstance(export, GgufExport):
        rename(folder / export.file_name, folder / export.lossy_file_name)
        modelfile = folder / "Modelfile"
        modelfile.write_text(modelfile.read_text().replace(f"./{export.file_name}", f"./{export.lossy_file_name}"))
        return
    index = folder / folder_contents.INDEX
    renamed = {path.name: path.with_stem(f"{path.stem}-lossy") for path in folder_contents.weight_files(folder)}
    if index.is_file():
        stored = json.loads(index.read_text())
    else:
        stored = {"metadata": {}, "weight_map": _names_by_file(folder)}
    stored["weight_map"] = {name: renamed[file].name for name, file in stored["weight_map"].items()}
    for name, target in renamed.items():
        rename(folder / name, target)
    index.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")


def _names_by_file(folder: Path) -> dict[str, str]:
    from safetensors import safe_open

    files: dict[str, str] = {}
    for path in folder_contents.weight_files(folder):
        with safe_open(path, framework="np") as file:
            files |= dict.fromkeys(sorted(file.keys()), path.name)
    return files
