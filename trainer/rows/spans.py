"""Spans of the assistant's words in a rendered conversation: what a training learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gemtune.errors import StepError
from gemtune.families.generation import TurnFormat
from trainer.conversation.messages import Messages

Span = tuple[int, int]
# A conversation, and whether the generation prompt is to follow -> its text.
Render = Callable[[Messages, bool], str]

# The role that follows the token that starts a turn, where the model speaks.
_MODEL = "model\n"


def spans_by_prefix(messages: Messages, text: str, render: Render, *, until: int) -> list[Span]:
    """Characters of the assistant's turns, by rendering the conversation up to and after each of them.

    Turns that begin at `until` or later are cut off, and left out: each costs a rendering of all before it. Raises
    StepError `template_not_supported` when the template changes earlier turns.
    """
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render(messages[:index], True)
            if len(before) >= until:
                break
            after = render(messages[: index + 1], False)
            if not (text.startswith(after) and after.startswith(before)):
                raise unstable_turns()
            spans.append((len(before), len(after)))
    return spans


def spans_by_tokens(turns: TurnFormat, tokens: Sequence[str], offsets: Sequence[Span], text: str) -> list[Span]:
    """Characters of the model's turns, by the tokens around them: from behind `model` and its line break up to and
    including the token that ends the turn.

    tokens, offsets: of the whole text. Left out are results of tools inside a turn, up to and including the token that
    ends one, and an empty thought at the beginning of a turn, which is part of the prompt. The token that hands over to
    a tool is the model's own, and stays in.
    """
    hands_over, result_ends = turns.tool_result
    spans: list[Span] = []
    begin: int | None = None
    for token, (_, right) in zip(tokens, offsets, strict=True):
        if token == turns.start and text.startswith(_MODEL, right):
            begin = right + len(_MODEL)
            if turns.empty_thought and text.startswith(turns.empty_thought, begin):
                begin += len(turns.empty_thought)
        elif token in (turns.end, hands_over) and begin is not None:
            spans.append((begin, right))
            begin = None
        elif token == result_ends:
            begin = right
    return spans if begin is None else [*spans, (begin, len(text))]


def with_empty_thought(turns: TurnFormat, text: str, before: str) -> str:
    """A rendered conversation whose last turn, the model's, begins as the generation prompt `before` makes it begin.

    Some templates of Gemma 4 end the generation prompt in an empty thought and leave it out of finished turns: the
    model would be trained on another prompt than it is asked with. Raises StepError `template_not_supported`.
    """
    if text.startswith(before):
        return text
    prompt = before.removesuffix(turns.empty_thought)
    if prompt == before or not prompt.endswith(turns.start + _MODEL) or not text.startswith(prompt):
        raise unstable_turns()
    answer = text[len(prompt) :]
    begins_with_thought = answer.startswith(turns.empty_thought.partition("\n")[0])
    return text if begins_with_thought else before + answer


def control_token_in(turns: TurnFormat, texts: Iterator[str]) -> str | None:
    """The first token of the turn format that one of the texts holds, which would become a turn of its own."""
    return next((token for text in texts for token in turns.control_tokens if token in text), None)


def unstable_turns() -> StepError:
    """The error for a template whose turns cannot be told apart."""
    problem = "its chat template changes earlier turns when later ones are added"
    return StepError("template_not_supported", problem, hint="use a base model with Gemma's template")
