"""The base model as a GGUF file, whose divergence is the noise floor."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gemtune.families.configs.sections import language_model
from gemtune.request.spec import Spec
from tests import tiny_gemma
from tests.trainer import untrained_results
from tests.trainer.training.rl_trainers import randomize_adapter
from trainer.base_model import folder_contents
from trainer.certificate.files import base_gguf
from trainer.export.merge import merge
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf import conversion
from trainer.gguf.file_layout import Contents, InvalidGguf, contents
from trainer.gguf.llama_library import LlamaModel
from trainer.model.engines import huggingface
from trainer.new_tokens import embedding
from trainer.steps import export_files


def context_in(folder: Path, tools: Path, quantization: str) -> Any:
    """Return what an export step's context has for its files."""
    fields = {"processed_dataset_id": "x", "training_config": {"base_model_id": "a/b"}}
    spec = Spec.model_validate(fields | {"export_config": {"format": "gguf", "quantization": quantization}})
    (folder / "work").mkdir()
    return SimpleNamespace(
        spec=spec,
        work=folder / "work",
        llama_cpp=tools,
        mounted=False,
        enter=lambda phase: None,
        check_stop=lambda: None,
    )


@pytest.mark.parametrize(
    ("shape", "new_tokens", "with_experts"),
    [
        ("gemma3", ["<ask>"], False),
        ("gemma4-dense-text", ["<ask>", "<tell>", "<hear>"], False),
        ("gemma4-e-text", [], False),
        ("gemma4-moe-text", [], False),
        ("gemma4-moe-text", [], True),
    ],
)
def test_the_base_model_is_written_as_the_converter_and_quantizer_do(
    tmp_path: Path, tools: Path, shape: str, new_tokens: list[str], with_experts: bool
) -> None:
    """Every tensor is the same to the bit, and so is the vocabulary."""
    base = tiny_gemma.build(tmp_path / "base", shape, head_dim=32 if "4-e" in shape or "moe" in shape else 256)
    file = base / "model.safetensors"
    in_bf16 = {
        name: weight.bfloat16() for name, weight in load_file(file).items()
    }  # which no rounding by chance changes
    save_file(in_bf16, file, metadata={"format": "pt"})
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", std=0.05, new_tokens=new_tokens)
    if with_experts:
        adapt_experts(base, adapter)
    added, context = embedding.read(adapter), context_in(tmp_path, tools, "q4_k_m")
    trained = TrainedWeights(base, adapter, tmp_path, new_tokens=added)
    exported, converted = tmp_path / "exported", tmp_path / "converted"
    export_files.write(context, trained, exported)
    written = export_files.write_base(context, trained, exported)
    merge(base, None, tmp_path / "merged", "none", new_tokens=added, tokenizer=adapter)
    converted.mkdir()
    conversion.write(tmp_path / "merged", converted, context.spec.export, tools, [conversion.EMBEDDING])
    expected, actual = (contents(folder / written.name) for folder in (converted, written.parent))
    assert actual.keys == expected.keys
    assert tensors_of(actual) == tensors_of(expected)
    model = LlamaModel(tools, written)
    assert model.vocab_size >= language_model(folder_contents.config_of(base))["vocab_size"] > 0
    for text in new_tokens:
        assert added is not None
        assert model.tokens(text) == [added.ids[text]]
    assert model.chat_template == (adapter / "chat_template.jinja").read_text()
    other = tiny_gemma.build(tmp_path / "other", shape, head_dim=64)
    with pytest.raises(InvalidGguf, match="has the shape"):
        base_gguf.write(exported / written.name, other, adapter, tmp_path / "other.gguf")


def adapt_experts(base: Path, folder: Path) -> None:
    """Replace an adapter's weights by those of one that a job trains.

    They change the experts, too.
    """
    fields = {"processed_dataset_id": "x", "training_config": {"base_model_id": str(base)}}
    spec = Spec.model_validate(fields | {"export_config": {"format": "adapter"}})
    huggingface.save(randomize_adapter(huggingface.load(base, spec).model), folder)
    assert any("experts" in name for name in load_file(folder / "adapter_model.safetensors"))


def tensors_of(file: Contents) -> dict[str, tuple[int, tuple[int, ...], int]]:
    """Return type, shape and checksum of each tensor of a GGUF file, in order."""
    content = file.path.read_bytes()
    ends = [*(entry.offset for entry in file.entries[1:]), len(content)]
    return {
        entry.name: (entry.kind, entry.shape, zlib.crc32(content[entry.offset : end]))
        for entry, end in zip(file.entries, ends, strict=True)
    }
