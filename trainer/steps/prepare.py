"""The prepare step: checks and tokenizes a dataset, and provides base weights.

It runs on a cheap machine without torch, so that no GPU waits for this work.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.datasets.refusal import Refused
from gemtune.errors import NeedsLargerMachine, StepError
from gemtune.jobs.record import JobWarning, StepResult
from gemtune.machines import choice
from gemtune.machines.memory import memory_for_export
from gemtune.request.exports import EXPORTS
from gemtune.request.placement import load_of
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.schedule import warmup_problem
from gemtune.request.spec import DEFAULT_SEQ_LENGTH, TrainingConfig
from trainer.base_model import continuation, folder_contents, location
from trainer.context import Context
from trainer.dataset import source
from trainer.dataset.rows import read_rows
from trainer.dataset.source import Dataset
from trainer.gguf import conversion
from trainer.pictures.arrow_file import PictureFile
from trainer.pictures.sources import PictureSource
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import RowKind, row_kind
from trainer.rows.packing import packs
from trainer.rows.prepared import TokenFile, prompts_per_step, read_tokens, row_lengths, total_train_steps
from trainer.rows.tally import Tally
from trainer.store import manifest

log = logging.getLogger(__name__)

SAMPLES = 3
# A dataset without a split for evaluation has this fraction of its rows held out, up to a sufficient number.
EVAL_SHARE, MAX_EVAL_ROWS = 0.1, 500


def run(context: Context) -> None:
    """Write `prepared/<attempt>/`.

    The folder holds train.parquet, eval.parquet, prepared.json, report.json and, in vision jobs, pictures.arrow. Raises
    StepError for data or a base model that cannot be trained on, and StopRequested.
    """
    config = context.spec.training_config
    dataset = source.find(context.buckets.data, context.spec.processed_dataset_id)
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
    _check_vision_tower(config, model_config)
    encoder = Encoder(
        folder, max_length=max_length, vocab_size=folder_contents.vocab_size(model_config), pictures=pictures
    )

    output = context.work / "prepared"
    output.mkdir()
    picture_source = PictureSource(context.buckets.data, dataset.folder)
    held_out: Tally | None = None
    file = output / "pictures.arrow"
    with nullcontext() if pictures is None else PictureFile(file, picture_source, pictures.grid) as picture_file:
        kind = row_kind(config, encoder, picture_file, max_length=max_length, options=context.spec.read_options)
        train = Tally("train", dataset.splits.train, max_length, max_positions)
        _write_tokens(context, dataset, kind, output / "train.parquet", train)
        if dataset.splits.held_out:
            held_out = Tally("held-out", dataset.splits.held_out, max_length, max_positions)
            _write_tokens(context, dataset, kind, output / "eval.parquet", held_out)
    eval_rows = held_out.kept_rows if held_out else 0
    if held_out is None and config.eval_strategy != "no":
        eval_rows = _hold_out_rows(output, kind.columns, train.kept_rows, seed=config.seed)
    rows = train.kept_rows - (0 if held_out else eval_rows)
    train.check_ends()
    _check_prompt_count(config, rows)
    longest_row = max(tally.longest for tally in (train, held_out) if tally is not None)
    machine, export_machine = _choose_machines(context, provided, longest_row)
    packed = len(packs(row_lengths(output / "train.parquet"), max_length)) if config.packing else rows
    train_steps = total_train_steps(config, packed)
    _check_warmup(config, train_steps)

    summary = {
        "base_model": provided,
        "base_digests": _base_digests(context, provided, folder),
        "base_dtype": _base_dtype(context, model_config),
        "rows": rows,
        "eval_rows": eval_rows,
        "packs": packed,
        "max_seq_length": max_length,
        "machine": machine,
        "total_train_steps": train_steps,
        "chat_template": encoder.template_source,
        "pictures": None if picture_file is None else len(picture_file),
    }
    warnings = (*train.warnings(), *_export_warnings(context, model_config))
    _write_report(output, summary, warnings, train, held_out)
    manifest.publish(context.buckets.export, output, f"{context.prefix}/prepared/{context.fence.attempt}")
    log.info("%d rows to train on, %d held out, %d refused", rows, eval_rows, train.refused_rows)
    result = StepResult(machine=machine, export_machine=export_machine, warnings=warnings)
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


def _write_report(
    output: Path, summary: Mapping[str, Any], warnings: Sequence[JobWarning], train: Tally, held_out: Tally | None
) -> None:
    """Write prepared.json and report.json, and log the warnings."""
    report = {**summary, "warnings": [warning.model_dump() for warning in warnings]}
    report |= {"train": train.to_json(), "eval": held_out.to_json() if held_out else None}
    report["samples"] = train.samples
    (output / "prepared.json").write_text(json.dumps(summary, indent=1))
    (output / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    for warning in warnings:
        log.warning("%s; %s", warning.message, warning.hint)


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


def _check_vision_tower(config: TrainingConfig, model_config: Mapping[str, Any]) -> None:
    """Raise StepError `vision_tower_frozen` if the tower cannot be trained."""
    family_and_type = families.of_config(model_config)
    reason = None if family_and_type is None else family_and_type[0].why_tower_is_frozen
    if config.train_vision_tower and reason is not None:
        raise StepError("vision_tower_frozen", reason, hint="set train_vision_tower to false")


def _write_tokens(context: Context, dataset: Dataset, kind: RowKind, target: Path, tally: Tally) -> None:
    """Tokenize a split and write the rows that can be trained on.

    Raises StepError `bad_dataset`, `empty_dataset`, `bad_rows`.
    """
    with TokenFile(target, kind.columns) as tokens:
        for file in tally.files:
            with dataset.open(file, context.work) as path:
                for number, row in read_rows(path, with_pictures=kind.with_pictures, named=file):
                    context.check_stop()
                    prepared = row if isinstance(row, Refused) else kind.encode(row)
                    if isinstance(prepared, Refused):
                        tally.refuse(file, number, prepared.reason)
                        continue
                    tokens.add(prepared.columns)
                    tally.add(prepared)
                    if len(tally.samples) < SAMPLES:
                        tally.samples.append(kind.text_pieces(prepared))
    tally.check()


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


def _hold_out_rows(output: Path, columns: Sequence[str], rows: int, *, seed: int) -> int:
    """Move random rows of train.parquet to eval.parquet; return how many.

    The same seed holds out the same rows. Raises StepError `too_few_rows`.
    """
    if rows < 2:
        hint = "add rows, or set eval_strategy to no"
        raise StepError("too_few_rows", "one row cannot be both trained on and held out", hint=hint)
    count = min(MAX_EVAL_ROWS, max(1, round(rows * EVAL_SHARE)))
    held_out = set(random.Random(seed).sample(range(rows), count))
    train_path = output / "train.parquet"
    train_path.rename(output / "all.parquet")
    with TokenFile(train_path, columns) as train, TokenFile(output / "eval.parquet", columns) as evaluation:
        for index, row in enumerate(read_tokens(output / "all.parquet")):
            (evaluation if index in held_out else train).add(row)
    (output / "all.parquet").unlink()
    return count
