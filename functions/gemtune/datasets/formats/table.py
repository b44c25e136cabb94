"""Table of the formats of rows, by which a row is recognized and read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gemtune.datasets import turn_order
from gemtune.datasets.choices import COLUMNS as OF_CHOICES
from gemtune.datasets.conversation import Conversation
from gemtune.datasets.exports.chatgpt import CHATGPT
from gemtune.datasets.exports.claude import CLAUDE
from gemtune.datasets.formats.alpaca import ALPACA
from gemtune.datasets.formats.anthropic import ANTHROPIC
from gemtune.datasets.formats.exchanges import EXCHANGES
from gemtune.datasets.formats.glaive import GLAIVE
from gemtune.datasets.formats.openai import OPENAI
from gemtune.datasets.formats.prompt_completion import PROMPT_COMPLETION
from gemtune.datasets.formats.question_answer import QUESTION_ANSWER
from gemtune.datasets.formats.sharegpt import SHAREGPT
from gemtune.datasets.formats.text import TEXT
from gemtune.datasets.formats.vertex import VERTEX
from gemtune.datasets.formats.xlam import XLAM
from gemtune.datasets.reading import advice, media
from gemtune.datasets.reading.fields import HARMLESS, UNSUPPORTED, Fields, Reading, is_missing, names_in, shown
from gemtune.datasets.reading.names import check_names
from gemtune.datasets.reading.shape import Content, Format, Row
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.datasets.row_options import ReadOptions, StatedFormat
from gemtune.datasets.tagged.calls import read_tagged_calls

FORMATS: tuple[Format, ...] = (
    OPENAI,
    ANTHROPIC,
    VERTEX,
    SHAREGPT,
    EXCHANGES,
    PROMPT_COMPLETION,
    QUESTION_ANSWER,
    ALPACA,
    XLAM,
    GLAIVE,
    CHATGPT,
    CLAUDE,
    TEXT,
)
BY_NAME: Mapping[StatedFormat, Format] = {each.name: each for each in FORMATS}
# Fields that `dataset_columns` can give other names.
FIELDS = frozenset((*media.COLUMNS, *(name for each in FORMATS for name in each.fields)))
# Fields that stand beside those by which a format is told.
_BESIDE = frozenset(("system", "system_prompt", "tools", "functions", "chat_template_kwargs", "enable_thinking"))
# Fields that only rows of RL have.
OF_RL = frozenset(("chosen", "rejected", "preferred_output", "non_preferred_output"))
# Names of fields in the case that formats have them in, by the same in lower case.
_USUAL_CASE = {name.casefold(): name for name in (*HARMLESS, *UNSUPPORTED, *OF_CHOICES, *OF_RL, *FIELDS)}
# Fields that belong together, each pair in both orders: a row with the first needs the second.
PAIRS = tuple(
    pair
    for first, second in (("prompt", "completion"), ("question", "answer"), ("instruction", "output"))
    for pair in ((first, second), (second, first))
)


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row that was read.

    format: the name of its format. unread_fields: names of its fields that cannot change what is learned.
    """

    content: Content
    format: str
    unread_fields: tuple[str, ...] = ()


def read(row: Mapping[str, Any], options: ReadOptions | None = None) -> ReadRow | Refused:
    """Return the content of a row, or why it is refused."""
    options = options or ReadOptions()
    reading = Reading(options)
    try:
        named = renamed(row, options)
        chosen = format_of(named, options)
        fields = Fields(named, reading)
        content = chosen.read(fields)
        if isinstance(content, Conversation):
            turns = read_tagged_calls(content.turns, fields, tools=content.tools)
            content = media.place_media(content.with_turns(turns), fields)
            content = turn_order.checked(content, same_role=options.same_role)
            if not any(turn.role == "assistant" for turn in content.turns):
                raise BadRow(
                    "no message of the assistant, which is what is learned; prompts without answers are for method RL "
                    "with GRPO"
                )
            check_names(reading, content.turns)
            fields.leave_repeated({turn.content for turn in content.turns if isinstance(turn.content, str)})
        fields.close()
    except BadRow as bad:
        return Refused(str(bad))
    return ReadRow(content, chosen.name, tuple(reading.unread))


def renamed(row: Mapping[str, Any], options: ReadOptions, *, keep: Collection[str] = ()) -> dict[str, Any]:
    """Return a row whose fields have the names that formats expect.

    keep: names that stay whatever their case. Raises BadRow if the row has another field of a name that the request
    gives to one.
    """
    present = {name: value for name, value in row.items() if not is_missing(value)}
    named = _by_own_names(present, options) if options.columns else present
    return named if all(map(str.islower, named)) else _in_usual_case(named, options, keep)


