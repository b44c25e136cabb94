"""The command `try`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gemtune.cli.answers import child
from gemtune.cli.answers.checkpoint import CheckpointReference, train_step_of
from gemtune.cli.answers.display import Display
from gemtune.cli.answers.location import Choice, located
from gemtune.cli.answers.rows import RowsFile, training_columns
from gemtune.cli.answers.session import Session
from gemtune.cli.connection import INTERRUPTED, REFUSED, Connection
from gemtune.cli.connection.completing import complete_checkpoints, job_argument
from gemtune.cli.connection.text import echo_message
from gemtune.cli.request.paths import LocalPath
from gemtune.datasets.files.kinds import KINDS, kind_of
from gemtune.datasets.files.text_encoding import mark_of
from gemtune.request.exports import EXPORTS

# Tokens of an answer, so that a model that never ends its answers stops nevertheless.
MAX_TOKENS = 256
MAX_SEED = 2**32 - 1
FILE = LocalPath(exists=True, dir_okay=False)


@click.command("try")
@job_argument
@click.argument("prompt", required=False)
@click.option("--file", "file", type=FILE, help="Ask each line of a text file, or each row of JSONL, CSV, Parquet, …")
@click.option("--image", "images", type=FILE, multiple=True, help="Show a picture with the prompt; may be repeated.")
@click.option("--audio", "clips", type=FILE, multiple=True, help="Send audio with the prompt; may be repeated.")
@click.option("--base", "with_base", is_flag=True, help="Let the base model answer, too, without the training.")
@click.option(
    "--checkpoint",
    type=CheckpointReference(),
    shell_complete=complete_checkpoints,
    help="Ask a checkpoint of the training: best, newest, or a train_step (`gemtune checkpoints` lists them).",
)
@click.option("--base-model", metavar="MODEL", help="Base model of an adapter that is downloaded (folder or Hub id).")
@click.option(
    "--format", "format_", type=click.Choice(tuple(EXPORTS), case_sensitive=False), help="Ask the exported files."
)
@click.option("--system", metavar="TEXT", help="System message in front of each conversation.")
@click.option("--thinking", is_flag=True, help="Let the model think, and show its thoughts on standard error.")
@click.option("--max-tokens", type=click.IntRange(1), default=MAX_TOKENS, show_default=True, help="Tokens per answer.")
@click.option("--temperature", type=click.FloatRange(0.0, 10.0), help="Draw tokens at random; 0 takes the likeliest.")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), help="Draw among the likeliest tokens only.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Seed of the random draws.")
@click.pass_obj
def try_(connection: Connection, /, job: str, prompt: str | None, **options: Any) -> None:
    """Ask the model that a job trained, on this workstation.

    The files of a job of another machine are downloaded into the cache first.

    The answer is printed while it is generated, with the chat template and the end tokens of the training. Each token
    is the likeliest one, unless --temperature or --top-p is given. Without PROMPT and --file, lines of standard input
    are the turns of a conversation.
    """
    drawing, file = _drawing(options), options["file"]
    if file is not None and (prompt is not None or options["images"] or options["clips"]):
        message = "--file has the prompts, their pictures and audio: leave out PROMPT, --image and --audio"
        raise click.UsageError(message)
    if prompt is not None and not prompt.strip() and not (options["images"] or options["clips"]):
        raise click.UsageError("PROMPT is empty: say what to ask, or leave it out for a conversation")
    if options["checkpoint"] is not None and options["format_"] is not None:
        raise click.UsageError("--checkpoint asks weights of the training, and --format exported files: leave out one")
    lines = None if file is None or kind_of(file.name) is not None else _lines_of(file)
    job_id = connection.find_job(job)
    status = connection.call("GET", f"/jobs/{job_id}/status")
    checkpoint = None if options["checkpoint"] is None else train_step_of(connection, job_id, options["checkpoint"])
    choice = Choice(options["format_"], checkpoint, options["base_model"])
    display = Display(connection.as_json, connection.quiet, options["thinking"])
    arguments, environment = located(connection, status, choice)
    display.note(f"Loading {status['base_model_id']} as {job_id} trained it …")
    fields = {**drawing, "max_tokens": options["max_tokens"], "thinking": options["thinking"]}
    try:
        with child.start(arguments, environment) as process:
            process.wait_until_ready()
            session = Session(
                process,
                display,
                fields,
                options["with_base"],
                options["system"],
                images=tuple(options["images"]),
                clips=tuple(options["clips"]),
            )
            rows = None if file is None or lines is not None else RowsFile(file, training_columns(connection, status))
            failures = _ask(session, prompt, rows, lines)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    if failures:
        if not connection.as_json:
            echo_message(f"{failures} {'prompt was' if failures == 1 else 'prompts were'} not answered")
        raise click.exceptions.Exit(REFUSED)


def _ask(session: Session, prompt: str | None, rows: RowsFile | None, lines: Sequence[str] | None) -> int:
    """Ask what the command line says; return how many prompts failed.

    lines: of a file of text.
    """
    if lines is not None:
        return session.ask_lines(lines)
    if rows is not None:
        return session.ask_rows(rows)
    if prompt is None:
        return session.converse()
    session.ask_once(prompt)
    return 0


def _lines_of(file: Path) -> list[str]:
    """Return the lines of a file of text, which a byte order mark may begin.

    Raises click.UsageError for another file.
    """
    content = file.read_bytes()
    mark = mark_of(content)
    try:
        text = content[len(mark.content) :].decode(mark.encoding)
    except UnicodeDecodeError as error:
        endings = ", ".join(kind.suffix for kind in KINDS)
        message = f"{file} is neither text in UTF-8 ({error.reason}) nor a file of rows, whose name ends in {endings}"
        raise click.UsageError(message) from None
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def _drawing(options: dict[str, Any]) -> dict[str, Any]:
    """Return how tokens are drawn, as fields of a question.

    Raises click.UsageError for options without an effect.
    """
    temperature, top_p, seed = options["temperature"], options["top_p"], options["seed"]
    if temperature == 0.0 and top_p is not None:
        raise click.UsageError("--temperature 0 takes the likeliest token each time: leave out --top-p")
    if seed is not None and top_p is None and not temperature:
        raise click.UsageError("--seed needs --temperature or --top-p: without them no token is drawn at random")
    return {"temperature": temperature or None, "top_p": top_p, "seed": seed}


COMMANDS = {"try": try_}
