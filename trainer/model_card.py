"""The README.md beside an exported adapter: what it was made from, how, and what came out."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from datetime import datetime

from gemtune.job import Artifact, Job, Metrics
from gemtune.spec import Spec

PACKAGES = ("gemtune", "torch", "transformers", "trl", "peft", "accelerate", "tokenizers")


def model_card(job: Job, spec: Spec, artifacts: Sequence[Artifact], *, at: datetime) -> str:
    """Markdown with the front matter that the Hub reads: https://huggingface.co/docs/hub/model-cards"""
    config = spec.training_config
    base = json.dumps(config.base_model_id)  # a JSON string is a YAML string too
    sections = [
        f"---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- gemma\n- lora\n---",
        f"# {_plain(spec.job_name)}\n\nA {config.method} adapter for `{config.base_model_id}`, trained by gemtune "
        f"as job `{job.job_id}` and exported on {at:%Y-%m-%d}.\nIt was trained on the dataset "
        f"`{spec.processed_dataset_id}`. The base model's licence holds for what is made with it.",
        _figures(job.metrics),
        _table("Configuration", ["setting", "value"], list(config.model_dump(mode="json").items())),
        _table("Versions", ["package", "version"], _versions()),
        _table("Files", ["name", "bytes", "SHA-256"], [(a.name, a.bytes, a.sha256) for a in artifacts]),
        _use(config.base_model_id),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _figures(metrics: Metrics | None) -> str:
    if metrics is None or metrics.eval_loss is None:
        return "## Figures\n\nIt was not evaluated: the dataset had no held-out rows and none were asked for."
    before = metrics.baseline
    names = ("eval_loss", "accuracy", "perplexity")
    rows = [(name, _number(before and getattr(before, name)), _number(getattr(metrics, name))) for name in names]
    return _table("Figures on held-out rows", ["", "base model", "this adapter"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_plain(str(cell)) for cell in row) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _use(base_model_id: str) -> str:
    return f"""## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base_model_id!r}), folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""
