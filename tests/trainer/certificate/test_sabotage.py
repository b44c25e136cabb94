"""Spoilt exports: the check of files finds what the logits of few rows do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bench.certificate import sabotages
from bench.certificate.sabotages import Spoilt
from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.certificate import sabotage
from tests.trainer.certificate.sabotage import Sabotage
from tests.trainer.gguf.test_gguf import export as write_gguf
from tests.trainer.gguf.test_gguf import gguf_export, sharpen_logits
from trainer.certificate.files import check, vocabulary
from trainer.certificate.files.case import Case
from trainer.certificate.files.weights import TrainedModel
from trainer.export.merge import merge
from trainer.export.trained_weights import TrainedWeights

LAYER = "model.layers.2"
QUERY = f"{LAYER}.self_attn.q_proj.weight"
OUTLIERS, LARGE_ROW = "model.layers.1.self_attn.o_proj.weight", 5
FACTOR = "base_model.model.model.layers.2.self_attn.{}_proj.lora_{}.weight"
ADAPTER = "adapter_model.safetensors"
CaseOf = Callable[[str, str], Case]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedWeights:
    folder = tmp_path_factory.mktemp("trained")
    base = sharpen_logits(tiny_gemma.build(folder / "base", head_dim=256))
    enlarge_row(base / "model.safetensors")
    vary_norms(base / "model.safetensors")
    return TrainedWeights(base, untrained_results.write_adapter(base, folder / "adapter"), folder)


def enlarge_row(file: Path) -> None:
    """Make one row of a tensor 30 times as large.

    Real models have such rows. Their steps are as much larger when they are quantized.
    """
    weights = load_file(file)
    weights[OUTLIERS][LARGE_ROW] *= 30
    save_file(weights, file, metadata={"format": "pt"})


def vary_norms(file: Path) -> None:
    """Make each norm another one; those of a new model are all equal."""
    weights, generator = load_file(file), torch.Generator().manual_seed(5)
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def case_of(
    tmp_path_factory: pytest.TempPathFactory, trained: TrainedWeights, request: pytest.FixtureRequest
) -> CaseOf:
    """Return a factory of honest exports, each written once."""
    written: dict[tuple[str, str], Case] = {}

    def make(export_format: str, quantization: str) -> Case:
        key = (export_format, quantization)
        if key not in written:
            folder, llama = tmp_path_factory.mktemp(export_format) / "exported", Path()
            if export_format == "merged":
                merge(trained.base, trained.adapter, folder, quantization)  # type: ignore[arg-type]
            elif export_format == "adapter":
                shutil.copytree(trained.folder, folder)
            else:
                llama = request.getfixturevalue("tools")
                _write_gguf(trained, folder, quantization, llama, make)
            written[key] = Case(
                trained.base,
                trained.adapter,
                folder,
                export_format,
                quantization,
                llama,
                False,  # type: ignore[arg-type]
            )
        return written[key]

    return make


def _write_gguf(trained: TrainedWeights, folder: Path, quantization: str, llama: Path, case_of: CaseOf) -> None:
    """Convert the model once, and quantize that file for the other types."""
    from trainer.gguf.quantizer import quantize

    if quantization == "f16":
        write_gguf(trained, folder, quantization, llama)
        return
    folder.mkdir()
    converted, file = case_of("gguf", "f16").folder, gguf_export(quantization).file_name
    quantize(llama, converted / "model-f16.gguf", folder / file, gguf_export(quantization).llama_type)
    (folder / "Modelfile").write_text((converted / "Modelfile").read_text().replace("model-f16.gguf", file))


def spoil(case: Case, copy: Path, sabotages: Sabotage) -> Case:
    """Return the case of a spoilt copy of an export."""
    shutil.copytree(case.folder, copy)
    sabotages(copy)
    return replace(case, folder=copy)


def complaints(case: Case) -> str:
    try:
        return "; ".join(check.problems(case))
    except Exception as error:  # a damaged export may raise anything, which the comparison reports
        return f"cannot be loaded: {error}"


@pytest.mark.parametrize("quantization", ["none", "fp16", "q4"])
def test_an_honest_merged_export_has_no_problem(case_of: CaseOf, quantization: str) -> None:
    assert check.problems(case_of("merged", quantization)) == []


def test_an_honest_copy_of_an_adapter_has_no_problem(case_of: CaseOf) -> None:
    assert check.problems(case_of("adapter", "none")) == []


MERGED: dict[str, tuple[str, Sabotage, str]] = {
    "a norm off by one in one layer": ("none", sabotage.add(f"{LAYER}.self_attn.q_norm.weight", 1), "q_norm"),
    "a norm off by a bit": ("none", sabotage.add("model.norm.weight", 2**-5), "model.norm.weight"),
    "noise of 10%": ("none", sabotage.noise("_proj", 0.1), "differs from base + scale"),
    "noise of 2% in one tensor": ("none", sabotage.noise(QUERY, 0.02), QUERY),
    "two layers swapped": ("none", sabotage.swap(QUERY, QUERY.replace("2", "3")), "differs from base"),
    "noise of 10% in fp16": ("fp16", sabotage.noise("_proj", 0.1), "differs from base + scale"),
    "half the precision of fp16": ("fp16", sabotage.scale(QUERY, 1.001), QUERY),
    "noise of 10% in NF4's scales": (
        "q4",
        sabotage.scale("up_proj.weight.nested_absmax", 1.3),
        "times the error of 4 bits",
    ),
    "one of NF4's scales is not a number": ("q4", sabotage.not_a_number("up_proj.weight.nested_absmax"), "4 bits"),
    "another template": ("none", sabotage.text("chat_template.jinja", "\n", "\n\n"), "chat_template.jinja"),
    "no trim": ("none", sabotage.text("chat_template.jinja", "| trim", ""), "chat_template.jinja"),
    "no end token": ("none", sabotage.setting("generation_config.json", eos_token_id=1), "eos_token_id"),
    "another first token": ("none", sabotage.setting("tokenizer_config.json", bos_token="<eos>"), "bos_token"),
    "swapped tokens": ("none", sabotage.swap_tokens, "tokenizer.json"),
    "no tokenizer.model": ("none", sabotage.without("tokenizer.model"), "tokenizer.model is missing"),
    "another window": ("none", sabotage.setting("config.json", sliding_window=32), "sliding_window"),
    "another epsilon": ("none", sabotage.setting("config.json", rms_norm_eps=1e-5), "rms_norm_eps"),
    "a soft cap": ("none", sabotage.setting("config.json", final_logit_softcapping=30.0), "final_logit_softcapping"),
    "a head that is not tied": ("none", sabotage.setting("config.json", tie_word_embeddings=False), "tie_word"),
    "another dtype": ("none", sabotage.setting("config.json", dtype="float16"), "dtype"),
    "a file cut off": ("none", sabotage.cut_off("model.safetensors", 100), "cannot be loaded"),
    "a row in 4 bits that is too large": ("q4", sabotage.scaled_nf4_row(QUERY, 3, 1.2), "error of 4 bits"),
    "another type of 4 bits": (
        "q4",
        sabotage.setting("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "bnb_4bit_quant_type",
    ),
    "an announced quantization": (
        "none",
        sabotage.setting("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "quant_method",
    ),
    "an adapter beside the model": ("none", sabotage.another_file("adapter_config.json"), "adapter_config.json"),
    "more weights": ("none", sabotage.another_file("model-2.safetensors"), "model-2.safetensors was not there"),
    "reordered merges": ("none", sabotage.reordered_merges, "tokenizer.json"),
    "other kinds of layers": (
        "none",
        sabotage.setting("config.json", layer_types=["full_attention"] * 6),
        "layer_types",
    ),
    "one token's row of the embedding": (
        "none",
        sabotage.tensors(lambda weights: weights["model.embed_tokens.weight"][77].zero_()),
        "embed_tokens",
    ),
    "another file's template too": (
        "none",
        sabotage.setting("tokenizer_config.json", chat_template="x"),
        "chat_template",
    ),
}


@pytest.mark.parametrize("name", MERGED)
def test_a_spoilt_merged_export_is_noticed(case_of: CaseOf, tmp_path: Path, name: str) -> None:
    quantization, sabotages, reason = MERGED[name]
    assert reason in complaints(spoil(case_of("merged", quantization), tmp_path / "spoilt", sabotages))


def test_digits_that_were_cut_off_are_noticed(case_of: CaseOf, trained: TrainedWeights, tmp_path: Path) -> None:
    """Each value is within a step of bf16, but all are too small."""

    def exact() -> dict[str, torch.Tensor]:
        model = TrainedModel(trained.base, trained.adapter)
        weights = (model.weight(name) for name in model.names)
        return {weight.name: weight.value for weight in weights if weight.before is not None}

    spoilt = spoil(case_of("merged", "none"), tmp_path / "spoilt", sabotage.cut_digits(exact))
    assert "proj.weight is scaled by 0.99" in complaints(spoilt)


@pytest.mark.parametrize("quantization", ["none", "fp16", "q4"])
def test_each_lost_part_of_an_adapter_is_noticed(
    case_of: CaseOf, trained: TrainedWeights, tmp_path: Path, quantization: str
) -> None:
    """Put the base model's weights in the place of all or of one layer's."""
    for index, part in enumerate(("_proj", "layers.4.", "layers.4.mlp.down_proj")):
        only_base = tmp_path / f"base-{index}"
        merge(trained.base, None, only_base, quantization)  # type: ignore[arg-type]
        copy = tmp_path / f"spoilt-{index}"
        assert "_proj" in complaints(spoil(case_of("merged", quantization), copy, sabotage.take_from(only_base, part)))


ADAPTERS: dict[str, Sabotage] = {
    "A and B of two layers swapped": sabotage.swap(
        FACTOR.format("q", "A"), FACTOR.format("q", "A").replace("2", "3"), ADAPTER
    ),
    "a layer's B lost": sabotage.scale(FACTOR.format("v", "B"), 0, ADAPTER),
    "another scale": sabotage.setting("adapter_config.json", lora_alpha=7),
    "no end token": sabotage.setting("generation_config.json", eos_token_id=1),
    "another template": sabotage.text("chat_template.jinja", "\n", "\n\n"),
    "no template": sabotage.without("chat_template.jinja"),
    "one more file": lambda folder: (folder / "chat_template.json").write_text("{}") and None,
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_spoilt_adapter_is_noticed(case_of: CaseOf, tmp_path: Path, name: str) -> None:
    assert complaints(spoil(case_of("adapter", "none"), tmp_path / "spoilt", ADAPTERS[name])) != ""


OF_GEMMA_3 = [each for each in sabotages.SPOILT if each.job == sabotages.DENSE]


@pytest.mark.parametrize("spoilt", OF_GEMMA_3, ids=lambda each: f"{each.quantization}-{each.name}")
def test_the_benchmarks_spoilt_exports_are_noticed_in_their_files(
    case_of: CaseOf, tmp_path: Path, spoilt: Spoilt
) -> None:
    case = case_of(spoilt.format, spoilt.quantization)
    assert complaints(spoil(case, tmp_path / "spoilt", spoilt.spoil)) != ""


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k"])
def test_an_honest_gguf_export_has_no_problem(case_of: CaseOf, tools: Path, quantization: str) -> None:
    assert check.problems(case_of("gguf", quantization)) == []


def in_gguf(quantization: str, part: str, change: Callable[..., Sabotage], *more: object) -> tuple[str, Sabotage, str]:
    return quantization, change(gguf_export(quantization).file_name, part, *more), part


def off_by_one(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return values - 1


def exchange_rows(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return values[[1, 0, *range(2, len(values))]]


def shrink_large_row(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    values[LARGE_ROW] *= 0.9
    return values


def enlarge_row_3(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    values[3] *= 1.2
    return values


def lose_row_77(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    values[77] = 0
    return values


GGUF: dict[str, tuple[str, Sabotage, str]] = {
    "the final norm without its 1": in_gguf("q8_0", "output_norm.weight", sabotage.gguf_tensor, off_by_one),
    "one norm without its 1": in_gguf("q8_0", "blk.3.post_ffw_norm.weight", sabotage.gguf_tensor, off_by_one),
    "noise of 10% in f16": in_gguf("f16", "blk.1.ffn_up.weight", sabotage.gguf_tensor, sabotage.gaussian(0.1)),
    "noise of 10% in q8_0": in_gguf("q8_0", "blk.1.ffn_up.weight", sabotage.gguf_tensor, sabotage.gaussian(0.1)),
    "two rows exchanged": in_gguf("q8_0", "blk.1.attn_output.weight", sabotage.gguf_tensor, exchange_rows),
    "a large row that is too small": in_gguf(
        "q8_0", "blk.1.attn_output.weight", sabotage.gguf_tensor, shrink_large_row
    ),
    "another base of rotary embeddings": in_gguf("q8_0", "gemma3.rope.freq_base", sabotage.metadata, 10_000.0),
    "another kind of file": in_gguf("q8_0", "general.type", sabotage.setting_text, "other"),
    "another epsilon": in_gguf("q8_0", "gemma3.attention.layer_norm_rms_epsilon", sabotage.metadata, 1e-5),
    "a lost window": ("q8_0", sabotage.lost_key("model-q8_0.gguf", "gemma3.attention.sliding_window"), ""),
    "another first token": (
        "q8_0",
        sabotage.metadata("model-q8_0.gguf", "tokenizer.ggml.bos_token_id", 1),
        "first token",
    ),
    "a row in 4 bits that is too large": in_gguf("q2_k", "blk.1.ffn_up.weight", sabotage.gguf_tensor, enlarge_row_3),
    "a token without an embedding": in_gguf("q8_0", "token_embd.weight", sabotage.gguf_tensor, lose_row_77),
    "another score": (
        "q8_0",
        sabotage.metadata_item("model-q8_0.gguf", "tokenizer.ggml.scores", 300, 0.0),
        "1 tokens have another score, such as 300",
    ),
    "another type of token": (
        "q8_0",
        sabotage.metadata_item("model-q8_0.gguf", "tokenizer.ggml.token_type", 301, 3),
        "1 tokens have another type, such as 301",
    ),
    "line breaks that no answer shows": (
        "q8_0",
        sabotage.metadata_item("model-q8_0.gguf", "tokenizer.ggml.token_type", 6, 3),
        "1 tokens have another type, such as 6 ('\\n'): 3",
    ),
    "a special token that answers show": (
        "q8_0",
        sabotage.metadata_item("model-q8_0.gguf", "tokenizer.ggml.token_type", 5, 4),
        "1 tokens have another type, such as 5 ('<end_of_turn>'): 4",
    ),
    "another end": ("q8_0", sabotage.metadata("model-q8_0.gguf", "tokenizer.ggml.eos_token_id", 7), "eos_token is 7"),
    "blanks in front": (
        "q8_0",
        sabotage.metadata("model-q8_0.gguf", "tokenizer.ggml.add_space_prefix", True),
        "add_space_prefix is True",
    ),
    "another number of heads": (
        "q8_0",
        sabotage.metadata("model-q8_0.gguf", "gemma3.attention.head_count_kv", 2),
        "cannot be loaded",
    ),
    "one more file": ("q8_0", sabotage.another_file("model-2.gguf"), "model-2.gguf"),
    "swapped tokens": ("q8_0", sabotage.swapped_pieces("model-q8_0.gguf"), "tokens differ"),
    "the Modelfile's system part lost": ("q8_0", sabotage.text("Modelfile", "{{ $system }}", ""), "Modelfile"),
    "the Modelfile's end of turn lost": ("q8_0", sabotage.text("Modelfile", "PARAMETER stop", "# stop"), "Modelfile"),
    "a file cut off": ("q8_0", sabotage.cut_off("model-q8_0.gguf", 1000), "cannot be loaded"),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_spoilt_gguf_export_is_noticed(case_of: CaseOf, tools: Path, tmp_path: Path, name: str) -> None:
    quantization, sabotages, reason = GGUF[name]
    message = complaints(spoil(case_of("gguf", quantization), tmp_path / "spoilt", sabotages))
    assert message != ""
    assert reason in message


def test_a_file_in_fewer_bits_than_its_name_says_is_noticed(
    case_of: CaseOf,
    tools: Path,
    tmp_path: Path,
) -> None:
    case = case_of("gguf", "q8_0")
    for quantization in ("q5_k_m", "q4_k_m", "q2_k"):
        other = case_of("gguf", quantization).folder / gguf_export(quantization).file_name
        spoilt = spoil(case, tmp_path / quantization, sabotage.replaced("model-q8_0.gguf", other))
        assert "have a type that q8_0 does not" in complaints(spoilt)


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k"])
def test_a_file_of_another_model_is_noticed(
    case_of: CaseOf,
    trained: TrainedWeights,
    tools: Path,
    tmp_path: Path,
    quantization: str,
) -> None:
    """Compare with a model that lost the adapter, or has a weaker one."""
    case = case_of("gguf", quantization)
    zero = Path(shutil.copytree(trained.folder, tmp_path / "zero"))
    sabotage.scale("lora_B", 0, ADAPTER)(zero)
    weaker = Path(shutil.copytree(trained.folder, tmp_path / "weaker"))
    sabotage.scale("lora_B", 0.5, ADAPTER)(weaker)
    for other in (zero, weaker):
        reason = "differs from the trained" if quantization == "f16" else "times the error of"
        assert reason in complaints(replace(case, adapter=other))


@pytest.mark.parametrize(("piece", "is_honest"), [("  ", True), ("\u2581\u2581", True), (" ", False), ("__", False)])
def test_blanks_of_added_tokens_are_written_plainly(trained: TrainedWeights, piece: str, is_honest: bool) -> None:
    """The converter writes plain blanks for the marks of SentencePiece."""
    tokenizer = Tokenizer.from_file(str(trained.base / "tokenizer.json"))
    tokenizer.add_tokens(["\u2581\u2581"])
    pieces = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    pieces[tokenizer.token_to_id("\u2581\u2581")] = piece
    problems = vocabulary._text_problems(pieces, vocabulary.Vocabulary(tokenizer, tokenizer.get_vocab()))
    assert (problems == []) is is_honest
    assert is_honest or "tokens differ" in problems[0]
