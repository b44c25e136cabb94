"""Check of the vision weights of an mmproj file against base + scale · B·A."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trainer.base_model import folder_contents, vision_parts
from trainer.certificate.files import gguf_tensor
from trainer.certificate.files.gguf_tensor import Tensor, tensor_in
from trainer.certificate.files.weights import TrainedModel, Weight, summary
from trainer.gguf.file_layout import contents

# The table of names has numbers up to that of a model's layers, and other modules are numbered as well.
NUMBERED = 4
# A change of layout by llama.cpp's converter: of a tensor of a model with this config.json.
Layout = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]


def problems(trained: TrainedModel, base: Path, path: Path) -> list[str]:
    """Return in sentences which vision weights of an mmproj file are wrong.

    A weight for which llama.cpp's table has no name may have any. Raises InvalidGguf.
    """
    config = folder_contents.config_of(base)
    entries = {entry.name: entry for entry in contents(path).entries}
    wrong, unnamed = [], []
    for name in trained.names:
        if not set(name.split(".")) & set(vision_parts.NAMES):
            continue
        weight = _as_converted(trained.weight(name), config)
        written = next((each for each in _projector_names(name, config) if each in entries), None)
        if written is None:
            unnamed.append(weight)
            continue
        tensor = tensor_in(path, entries.pop(written))
        shift = 1.0 if written == "mm.soft_emb_norm.weight" else 0.0
        problem = _problem(tensor, weight, shift)
        if problem is not None:
            wrong.append(f"{written} of {path.name} {problem}")
    for weight in unnamed:
        same = next((each for each in entries.values() if _problem(tensor_in(path, each), weight, 0.0) is None), None)
        if same is None:
            wrong.append(f"{path.name} lacks {weight.name}")
        else:
            del entries[same.name]
    # llama.cpp applies what it finds for towers of other models, such as a scale of a layer, and texts do not show it.
    return summary(wrong or [f"{path.name} has {name}, which the model does not" for name in sorted(entries)])


def _problem(tensor: Tensor, weight: Weight, shift: float) -> str | None:
    """Return how a tensor differs from the trained one, or None.

    Bounds of layers that do not clip are infinite.
    """
    if bool(weight.value.isinf().any()):
        values = torch.from_numpy(tensor.chunk(0, tensor.entry.count)[0])
        return None if torch.equal(values, weight.value.reshape(-1).float()) else "is not the trained one"
    return gguf_tensor.problem(tensor, weight, shift, was_dithered=False)


def _as_converted(weight: Weight, config: Mapping[str, Any]) -> Weight:
    """Return a weight in the layout in which llama.cpp's converter writes it."""
    value = weight.value.unsqueeze(0) if weight.value.ndim == 0 else weight.value
    change = next((change for end, change in LAYOUTS.items() if weight.name.endswith(end)), None)
    if change is None:
        return replace(weight, value=value)
    if change is _softplus:
        return Weight(weight.name, _softplus(value, config), trained=True)
    before = None if weight.before is None else change(weight.before, config)
    return replace(weight, value=change(value, config), before=before)


def _softplus(value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return torch.nn.functional.softplus(value.to(torch.bfloat16).float())


def _without_middle(value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """Drop the one input channel of a convolution of each channel by itself."""
    return value.reshape(value.shape[0], value.shape[-1])


def _patches(value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """Reshape the projection of patches to a convolution.

    (width, side · side · colours) becomes (width, colours, side, side).
    """
    side = int((value.shape[1] // 3) ** 0.5)
    return value.reshape(len(value), side, side, 3).permute(0, 3, 1, 2).contiguous()


def _colours_first(value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """Reorder the values of a patch in the last dimension.

    From rows of pixels of three colours to one picture per colour.
    """
    vision = config["vision_config"]
    side = int(vision.get("model_patch_size") or vision["patch_size"] * vision["pooling_kernel_size"])
    pixels = value.reshape(*value.shape[:-1], side, side, 3)
    return pixels.movedim(-1, -3).reshape(value.shape).contiguous()


def _exchange_axes(value: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return value.permute(1, 0, 2).contiguous()


# By the ends of names.
LAYOUTS: Mapping[str, Layout] = {
    "per_dim_scale": _softplus,
    "per_dim_key_scale": _softplus,
    "lconv1d.depthwise_conv1d.weight": _without_middle,
    "patch_embedder.input_proj.weight": _patches,
    "patch_dense.weight": _colours_first,
    "patch_ln1.weight": _colours_first,
    "patch_ln1.bias": _colours_first,
    "pos_embedding": _exchange_axes,
}


def _projector_names(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a vision weight may have in an mmproj file.

    The stems come from llama.cpp's own table, in the gguf package; its converter renames modules of Gemma 4 first.
    """
    layers = (int((config.get(f"{part}_config") or {}).get("num_hidden_layers", 0)) for part in ("vision", "audio"))
    table = _projector_table(max(*layers, NUMBERED))
    dotted = name.replace("_weight", ".weight")
    plain = dotted.removeprefix("model.")
    renamed = plain.replace("vision_tower.encoder.", "vision_model.model.").replace("audio_tower.", "conformer.")
    renamed = renamed.replace(".pos_norm.", ".patch_ln3.")
    # The converter's own spelling comes first: for another one the table may have a tensor of another model.
    for spelling in (renamed.replace(".linear.", "."), renamed, f"model.{renamed}", plain, dotted):
        stem, _, kind = spelling.rpartition(".")
        if stem in table:
            yield f"{table[stem]}.{kind}"
        if spelling in table:  # a parameter of its own, such as a table of positions
            yield f"{table[spelling]}.weight"


@cache
def _projector_table(layers: int) -> Mapping[str, str]:
    """Return llama.cpp's names of vision modules by all other names."""
    import gguf

    return {name: each[1] for name, each in gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, layers).mapping.items()}
