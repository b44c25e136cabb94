"""Spoilt exports: the check of files finds what the logits of few rows do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.certificate import sabotage
from tests.trainer.certificate.sabotage import Sabotage
from tests.trainer.gguf.test_gguf import export as write_gguf
from tests.trainer.gguf.test_gguf import gguf_export, sharpen_logits, tools  # noqa: F401
from trainer.certificate.files import check, settings
from trainer.certificate.files.case import Case
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
    return TrainedWeights(base, untrained_results.write_adapter(base, folder / "adapter"), folder)


def enlarge_row(file: Path) -> None:
    """Make one row of a tensor 30 times as large.

    Real models have such rows. Their steps are as much larger when they are quantized.
    """
    weights = load_file(file)
    weights[OUTLIERS][LARGE_ROW] *= 30
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
    from trainer.gguf.llama_library import quantize

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


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k"])
def test_an_honest_gguf_export_has_no_problem(case_of: CaseOf, tools: Path, quantization: str) -> None:  # noqa: F811
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
    "another epsilon": in_gguf("q8_0", "gemma3.attention.layer_norm_rms_epsilon", sabotage.metadata, 1e-5),
    "a lost window": ("q8_0", sabotage.lost_key("model-q8_0.gguf", "gemma3.attention.sliding_window"), ""),
    "another first token": (
        "q8_0",
        sabotage.metadata("model-q8_0.gguf", "tokenizer.ggml.bos_token_id", 1),
        "first token",
    ),
    "swapped tokens": ("q8_0", sabotage.swapped_pieces("model-q8_0.gguf"), "tokens differ"),
    "the Modelfile's system part lost": ("q8_0", sabotage.text("Modelfile", "{{ $system }}", ""), "Modelfile"),
    "the Modelfile's end of turn lost": ("q8_0", sabotage.text("Modelfile", "PARAMETER stop", "# stop"), "Modelfile"),
    "a file cut off": ("q8_0", sabotage.cut_off("model-q8_0.gguf", 1000), "cannot be loaded"),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_spoilt_gguf_export_is_noticed(case_of: CaseOf, tools: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    quantization, sabotages, reason = GGUF[name]
    message = complaints(spoil(case_of("gguf", quantization), tmp_path / "spoilt", sabotages))
    assert message != ""
    assert reason in message


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k"])
def test_a_file_of_another_model_is_noticed(
    case_of: CaseOf,
    trained: TrainedWeights,
    tools: Path,  # noqa: F811
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


class LoadedVocabulary:
    """Stand-in for a GGUF file in llama.cpp, with a vocabulary."""

    bos_token = 2

    def __init__(self, pieces: list[str]):
        self._pieces = pieces

    def pieces(self) -> list[str]:
        return self._pieces

    def ends(self, token: int) -> bool:
        return True


@pytest.mark.parametrize(("piece", "is_honest"), [("  ", True), ("\u2581\u2581", True), (" ", False), ("__", False)])
def test_blanks_of_added_tokens_are_written_plainly(
    trained: TrainedWeights, tmp_path: Path, piece: str, is_honest: bool
) -> None:
    """The converter writes plain blanks for the marks of SentencePiece."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(trained.base / name, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["\u2581\u2581"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pieces = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    pieces[tokenizer.token_to_id("\u2581\u2581")] = piece
    problems = settings._token_problems(LoadedVocabulary(pieces), tmp_path)  # type: ignore[arg-type]
    assert [problem for problem in problems if "tokens differ" in problem] == ([] if is_honest else problems[:1])
    assert (problems == []) is is_honest
