"""Spoilt exports: how many of them the certificate notices."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from bench.certificate.honest import Verdict
from bench.certificate.jobs import THOROUGH, TinyJob
from gemtune.request.exports import Format, Quantization
from tests.trainer.certificate import sabotage
from tests.trainer.certificate.sabotage import Sabotage
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.export.merge import merge

LAYER = "model.layers.2"
ATTENTION = f"{LAYER}.self_attn"
FACTOR = "base_model.model.model.layers.2.self_attn.{}_proj.lora_{}.weight"
ADAPTER, CONFIG, GENERATION = "adapter_model.safetensors", "config.json", "generation_config.json"
# Names of jobs: LoRA of a taught Gemma 3, and of tiny Gemmas 4 with experts and with per-layer inputs, which see.
DENSE, EXPERTS, PER_LAYER = "gemma3", "gemma4-moe", "gemma4-e"


@dataclass(frozen=True, slots=True)
class Spoilt:
    """An export and a way to spoil it. job: the name of a job."""

    name: str
    format: Format
    quantization: Quantization
    spoil: Sabotage
    job: str = DENSE


def merged(name: str, spoil: Sabotage, quantization: Quantization = "none") -> Spoilt:
    return Spoilt(name, "merged", quantization, spoil)


def adapter(name: str, spoil: Sabotage) -> Spoilt:
    return Spoilt(name, "adapter", "none", spoil)


def gguf(
    name: str, quantization: Quantization, change: Callable[..., Sabotage], *more: Any, job: str = DENSE
) -> Spoilt:
    """Return a spoilt GGUF file.

    change: makes the sabotage from the file's name and `more`.
    """
    return Spoilt(name, "gguf", quantization, change(f"model-{quantization}.gguf", *more), job)


def in_projector(name: str, tensor: str, change: Callable[[Any], Any], job: str) -> Spoilt:
    return Spoilt(name, "gguf", "f16", sabotage.gguf_tensor(PROJECTOR, tensor, change), job)


def exchanged_rows(values: Any) -> Any:
    return values[[*range(7), 8, 7, *range(9, len(values))]]


def rolled(values: Any) -> Any:
    return np.roll(values, 1, axis=0)


def transposed(values: Any) -> Any:
    return np.swapaxes(values, -1, -2).reshape(values.shape)


def other_colours(values: Any) -> Any:
    return values[:, ::-1]


def in_one_value(weights: dict[str, Any]) -> None:
    weights["model.embed_tokens.weight"][77, 5] *= 1.01


def untied_head(weights: dict[str, Any]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 1.1


SPOILT: Sequence[Spoilt] = (
    merged("keys and values exchanged", sabotage.swap(f"{ATTENTION}.k_proj.weight", f"{ATTENTION}.v_proj.weight")),
    merged("q_norm and k_norm exchanged", sabotage.swap(f"{ATTENTION}.q_norm.weight", f"{ATTENTION}.k_norm.weight")),
    merged("two layers exchanged", sabotage.swap_layers(1, 2)),
    merged("one value of the embedding changed by 1%", sabotage.tensors(in_one_value)),
    merged("an output head of its own", sabotage.tensors(untied_head)),
    merged(
        "another rope_theta",
        sabotage.in_section(CONFIG, "rope_parameters", "sliding_attention", "rope_theta", value=2e4),
    ),
    merged(
        "positions divided by 8",
        sabotage.in_section(
            CONFIG, "rope_parameters", "full_attention", value={"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
        ),
    ),
    merged("fp16 in the old name of the dtype", sabotage.in_section(CONFIG, "torch_dtype", value="float16")),
    merged("one more end token", sabotage.in_section(GENERATION, "eos_token_id", value=[1, 5, 77])),
    merged("a temperature", sabotage.in_section(GENERATION, "temperature", value=2.0)),
    merged("one blank more in the template", sabotage.text("chat_template.jinja", "model", "model ")),
    merged(
        "another flag of an added token",
        sabotage.in_section("tokenizer.json", "added_tokens", "4", "lstrip", value=True),
    ),
    merged("a tensor in two files", sabotage.in_two_files(f"{ATTENTION}.q_proj.weight")),
    merged("an index that lacks a tensor", sabotage.misplaced_in_index(f"{ATTENTION}.q_proj.weight")),
    merged("a soft cap of attention", sabotage.in_section(CONFIG, "attn_logit_softcapping", value=50.0), "fp16"),
    merged("the scale of one block of 4 bits", sabotage.smallest_nf4_scale(f"{ATTENTION}.q_proj.weight", 40), "q4"),
    merged("4 bits that become fp16", sabotage.nf4_state(f"{ATTENTION}.q_proj.weight", dtype="float16"), "q4"),
    merged(
        "computing in fp16",
        sabotage.in_section(CONFIG, "quantization_config", "bnb_4bit_compute_dtype", value="float16"),
        "q4",
    ),
    adapter(
        "another alpha for one kind of layer", sabotage.setting("adapter_config.json", alpha_pattern={"q_proj": 1})
    ),
    adapter("fewer target modules", sabotage.setting("adapter_config.json", target_modules=["q_proj", "v_proj"])),
    adapter("rank-stabilized scaling", sabotage.setting("adapter_config.json", use_rslora=True)),
    adapter("one layer's factors lost", sabotage.without_tensors(".layers.3.", ADAPTER)),
    adapter(
        "factors of two projections exchanged", sabotage.swap(FACTOR.format("k", "B"), FACTOR.format("v", "B"), ADAPTER)
    ),
    adapter("a folder of templates", sabotage.folder_of_templates),
    gguf("keys and values exchanged", "f16", sabotage.swap_gguf, "blk.2.attn_k.weight", "blk.2.attn_v.weight"),
    gguf("another local base of rotary embeddings", "f16", sabotage.metadata, "gemma3.rope.freq_base_swa", 20_000.0),
    gguf("another context", "f16", sabotage.metadata, "gemma3.context_length", 2048),
    gguf("another window", "f16", sabotage.metadata, "gemma3.attention.sliding_window", 32),
    gguf("half of the dimensions rotated", "f16", sabotage.added_setting, "gemma3.rope.dimension_count", 128),
    gguf("one more end token", "f16", sabotage.added_setting, "tokenizer.ggml.eot_token_id", 77),
    gguf("a temperature", "f16", sabotage.added_setting, "general.sampling.temp", 2.0),
    gguf(
        "another template for tools",
        "f16",
        sabotage.added_setting,
        "tokenizer.chat_template.tool_use",
        "{{ messages }}",
    ),
    gguf("texts split in another way", "f16", sabotage.setting_text, "tokenizer.ggml.pre", "starcod"),
    Spoilt("a projector of another model", "gguf", "f16", sabotage.another_file(PROJECTOR)),
    gguf(
        "one tensor rounded to 4 bits",
        "q8_0",
        sabotage.gguf_tensor,
        "blk.2.ffn_up.weight",
        sabotage.rounded_to(GGMLQuantizationType.Q4_0),
    ),
    gguf("one tensor in 8 bits", "f16", sabotage.retyped, "blk.2.ffn_up.weight", GGMLQuantizationType.Q8_0),
    gguf("one tensor in bf16", "f16", sabotage.retyped, "blk.2.ffn_up.weight", GGMLQuantizationType.BF16),
    gguf("one norm in 16 bits", "q8_0", sabotage.retyped, "blk.2.attn_norm.weight", GGMLQuantizationType.F16),
    gguf("one tensor in 4 bits", "q8_0", sabotage.retyped, "blk.2.ffn_up.weight", GGMLQuantizationType.Q4_0),
    gguf("values in 5 bits, not 8", "q4_k_m", sabotage.retyped, "blk.2.attn_v.weight", GGMLQuantizationType.Q5_0),
    gguf("one tensor in 16 bits", "q4_k_m", sabotage.retyped, "blk.2.attn_q.weight", GGMLQuantizationType.F16),
    gguf("one block scaled by 1.1", "q8_0", sabotage.scaled_block, "blk.2.attn_q.weight", 1.1),
    gguf("two norms exchanged", "q8_0", sabotage.swap_gguf, "blk.2.attn_norm.weight", "blk.2.ffn_norm.weight"),
    gguf("embeddings of two tokens exchanged", "q8_0", sabotage.gguf_tensor, "token_embd.weight", exchanged_rows),
    gguf("one block scaled by 1.5", "q4_k_m", sabotage.scaled_block, "blk.2.attn_q.weight", 1.5),
    gguf(
        "two layers' projections exchanged",
        "q4_k_m",
        sabotage.swap_gguf,
        "blk.2.ffn_gate.weight",
        "blk.2.ffn_up.weight",
    ),
    gguf("experts exchanged", "f16", sabotage.gguf_tensor, "blk.1.ffn_down_exps.weight", rolled, job=EXPERTS),
    gguf("experts transposed", "f16", sabotage.gguf_tensor, "blk.1.ffn_gate_up_exps.weight", transposed, job=EXPERTS),
    gguf("another router", "f16", sabotage.gguf_tensor, "blk.1.ffn_gate_inp.weight", rolled, job=EXPERTS),
    gguf(
        "per-layer inputs exchanged",
        "f16",
        sabotage.gguf_tensor,
        "per_layer_token_embd.weight",
        exchanged_rows,
        job=PER_LAYER,
    ),
    gguf("all dimensions rotated", "f16", sabotage.gguf_tensor, "rope_freqs.weight", np.ones_like, job=PER_LAYER),
    in_projector("rows of the vision projector exchanged", "mm.input_projection.weight", exchanged_rows, EXPERTS),
    in_projector("blue instead of red in pictures", "v.patch_embd.weight", other_colours, EXPERTS),
    in_projector("an audio convolution shifted", "a.blk.0.conv_dw.weight", rolled, PER_LAYER),
)


def run(work: Path, base: Path) -> list[Verdict]:
    """Spoil exports, and return the verdicts.

    base: a taught model of the shape gemma3.
    """
    jobs = {DENSE: TinyJob(work / DENSE, base=base, training=THOROUGH)} | {
        shape: TinyJob(work / shape, shape) for shape in (EXPERTS, PER_LAYER)
    }
    verdicts = []
    for spoilt in SPOILT:
        job = jobs[spoilt.job]
        copy = Path(shutil.copytree(job.exact(spoilt.format, spoilt.quantization), work / "spoilt"))
        spoilt.spoil(copy)
        refusal = job.refusal(spoilt.format, spoilt.quantization, copy)
        shutil.rmtree(copy)
        verdicts.append(_told(f"{spoilt.name} ({spoilt.format} {spoilt.quantization})", refusal))
    return verdicts + _of_changed_models(work, base)


def _of_changed_models(work: Path, base: Path) -> list[Verdict]:
    """Return the verdicts on exports that are right for another model."""
    job = TinyJob(work / "changed", base=Path(shutil.copytree(base, work / "changed-base")))
    folder, note = job.write("gguf", "q4_k_m")
    verdicts = []
    without = work / "without-one-layer"
    shutil.copytree(job.trained.folder, without)
    sabotage.scale(".layers.4.", 0, ADAPTER)(without)
    lost = job.context.work / "lost"
    merge(job.trained.base, without, lost, "none")
    verdicts.append(_told("one layer's adapter lost (merged none)", job.refusal("merged", "none", lost)))
    config = job.trained.base / "config.json"
    config.write_text(config.read_text() + " ")
    refusal = job.refusal("gguf", "q4_k_m", folder, note)
    verdicts.append(_told("a base of another revision (gguf q4_k_m)", refusal))
    return verdicts


def _told(name: str, refusal: str) -> Verdict:
    print(f"{name}: {refusal or 'NOT NOTICED'}", file=sys.stderr, flush=True)
    return Verdict(name, refusal)
