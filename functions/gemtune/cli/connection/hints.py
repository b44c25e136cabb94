"""Hints of the API in the words of the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from functools import partial

from gemtune.client.references import WHOLE_ID, short_id

# Requests of the API that hints name, and the commands for them.
COMMANDS_OF_REQUESTS = (
    (
        re.compile(r"`?POST /jobs/([^/\s`]+)/resume`? with max_cost_usd above"),
        r"`gemtune resume \1 --max-cost-usd` above",
    ),
    (re.compile(r"`?POST /jobs/([^/\s`]+)/resume`? with max_hours above"), r"`gemtune resume \1 --max-hours` above"),
    (re.compile(r"`?POST /jobs/([^/\s`]+)/(cancel|pause|resume)`?"), r"`gemtune \2 \1`"),
    (re.compile(r"`?POST /jobs/([^/\s`]+)/exports`?"), r"`gemtune export \1`"),
    (re.compile(r"`?GET /jobs/([^/\s`]+)/(status|events|artifacts|metrics|checkpoints)`?"), r"`gemtune \2 \1`"),
    (re.compile(r"`?DELETE /jobs/([^/\s`]+)`?"), r"`gemtune delete \1`"),
    (re.compile(r"`?GET /jobs\b`?"), "`gemtune jobs`"),
    (re.compile(r"`?GET /models\b`?"), "`gemtune models`"),
    (re.compile(r"`?POST /datasets/([^/\s`]+)/check`?"), r"`gemtune data check \1`"),
    (re.compile(r"`?GET /datasets/([^/\s`:]+)`?"), r"`gemtune data show \1`"),
    (re.compile(r"`?GET /datasets\b`?"), "`gemtune data list`"),
)
# Id of a job in a command, whose last part suffices.
JOB_IN_COMMAND = re.compile(rf"(?<=`gemtune )([a-z]+) ({WHOLE_ID.pattern})")
# Advice about names of columns in reasons and hints, and its words here. Pairs are written as `prompt: Question`.
SETTING_OF_COLUMNS = re.compile(
    r"set dataset_columns(, such as| to) \{(?P<pairs>[^{}]+)\}(, with null for each field to ignore)?"
)
ADDITION_OF_COLUMNS = re.compile(r"add \{(?P<pairs>[^{}]+)\} to dataset_columns")
IGNORED_COLUMNS = re.compile(r"ignore (?P<what>it|the other) in dataset_columns,( such)? as \{(?P<pairs>[^{}]+)\}")
MEANING_OF_COLUMNS = re.compile(r"say in dataset_columns what (?P<what>it is|they are)")
# A value that the reader has to fill in, and the column of such a pair.
ANY = "…"
Columns = Mapping[str, str | None]


def as_commands(hint: str) -> str:
    """Return a hint of the API with commands and options of the command line."""
    for request, command in COMMANDS_OF_REQUESTS:
        hint = request.sub(command, hint)
    hint = JOB_IN_COMMAND.sub(lambda match: f"{match[1]} {short_id(match[2])}", hint)
    for pattern, write in (
        (SETTING_OF_COLUMNS, _setting),
        (ADDITION_OF_COLUMNS, lambda columns, match: f"add {_options(columns)}"),
        (IGNORED_COLUMNS, lambda columns, match: f"ignore {match['what']} with {_options(columns)}"),
    ):
        hint = pattern.sub(partial(_with_columns, write), hint)
    return MEANING_OF_COLUMNS.sub(r"say what \g<what> with --column FIELD=COLUMN", hint)


def _with_columns(write: Callable[[Columns, re.Match[str]], str], match: re.Match[str]) -> str:
    """Return advice about columns for the command line.

    The advice stays as it is if the name of a column makes it ambiguous.
    """
    pairs = [pair.partition(": ") for pair in match["pairs"].split(", ")]
    if any(not separator for _, separator, _ in pairs):
        return match[0]
    return write({name: None if column == "null" else column for name, _, column in pairs}, match)


def _setting(columns: Columns, match: re.Match[str]) -> str:
    used = {name: column for name, column in columns.items() if name != ANY}
    more = "" if match[3] is None else ", and --ignore COLUMN for each one to ignore"
    return f"use {_options(used)}{more}"


def _options(columns: Columns) -> str:
    return " ".join(_option(name, column) for name, column in columns.items())


def _option(name: str, column: str | None) -> str:
    if column is None:
        return f"--ignore {shlex.quote(name)}"
    return f"--column {name}=COLUMN" if column == ANY else f"--column {shlex.quote(f'{name}={column}')}"