def _by_own_names(row: Row, options: ReadOptions) -> dict[str, Any]:
    """Return a row whose fields have the names that the request gives them.

    Raises BadRow if the row has another field of such a name.
    """
    for name, column in options.columns.items():
        if column is None or column == name or column not in row:
            continue
        if name in row and name not in options.columns.values():
            raise BadRow(f"the row has a field {shown(name)} beside {shown(column)}, which dataset_columns calls so")
    own_names = {column: name for name, column in options.columns.items() if column is not None}
    return {own_names.get(name, name): value for name, value in row.items()}


def _in_usual_case(row: Row, options: ReadOptions, keep: Collection[str]) -> dict[str, Any]:
    """Return a row whose fields are written as formats write them.

    Spreadsheets have Prompt and Completion. A name stays if the row has the usual one too, or if the request has it.
    """
    named: dict[str, Any] = {}
    for name, value in row.items():
        usual = usual_name(name)
        collides = usual in row or usual in named or options.columns.get(usual) is not None
        named[name if collides or name in keep or name in options.columns else usual] = value
    return named


def usual_name(name: str) -> str:
    """Return the name of a field in the case that formats have it in."""
    return _USUAL_CASE.get(name.strip().casefold(), name)


def format_of(row: Row, options: ReadOptions) -> Format:
    """Return the format of a row.

    It is the stated one, else the only one whose shape the row has. Raises BadRow.
    """
    if options.format is not None:
        if options.format not in BY_NAME:
            raise BadRow(f"dataset_format {options.format} is one of rows of RL; this training is supervised")
        return BY_NAME[options.format]
    ignored = options.ignored
    visible = {name: value for name, value in row.items() if name not in ignored} if ignored else row
    fitting = [each for each in _with_fields(FIELDS.intersection(visible)) if each.fits(visible)]
    if not fitting:
        raise BadRow(_no_format(visible, options.columns))
    if len(fitting) > 1:
        names = " and ".join(each.name for each in fitting)
        others = {each.name: ", ".join(f"{name}: null" for name in _of_others(visible, each)) for each in fitting}
        nulls = ", ".join(f"{{{pairs}}} for {name}" for name, pairs in others.items() if pairs)
        raise BadRow(
            f"the row fits the formats {names}: set dataset_format to one of them, and in dataset_columns the fields "
            f"of the others to null: {nulls}"
        )
    return fitting[0]


@lru_cache(maxsize=64)  # rows of a dataset mostly have the same fields
def _with_fields(names: frozenset[str]) -> tuple[Format, ...]:
    """Return the formats that have one of these fields for themselves.

    names: those among FIELDS, since a row may have any number of others, and these are kept.
    """
    return tuple(each for each in FORMATS if names & ({*each.fields} - _BESIDE))


def _of_others(row: Row, chosen: Format) -> list[str]:
    """Return the fields of a row that only other formats read."""
    return [name for name in row if name in FIELDS and name not in (*chosen.fields, *media.COLUMNS)]


def _no_format(row: Row, columns: Mapping[str, str | None]) -> str:
    """Return why a row has no format.

    columns: the row's own name of each field, or None for a field to ignore.
    """
    if OF_RL & set(row) or {"prompt", "answer"} <= set(row):
        return "this is a row for RL; supervised training needs messages, or prompt and completion"
    if not row:
        return "an empty row"
    near = advice.columns_for(row, FIELDS)
    alone = next((pair for pair in PAIRS if pair[0] in row and not near), None)
    if alone is not None and advice.of_shape(row) is None:
        own_fields = {
            *media.COLUMNS,
            *(name for each in FORMATS if set(alone) <= set(each.fields) for name in each.fields),
        }
        unknown = [name for name in row if name not in own_fields]
        if (column := columns.get(alone[1])) is not None:
            names = names_in({columns.get(name) or name: value for name, value in row.items()})
            return (
                f"the row has no {shown(column)}, or an empty one, which dataset_columns says is its {alone[1]}; "
                f"it has {names}"
            )
        message = f"the row has {alone[0]} and no {alone[1]}, or an empty one; it has {names_in(row)}"
        if not unknown:
            return message
        example = f"{{{alone[1]}: {shown(unknown[0]) if len(unknown) == 1 else '…'}}}"
        return f"{message}: if {alone[1]} has another name, set dataset_columns, such as {example}"
    needs = "supervised training needs messages, or prompt and completion"
    return advice.why_no_format(row, needs, near, "prompt: …, completion: …, …: null")
