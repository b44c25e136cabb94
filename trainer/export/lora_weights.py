"""Weight updates of a LoRA adapter, read from PEFT's files without PEFT."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.errors import StepError
from trainer.new_tokens.embedding import with_rows

if TYPE_CHECKING:
    import torch

# An embedding or head that was trained whole.
_WHOLE = re.compile(r"^base_model\.model\.(.+\.)?(embed_tokens|lm_head)\.weight$")
# PEFT's options, besides DoRA, that do more to a weight than adding B·A. gemtune trains with none of them.
UNSUPPORTED_OPTIONS = (
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "megatron_config",
)
_PARTS = re.compile(
    r"^base_model\.model\.(?P<module>.+?)\.(?P<part>lora_[AB](?=\.weight$)|lora_magnitude_vector(?=$|\.weight$))(\.weight)?$"
)
# Parts of names that some writers leave out.
_OPTIONAL_PARTS = ("model", "language_model", "vision_model", "multimodal_embedder")
_ROWS = re.compile(r"^base_model\.model\.(?P<module>.+)\.token_adapter\.trainable_tokens_delta$")


@dataclass(frozen=True, slots=True)
class Lora:
    """Factors of one weight: its update is scale · B·A.

    a, b: names of the factors in adapter_model.safetensors; A is (rank, in), B is (out, rank). magnitude: name of
    DoRA's magnitudes (out,), to which the rows of the updated weight are scaled; None without DoRA.
    """

    a: str
    b: str
    scale: float
    magnitude: str | None = None


class LoraWeights:
    """An adapter folder as PEFT saves it.

    modules: factors by the canonical name of the weight that they change. rows: trained rows by the canonical name of
    the embedding or head: their ids, and the name of their tensor in adapter_model.safetensors. whole: names in that
    file of an embedding and a head that were trained whole, likewise. Raises StepError `bad_adapter` if an update
    cannot be merged.
    """

    def __init__(self, folder: Path):
        from safetensors import safe_open

        self._config = _config_of(folder)
        self._file = safe_open(folder / "adapter_model.safetensors", framework="pt")
        factors: dict[str, dict[str, str]] = {}
        self.rows: dict[str, tuple[list[int], str]] = {}
        self.whole: dict[str, str] = {}
        for name in sorted(self._file.keys()):
            if (rows := _ROWS.match(name)) is not None:
                module = canonical_name(f"{rows['module']}.weight")
                self.rows[module] = (self._config["trainable_token_indices"][module], name)
                continue
            if _WHOLE.match(name) is not None:
                self.whole[canonical_name(name.removeprefix("base_model.model."))] = name
                continue
            match = _PARTS.match(name)
            if match is None:  # the factors of an embedding, or a weight that was trained whole
                raise StepError("bad_adapter", f"the adapter's {name} cannot be merged", hint="export it as adapter")
            factors.setdefault(match["module"], {})[match["part"]] = name
        self.modules = {self._weight_name(module): self._lora(module, parts) for module, parts in factors.items()}

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return W + scale · B·A in float32, or an untrained weight itself.

        With DoRA (Liu et al., arXiv:2402.09353) each row of that is scaled to its magnitude. An embedding keeps its
        type, as PEFT computes with the trained rows in it.

        name: the weight's canonical name. weight: (out, in), or (experts, out, in). Raises StepError `bad_adapter` if
        the shapes differ.
        """
        import torch

        if name in self.whole:
            whole: torch.Tensor = self._file.get_tensor(self.whole[name]).float()
            return whole
        rows = self.rows.get(name) or (self.rows.get("embed_tokens") if name == "lm_head" else None)
        if rows is not None:
            return with_rows(weight, rows[0], self._file.get_tensor(rows[1]))
        lora = self.modules.get(name)
        if lora is None:
            return weight
        a, b = self.factors(lora)
        delta = b @ a if weight.ndim == 2 else _expert_updates(a, b, len(weight))
        if delta.shape != weight.shape:
            message = f"the adapter's {lora.b} is for {tuple(delta.shape)}; {name} is {tuple(weight.shape)}"
            raise StepError("bad_adapter", message, hint="merge into the base model that was trained")
        updated: torch.Tensor = torch.add(weight.float(), delta, alpha=lora.scale)
        if lora.magnitude is None:
            return updated
        magnitude = self._file.get_tensor(lora.magnitude).float()
        rescaled: torch.Tensor = updated * (magnitude / torch.linalg.norm(updated, dim=1))[:, None]
        return rescaled

    def factors(self, lora: Lora) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and B of a weight in float32."""
        return self._file.get_tensor(lora.a).float(), self._file.get_tensor(lora.b).float()

    def check_weights_exist(self, names: Iterable[str]) -> None:
        """Raise StepError `bad_adapter` if a trained weight is missing.

        names: canonical names of the base model's weights.
        """
        tied = {"lm_head"} if "embed_tokens" in self.whole else set()  # PEFT stores a tied head, which is the embedding
        missing = sorted({*self.modules, *self.rows, *(self.whole.keys() - tied)} - set(names))
        if missing:
            message = f"the base model has no weights for {len(missing)} modules of the adapter: {missing[0]}, …"
            raise StepError("bad_adapter", message, hint="merge into the base model that was trained")

    def _weight_name(self, module: str) -> str:
        """Return the canonical name of the weight that factors belong to.

        PEFT wraps a module once for each of its `target_parameters`, the first of them innermost. The names of the
        factors show only the depth of the wrapping, not the parameter.
        """
        plain = module
        while plain.endswith(".base_layer"):
            plain = plain.removesuffix(".base_layer")
        depth = (len(module) - len(plain)) // len(".base_layer")
        targets = self._config["target_parameters"] or ()
        parameters = [each for each in targets if f".{plain}".endswith(_module_of(each))]
        if not parameters:
            return canonical_name(f"{module}.weight")
        if depth >= len(parameters):
            raise StepError("bad_adapter", f"the adapter's {module} cannot be merged", hint="export it as adapter")
        return canonical_name(f"{plain}.{parameters[len(parameters) - 1 - depth].rpartition('.')[2]}")

    def _lora(self, module: str, parts: Mapping[str, str]) -> Lora:
        expected = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if self._config["use_dora"] else set())
        if set(parts) != expected:
            raise StepError("bad_adapter", f"the adapter has only {', '.join(sorted(parts))} of {module}")
        rank = _from_pattern(self._config["rank_pattern"], module, self._config["r"])
        alpha = _from_pattern(self._config["alpha_pattern"], module, self._config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if self._config["use_rslora"] else alpha / rank
        return Lora(parts["lora_A"], parts["lora_B"], scale, parts.get("lora_magnitude_vector"))


def _module_of(parameter: str) -> str:
    """Return a parameter's module: `.experts` for `experts.gate_up_proj`."""
    return f".{parameter.rpartition('.')[0]}"


