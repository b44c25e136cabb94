"""The prepare step: checks and tokenizes a dataset, and provides base weights.

It runs on a cheap machine without torch, so that no GPU waits for this work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.errors import NeedsLargerMachine, StepError
from gemtune.families import adapted_layers, embeddings, timm
from gemtune.jobs.parts.results import JobWarning, StepResult
from gemtune.machines import choice, model_size
from gemtune.request.placement import export_machine_for, load_of
from gemtune.request.training_config import TrainingConfig
from trainer.base_model import continuation, folder_contents, location
from trainer.context import Context
from trainer.dataset import source
from trainer.gguf import conversion
from trainer.splits import left_out, report, tokenizing
from trainer.splits.tokenizing import Amounts, Tokenization, Tokenized
from trainer.steps.adapter_limits import adapter_limits
from trainer.store import manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _BaseModel:
    """Base model of the job.

    provided: where its files are. folder: its files without the weights. config: its config.json.
    """

    provided: Mapping[str, str]
    folder: Path
    config: Mapping[str, Any]


def run(context: Context) -> None:
    """Write `prepared/<attempt>/`.

    The folder holds train.parquet, eval.parquet, prepared.json, report.json, rows_left_out.jsonl and, in vision jobs,
    pictures.arrow, in audio jobs audio.arrow. If the rows cannot be trained on, it holds the report and the list of
    rows only. Raises StepError for data or a base model that cannot be trained on, and StopRequested.
    """
    token = partial(context.secret, "hf_token")
    dataset = source.find(context.buckets.data, context.spec.processed_dataset_id, context.work, token=token)
    context.enter("providing the base model")
    base = _open_base_model(context)
    output, place = context.work / "prepared", f"{context.prefix}/prepared/{context.fence.attempt}"
    output.mkdir()
    context.enter("tokenizing the rows")
    tokenized = tokenizing.tokenize(
        Tokenization(
            spec=context.spec,
            dataset=dataset,
            model_folder=base.folder,
            output=output,
            work=context.work,
            place=lambda name: context.buckets.export.uri(f"{place}/{name}"),
            check_stop=context.check_stop,
        )
    )
    rows = tokenized.report
    try:
        amounts = tokenizing.hold_out_and_count(tokenized, context.spec.training_config, output)
        machine, export_machine = _choose_machines(context, base.provided, rows.longest_row)
    except StepError as error:
        failure = rows.write_failure(output, error)
        for name in (report.NAME, left_out.NAME):
            context.buckets.export.upload(output / name, f"{place}/{name}")
        raise failure from error

    summary = _summary(context, base, tokenized, amounts) | {"machine": machine}
    rows.others = (*amounts.warnings, *_export_warnings(context, base.config))
    (output / "prepared.json").write_text(json.dumps(summary, indent=1))
    rows.write(output, summary)
    context.enter("saving the tokenized rows")
    manifest.publish(context.buckets.export, output, place)
    log.info("%d rows to train on, %d held out", rows.train_rows, rows.eval_rows)
    for warning in rows.warnings:
        log.warning("%s; %s", warning.message, warning.hint)
    workload = tokenizing.workload_of(context.spec.training_config, rows, amounts)
    size = location.size_to_plan(context.buckets, base.provided)
    result = StepResult(
        machine=machine,
        export_machine=export_machine,
        workload=workload,
        plan=context.advance.planner.of_workload(context.spec, size, workload, machine, export_machine),
        warnings=rows.warnings,
        rows=rows.summary(),
    )
    context.finish(result)


def _open_base_model(context: Context) -> _BaseModel:
    """Provide the base model, and check that it can be trained and exported.

    Raises StepError.
    """
    provided = _provide_base_model(context)
    folder = location.locate_without_weights(context.buckets, provided, context.work)
    config = folder_contents.config_of(folder)
    if context.spec.export_config.format == "gguf":
        conversion.check_family(config)
    family, has_timm = families.of_model_type(config.get("model_type")), timm.is_installed()
    if (problem := timm.problem_of(family, config, has_timm=has_timm)) is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)
    _check_layers(context.spec.training_config, config)
    return _BaseModel(provided, folder, config)


def _summary(context: Context, base: _BaseModel, tokenized: Tokenized, amounts: Amounts) -> dict[str, Any]:
    """Return the content of prepared.json, but for the machine."""
    return {
        "base_model": base.provided,
        "base_digests": _base_digests(context, base.provided, base.folder),
        "base_dtype": _base_dtype(context, base.config),
        "rows": tokenized.report.train_rows,
        "eval_rows": tokenized.report.eval_rows,
        "packs": amounts.packed,
        "max_seq_length": tokenized.max_length,
        "total_train_steps": amounts.train_steps,
        "chat_template": tokenized.chat_template,
        "pictures": tokenized.media if context.spec.modality == "vision" else None,
        "audio": tokenized.media if context.spec.modality == "audio" else None,
    }


def _provide_base_model(context: Context) -> dict[str, str]:
    """Make the base model available; see `location.provide`."""
    weights, buckets, work, check_stop = context.job.base_weights, context.buckets, context.work, context.check_stop
    token = partial(context.secret, "hf_token")
    if weights is not None:
        return continuation.provide(weights, buckets, work, token=token, check_stop=check_stop)
    base_model_id = context.spec.training_config.base_model_id
    return location.provide(base_model_id, buckets, work, token=token, check_stop=check_stop)


def _base_digests(context: Context, provided: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """Return the digests of the base model's files.

    Raises StepError `base_changed` if an adapter to train on was trained with other files.
    """
    digests = location.identify(context.buckets, provided, folder)
    if context.job.base_weights is not None:
        continuation.check_digests(context.job.base_weights, context.buckets, digests)
    return digests


def _base_dtype(context: Context, model_config: Mapping[str, Any]) -> str:
    """Return the type that the base model's weights were published in.

    A model that another job trained with method Full is stored in float32, and computed as its base model was.
    """
    weights = context.job.base_weights
    recorded = None if weights is None else continuation.base_dtype(weights, context.buckets)
    return recorded or folder_contents.dtype_of_config(model_config)


def _export_warnings(context: Context, model_config: Mapping[str, Any]) -> Iterator[JobWarning]:
    """Yield a warning if some programs cannot load the adapter to export."""
    spec = context.spec
    if spec.export_config.format != "adapter" or spec.training_config.method == "Full":
        return
    limits = "; ".join(adapter_limits(spec.training_config, model_config))
    if limits:
        yield JobWarning(code="adapter_limited", message=limits, hint="for other programs export it again as merged")


def _choose_machines(context: Context, provided: Mapping[str, str], longest_row: int) -> tuple[str | None, str | None]:
    """Return the machines for train and export, now that all sizes are known.

    longest_row: in tokens. Raises StepError `needs_larger_machine`.
    """
    size = location.size(context.buckets, provided)
    config = context.spec.training_config
    load = load_of(config, context.spec.modality)
    load = replace(load, length=longest_row + load.completion_length)
    try:
        train_machine = choice.choose_machine(context.machines, config.machine, size, load)
        return train_machine, export_machine_for(context.spec, size, context.machines)
    except NeedsLargerMachine as error:
        raise StepError(error.code, error.message, hint=error.hint) from error


def _check_layers(config: TrainingConfig, model_config: Mapping[str, Any]) -> None:
    """Raise StepError if layers to train are missing or cannot be trained.

    Its code is `vision_tower_frozen`, `no_such_layer`, `dora_on_experts` or `embeddings_per_layer`.
    """
    family_and_type = families.of_config(model_config)
    if family_and_type is None:
        return
    family = family_and_type[0]
    if config.train_vision_tower and family.why_tower_is_frozen is not None:
        raise StepError("vision_tower_frozen", family.why_tower_is_frozen, hint="set train_vision_tower to false")
    size = model_size.of_folder(model_config, 0)
    if config.new_tokens is not None and (problem := embeddings.new_tokens_problem(size)) is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)
    if config.method == "Full":
        return
    problem = adapted_layers.problem_of(config.target_modules, family, size, dora=config.use_dora)
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)
