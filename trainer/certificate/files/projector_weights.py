"""Check of the vision weights of an mmproj file against base + scale · B·A."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from trainer.base_model import folder_contents, vision_parts
from trainer.certificate.files import gguf_tensor
from trainer.certificate.files.gguf_tensor import Tensor, tensor_in
from trainer.certificate.files.weights import TrainedModel, Weight, spacing, summary
from trainer.gguf.file_layout import contents


def problems(trained: TrainedModel, base: Path, path: Path) -> list[str]:
    """Return in sentences which vision weights of an mmproj file are wrong.

    A weight that llama.cpp stores in another layout is compared without regard to the order of its values. Raises
    InvalidGguf.
    """
    entries = {entry.name: entry for entry in contents(path).entries}
    wrong, moved = [], []
    for name in trained.names:
        if not set(name.split(".")) & set(vision_parts.NAMES):
            continue
        weight = trained.weight(name)
        entry = next((entries[each] for each in _projector_names(name, base) if each in entries), None)
        if entry is None or entry.shape != tuple(weight.value.shape):
            moved.append(weight)
            continue
        del entries[entry.name]
        shift = 1.0 if entry.name == "mm.soft_emb_norm.weight" else 0.0
        problem = gguf_tensor.problem(tensor_in(path, entry), weight, shift, was_dithered=False)
        if problem is not None:
            wrong.append(f"{entry.name} of {path.name} {problem}")
    for weight in map(_as_converted, moved):
        same = next((each for each in entries.values() if _has_values(tensor_in(path, each), weight)), None)
        if same is None:
            wrong.append(f"no tensor of {path.name} has the values of {weight.name}")
        else:
            del entries[same.name]
    return summary(wrong)


def _as_converted(weight: Weight) -> Weight:
    """Return a weight as llama.cpp's converter writes it.

    It applies softplus to the scales of audio layers.
    """
    if not weight.name.endswith(("per_dim_scale", "per_dim_key_scale")):
        return weight
    return Weight(weight.name, torch.nn.functional.softplus(weight.value.to(torch.bfloat16).float()), trained=True)


def _projector_names(name: str, base: Path) -> list[str]:
    """Return the names that a vision weight may have in an mmproj file.

    The stems come from llama.cpp's own table, in the gguf package; its converter renames the layers of Gemma 4 first.
    """
    vision = folder_contents.config_of(base).get("vision_config") or {}
    table = _projector_table(int(vision.get("num_hidden_layers", 0)))
    dotted = name.replace("_weight", ".weight")
    stem, _, kind = dotted.rpartition(".")
    if kind not in {"weight", "bias"} and dotted in table:  # a parameter of its own, such as a table of positions
        stem, kind = dotted, "weight"
    plain = stem.removeprefix("model.")
    renamed = plain.replace("vision_tower.encoder.", "vision_model.model.")
    stems = (stem, plain, renamed, renamed.removesuffix(".linear"))
    return [f"{table[each]}.{kind}" for each in stems if each in table]


@cache
def _projector_table(layers: int) -> Mapping[str, str]:
    """Return llama.cpp's names of vision modules by all other names."""
    import gguf

    return {name: each[1] for name, each in gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, layers).mapping.items()}


def _has_values(tensor: Tensor, weight: Weight) -> bool:
    """Return whether a tensor has the values of a weight, in any order."""
    if tensor.entry.count != weight.value.numel():
        return False
    stored, _ = tensor.chunk(0, tensor.entry.count)
    is_rounded = not (weight.trained and weight.value.dtype == torch.float32)
    exact = (weight.value.to(torch.bfloat16) if is_rounded else weight.value).reshape(-1).float().sort().values
    allowed = spacing(exact, torch.float16)
    if not is_rounded:
        allowed = allowed + spacing(exact, torch.bfloat16)
    values = torch.from_numpy(stored).sort().values
    # Bounds of layers that do not clip are infinite.
    return bool(((values == exact) | (exact.isfinite() & ((values - exact).abs() <= allowed))).all())
