"""export: every format of what was trained, whole, and as it was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from gemtune.job import Step
from tests.trainer.conftest import Bench
from trainer import manifest


def exported(bench: Bench, **config: str) -> Path:
    """The folder of a finished job's result."""
    bench.export = config
    bench.to(Step.EXPORT)
    assert bench.job.status == "completed"
    assert bench.job.adapter_path is not None
    return Path(bench.job.adapter_path)


def test_a_merged_model_comes_with_all_that_runs_it(bench: Bench) -> None:
    from transformers import AutoModelForCausalLM

    folder = exported(bench, format="merged")
    assert {artifact.name for artifact in bench.job.artifacts} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    }  # fmt: skip
    for artifact in bench.job.artifacts:
        assert manifest.sha256(folder / artifact.name) == artifact.sha256
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    card = (folder / "README.md").read_text()
    for said in ("library_name: transformers", "vllm serve .", "whole (bf16)", bench.job_id):
        assert said in card


def test_an_fp16_export_warns_of_what_it_is_used_for(bench: Bench) -> None:
    card = (exported(bench, format="merged", quantization="fp16") / "README.md").read_text()
    assert "overflows in fp16 arithmetic" in card
    assert 'dtype="bfloat16"' in card
