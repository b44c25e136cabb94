"""The base model as a GGUF file, whose divergence is the noise floor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gemtune.request.spec import Spec
from tests import tiny_gemma
from tests.trainer import untrained_results
from trainer.export.trained_weights import TrainedWeights
from trainer.gguf.llama_library import LlamaModel
from trainer.new_tokens import embedding
from trainer.steps import export_files


def test_the_base_model_is_written_with_the_tokenizer_of_the_training(tmp_path: Path, tools: Path) -> None:
    """llama.cpp loads no model with another number of tokens than rows."""
    base = tiny_gemma.build(tmp_path / "base", "gemma4-dense-text", head_dim=256)
    adapter = untrained_results.write_adapter(base, tmp_path / "adapter", new_tokens=["<ask>", "<tell>", "<hear>"])
    added = embedding.read(adapter)
    assert added is not None
    fields = {"processed_dataset_id": "x", "training_config": {"base_model_id": "a/b"}}
    spec = Spec.model_validate(fields | {"export_config": {"format": "gguf", "quantization": "q8_0"}})
    (tmp_path / "work").mkdir()
    context: Any = SimpleNamespace(
        spec=spec,
        work=tmp_path / "work",
        llama_cpp=tools,
        mounted=False,
        enter=lambda phase: None,
        check_stop=lambda: None,
    )
    written = export_files.write_base(context, TrainedWeights(base, adapter, tmp_path, new_tokens=added))
    model = LlamaModel(tools, written)
    assert model.vocab_size == added.tokenizer_size
    assert model.tokens("<hear>") == [added.ids["<hear>"]]
    assert model.chat_template == (adapter / "chat_template.jinja").read_text()