def _expert_updates(a: torch.Tensor, b: torch.Tensor, experts: int) -> torch.Tensor:
    """Return B·A of every expert, (experts, out, in), as PEFT's ParamWrapper.

    a: (experts · rank, in). b: (out, rank · experts).
    """
    import torch

    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts)
    return torch.einsum("ore,eri->eoi", b, a)


def canonical_name(name: str) -> str:
    """Return a weight's name without the parts that differ between writers.

    Checkpoints of multimodal models order `language_model` and `model` differently from the modules that they are
    loaded into, and add a `vision_model`. Checkpoints of Gemma 4's unified models have `vision_embedder` for
    `embed_vision`, and no `multimodal_embedder` in it.
    """
    *path, last = name.removesuffix(".weight").split(".")
    parts = ["embed_vision" if part == "vision_embedder" else part for part in path if part not in _OPTIONAL_PARTS]
    return ".".join([*parts, last])


def _config_of(folder: Path) -> dict[str, Any]:
    config = {
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "target_parameters": None,
    }
    config |= json.loads((folder / "adapter_config.json").read_text())
    options = [name for name in UNSUPPORTED_OPTIONS if config.get(name)]
    if config.get("peft_type") != "LORA" or config["bias"] != "none" or options:
        reason = f"{', '.join(options) or config.get('peft_type')}, bias {config['bias']}"
        raise StepError("bad_adapter", f"this adapter cannot be merged: {reason}", hint="export it as adapter")
    return config


def _from_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Look up a module's value as PEFT does.

    Keys are regular expressions; the first one that matches the end of the module's name counts.
    """
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
