"""A second reader of turns, beside the masks of random conversations.

It walks over the tokens of a row, and knows what Google's templates write, but nothing of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats.table import ReadRow, read
from gemtune.datasets.trained_turns import TrainOn
from tests import tiny_gemma
from tests.trainer import variants
from tests.trainer.rendering.random_rows import Row, plain_row, tool_row, translation_row, weighted
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

ROWS = 30
TRAIN_ON: tuple[TrainOn, ...] = ("all_assistant_turns", "all_assistant_turns", "last_turn", "weights")
QUOTE = '<|"|>'


@dataclass(frozen=True, slots=True)
class Turns:
    """Tokens around turns, calls and results, in a published template.

    line_break: whether the line break behind the end of a turn is trained.
    """

    start: str
    end: str
    line_break: bool = False
    call_end: str = ""
    result: tuple[str, str] = ("", "")


GEMMA_3 = Turns("<start_of_turn>", "<end_of_turn>", line_break=True)
FUNCTIONS = Turns(
    "<start_of_turn>",
    "<end_of_turn>",
    True,
    "<end_function_call>",
    ("<start_function_response>", "<end_function_response>"),
)
GEMMA_4 = Turns("<|turn>", "<turn|>", False, "<tool_call|>", ("<|tool_response>", "<tool_response|>"))


def walk(tokens: Sequence[str], turns: Turns) -> Iterator[bool]:
    """Yield for each token whether the model says it.

    After calls it also says the token that begins the first result. It does not say the end of a turn right after a
    result: it has not answered.
    """
    place, role, before, has_called = "outside", "", "", False
    for token in tokens:
        is_said = False
        if token == turns.start:
            place, role = "heading", ""
        elif place == "heading":
            if token == "\n":
                place = "said" if role == "model" else "heard"
            role += token
        elif place == "ended":
            is_said, place = turns.line_break and token == "\n", "outside"
        elif place == "said":
            is_said = True
            if token == turns.end:
                is_said, place = before != turns.result[1], "ended"
            elif token == turns.result[0]:
                is_said, has_called, place = has_called, False, "result"
            elif token == turns.call_end:
                has_called = True
        elif place == "result" and token == turns.result[1]:
            place = "said"
        yield is_said
        before = token


def said_by_gemma_3(messages: Sequence[Row], index: int) -> str:
    return f"{messages[index]['content'].strip()}<end_of_turn>\n"


def said_by_functiongemma(messages: Sequence[Row], index: int) -> str:
    message = messages[index]
    content = (message.get("content") or "").strip()
    if "tool_calls" not in message:
        return f"{content}<end_of_turn>\n"
    calls = "".join(
        f"<start_function_call>call:{call['function']['name']}"
        f"{written(call['function']['arguments'], '<escape>')}<end_function_call>"
        for call in message["tool_calls"]
    )
    return f"{content}{calls}<start_function_response>"


def written(argument: Any, quote: str) -> str:
    """Write an argument as the templates do."""
    match argument:
        case str():
            return f"{quote}{argument}{quote}"
        case bool():
            return "true" if argument else "false"
        case Mapping():
            ordered = sorted(argument.items(), key=lambda item: item[0].lower())
            return "{" + ",".join(f"{name}:{written(each, quote)}" for name, each in ordered) + "}"
        case list():
            return "[" + ",".join(written(each, quote) for each in argument) + "]"
    return str(argument)


def said_by_gemma_4(messages: Sequence[Row], index: int, *, template: str) -> str:
    message = messages[index]
    thought, content = message.get("reasoning_content"), (message.get("content") or "").strip()
    words = f"<|channel>thought\n{thought}\n<channel|>" if thought else ""
    for call in message.get("tool_calls", ()):
        function = call["function"]
        words += f"<|tool_call>call:{function['name']}{written(function['arguments'], QUOTE)}<tool_call|>"
    if template == "gemma4_v2" or "tool_calls" not in message:
        return f"{words}{content}<turn|>"
    following = [each["role"] for each in messages[index + 1 :]]
    if not following:
        return f"{words}{content}<|tool_response>"
    speaker = next((role for role in following if role != "tool"), None)
    ends = bool(content) if template != "gemma4_v5" else speaker != "assistant" and bool(content)
    return f"{words}<|tool_response>{content}{'<turn|>' if ends else ''}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A template, with random rows for it.

    words: what the model says in a message. shape: of the tiny model whose tokens it has.
    """

    shape: str
    turns: Turns
    row: Callable[[Random], Row]
    words: Callable[[Sequence[Row], int], str]


