"""GGUF files converted and run by llama.cpp, compared with the trained model.

This covers each family and each quantization.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file, save_file

from gemtune.errors import StepError
from gemtune.request.exports import GGUF, GgufExport
from gemtune.request.spec import ExportConfig, Spec
from tests import tiny_gemma
from tests.trainer import untrained_results, variants
from trainer.base_model import folder_contents
from trainer.certificate import comparison, parity_check, verdict
from trainer.certificate.held_out_rows import collect
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import tokenizer_files
from trainer.export.commands.in_llama_cpp import PROJECTOR
from trainer.export.merge import merge
from trainer.export.modelfile import modelfile, turns_of
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf import conversion, quantizer
from trainer.gguf.file_layout import contents
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import embedding, tokenizer

FAMILIES = ("gemma", "gemma2", "gemma3")


def gguf_export(quantization: str) -> GgufExport:
    return next(export for export in GGUF if export.quantization == quantization)


def sharpen_logits(base: Path, norm: str = "model.norm.weight") -> Path:
    """Make a random model prefer some tokens to others.

    Otherwise all tokens are about equally likely, and no loss of quality would show.
    """
    weights = load_file(base / "model.safetensors")
    weights[norm] += 5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


@pytest.fixture(scope="session")
def trained_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainedWeights]:
    """Return a factory of base models with an adapter, built once per family."""
    trained: dict[str, TrainedWeights] = {}

    def make(family: str) -> TrainedWeights:
        if family not in trained:
            folder = tmp_path_factory.mktemp(family)
            base = sharpen_logits(tiny_gemma.build(folder / "base", family, head_dim=256))
            adapter = untrained_results.write_adapter(base, folder / "adapter", std=0.05)
            trained[family] = TrainedWeights(base, adapter, folder)
        return trained[family]

    return make


def export(trained: TrainedWeights, folder: Path, quantization: Any, tools: Path) -> Path:
    """Write the GGUF file and its Modelfile as the export step does."""
    merged = folder.parent / f"{folder.name}-whole"
    merge(trained.base, trained.adapter, merged, "none", new_tokens=trained.new_tokens)
    folder.mkdir()
    conversion.write(merged, folder, gguf_export(quantization), tools)
    turns = turns_of(ChatTemplate(merged, json_object(merged / "tokenizer_config.json")))
    (folder / "Modelfile").write_text(modelfile(turns, gguf_export(quantization).file_name))
    return folder


def compare_export(trained: TrainedWeights, folder: Path, quantization: Any, tools: Path) -> dict[str, Any]:
    """Run the export's comparison in this process."""
    return comparison.compare(
        {
            "base": str(trained.base),
            "adapter": trained.adapter and str(trained.adapter),
            "format": "gguf",
            "quantization": quantization,
            "folder": str(folder),
            "tools": str(tools),
            "rows": collect(trained.prepared, trained.folder).to_json(),
        }
    )


def problems(compared: dict[str, Any], quantization: Any) -> list[str]:
    checks = verdict.checks_of(compared, gguf_export(quantization).limits, None)
    return [f"{check.name}: {check.value}" for check in checks if not check.passed]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_answers_as_it_was_trained(
    tmp_path: Path, tools: Path, trained_of: Callable[[str], TrainedWeights], family: str
) -> None:
    trained = trained_of(family)
    folder = export(trained, tmp_path / "f16", "f16", tools)
    compared = compare_export(trained, folder, "f16", tools)
    assert problems(compared, "f16") == []
    assert compared["prompts_that_differ"] == []
    assert compared["probes"]["mean_kl"] < 0.005
    first = compared["answers"][0]
    assert first["trained"] == first["exported"] != ""


@pytest.mark.parametrize("variant", ["functiongemma", "translategemma"])
def test_variants_have_the_prompts_and_end_tokens_of_training(tmp_path: Path, tools: Path, variant: str) -> None:
    tiny = sharpen_logits(tiny_gemma.build(tmp_path / "tiny", head_dim=256))
    base = getattr(variants, variant)(tiny, tmp_path / "base")
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter")
    tokenizer_files.add_tokenizer(base, adapter)
    trained = TrainedWeights(base, adapter, tmp_path)
    folder = export(trained, tmp_path / "f16", "f16", tools)
    compared = compare_export(trained, folder, "f16", tools)
    assert problems(compared, "f16") == []
    assert compared["prompts_that_differ"] == []
    model = LlamaModel(tools, folder / gguf_export("f16").file_name)
    ends = [model.ends(model.tokens(text)[-1]) for text in ("<end_of_turn>", "<start_function_response>")]
    assert ends == [True, variant == "functiongemma"]
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", gguf_export("f16").file_name]


