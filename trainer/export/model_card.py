"""Model card: the README.md of an export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gemtune.jobs.parts.metrics import Metrics
from gemtune.jobs.parts.results import Artifact, Parity, RowsSummary
from gemtune.jobs.record import Job
from gemtune.methods import Modality
from gemtune.request.exports import EXPORTS, Format
from gemtune.request.spec import Spec
from trainer.conversation.chat_template import ChatTemplate
from trainer.export import versions
from trainer.export.usage import how_to_run
from trainer.published import public_fields

# The Hub's names of tasks, by what was trained on.
TASKS: Mapping[Modality, str] = {
    "text": "text-generation",
    "vision": "image-text-to-text",
    "audio": "audio-text-to-text",
}


def model_card(
    job: Job,
    spec: Spec,
    artifacts: Sequence[Artifact],
    parity: Parity | None = None,
    *,
    at: datetime,
    licence: str,
    trained_with: Mapping[str, str],
    base: str | None = None,
    template: ChatTemplate | None = None,
) -> str:
    """Return the Markdown of a model card, with front matter for the Hub.

    Its format: https://huggingface.co/docs/hub/model-cards. artifacts: the other files of the export. at: time of the
    export. licence: of the base model's family. trained_with: versions of libraries at training, by package name. base:
    where the adapter's base model is, if another job trained it. template: the chat template of training.
    """
    shown = public_fields(spec)
    sections = [
        _front_matter(spec, licence),
        f"# {_plain(shown['job_name'])}\n\n{_what_it_is(spec, job)}, trained by gemtune "
        f"as job `{job.trained_by}` and exported {_by_another(job)}on {at:%Y-%m-%d}.\nIt was trained on the dataset "
        f"`{spec.processed_dataset_id}`{_revision(job)}{_lineage(job)}. "
        "The base model's licence also applies to this model.",
        "" if job.rows is None else _rows(job.rows),
        _metrics(job.metrics, spec),
        "" if parity is None else _parity(parity),
        _table("Configuration", ["setting", "value"], _settings(shown["training_config"])),
        _table("Versions", ["package", "training", "export"], _versions(trained_with)),
        _table("Files", ["name", "bytes", "SHA-256"], [(a.name, a.bytes, a.sha256) for a in artifacts]),
        how_to_run(spec, base, is_lossy=parity is not None and parity.verdict != "passed", template=template),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _by_another(job: Job) -> str:
    return "" if job.trained_by == job.job_id else f"as job `{job.job_id}` "


def _lineage(job: Job) -> str:
    """Return how the training went on from others; "" if it did not."""
    if not job.lineage:
        return ""
    before = ", before that as job ".join(f"`{job_id}`" for job_id in job.lineage)
    return f", going on from what was trained as job {before}"


def _settings(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) rows. Values other than strings become JSON."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in shown.items()
    ]


def _front_matter(spec: Spec, licence: str) -> str:
    base = json.dumps(spec.training_config.base_model_id)  # a JSON string is a YAML string too
    form = EXPORTS[_form(spec)]
    tags = ["gemma", *(["lora"] if _form(spec) == "adapter" else [])]
    lines = [f"base_model: {base}", f"base_model_relation: {form.relation}", f"library_name: {form.library}"]
    lines += [f"license: {licence}", f"pipeline_tag: {TASKS[spec.modality]}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _form(spec: Spec) -> Format:
    """Return the format of the files.

    An "adapter" export of method Full is a whole model, as there is no adapter.
    """
    whole = spec.export_config.format == "adapter" and spec.training_config.method == "Full"
    return "merged" if whole else spec.export_config.format


def _what_it_is(spec: Spec, job: Job) -> str:
    method, base = spec.training_config.method, f"`{spec.training_config.base_model_id}`"
    form = _form(spec)
    if form == "adapter" and job.base_model_folder is not None:
        trainer = job.base_model_folder.split("/")[1]
        return f"A {method} adapter for the model that job `{trainer}` trained from {base}"
    if form == "adapter":
        return f"A {method} adapter for {base}"
    stored = spec.export.stored
    how = f"as GGUF ({spec.quantization}, {stored})" if form == "gguf" else f"whole ({stored})"
    return f"{base}, fine-tuned ({method}) and stored {how}"


def _revision(job: Job) -> str:
    """Return the commit of a dataset of the Hub, for a sentence."""
    return "" if job.rows is None or job.rows.dataset_revision is None else f" at commit {job.rows.dataset_revision}"


def _rows(rows: RowsSummary) -> str:
    """Return what became of the dataset's rows, without names of files."""
    counts = [
        ("rows trained on", rows.train),
        ("tokens per epoch", rows.tokens),
        ("tokens trained per epoch", rows.trained_tokens),
        ("held-out rows", rows.held_out),
        ("rows refused", rows.refused),
        ("rows dropped, as longer than max_seq_length", rows.dropped),
        ("rows cut at max_seq_length", rows.cut),
        ("rows trained on that repeat an earlier one", rows.duplicates),
        ("held-out rows that are trained on, too", rows.held_out_duplicates),
        ("fields not read, which cannot change what is learned", len(rows.fields_not_read)),
        ("files not read", len(rows.files_not_read)),
    ]
    return _table("Rows", ["what", "number"], counts)


