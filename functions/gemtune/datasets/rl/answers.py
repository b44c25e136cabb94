"""Answers to a prompt: turns that follow it, or conversations that repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemtune.datasets import turn_order
from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.formats.alpaca import instruction_turns
from gemtune.datasets.formats.question_answer import question_turns
from gemtune.datasets.formats.sharegpt import read_sharegpt_turn
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.media import place_media
from gemtune.datasets.reading.shape import first_turn
from gemtune.datasets.reading.tools import read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, is_text, message_list, read_turn, system_turns
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.row_options import SameRole
from gemtune.datasets.tagged.calls import read_tagged_calls

# Columns that a prompt can be in. An instruction is Alpaca's, with the input beside it.
PROMPTS = ("prompt", "messages", "question", "conversations", "instruction")
NO_PROMPT = "both answers"


def read_prompt(row: Fields) -> Conversation:
    """Return the prompt of a row, with its system message and its tools.

    It has no turns if the row has no column for it. Raises BadRow.
    """
    columns = [name for name in PROMPTS if name in row]
    if len(columns) > 1:
        raise row.bad(f"both {columns[0]} and {columns[1]} are given: keep one")
    turns = [turn for column in columns for turn in _prompt_turns(row, column)]
    system = system_turns(row)
    if system and turns and turns[0].role == "system":
        raise row.bad("the prompt and a column of its own both have a system message: keep one")
    prompt = Conversation((*system, *turns), read_tools(row.take("tools"), row), template_options(row))
    prompt = with_tags_read(prompt, row)
    return place_media(prompt, row) if columns else prompt


def with_tags_read(prompt: Conversation, row: Fields) -> Conversation:
    """Return a prompt whose calls in tags are read. Raises BadRow."""
    return prompt.with_turns(read_tagged_calls(prompt.turns, row, tools=prompt.tools))


def _prompt_turns(row: Fields, column: str) -> list[Turn]:
    """Return the turns in a column for prompts. Raises BadRow."""
    if column == "instruction":
        return instruction_turns(row)
    if column == "question" and is_text(row.peek(column)):
        return question_turns(row, column)
    if column == "prompt" and is_text(row.peek(column)):
        return column_turns(row, column, "user")
    return read_any_turns(row.take(column), row, column)


def read_any_turns(value: Any, row: Fields, column: str) -> list[Turn]:
    """Return the turns of messages of {role, content}, or of {from, value}.

    Raises BadRow.
    """
    messages = message_list(value, row, column)
    read = read_sharegpt_turn if "from" in first_turn(messages) else read_turn
    return [read(row.within(each, column, f"turn {number}")) for number, each in enumerate(messages, 1)]


def checked_prompt(prompt: Conversation, same_role: SameRole) -> Conversation:
    """Return a prompt whose turns are in order. Raises BadRow."""
    prompt = turn_order.checked(prompt, same_role=same_role)
    last = prompt.turns[-1].role
    if last not in ("user", "tool"):
        raise BadRow(f"the prompt ends with a message of the {last}; the last one must be the user's")
    return prompt


def split_answers(
    prompt: Conversation, answers: Mapping[str, Sequence[Turn]], row: Fields
) -> tuple[Conversation, list[tuple[Turn, ...]]]:
    """Return the prompt that all answers have in common, and what follows it.

    answers: by column, each the turns that follow the prompt, or a whole conversation that begins with it. Turns with
    which two answers begin belong to the prompt, up to the last one that the assistant can answer. Calls in tags are
    read as in supervised rows. Raises BadRow.
    """
    same_role = row.reading.options.same_role
    calls_beside = any(turn.calls for turns in (prompt.turns, *answers.values()) for turn in turns)
    answers = {
        column: read_tagged_calls(turns, row, tools=prompt.tools, calls_beside=calls_beside, before=prompt.turns)
        for column, turns in answers.items()
    }
    heads, rests = zip(*(_without_prompt(prompt.turns, *answer) for answer in answers.items()), strict=True)
    if any(head != heads[0] for head in heads):
        raise BadRow(f"{' and '.join(answers)} begin with different prompts")
    common = _common_turns(rests) if len(rests) > 1 else 0
    turns = [*heads[0], *rests[0][:common]]
    if not turns:
        raise BadRow(f"there is no prompt: neither a column {PROMPTS[0]}, nor turns with which {NO_PROMPT} begin")
    whole = checked_prompt(prompt.with_turns(turns), same_role)
    return whole, [
        _checked_answer(whole, rest[common:], column, same_role) for column, rest in zip(answers, rests, strict=True)
    ]


def before_last_answer(turns: Sequence[Turn]) -> int:
    """Return how many turns are before the last answer.

    Calls of tools and their results since the last message of the user belong to the answer.
    """
    users = [index for index, turn in enumerate(turns) if turn.role == "user"]
    return users[-1] + 1 if users else 0


def _without_prompt(
    prompt: Sequence[Turn], column: str, turns: Sequence[Turn]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """Return the turns of the prompt, and those of an answer.

    The answer may repeat the prompt, and the system message can be in one of the two only. Raises BadRow.
    """
    if turns[0].role == "assistant" or not prompt:
        return tuple(prompt), tuple(turns)
    (system, bare), (own_system, rest) = _system_apart(prompt), _system_apart(turns)
    if system and own_system and not _same_turns(system, own_system):
        raise BadRow(f"{column} has another system message than the prompt")
    if not _same_turns(rest[: len(bare)], bare):
        raise BadRow(f"{column} begins neither with the prompt nor with an answer to it")
    return (*(own_system or system), *bare), rest[len(bare) :]


def _system_apart(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    count = 1 if turns and turns[0].role == "system" else 0
    return tuple(turns[:count]), tuple(turns[count:])


def _same_turns(some: Sequence[Turn], others: Sequence[Turn]) -> bool:
    """Return whether turns say the same, apart from spaces around their texts."""
    return len(some) == len(others) and all(map(_is_same, some, others))


def _is_same(turn: Turn, other: Turn) -> bool:
    if isinstance(turn.content, str) and isinstance(other.content, str):
        turn, other = turn.with_content(turn.content.strip()), other.with_content(other.content.strip())
    return turn == other


def _common_turns(answers: Sequence[Sequence[Turn]]) -> int:
    """Return how many turns at the beginning of all answers are the prompt's.

    The last of them is one that the assistant answers.
    """
    common = 0
    for count, turns in enumerate(zip(*answers, strict=False), 1):
        if any(turn != turns[0] for turn in turns):
            break
        if turns[0].role in ("user", "tool") and all(len(answer) > count for answer in answers):
            common = count
    return common


def _checked_answer(prompt: Conversation, answer: Sequence[Turn], column: str, same_role: SameRole) -> tuple[Turn, ...]:
    """Return an answer whose turns are in order. Raises BadRow."""
    if not answer:
        raise BadRow(f"{column} has no answer")
    whole = turn_order.checked(prompt.with_turns([*prompt.turns, *answer]), same_role=same_role)
    turns = whole.turns[len(prompt.turns) :]
    if turns[-1].role != "assistant":
        raise BadRow(f"{column} ends with a message of the {turns[-1].role}; the last one must be the assistant's")
    if any(turn.trained is False for turn in turns):
        raise BadRow(f"{column} has a turn that is not to be learned (weight 0), which an answer cannot have")
    return turns
