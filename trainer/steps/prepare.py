"""The prepare step: checks and tokenizes a dataset, and provides base weights.

It runs on a cheap machine without torch, so that no GPU waits for this work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.errors import NeedsLargerMachine, StepError
from gemtune.families import adapted_layers
from gemtune.jobs.parts.plan import Workload
from gemtune.jobs.record import JobWarning, RowsSummary, StepResult
from gemtune.machines import choice, model_size
from gemtune.machines.memory import memory_for_export
from gemtune.request.exports import EXPORTS
from gemtune.request.placement import load_of
from gemtune.request.rl_spec import GrpoConfig, KtoConfig
from gemtune.request.schedule import warmup_problem
from gemtune.request.spec import DEFAULT_SEQ_LENGTH, TrainingConfig
from trainer.base_model import continuation, folder_contents, location
from trainer.context import Context
from trainer.dataset import source
from trainer.dataset.source import Dataset
from trainer.gguf import conversion
from trainer.pictures.arrow_file import PictureFile
from trainer.pictures.sources import PictureSource
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import RowKind, row_kind
from trainer.rows.labelled_answers import label_warnings
from trainer.rows.packing import packs
from trainer.rows.prepared import prompts_per_step, row_lengths, total_train_steps
from trainer.splits.held_out import hold_out
from trainer.splits.left_out import LeftOutRows
from trainer.splits.report import Report
from trainer.splits.tally import Limits, Tally
from trainer.splits.writer import write_split
from trainer.store import manifest

log = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Write `prepared/<attempt>/`.

    The folder holds train.parquet, eval.parquet, prepared.json, report.json, rows_left_out.jsonl and, in vision jobs,
    pictures.arrow. If the rows cannot be trained on, it holds the report and the list of rows only. Raises StepError
    for data or a base model that cannot be trained on, and StopRequested.
    """
    config = context.spec.training_config
    token = partial(context.secret, "hf_token")
    dataset = source.find(context.buckets.data, context.spec.processed_dataset_id, context.work, token=token)
    provided = _provide_base_model(context)
    folder = location.locate_without_weights(context.buckets, provided, context.work)
    model_config = folder_contents.config_of(folder)
    if context.spec.export_config.format == "gguf":
        conversion.check_family(model_config)
    requested = config.max_seq_length or DEFAULT_SEQ_LENGTH
    # Gemma 3 4B and larger do not state their 131,072 positions; max_seq_length cannot exceed that anyway.
    max_positions = folder_contents.max_positions(model_config)
    max_length = min(requested, max_positions or requested)
    pictures = picture_tokens(folder, model_config) if context.spec.modality == "vision" else None
    _check_layers(config, model_config)
    encoder = Encoder(
        folder,
        max_length=max_length,
        vocab_size=folder_contents.vocab_size(model_config),
        pictures=pictures,
        cuts=config.too_long == "cut",
    )

    output = context.work / "prepared"
    output.mkdir()
    limits = Limits(max_length, max_positions, config.too_long)
    picture_source = PictureSource(dataset.folder)
    file = output / "pictures.arrow"
    with nullcontext() if pictures is None else PictureFile(file, picture_source, pictures.grid) as picture_file:
        kind = row_kind(config, encoder, picture_file, max_length=max_length, options=context.spec.read_options)
        report = _write_splits(context, dataset, kind, limits, output)
        report.pictures_read = picture_source.files_read
    try:
        report.check()
        if not dataset.splits.held_out and config.eval_strategy != "no":
            report.moved = hold_out(output, kind.columns, report.train.rows, seed=config.seed)
        _check_prompt_count(config, report.train_rows)
        of_labels = tuple(_label_warnings(config, output / "train.parquet"))
        machine, export_machine = _choose_machines(context, provided, report.longest_row)
        lengths = row_lengths(output / "train.parquet") if config.packing else []
        packed = len(packs(lengths, max_length)) if config.packing else report.train_rows
        train_steps = total_train_steps(config, packed)
        _check_warmup(config, train_steps)
    except StepError as error:
        raise report.publish_failure(output, error) from error

    summary = {
        "base_model": provided,
        "base_digests": _base_digests(context, provided, folder),
        "base_dtype": _base_dtype(context, model_config),
        "rows": report.train_rows,
        "eval_rows": report.eval_rows,
        "packs": packed,
        "max_seq_length": max_length,
        "machine": machine,
        "total_train_steps": train_steps,
        "chat_template": encoder.template_source,
        "pictures": None if picture_file is None else len(picture_file),
    }
    report.others = (*of_labels, *_export_warnings(context, model_config))
    (output / "prepared.json").write_text(json.dumps(summary, indent=1))
    report.write(output, summary)
    manifest.publish(context.buckets.export, output, report.place)
    log.info("%d rows to train on, %d held out", report.train_rows, report.eval_rows)
    for warning in report.warnings:
        log.warning("%s; %s", warning.message, warning.hint)
    workload = _workload(config, report.summary(), packed, train_steps, report.longest_row)
    size = location.size_to_plan(context.buckets, provided)
    plan = context.advance.planner.of_workload(context.spec, size, workload, machine, export_machine)
    result = StepResult(
        machine=machine,
        export_machine=export_machine,
        workload=workload,
        plan=plan,
        warnings=report.warnings,
        rows=report.summary(),
    )
    context.advance.finish(context.job.job_id, context.fence, result)


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

    What another job trained with method Full is stored in float32, and computed as its base model was.
    """
    weights = context.job.base_weights
    recorded = None if weights is None else continuation.base_dtype(weights, context.buckets)
    return recorded or folder_contents.dtype_of_config(model_config)


def _write_splits(context: Context, dataset: Dataset, kind: RowKind, limits: Limits, output: Path) -> Report:
    """Write the token files of the dataset's splits; return their report.

    Raises StepError `bad_dataset`.
    """
    with LeftOutRows(output) as left_out:
        train = Tally("train", dataset.splits.train, limits, left_out)
        write_split(dataset, kind, output / "train.parquet", train, context.work, context.check_stop)
        held_out = None
        if dataset.splits.held_out:
            held_out = Tally("held-out", dataset.splits.held_out, limits, left_out)
            write_split(dataset, kind, output / "eval.parquet", held_out, context.work, context.check_stop)
    place = f"{context.prefix}/prepared/{context.fence.attempt}"
    return Report(context.buckets.export, place, dataset, train, held_out)


def _export_warnings(context: Context, model_config: Mapping[str, Any]) -> Iterator[JobWarning]:
    """Yield a warning if some programs cannot load the adapter to export."""
    limits, spec = families.adapter_limits(model_config), context.spec
    if limits is None or spec.export_config.format != "adapter" or spec.training_config.method == "Full":
        return
    message = f"the exported adapter loads in PEFT only: {limits}"
    yield JobWarning(code="adapter_limited", message=message, hint="for other programs export it again as merged")


def _choose_machines(context: Context, provided: Mapping[str, str], longest_row: int) -> tuple[str | None, str | None]:
    """Return the machines for train and export, now that all sizes are known.

    longest_row: in tokens. Raises StepError `needs_larger_machine`.
    """
    size = location.size(context.buckets, provided)
    config = context.spec.training_config
    completion_tokens = config.rl_config.max_completion_length if isinstance(config.rl_config, GrpoConfig) else 0
    load = replace(load_of(config, context.spec.modality), length=longest_row + completion_tokens)
    try:
        train_machine = choice.choose_machine(context.machines, config.machine, size, load)
        bytes_per_parameter = EXPORTS[context.spec.export_config.format].bytes_per_parameter
        export_memory = 0.0 if size is None else memory_for_export(size, config.method, bytes_per_parameter)
        return train_machine, choice.choose_export_machine(context.machines, export_memory)
    except NeedsLargerMachine as error:
        raise StepError(error.code, error.message, hint=error.hint) from error


def _workload(config: TrainingConfig, rows: RowsSummary, packed: int, train_steps: int, longest_row: int) -> Workload:
    """Return the amount of work of the training.

    packed: rows per epoch, or packs if rows are packed.
    """
    if isinstance(config.rl_config, GrpoConfig):
        completions = train_steps * config.batch_size * config.gradient_accumulation_steps
        per_completion = rows.tokens / max(1, rows.train) + config.rl_config.max_completion_length
        tokens = round(completions * per_completion)
    else:
        one_epoch = config.model_copy(update={"max_steps": None, "epochs": 1})
        tokens = round(rows.tokens * train_steps / max(1, total_train_steps(one_epoch, packed)))
    return Workload(train_steps=train_steps, tokens=tokens, longest_row=longest_row)


def _check_layers(config: TrainingConfig, model_config: Mapping[str, Any]) -> None:
    """Raise StepError if layers to train are missing or cannot be trained.

    Its code is `vision_tower_frozen`, `no_such_layer` or `dora_on_experts`.
    """
    family_and_type = families.of_config(model_config)
    if family_and_type is None:
        return
    family = family_and_type[0]
    if config.train_vision_tower and family.why_tower_is_frozen is not None:
        raise StepError("vision_tower_frozen", family.why_tower_is_frozen, hint="set train_vision_tower to false")
    if config.method == "Full":
        return
    size = model_size.of_folder(model_config, 0)
    problem = adapted_layers.problem_of(config.target_modules, family, size, dora=config.use_dora)
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)


def _label_warnings(config: TrainingConfig, tokens: Path) -> Iterator[JobWarning]:
    """Yield warnings about KTO's labels. Raises StepError `one_label`."""
    if isinstance(config.rl_config, KtoConfig):
        yield from label_warnings(tokens, config.rl_config)


def _check_prompt_count(config: TrainingConfig, rows: int) -> None:
    """Raise StepError `too_few_rows` if GRPO lacks prompts for a train_step."""
    if isinstance(config.rl_config, GrpoConfig) and rows < (needed := prompts_per_step(config, config.rl_config)):
        hint = "add rows, lower batch_size or gradient_accumulation_steps, or raise num_generations"
        raise StepError("too_few_rows", f"a train_step takes {needed} prompts, and there are {rows}", hint=hint)


def _check_warmup(config: TrainingConfig, train_steps: int) -> None:
    """Raise StepError `warmup_without_end` if warmup outlasts the training.

    The learning rate would never reach the requested one.
    """
    problem = warmup_problem(config, train_steps)
    if problem is not None:
        raise StepError(problem.code, problem.msg, hint=problem.hint)