KINDS: Mapping[str, Kind] = {
    "gemma": Kind("gemma2", GEMMA_3, partial(plain_row, system=False), said_by_gemma_3),
    "gemma3": Kind("gemma3", GEMMA_3, partial(plain_row, system=True), said_by_gemma_3),
    "functiongemma": Kind("gemma3", FUNCTIONS, partial(tool_row, thinking=False), said_by_functiongemma),
    "translategemma": Kind("gemma3", GEMMA_3, translation_row, said_by_gemma_3),
} | {
    name: Kind("gemma4-e-text", GEMMA_4, partial(tool_row, thinking=True), partial(said_by_gemma_4, template=name))
    for name in ("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5")
}


def base(name: str, folder: Path) -> Path:
    """Return a folder with a tokenizer and a published template."""
    import trl

    if name in ("functiongemma", "translategemma"):
        tiny = tiny_gemma.build(folder / "tiny", KINDS[name].shape)
        variant: Path = getattr(variants, name)(tiny, folder / "base")
        return variant
    tiny = tiny_gemma.build(folder / "base", KINDS[name].shape)
    template = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    (tiny / "chat_template.jinja").write_text(template.read_text())
    return tiny


def learned(messages: Sequence[Row], train_on: TrainOn) -> list[int]:
    """Return the indices of the messages that the model learns."""
    own = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on == "weights":
        return [index for index in own if messages[index].get("weight") == 1]
    return [index for index in own[-1 if train_on == "last_turn" else 0 :] if messages[index].get("weight") != 0]


def runs_on(messages: Sequence[Row], trained: Sequence[int]) -> bool:
    """Return whether only one of two texts is learned that are written as one.

    The text beside a call stands behind the results, where the newest template of Gemma 4 goes on with the next text.
    """
    own = learned(messages, "all_assistant_turns")
    pairs = [(one, other) for one, other in pairwise(own) if messages[other - 1]["role"] == "tool"]
    return any(messages[one].get("content") and (one in trained) != (other in trained) for one, other in pairs)


def with_names(messages: Sequence[Row]) -> list[Row]:
    """Add to results the names of their tools, which FunctionGemma needs."""
    names = {call["id"]: call["function"]["name"] for each in messages for call in each.get("tool_calls", ())}
    return [each | {"name": names[each["tool_call_id"]]} if each["role"] == "tool" else each for each in messages]


@pytest.mark.parametrize("name", KINDS)
def test_a_row_is_masked_as_it_is_read_or_refused(tmp_path: Path, name: str) -> None:
    """Refused are rows whose template shows other words than the model said."""
    from transformers import AutoTokenizer

    kind, folder = KINDS[name], base(name, tmp_path)
    encoder = Encoder(folder, max_length=1 << 16)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    masked = 0
    for seed in range(ROWS):
        random = Random(seed)
        row = kind.row(random)
        plain, messages = row["messages"], weighted(random, row["messages"])
        options = row.get("chat_template_kwargs", {})
        ids = tokenizer.apply_chat_template(with_names(plain), tools=row.get("tools"), **options)["input_ids"]
        shown = list(walk(tokenizer.convert_ids_to_tokens(ids), kind.turns))
        words = {index: kind.words(plain, index) for index in learned(plain, "all_assistant_turns")}
        is_shown = tokenizer.decode(list(compress(ids, shown))) == "".join(words.values())
        result = read(row | {"messages": messages})
        assert isinstance(result, ReadRow)
        assert isinstance(result.content, Conversation)
        train_on = random.choice(TRAIN_ON)
        encoded, trained = encoder.encode(result.content, train_on), learned(messages, train_on)
        if not isinstance(encoded, Encoded):
            is_joined = name == "gemma4_v5" and runs_on(plain, trained)
            assert not is_shown or not trained or is_joined, (seed, encoded)
            continue
        masked += 1
        labels = [label for label in encoded.labels if label != UNTRAINED]
        assert encoded.input_ids == ids, seed
        assert tokenizer.decode(labels) == "".join(words[index] for index in trained), seed
        if is_shown and len(trained) == len(words):
            assert [label != UNTRAINED for label in encoded.labels] == shown, seed
    assert masked > ROWS / 4