@pytest.mark.parametrize("shape", ["gemma3", "gemma4-dense-text", "gemma4-unified"])
def test_new_tokens_are_tokens_of_the_file_with_rows_as_trained(tmp_path: Path, tools: Path, shape: str) -> None:
    """The base model has a token without a row, as Gemma 3's text models do."""
    base = tiny_gemma.build(tmp_path / "base", shape, head_dim=256)
    (tmp_path / "more").mkdir()
    tokenizer.add(base, ["<picture>"], tmp_path / "more")
    for name in (tokenizer.TOKENIZER, tokenizer.CONFIG):
        shutil.copyfile(tmp_path / "more" / name, base / name)
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", new_tokens=["<ask>", "<tell>"])
    trained = TrainedWeights(base, adapter, tmp_path, new_tokens=embedding.read(adapter))
    folder = export(trained, tmp_path / "f16", "f16", tools)
    compared = compare_export(trained, folder, "f16", tools)
    assert compared["prompts_that_differ"] == []
    assert compared["probes"]["mean_kl"] < 0.005
    model = LlamaModel(tools, folder / gguf_export("f16").file_name)
    assert trained.new_tokens is not None
    ids = trained.new_tokens.ids
    before = folder_contents.vocab_size(folder_contents.config_of(base))
    assert model.vocab_size == max(ids.values()) + 1 == (before or 0) + 3
    tokens = model.tokens("<ask>What is it? <tell>")
    assert (tokens[0], tokens[-1]) == (ids["<ask>"], ids["<tell>"])
    assert model.text(tokens) == "<ask>What is it? <tell>"
    assert not model.ends(ids["<tell>"])


def test_each_quantization_stays_within_its_limits_and_loses_more_than_the_previous_one(
    tmp_path: Path, tools: Path, trained_of: Callable[[str], TrainedWeights]
) -> None:
    from trainer.gguf.quantizer import quantize

    trained = trained_of("gemma3")
    folder = export(trained, tmp_path / "f16", "f16", tools)
    divergences, sizes = [], []
    turns = turns_of(ChatTemplate(trained.folder, json_object(trained.folder / "tokenizer_config.json")))
    for quantization in ("f16", "q8_0", "q5_k_m", "q4_k_m", "q2_k"):
        target = tmp_path / quantization / gguf_export(quantization).file_name
        if quantization != "f16":
            target.parent.mkdir()
            quantize(tools, folder / gguf_export("f16").file_name, target, gguf_export(quantization).llama_type)
        (target.parent / "Modelfile").write_text(modelfile(turns, target.name))
        compared = compare_export(trained, target.parent, quantization, tools)
        assert problems(compared, quantization) == [] or quantization == "q2_k"
        divergences.append(compared["probes"]["mean_kl"])
        sizes.append(target.stat().st_size)
    assert divergences[0] < divergences[1] < divergences[2] < divergences[4]
    assert sizes == sorted(sizes, reverse=True)


def quantize_base(base: Path) -> Path:
    """Round a base model to the grid of Q5_0.

    This is the type that q4_k_m uses for rows of this width.
    """
    weights = load_file(base / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            quantized = quants.quantize(weight.float().numpy(), GGMLQuantizationType.Q5_0)
            weights[name] = torch.from_numpy(quants.dequantize(quantized, GGMLQuantizationType.Q5_0)).to(torch.bfloat16)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


def test_training_on_a_quantized_base_model_is_not_rounded_away(tmp_path: Path, tools: Path) -> None:
    base = quantize_base(sharpen_logits(tiny_gemma.build(tmp_path / "base", head_dim=256)))
    trained = TrainedWeights(base, untrained_results.write_adapter(base, tmp_path / "adapter", std=0.01), tmp_path)
    folder = tmp_path / "exported"
    merged = tmp_path / "whole"
    merge(base, trained.adapter, merged, "none")
    folder.mkdir()
    dithered = conversion.write(merged, folder, gguf_export("q4_k_m"), tools, [conversion.EMBEDDING])
    before, after = (load_file(model / "model.safetensors") for model in (base, merged))
    file = folder / gguf_export("q4_k_m").file_name
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    shares_kept = []
    for part, ours in (("attn_q", "self_attn.q_proj"), ("ffn_up", "mlp.up_proj"), ("attn_k", "self_attn.k_proj")):
        name, tensor = f"model.layers.1.{ours}.weight", tensors[f"blk.1.{part}.weight"]
        assert tensor.tensor_type == GGMLQuantizationType.Q5_0
        change = after[name].float() - before[name].float()
        change_left = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type)) - before[name].float()
        shares_kept.append(float((change_left * change).sum() / (change * change).sum()))
    assert min(shares_kept) > 0.7
    assert dithered > 12
    assert LlamaModel(tools, file).vocab_size > 0


