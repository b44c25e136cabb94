"""Reading of rows of reinforcement learning."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gemtune.datasets import choices
from gemtune.datasets.choices import choice_of
from gemtune.datasets.formats import table
from gemtune.datasets.reading import advice, media
from gemtune.datasets.reading.fields import UNSUPPORTED, Fields, Reading, cell_text, names_in, shown, unicode_text
from gemtune.datasets.reading.names import check_names
from gemtune.datasets.reading.tools import structured
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.datasets.rl.answers import PROMPTS, checked_prompt, read_prompt
from gemtune.datasets.rl.contents import Labelled, Pair, Question
from gemtune.datasets.rl.formats import FIELDS, LABELLED_ROWS, PAIRS, RlFormat
from gemtune.datasets.row_options import RL_FORMATS, ReadOptions

Content = TypeVar("Content", Pair, Labelled)
AnyContent = TypeVar("AnyContent", Pair, Labelled, Question)
# Fields of rows of other methods, which no reward can be about.
OF_OTHERS = (
    "completion",
    "response",
    "chosen",
    "rejected",
    "preferred_output",
    "non_preferred_output",
    "completions",
    "label",
)


@dataclass(frozen=True, slots=True)
class RlRow(Generic[AnyContent]):
    """A row that was read.

    format: the name of its format. unread_fields: names of its fields that cannot change what is learned.
    """

    content: AnyContent
    format: str
    unread_fields: tuple[str, ...] = ()


def read_pair(row: Mapping[str, Any], options: ReadOptions) -> RlRow[Pair] | Refused:
    """Return a row of DPO, or why it is refused."""
    return _read(row, options, PAIRS, "DPO needs prompt, chosen and rejected")


def read_labelled(row: Mapping[str, Any], options: ReadOptions) -> RlRow[Labelled] | Refused:
    """Return a row of KTO, or why it is refused."""
    return _read(row, options, LABELLED_ROWS, "KTO needs prompt, completion and label")


def _read(
    row: Mapping[str, Any], options: ReadOptions, formats: Sequence[RlFormat[Content]], needs: str
) -> RlRow[Content] | Refused:
    reading = Reading(options)
    try:
        named = table.renamed(row, options)
        chosen = _format_of(named, options, formats, needs)
        fields = Fields(named, reading)
        content = chosen.read(fields)
        check_names(reading, content.turns)
        fields.close(harmless=chosen.harmless)
    except BadRow as bad:
        return Refused(str(bad))
    return RlRow(content, chosen.name, tuple(reading.unread))


def _format_of(
    row: Mapping[str, Any], options: ReadOptions, formats: Sequence[RlFormat[Content]], needs: str
) -> RlFormat[Content]:
    """Return the format of a row.

    It is the stated one, else the only one that fits. Raises BadRow.
    """
    if options.format is not None:
        stated = next((each for each in formats if each.name == options.format), None)
        if stated is None:
            raise BadRow(f"dataset_format {options.format} is one of other rows; {needs}")
        return stated
    visible = {name: value for name, value in row.items() if name not in options.ignored}
    fitting = [each for each in formats if each.fits(visible)]
    if len(fitting) > 1:
        names = " and ".join(each.name for each in fitting)
        raise BadRow(
            f"the row fits the formats {names}: set dataset_format to one of them, and in dataset_columns the fields "
            "of the others to null"
        )
    if not fitting:
        fields = {name for each in formats for name in each.fields}
        columns = advice.columns_for(visible, fields)
        raise BadRow(_method_of(visible) + advice.why_no_format(visible, needs, columns, "prompt: …, …: null"))
    return fitting[0]


def _method_of(row: Mapping[str, Any]) -> str:
    """Return how a refusal begins: with the method that a row is for."""
    method = method_of(row)
    return f"this is a row for {method}; " if method else ""


def method_of(row: Mapping[str, Any]) -> str:
    """Return the name of the method that a row is for, or nothing."""
    columns = {"chosen", "rejected", "preferred_output", "non_preferred_output", "completions"}
    if columns & set(row) or choice_of(row) is not None:
        return "DPO"
    if "label" in row:
        return "KTO"
    if {"messages", "completion", "response", "conversations", "contents", "text"} & set(row):
        return "supervised training"
    return "GRPO" if "answer" in row else ""


def read_question(row: Mapping[str, Any], options: ReadOptions, answers: Collection[str]) -> RlRow[Question] | Refused:
    """Return a row of GRPO, or why it is refused.

    answers: the columns that rewards compare with. Other columns are not read if no format gives them a meaning.
    """
    reading = Reading(options)
    try:
        if options.format not in (None, *RL_FORMATS["grpo"]):
            raise BadRow(f"dataset_format {options.format} is one of other rows than GRPO's")
        row = table.renamed(row, options, keep={path.split(".")[0] for path in answers})
        fields = Fields(row, reading)
        _refuse_other_methods(fields, row, answers)
        prompt = read_prompt(fields)
        if not prompt.turns:
            columns = advice.columns_for(row, PROMPTS)
            needs = "GRPO needs prompt (and answer)"
            raise BadRow(_method_of(row) + advice.why_no_format(row, needs, columns, "prompt: …, …: null"))
        if {"messages", "conversations"} & set(row) and prompt.turns[-1].role == "assistant":
            raise BadRow(f"{_method_of(row)}GRPO needs a prompt that ends with a message of the user")
        prompt = checked_prompt(prompt, options.same_role)
        content = Question(prompt, {name: _answer(fields, name, row) for name in sorted(answers)})
        check_names(reading, prompt.turns)
        _count_beside(fields, answers)
        fields.close(harmless=frozenset(row) - _with_a_meaning())
    except BadRow as bad:
        return Refused(str(bad))
    return RlRow(content, "prompt", tuple(reading.unread))


def _refuse_other_methods(fields: Fields, row: Mapping[str, Any], answers: Collection[str]) -> None:
    """Raise BadRow for a row whose completion is given."""
    column = next((name for name in OF_OTHERS if name not in answers and name in fields), None)
    if column is not None:
        raise BadRow(
            f"this is a row for {method_of(row) or 'another method'}: GRPO samples completions itself; the row has "
            f"{names_in(row)}"
        )


# Columns with answers, and names that mean something within messages only.
_OF_ROWS_FOR_GRPO = {"answer", "answers", "name", "role", "user", "assistant"}


def _with_a_meaning() -> frozenset[str]:
    """Return the names of fields that mean something to another format.

    Only rewards could use further columns, so those of other names are not read.
    """
    of_pairs = FIELDS - frozenset(choices.COLUMNS)  # a column preference says nothing without both answers
    return (frozenset(UNSUPPORTED) | table.FIELDS | of_pairs | frozenset(media.COLUMNS)) - _OF_ROWS_FOR_GRPO


def _answer(fields: Fields, column: str, row: Mapping[str, Any]) -> str:
    """Return what a reward compares with, as text. Raises BadRow."""
    value = fields.take(column) if column in fields else _value_inside(fields, column)
    if value is None:
        raise BadRow(
            f"no {column}, which a reward needs to compare with; the row has {names_in(row)}: if the answer is in one "
            "of these, name it as the reward's answer_column"
        )
    value = cell_text(value)
    if not isinstance(value, str):
        raise BadRow(f"the {shown(column)} is neither a text nor a number")
    if not value.strip():
        raise BadRow(f"the {shown(column)} is empty")
    try:
        return unicode_text(value)
    except BadRow as bad:
        raise BadRow(f"the {shown(column)} is {bad}") from None


def _value_inside(fields: Fields, path: str) -> Any:
    """Return the value at `column.field`, or None if there is none."""
    column, *names = path.split(".")
    value = fields.peek(column)
    for name in names:
        value = structured(value)
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if names else None


def _count_beside(fields: Fields, answers: Collection[str]) -> None:
    """Count the fields beside those inside of columns that rewards compare."""
    for column in sorted({path.split(".")[0] for path in answers if "." in path} - set(answers)):
        for path in _paths_beside(column, fields.take(column), answers):
            fields.reading.unread[shown(path)] = None


def _paths_beside(path: str, value: Any, answers: Collection[str]) -> Iterator[str]:
    """Yield the paths of fields of a value, at any depth, without an answer."""
    value = structured(value)
    for name in value if isinstance(value, Mapping) else ():
        inner = f"{path}.{name}"
        if not any(f"{answer}.".startswith(f"{inner}.") for answer in answers):
            yield inner
        elif inner not in answers:
            yield from _paths_beside(inner, value[name], answers)
