"""Tokenization of a whole dataset, as a job and a check of the dataset do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from gemtune.errors import StepError
from gemtune.jobs.parts.plan import Workload
from gemtune.jobs.parts.results import JobWarning
from gemtune.request.rl_spec import GrpoConfig, KtoConfig
from gemtune.request.schedule import warmup_problem
from gemtune.request.spec import Spec
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH, TrainingConfig
from trainer.base_model import folder_contents
from trainer.dataset.source import Dataset
from trainer.new_tokens import tokenizer
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import RowKind, row_kind
from trainer.rows.labelled_answers import label_warnings
from trainer.rows.packing import packs
from trainer.rows.prepared import prompts_per_step, row_lengths, total_train_steps
from trainer.splits.columns import NamedColumns
from trainer.splits.held_out import hold_out
from trainer.splits.left_out import LeftOutRows
from trainer.splits.media import media_of
from trainer.splits.report import Report
from trainer.splits.tally import SAMPLES, Limits, Tally
from trainer.splits.writer import WatchRow, ignore_row, write_split


@dataclass(frozen=True, slots=True)
class Tokenization:
    """Rows to tokenize, and where the results go.

    model_folder: with the small files of the base model at least. output: folder for the results. work: folder for
    copies of the dataset's files. place: where the results will be, for users. check_stop: called for every row.
    """

    spec: Spec
    dataset: Dataset
    model_folder: Path
    output: Path
    work: Path
    place: Callable[[str], str]
    check_stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tokenized rows of a dataset, and what became of each row.

    max_length: tokens that a row may have. media: number of pictures or audio clips, or None in a
    text job. chat_template: its
    file, or the name of gemtune's own.
    """

    report: Report
    kind: RowKind
    max_length: int
    media: int | None
    chat_template: str


@dataclass(frozen=True, slots=True)
class Amounts:
    """Amounts of a training, and warnings about its labels.

    packed: rows per epoch, or packs if rows are packed.
    """

    packed: int
    train_steps: int
    warnings: tuple[JobWarning, ...]


def tokenize(
    rows: Tokenization, watch_with: Callable[[RowKind, Encoder], WatchRow] | None = None, *, samples: int = SAMPLES
) -> Tokenized:
    """Write train.parquet, eval.parquet, rows_left_out.jsonl and a media file.

    eval.parquet is written if the dataset has a held-out split, pictures.arrow in a vision job, audio.arrow in an audio
    job, and the tokenizer if the request adds tokens to it. watch_with: returns the function to call with every row.
    samples: rows of each split to keep as text. Raises StepError for a dataset or a base model that cannot be read, and
    what `check_stop` raises.
    """
    config, folder = rows.spec.training_config, rows.model_folder
    model_config = folder_contents.config_of(folder)
    requested = config.max_seq_length or DEFAULT_SEQ_LENGTH
    # Gemma 3 4B and larger do not state their 131,072 positions; max_seq_length cannot exceed that anyway.
    max_positions = folder_contents.max_positions(model_config)
    max_length = min(requested, max_positions or requested)
    media = media_of(rows.spec.modality, folder, model_config)
    vocab_size = folder_contents.vocab_size(model_config)
    if config.new_tokens is not None:
        new_tokens = tokenizer.add(folder, config.new_tokens, rows.output)
        folder = tokenizer.with_new_tokens(folder, rows.output, rows.work / "base_with_new_tokens")
        vocab_size = None if vocab_size is None else new_tokens.rows_after(vocab_size)
    encoder = Encoder(
        folder,
        max_length=max_length,
        vocab_size=vocab_size,
        media=None if media is None else media.tokens,
        cuts=config.too_long == "cut",
    )
    limits = Limits(max_length, max_positions, config.too_long)
    with nullcontext() if media is None else media.file(rows.output, rows.dataset.folder) as media_file:
        kind = row_kind(config, encoder, media_file, max_length=max_length, options=rows.spec.read_options)
        watch = ignore_row if watch_with is None else watch_with(kind, encoder)
        report = _write_splits(rows, kind, limits, watch, samples)
        if media_file is not None:
            report.media_read = media_file.source.files_read
    count = None if media_file is None else len(media_file)
    return Tokenized(report, kind, max_length, count, encoder.template_source)


def hold_out_and_count(tokenized: Tokenized, config: TrainingConfig, output: Path) -> Amounts:
    """Hold rows out where that is needed, and count the work of the training.

    Raises StepError if the rows cannot be trained on: `no_such_column`, `empty_dataset`, `bad_rows`, `rows_too_long`,
    `ends_cut_off`, `too_few_rows`, `one_label`, `warmup_without_end`.
    """
    report = tokenized.report
    report.check()
    if not report.dataset.splits.held_out and config.eval_strategy != "no":
        report.moved = hold_out(output, tokenized.kind.columns, report.train.rows, seed=config.seed)
    _check_prompt_count(config, report.train_rows)
    warnings = tuple(_label_warnings(config, output / "train.parquet"))
    packed = report.train_rows
    if config.packing:
        packed = len(packs(row_lengths(output / "train.parquet"), tokenized.max_length))
    train_steps = total_train_steps(config, packed)
    _check_warmup(config, train_steps)
    return Amounts(packed, train_steps, warnings)


def workload_of(config: TrainingConfig, report: Report, amounts: Amounts) -> Workload:
    """Return the amount of work of the training."""
    rows = report.summary()
    if isinstance(config.rl_config, GrpoConfig):
        completions = amounts.train_steps * config.batch_size * config.gradient_accumulation_steps
        per_completion = rows.tokens / max(1, rows.train) + config.rl_config.max_completion_length
        tokens = round(completions * per_completion)
    else:
        one_epoch = config.model_copy(update={"max_steps": None, "epochs": 1})
        tokens = round(rows.tokens * amounts.train_steps / max(1, total_train_steps(one_epoch, amounts.packed)))
    return Workload(
        train_steps=amounts.train_steps, tokens=tokens, longest_row=report.longest_row, rows_tokens=report.tokens
    )


def _write_splits(rows: Tokenization, kind: RowKind, limits: Limits, watch: WatchRow, samples: int) -> Report:
    """Write the token files of the dataset's splits; return their report.

    Raises StepError `bad_dataset`.
    """
    splits, output, columns = rows.dataset.splits, rows.output, NamedColumns(rows.spec.dataset_columns)
    with LeftOutRows(output) as left_out:
        train = Tally("train", splits.train, limits, left_out, wanted_samples=samples)
        write_split(rows.dataset, kind, output / "train.parquet", train, columns, rows.work, rows.check_stop, watch)
        held_out = None
        if splits.held_out:
            held_out = Tally("held-out", splits.held_out, limits, left_out, wanted_samples=samples)
            write_split(
                rows.dataset, kind, output / "eval.parquet", held_out, columns, rows.work, rows.check_stop, watch
            )
    return Report(rows.place, rows.dataset, train, held_out, columns)


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