def test_the_modelfile_renders_as_llama_cpps_own_template(
    tmp_path: Path, tools: Path, trained_of: Callable[[str], TrainedWeights]
) -> None:
    """The code in llama.cpp recognizes Gemma's turns and renders them itself."""
    import ctypes

    from trainer.export.modelfile import render_prompt

    trained = trained_of("gemma3")
    folder = export(trained, tmp_path / "f16", "f16", tools)
    model = LlamaModel(tools, folder / gguf_export("f16").file_name)
    assert model.chat_template == (trained.folder / "chat_template.jinja").read_text()
    from llama_cpp import llama_cpp as llama  # type: ignore[import-not-found]

    conversation = [("system", "Be brief."), ("user", "Hi  there\n\n<b>"), ("assistant", "Hello."), ("user", "Ünï 🙂?")]
    messages = (llama.llama_chat_message * len(conversation))(
        *(llama.llama_chat_message(role.encode(), text.encode()) for role, text in conversation)
    )
    buffer = ctypes.create_string_buffer(4096)
    size = llama.llama_chat_apply_template(b"gemma", messages, len(conversation), True, buffer, len(buffer))
    by_modelfile = render_prompt(
        (folder / "Modelfile").read_text(), [{"role": role, "content": text} for role, text in conversation]
    )
    assert model.bos == "<bos>"
    assert model.tokens(by_modelfile) == model.tokens(buffer.raw[:size].decode())
    end = model.tokens("<end_of_turn>")
    assert len(end) == 1
    assert model.ends(end[0])


def test_a_truncated_file_is_noticed(tmp_path: Path, tools: Path, trained_of: Callable[[str], TrainedWeights]) -> None:
    trained = trained_of("gemma3")
    folder = export(trained, tmp_path / "q8_0", "q8_0", tools)
    path = folder / gguf_export("q8_0").file_name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    spec = Spec.model_validate(
        {
            "processed_dataset_id": "x",
            "training_config": {"base_model_id": "a/b"},
            "export_config": ExportConfig(format="gguf", quantization="q8_0"),
        }
    )
    held_out = collect(trained.prepared, trained.folder)
    certificate = parity_check.Certificate(spec, trained, lambda: held_out, folder, tmp_path, tools, lambda: None)
    with pytest.raises(StepError, match="cannot be loaded") as caught:
        parity_check.issue(certificate)
    assert caught.value.code == "export_differs"
    assert not (folder / "certificate.json").exists()


def test_the_vision_tower_is_a_separate_file_compared_with_the_weights(tmp_path: Path, tools: Path) -> None:
    base = sharpen_logits(
        tiny_gemma.build(tmp_path / "base", "gemma3-vision", head_dim=256), "language_model.model.norm.weight"
    )
    trained = TrainedWeights(base, None, tmp_path)
    folder = export(trained, tmp_path / "exported", "f16", tools)
    assert problems(compare_export(trained, folder, "f16", tools), "f16") == []
    path = folder / PROJECTOR
    whole = path.read_bytes()
    last = max(contents(path).entries, key=lambda entry: entry.offset)
    spoilt = {
        "cut off": whole[: last.offset + 8],
        "values that are not numbers": whole[: last.offset] + b"\xff" * 8 + whole[last.offset + 8 :],
        "does not begin": b"PK" + whole[2:],
        "No such file": None,
    }
    for reason, content in spoilt.items():
        path.unlink() if content is None else path.write_bytes(content)
        assert reason in str(compare_export(trained, folder, "f16", tools)["cannot_load"])


def test_a_family_without_gguf_support_is_refused(tmp_path: Path, tools: Path, tiny: Path) -> None:
    config = json_object(tiny / "config.json") | {"model_type": "gemma3n"}
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(StepError) as caught:
        conversion.write(other, tmp_path, gguf_export("f16"), tools)
    assert caught.value.code == "family_without_gguf"


def test_without_the_tools_the_error_says_what_to_run(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(StepError) as caught:
        conversion.write(tiny, tmp_path, gguf_export("f16"), tmp_path / "none")
    assert caught.value.code == "gguf_tools_missing"
    assert "make llama" in str(caught.value.hint)


def test_a_full_disk_and_a_model_that_cannot_be_quantized_fail_differently(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no GGUF")
    with pytest.raises(RuntimeError, match="could not quantize"):
        quantizer.quantize(tools, tmp_path / "no.gguf", tmp_path / "few.gguf", "Q8_0")
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="No space left on device"):
        quantizer.quantize(tools, tmp_path / "no.gguf", tmp_path / "few.gguf", "Q8_0")


@pytest.mark.parametrize("shape", ["gemma4-e-text", "gemma4-moe-text", "gemma4-unified"])
def test_gemma_4_gives_the_same_results_in_llama_cpp_and_transformers(tmp_path: Path, tools: Path, shape: str) -> None:
    """Compare the runtimes alone: both get the same merged weights in bf16.

    The top tokens of a random model are so close that some of them swap.
    """
    base = tiny_gemma.build(tmp_path / "base", shape)
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", std=0.05)
    merge(base, adapter, tmp_path / "merged", "none")
    if shape == "gemma4-unified":  # llama.cpp gives tokens that are never generated minus infinity
        settings = json_object(tmp_path / "merged" / "generation_config.json")
        (tmp_path / "merged" / "generation_config.json").write_text(
            json.dumps(settings | {"suppress_tokens": [77, 99]})
        )
    trained = TrainedWeights(tmp_path / "merged", None, tmp_path)
    folder = export(trained, tmp_path / "f16", "f16", tools)
    compared = compare_export(trained, folder, "f16", tools)
    assert compared["prompts_that_differ"] == []
    assert compared["probes"]["top1_agreement"] > 0.8
    assert compared["probes"]["mean_kl"] < 1e-3