def _metrics(metrics: Metrics | None, spec: Spec) -> str:
    after = {} if metrics is None else metrics.by_name()
    if metrics is None or not after:
        return "## Metrics\n\nThis model was not evaluated: the job had no held-out rows."
    before = {} if metrics.baseline is None else metrics.baseline.by_name()
    rows = [(name, _number(before.get(name)), _number(value)) for name, value in after.items()]
    table = _table("Metrics on held-out rows", ["metric", "base model", "as trained"], rows)
    note = "" if metrics.train_step is None else f"\n\nThe weights are those of train_step {metrics.train_step}."
    if spec.training_config.method == "QLoRA":
        note += "\n\nBoth columns are of the base model in 4 bits, on which QLoRA trains."
    return table + note


def _parity(parity: Parity) -> str:
    rows = [
        ("prompts with the same tokens as in training", f"{parity.prompts_identical} of {parity.prompts}"),
        ("mean KL, nats per position", f"{parity.mean_kl:.6f}"),
        ("positions with the same first choice", f"{parity.top1_agreement:.2%}"),
        ("perplexity, as exported", f"{parity.perplexity:.4f}"),
        ("perplexity, as trained", f"{parity.perplexity_trained:.4f}"),
    ]
    if parity.gain_kept is not None:
        rows.append(("share kept of the gain in held-out loss", f"{parity.gain_kept:.1%}"))
    if parity.answers_right is not None:
        right = f"{parity.answers_right}, where the trained model has {parity.answers_right_trained}"
        rows.append(("answers right, token by token", right))
    media = f", {parity.media_rows} of them with pictures or audio" if parity.media_rows else ""
    note = f"These files were loaded again and compared with the trained model on {parity.rows} {parity.source}{media}"
    verdict = "" if parity.verdict == "passed" else f"\n\n> **{_LOSSY}** {'; '.join(parity.losses)}."
    differences = "".join(f"\n\nKnown difference: {difference}." for difference in parity.differences)
    table = _table("Parity certificate", ["metric", "value"], rows)
    return f"{table}\n\n{note}: see `certificate.md`.{verdict}{differences}"


_LOSSY = "This export loses more of the training than its format may, which its request accepted:"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _versions(trained_with: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (package, version at training, version at export) rows.

    They can differ: training may run on a GPU, by unsloth, or by an earlier gemtune.
    """
    exported_with = versions.installed()
    names = [name for name in versions.PACKAGES if name in trained_with or name in exported_with]
    return [(name, trained_with.get(name, "-"), exported_with.get(name, "-")) for name in names]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_plain(str(cell)) for cell in row) + " |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
