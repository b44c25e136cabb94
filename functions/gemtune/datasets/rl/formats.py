"""Formats of the rows of DPO, KTO and GRPO."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

from gemtune.datasets.choices import CHOICES, choice_of
from gemtune.datasets.choices import COLUMNS as CHOICE_COLUMNS
from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.formats.vertex import content_turns, read_contents
from gemtune.datasets.reading import transcript
from gemtune.datasets.reading.content import read_content
from gemtune.datasets.reading.fields import HARMLESS, Fields, cell_text
from gemtune.datasets.reading.tools import read_tools, structured
from gemtune.datasets.reading.turns import by_message, column_turns, is_text, read_turns
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.rl.answers import (
    PROMPTS,
    before_last_answer,
    read_any_turns,
    read_prompt,
    split_answers,
    with_tags_read,
)
from gemtune.datasets.rl.contents import Labelled, Pair
from gemtune.datasets.row_options import RlFormatName

Content = TypeVar("Content", Pair, Labelled)
Row = Mapping[str, Any]
# Fields that can stand beside a prompt, in every format but OpenAI's.
BESIDE_PROMPT = (
    *(*PROMPTS, "input", "context", "history", "system", "system_prompt"),
    *("tools", "chat_template_kwargs", "enable_thinking"),
)
# Columns that an answer with a label can be in.
_LABELLED_ANSWERS = ("completion", "response", "answer", "output")
# Columns with measurements of the two answers. DPO learns which answer is better, and not by how much.
_MEASURES = HARMLESS | {
    *("score_chosen", "score_rejected", "chosen_score", "rejected_score"),
    *("chosen_rating", "rejected_rating", "chosen-rating", "rejected-rating"),
    *("chosen_model", "rejected_model", "chosen-model", "rejected-model"),
}


@dataclass(frozen=True, slots=True)
class RlFormat(Generic[Content]):
    """A shape of rows of one algorithm.

    name: its value in `dataset_format`. title: its fields, for the docs. fields: their names, to which
    `dataset_columns` can give other names. fits: whether a row without nulls has this shape. read: return the content
    of a row; raises BadRow. harmless: names of fields that may be there, and are not read.
    """

    name: RlFormatName
    title: str
    fields: tuple[str, ...]
    fits: Callable[[Row], bool]
    read: Callable[[Fields], Content]
    harmless: frozenset[str] = HARMLESS


def _answer(row: Fields, column: str, value: Any) -> list[Turn]:
    """Return the turns of an answer: a text, a message, or a list of messages.

    Raises BadRow.
    """
    value = cell_text(value)
    if is_text(value, or_message=True):
        return [Turn("assistant", read_content(value, "assistant", row))]
    value = by_message(structured(value))
    return read_any_turns([value] if isinstance(value, Mapping) else value, row, column)


def _read_pair(row: Fields) -> Pair:
    if "messages" in row and row.peek("messages") == row.peek("chosen"):
        row.leave("messages")  # UltraFeedback's rows repeat the chosen conversation in this column
    missing = [column for column in ("chosen", "rejected") if column not in row]
    if missing:
        raise BadRow(f"DPO needs prompt, chosen and rejected; the row has no {missing[0]}")
    prompt = read_prompt(row)
    answers: dict[str, list[Turn]] = {}
    for column in ("chosen", "rejected"):
        value = row.take(column)
        turns = transcript.conversation_of(value) if prompt.turns else transcript.turns_of(value)
        if turns is None and is_text(value) and not prompt.turns:
            raise BadRow(
                f"{column} is a text, and there is no prompt: add a column prompt, or write {column} as messages, or "
                "as a transcript of Human: and Assistant:"
            )
        answers[column] = turns or _answer(row, column, value)
    whole, (chosen, rejected) = split_answers(prompt, answers, row)
    return Pair(whole, chosen, rejected)


def _read_openai_pair(row: Fields) -> Pair:
    source = row.within(structured(row.take("input")), "input")
    turns = read_turns(source.take("messages"), source, "messages")
    prompt = with_tags_read(Conversation(tuple(turns), read_tools(source.take("tools"), source)), row)
    source.close()
    answers = {name: _answer(row, name, row.take(name)) for name in ("preferred_output", "non_preferred_output")}
    whole, (chosen, rejected) = split_answers(prompt, answers, row)
    return Pair(whole, chosen, rejected)


def _read_vertex_pair(row: Fields) -> Pair:
    scored = structured(row.take("completions"))
    if not isinstance(scored, list) or len(scored) != 2:
        raise row.bad("completions is not a list of two completions")
    turns: dict[str, list[Turn]] = {}
    scores: dict[str, float] = {}
    for number, each in enumerate(scored, 1):
        fields, name = row.within(each, "completions", f"completion {number}"), f"completion {number}"
        score = fields.take("score")
        if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
            raise fields.bad("it has no score that is a number")
        scores[name] = score
        turns[name] = content_turns(fields.within(fields.take("completion"), "completion"))
        fields.close()
    better, worse = sorted(scores, key=scores.__getitem__, reverse=True)
    if scores[better] == scores[worse]:
        raise row.bad(f"both completions have the score {scores[better]}, so that none is preferred")
    answers = {name: turns[name] for name in (better, worse)}
    whole, (chosen, rejected) = split_answers(with_tags_read(read_contents(row), row), answers, row)
    return Pair(whole, chosen, rejected)


def _read_choice(row: Fields) -> Pair:
    choice = choice_of(dict.fromkeys(row.names()))
    if choice is None:
        raise row.bad(f"the row has none of {'; '.join(', '.join(each.columns) for each in CHOICES)}")
    verdict = cell_text(row.take(choice.verdict))
    better = choice.better.get(str(verdict).strip().casefold().removesuffix(".0"))
    if better is None:
        raise row.bad(
            f"{choice.verdict} is {str(verdict)[:40]!r}, so that neither answer is preferred: leave the row out"
        )
    prompt = read_prompt(row)
    if choice.prompt is not None and choice.prompt in row and not prompt.turns:
        prompt = prompt.with_turns(column_turns(row, choice.prompt, "user"))
    answers = {column: _answer(row, column, row.take(column)) for column in choice.answers}
    first, second = choice.answers
    whole, (chosen, rejected) = split_answers(
        prompt, {column: answers[column] for column in ((second, first) if better else (first, second))}, row
    )
    for name in sorted(row.names()):  # measurements of both answers, such as is_response_0_safe
        if any(column in name for column in choice.answers) or name in _OF_CHOICES:
            row.leave(name)
    return Pair(whole, chosen, rejected)


def _read_labelled(row: Fields) -> Labelled:
    label = _label(row)
    prompt = read_prompt(row)
    column = next((name for name in _LABELLED_ANSWERS if name in row), None)
    if column is not None:
        whole, (completion,) = split_answers(prompt, {column: _answer(row, column, row.take(column))}, row)
        return Labelled(whole, completion, label)
    count = before_last_answer(prompt.turns)
    if count in (0, len(prompt.turns)):
        raise BadRow("there is no answer: neither a column completion, nor a last message of the assistant")
    whole, (completion,) = split_answers(prompt.first(count), {"messages": prompt.turns[count:]}, row)
    return Labelled(whole, completion, label)


# Columns that judge the answers in further ways, or say who wrote or judged them.
_OF_CHOICES = frozenset(
    (
        *("safer_response_id", "prompt_source", "preference_statement", "preference_elaboration"),
        *("three_most_similar_preferences", "all_preferences_unprocessed", "individual_preference"),
        *("model_a", "model_b", "judge", "anony", "tstamp", "toxic_chat_tag"),
    )
)
# Texts that stand for a label in files without booleans, such as CSV.
_LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def _label(row: Fields) -> bool:
    """Return whether the answer is desirable. Raises BadRow."""
    value = row.take("label")
    if value is None:
        raise row.bad("the row has no label")
    label = _LABELS.get(value.strip().casefold()) if isinstance(value, str) else value
    if not isinstance(label, bool | int | float | Decimal) or label not in (0, 1):
        raise row.bad(f"label is {str(value)[:20]!r}, and neither true nor false")
    return bool(label)


PAIR = RlFormat(
    "preference",
    "a prompt with `chosen` and `rejected`; without a prompt, two conversations or transcripts of `Human:` and "
    "`Assistant:` that begin alike",
    (*BESIDE_PROMPT, "chosen", "rejected"),
    lambda row: "chosen" in row or "rejected" in row,
    _read_pair,
    _MEASURES,
)
OPENAI_PAIR = RlFormat(
    "openai_preference",
    "OpenAI's preferences: `input` of {messages, tools}, `preferred_output`, `non_preferred_output`",
    ("input", "preferred_output", "non_preferred_output"),
    lambda row: "preferred_output" in row or "non_preferred_output" in row,
    _read_openai_pair,
)
VERTEX_PAIR = RlFormat(
    "vertex_preference",
    "Vertex AI's preferences: `contents`, and two `completions` of {score, completion}; `systemInstruction`, `tools`",
    ("contents", "completions", "systemInstruction", "tools"),
    lambda row: "contents" in row and "completions" in row,
    _read_vertex_pair,
)
CHOICE = RlFormat(
    "choice",
    "a prompt with two answers, and a column that says which is better: "
    + "; ".join(f"`{'`, `'.join(each.columns)}` ({each.whose})" for each in CHOICES)
    + "; conversations need no prompt. The other columns about the answers are not read",
    (*BESIDE_PROMPT, *CHOICE_COLUMNS),
    lambda row: choice_of(row) is not None,
    _read_choice,
)
LABELLED = RlFormat(
    "labelled",
    "a prompt with `completion`, or `messages` or `conversations` that end with the answer, and `label`: true for a "
    "good answer, false for a bad one",
    (*BESIDE_PROMPT, *_LABELLED_ANSWERS, "label"),
    lambda row: "label" in row,
    _read_labelled,
)
# The rows of GRPO, for the docs; `read.read_question` reads them.
QUESTION_TITLE = "a prompt that ends with a message of the user, and the columns that rewards compare with, as `answer`"
PAIRS: tuple[RlFormat[Pair], ...] = (PAIR, OPENAI_PAIR, VERTEX_PAIR, CHOICE)
LABELLED_ROWS: tuple[RlFormat[Labelled], ...] = (LABELLED,)
# Fields to which `dataset_columns` can give other names.
_COLUMNS = (*(each.fields for each in PAIRS), *(each.fields for each in LABELLED_ROWS))
FIELDS = frozenset(name for fields in _COLUMNS for name in fields)
