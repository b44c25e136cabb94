"""The README.md beside an export: what it was made from, how, what came out, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gemtune.jobs.record import Artifact, Job, Metrics, Parity
from gemtune.request.exports import EXPORTS, Format
from gemtune.request.spec import Spec
from trainer.export import versions
from trainer.export.usage import how_to_run
from trainer.published import published


def model_card(
    job: Job, spec: Spec, artifacts: Sequence[Artifact], parity: Parity | None = None, *, at: datetime,
    trained_with: Mapping[str, str],
) -> str:  # fmt: skip
    """Markdown with the front matter that the Hub reads: https://huggingface.co/docs/hub/model-cards

    artifacts: the files that it stands beside. trained_with: versions of libraries, by name.
    """
    shown = published(spec)
    sections = [
        _front_matter(spec),
        f"# {_plain(shown['job_name'])}\n\n{_what_it_is(spec)}, trained by gemtune "
        f"as job `{job.trained_by}` and exported {_by_another(job)}on {at:%Y-%m-%d}.\nIt was trained on the dataset "
        f"`{spec.processed_dataset_id}`. The base model's licence holds for what is made with it.",
        _figures(job.metrics),
        "" if parity is None else _parity(parity),
        _table("Configuration", ["setting", "value"], _settings(shown["training_config"])),
        _table("Versions", ["package", "training", "export"], _versions(trained_with)),
        _table("Files", ["name", "bytes", "SHA-256"], [(a.name, a.bytes, a.sha256) for a in artifacts]),
        how_to_run(spec),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _by_another(job: Job) -> str:
    return "" if job.trained_by == job.job_id else f"as job `{job.job_id}` "


def _settings(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those that say something; lists and objects as JSON."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in shown.items()
    ]


def _front_matter(spec: Spec) -> str:
    base = json.dumps(spec.training_config.base_model_id)  # a JSON string is a YAML string too
    form = EXPORTS[_form(spec)]
    tags = ["gemma", *(["lora"] if _form(spec) == "adapter" else [])]
    lines = [f"base_model: {base}", f"base_model_relation: {form.relation}", f"library_name: {form.library}"]
    task = "image-text-to-text" if spec.modality == "vision" else "text-generation"
    lines += [f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _form(spec: Spec) -> Format:
    """The format of what lies here: a training of all weights leaves no adapter, but a whole model."""
    whole = spec.export_config.format == "adapter" and spec.training_config.method == "Full"
    return "merged" if whole else spec.export_config.format


def _what_it_is(spec: Spec) -> str:
    method, base = spec.training_config.method, f"`{spec.training_config.base_model_id}`"
    form = _form(spec)
    if form == "adapter":
        return f"A {method} adapter for {base}"
    stored = spec.export.stored
    how = f"as GGUF ({spec.quantization}, {stored})" if form == "gguf" else f"whole ({stored})"
    return f"{base}, fine-tuned ({method}) and stored {how}"


def _figures(metrics: Metrics | None) -> str:
    after = {} if metrics is None else metrics.by_name()
    if metrics is None or not after:
        return "## Figures\n\nIt was not evaluated: the dataset had no held-out rows and none were asked for."
    before = {} if metrics.baseline is None else metrics.baseline.by_name()
    rows = [(name, _number(before.get(name)), _number(value)) for name, value in after.items()]
    table = _table("Figures on held-out rows", ["", "base model", "this one"], rows)
    whose = "" if metrics.train_step is None else f"\n\nThe weights are those of train_step {metrics.train_step}."
    return table + whose


def _parity(parity: Parity) -> str:
    rows = [
        ("prompts that become the tokens trained with", f"{parity.prompts_identical} of {parity.prompts}"),
        ("mean KL, nats a position", f"{parity.mean_kl:.6f}"),
        ("same first choice", f"{parity.top1_agreement:.2%}"),
        ("perplexity, as exported", f"{parity.perplexity:.4f}"),
        ("perplexity, as trained", f"{parity.perplexity_trained:.4f}"),
    ]
    said = f"These files were loaded again and compared with the trained model on {parity.rows} {parity.source}"
    return _table("Parity certificate", ["", ""], rows) + f"\n\n{said}: see `certificate.md`."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _versions(trained_with: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Training may run in another environment than export: on a GPU, by unsloth, by an earlier gemtune."""
    exported_with = versions.installed()
    known = [name for name in versions.PACKAGES if name in trained_with or name in exported_with]
    return [(name, trained_with.get(name, "-"), exported_with.get(name, "-")) for name in known]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_plain(str(cell)) for cell in row) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
