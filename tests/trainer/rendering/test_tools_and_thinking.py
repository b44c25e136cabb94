"""Tools and thinking go through the chat template, as with transformers.

The trained tokens are compared with a walk over the token ids.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer

from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import ReadOptions
from gemtune.datasets.trained_turns import TrainOn
from tests import tiny_gemma
from tests.conversations import conversation_of
from trainer.conversation.chat_template import OWN_TEMPLATES
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder
from trainer.rows.preference_pairs import Preference, Preferences

LIBRARY = Path(trl.__file__).parent / "chat_templates"
# Published templates of Gemma 4. They write a tool's result into the model's turn, or as a turn of its own.
GEMMA_4 = sorted(path.stem for path in LIBRARY.glob("gemma4*.jinja"))
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "a town"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def call(town: str, number: str = "1") -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": town, "days": 2})}
    return {"id": number, "type": "function", "function": function}


def result(text: str, number: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": number, "content": text}


ASKED = [user("The weather?"), assistant(tool_calls=[call("Rome")]), result("sunny")]
ROWS: dict[str, dict[str, Any]] = {
    "tools without a call": {"messages": [user("Hi"), assistant("Yes?")], "tools": [TOOL]},
    "a call at the end": {"messages": ASKED[:2], "tools": [TOOL]},
    "a result at the end": {"messages": ASKED, "tools": [TOOL]},
    "call, result, answer": {"messages": [SYSTEM, *ASKED, assistant("It is sunny.")], "tools": [TOOL]},
    "two calls at once": {
        "messages": [
            user("The weather?"),
            assistant(tool_calls=[call("Rome"), call("Oslo", "2")]),
            result("sunny"),
            result("cold", "2"),
            assistant("Both."),
        ],
        "tools": [TOOL],
    },
    "one call after the other": {
        "messages": [
            *ASKED,
            assistant(tool_calls=[call("Oslo", "2")]),
            result("cold", "2"),
            assistant("Both."),
            user("Thanks"),
            assistant("Yes?"),
        ],
        "tools": [TOOL],
    },
    "the user after a result": {"messages": [*ASKED, user("So?"), assistant("It is sunny.")], "tools": [TOOL]},
    "no tools defined": {"messages": [*ASKED, assistant("It is sunny.")]},
    "weight 0": {"messages": [user("a"), assistant("bad", weight=0), user("b"), assistant("good", weight=1)]},
    "a call with weight 0": {
        "messages": [ASKED[0], ASKED[1] | {"weight": 0}, ASKED[2], assistant("It is sunny.")],
        "tools": [TOOL],
    },
    "an answer with weight 0": {"messages": [*ASKED, assistant("It is sunny.", weight=0)], "tools": [TOOL]},
}


@pytest.fixture(scope="module")
def tiny4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "gemma4", "gemma4-e-text")


@pytest.fixture(scope="module", params=GEMMA_4)
def folder(request: pytest.FixtureRequest, tiny4: Path) -> Path:
    (tiny4 / "chat_template.jinja").write_text((LIBRARY / f"{request.param}.jinja").read_text())
    return tiny4


def encode(folder: Path, row: dict[str, Any], train_on: TrainOn = "all_assistant_turns") -> Encoded | Refused:
    encoder = encoder_of(folder, (folder / "chat_template.jinja").read_text())
    return encoder.encode(conversation_of(row), train_on)


@cache
def encoder_of(folder: Path, template: str) -> Encoder:
    """Return the encoder of a folder whose template this is by now."""
    return Encoder(folder, max_length=2048)


@cache
def tokenizer_of_transformers(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def encoded(folder: Path, row: dict[str, Any], train_on: TrainOn = "all_assistant_turns") -> Encoded:
    row_of_tokens = encode(folder, row, train_on)
    assert isinstance(row_of_tokens, Encoded), row_of_tokens
    return row_of_tokens


def ids_of_transformers(folder: Path, row: dict[str, Any]) -> list[int]:
    messages = copy.deepcopy(row["messages"])
    for message in messages:
        for each in message.get("tool_calls", ()):
            each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    options = row.get("chat_template_kwargs", {}) | {"chat_template": (folder / "chat_template.jinja").read_text()}
    tokenizer = tokenizer_of_transformers(folder)
    rendered = tokenizer.apply_chat_template(messages, tools=row.get("tools"), return_dict=True, **options)
    return list(rendered["input_ids"])


def pieces_of_model(folder: Path, ids: list[int]) -> list[tuple[int, int]]:
    """Return the ranges of tokens that the model wrote, found by their ids.

    A range ends with `<turn|>`, or with the first `<|tool_response>` after a call. It begins after `<|turn>model` and
    its line break, or after the last result.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start, end, hand_over, result_end = (
        tokenizer.token_to_id(token) for token in ("<|turn>", "<turn|>", "<|tool_response>", "<tool_response|>")
    )
    model = tokenizer.encode("model\n", add_special_tokens=False).ids
    pieces, begin = [], None
    for index, token in enumerate(ids):
        if token == start:
            begin = index + 1 + len(model) if ids[index + 1 :][: len(model)] == model else None
        elif token == result_end and ids[index + 1 : index + 2] not in ([hand_over], [end], []):
            begin = index + 1
        elif token in (end, hand_over) and begin is not None:
            pieces.append((begin, index + 1))
            begin = None
    return pieces


def trained_ranges(row: Encoded) -> list[tuple[int, int]]:
    flags = [label != UNTRAINED for label in row.labels]
    begins = [i for i, flag in enumerate(flags) if flag and not (i and flags[i - 1])]
    ends = [i + 1 for i, flag in enumerate(flags) if flag and flags[i + 1 : i + 2] != [True]]
    return list(zip(begins, ends, strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_tokens_are_those_of_transformers_and_the_models_are_trained(name: str, folder: Path) -> None:
    row = ROWS[name]
    ours = encoded(folder, row)
    assert ours.input_ids == ids_of_transformers(folder, row)
    assert all(label in (UNTRAINED, token) for label, token in zip(ours.labels, ours.input_ids, strict=True))
    own = [message for message in row["messages"] if message["role"] == "assistant"]
    pieces = pieces_of_model(folder, ours.input_ids)
    assert len(pieces) == len(own)
    learned = [piece for piece, message in zip(pieces, own, strict=True) if message.get("weight") != 0]
    assert trained_ranges(ours) == learned


def test_calls_in_tags_are_learned_as_the_templates_own(folder: Path) -> None:
    function = call("Rome")["function"]
    written = json.dumps({"name": function["name"], "arguments": json.loads(function["arguments"])})
    question, answer = user("The weather?"), assistant("It is sunny.")
    native = [question, assistant(tool_calls=[{"function": function}]), {"role": "tool", "content": "sunny"}, answer]
    tagged = [
        question,
        assistant(f"<tool_call>\n{written}\n</tool_call>"),
        user("<tool_response>\nsunny\n</tool_response>"),
        answer,
    ]
    ours, expected = (encoded(folder, {"messages": each, "tools": [TOOL]}) for each in (tagged, native))
    assert (ours.input_ids, ours.labels) == (expected.input_ids, expected.labels)


def test_a_transcript_of_glaives_is_learned_as_the_templates_own_calls(folder: Path) -> None:
    arguments = json.dumps({"city": "Rome", "days": 2})
    functions = json.dumps(TOOL["function"], indent=4)
    transcript = {
        "system": f"SYSTEM: Be brief with access to the following functions. Use them if required -\n{functions}\n",
        "chat": "USER: The weather?\n\n\nASSISTANT: <functioncall> "
        f"""{{"name": "weather", "arguments": '{arguments}'}} <|endoftext|>\n\n\n"""
        "FUNCTION RESPONSE: sunny\n\n\nASSISTANT: It is sunny. <|endoftext|>\n\n\n",
    }
    row = ROWS["call, result, answer"]
    ours = encoded(folder, transcript)
    assert ours.input_ids == ids_of_transformers(folder, row)
    assert trained_ranges(ours) == pieces_of_model(folder, ours.input_ids)


@pytest.mark.parametrize("train_on", ["last_turn", "weights"])
def test_train_on_chooses_the_turns(train_on: TrainOn, folder: Path) -> None:
    messages = [*ASKED, assistant("It is sunny.", weight=1), user("Sure?"), assistant("Yes?")]
    ours = encoded(folder, {"messages": messages, "tools": [TOOL]}, train_on)
    pieces = pieces_of_model(folder, ours.input_ids)
    assert trained_ranges(ours) == [pieces[2 if train_on == "last_turn" else 1]]


def test_a_row_of_which_nothing_is_learned_is_refused(folder: Path) -> None:
    row = {"messages": [user("a"), assistant("b", weight=0)]}
    for train_on in ("all_assistant_turns", "last_turn", "weights"):
        refused = encode(folder, row, train_on)
        assert isinstance(refused, Refused)
        assert "nothing in it is trained" in refused.reason


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_is_trained_or_its_row_refused(key: str, folder: Path) -> None:
    row = {"messages": [user("2 + 2?"), assistant("4", **{key: "two and two"})]}
    ours = encode(folder, row)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if isinstance(ours, Refused):
        assert "does not show the thinking of turn 2" in ours.reason
        return
    learned = tokenizer.decode([label for label in ours.labels if label != UNTRAINED], skip_special_tokens=False)
    assert learned == "<|channel>thought\ntwo and two\n<channel|>4<turn|>"
    tagged = encoded(folder, {"messages": [user("2 + 2?"), assistant("<think>\ntwo and two\n</think>\n\n4")]})
    assert (tagged.input_ids, tagged.labels) == (ours.input_ids, ours.labels)


EMPTY_THOUGHT = "<|channel>thought\n<channel|>"
# Ways to write a thought in front of the answer 4, and the thought; "" where there is none.
TAGGED = {
    "<think>\ntwo and two\n</think>\n\n4": "two and two",
    "two and two\n</think>\n4": "two and two",
    " <think>two and two</think>4": "two and two",
    "<think>\n\n</think>\n\n4": "",
    "<think></think>4": "",
}


@pytest.fixture(scope="module", params=["small", "large"])
def thinking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with Google's newest template of Gemma 4.

    That of the large models ends a prompt with an empty thought, unless the row asks for one.
    """
    folder = tiny_gemma.build(tmp_path_factory.mktemp("models") / request.param, "gemma4-e-text")
    template = (LIBRARY / "gemma4_v5.jinja").read_text()
    if request.param == "large":
        begin, end = template.rsplit("{{- '<|turn>model\\n' -}}", 1)
        closed = "{%- if not enable_thinking -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}"
        template = f"{begin}{{{{- '<|turn>model\\n' -}}}}{closed}{end}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("content", TAGGED)
@pytest.mark.parametrize("as_list", [False, True])
def test_a_thought_in_tags_becomes_the_models_own(content: str, as_list: bool, thinking: Path) -> None:
    before = [SYSTEM, user("1 + 1?"), assistant("2"), user("2 + 2?")]
    answer = assistant([{"type": "text", "text": content}] if as_list else content)  # type: ignore[arg-type]
    ours = encoded(thinking, {"messages": [*before, answer]})
    thought = {"reasoning_content": TAGGED[content]} if TAGGED[content] else {}
    asks = bool(thought) and thinking.name == "large"
    row = {"messages": [*before, assistant("4", **thought)], "chat_template_kwargs": {"enable_thinking": True}}
    expected = ids_of_transformers(thinking, row if asks else {"messages": row["messages"]})
    pieces = pieces_of_model(thinking, expected)
    tokenizer = Tokenizer.from_file(str(thinking / "tokenizer.json"))
    closed = (
        [] if thought or thinking.name == "small" else tokenizer.encode(EMPTY_THOUGHT, add_special_tokens=False).ids
    )
    last = pieces[1][0]
    assert ours.input_ids == expected[:last] + closed + expected[last:]
    assert trained_ranges(ours) == [pieces[0], (last + len(closed), pieces[1][1] + len(closed))]


@pytest.mark.parametrize("content", ["<think>two", "<think>a</think>b<think>c</think>4", "a\n</think>\nb</think>4"])
def test_tags_that_are_not_around_one_thought_refuse_their_row(content: str, thinking: Path) -> None:
    refused = encode(thinking, {"messages": [user("2 + 2?"), assistant(content)]})
    assert isinstance(refused, Refused)
    assert "begins with <think> tags that are not around one thought" in refused.reason


ABOUT_TAGS = ["Write <think>a</think>\nand go on.", "</think> ends a thought.", "</think>", "End it with </think>\n!"]


@pytest.mark.parametrize("content", [*ABOUT_TAGS, "Write:\n```\nHm.\n</think>\n```"])
def test_tags_that_an_answer_is_about_are_text(content: str, thinking: Path) -> None:
    ours = encoded(thinking, {"messages": [user("Tags?"), assistant(content)]})
    tokenizer = Tokenizer.from_file(str(thinking / "tokenizer.json"))
    learned = tokenizer.decode([label for label in ours.labels if label != UNTRAINED], skip_special_tokens=False)
    assert learned == f"{content}<turn|>"


def test_a_row_that_says_not_to_think_has_no_thought(thinking: Path) -> None:
    row = {"messages": [user("2 + 2?"), assistant("4", thinking="two")], "enable_thinking": False}
    ours = encode(thinking, row)
    if thinking.name == "small":  # whose prompt is the same for both
        assert isinstance(ours, Encoded)
    else:
        assert isinstance(ours, Refused)
        assert "enable_thinking is false, and its answer has thinking" in ours.reason


def test_answers_of_a_pair_may_think(thinking: Path) -> None:
    kind = Preferences(encoder_of(thinking, ""), None, ReadOptions(), max_length=2048, cuts=False)
    pair = kind.encode({"prompt": "2 + 2?", "chosen": "<think>two</think>4", "rejected": "5"})
    assert isinstance(pair, Preference), pair
    asks = {"enable_thinking": True} if thinking.name == "large" else {}
    row = {"messages": [user("2 + 2?"), assistant("4", reasoning_content="two")], "chat_template_kwargs": asks}
    begin, end = pieces_of_model(thinking, ids := ids_of_transformers(thinking, row))[0]
    assert (pair.prompt_ids, pair.chosen.ids) == (ids[:begin], ids[begin:end])
    other = ids_of_transformers(thinking, row | {"messages": [user("2 + 2?"), assistant("5")]})
    assert pair.rejected.ids == other[begin : pieces_of_model(thinking, other)[0][1]]


def test_several_turns_think_if_the_last_one_is_learned(thinking: Path) -> None:
    messages = [user("a"), assistant("<think>b</think>c"), user("d"), assistant("<think>e</think>f")]
    refused = encode(thinking, {"messages": messages})
    assert isinstance(refused, Refused)
    assert "set train_on to last_turn" in refused.reason
    ours = encoded(thinking, {"messages": messages}, "last_turn")
    assert ours.unread_fields == ("thinking",)
    assert trained_ranges(ours) == [pieces_of_model(thinking, ours.input_ids)[1]]


def test_some_template_shows_thinking_and_some_do_not(tiny4: Path) -> None:
    row = {"messages": [user("2 + 2?"), assistant("4", thinking="two and two")]}
    shown = set()
    for name in GEMMA_4:
        (tiny4 / "chat_template.jinja").write_text((LIBRARY / f"{name}.jinja").read_text())
        shown.add(isinstance(encode(tiny4, row), Encoded))
    assert shown == {True, False}


def test_thinking_of_turns_that_are_not_learned_is_left_to_the_template(folder: Path) -> None:
    row = {"messages": [user("2 + 2?"), assistant("4", thinking="two and two", weight=0), user("So?"), assistant("4")]}
    ours = encoded(folder, row)
    assert ours.unread_fields == ("thinking",)
    refused = encode(folder, {"messages": [message | {"weight": 1} for message in row["messages"]]})
    assert isinstance(refused, Refused)
    assert "does not show the thinking of turn 2" in refused.reason


def test_options_of_the_template_are_the_rows(folder: Path) -> None:
    row = {"messages": [user("Hi"), assistant("Yes?")], "chat_template_kwargs": {"enable_thinking": True}}
    ours = encoded(folder, row)
    assert (
        ours.input_ids == ids_of_transformers(folder, row) != encoded(folder, {"messages": row["messages"]}).input_ids
    )
    assert encoded(folder, {"messages": row["messages"], "enable_thinking": True}).input_ids == ours.input_ids
    for options in ({"enable_thinkng": True}, {"messages": []}, {"tools": []}, {"loop_messages": []}):
        refused = encode(folder, row | {"chat_template_kwargs": options})
        assert isinstance(refused, Refused)
        assert "the chat template has no variable" in refused.reason


@pytest.mark.parametrize(
    "texts",
    [
        {"content": "Look <|tool_response>"},
        {"tool_calls": [{"function": {"name": "a<turn|>", "arguments": {}}}]},
        {"tool_calls": [{"function": {"name": "a", "arguments": {"b": ["<|turn>"]}}}]},
        {"tool_calls": [{"function": {"name": "a", "arguments": {"<turn|>": 1}}}]},
        {"content": "4", "thinking": "<channel|>"},
        {"content": "the end<eos>"},
    ],
)
def test_control_tokens_are_refused_wherever_they_are(texts: dict[str, Any], folder: Path) -> None:
    refused = encode(folder, {"messages": [user("Hi"), {"role": "assistant"} | texts]})
    assert isinstance(refused, Refused)
    assert "control token" in refused.reason
    in_result = {"messages": [*ASKED[:2], result("<turn|>\n<|turn>model\nYes"), assistant("Yes?")]}
    assert isinstance(encode(folder, in_result), Refused)


@pytest.mark.parametrize("template", ["gemma3.jinja", "gemma.jinja", "gemma_chat_template.jinja"])
@pytest.mark.parametrize(
    ("row", "named"),
    [
        (ROWS["tools without a call"], "tools"),
        (ROWS["a call at the end"], "tool_calls"),
        (ROWS["call, result, answer"], "tools"),
        ({"messages": [user("2 + 2?"), assistant("4", thinking="two")]}, "thinking"),
    ],
)
def test_what_a_template_has_no_words_for_is_refused(
    template: str, row: dict[str, Any], named: str, tiny: Path, tmp_path: Path
) -> None:
    source = LIBRARY if (LIBRARY / template).exists() else OWN_TEMPLATES
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text((source / template).read_text())
    refused = encode(tmp_path, row)
    assert isinstance(refused, Refused)
    assert named in refused.reason


def test_details_of_tools_that_the_template_leaves_out_are_counted(folder: Path) -> None:
    tool = copy.deepcopy(TOOL)
    tool["function"]["parameters"] |= {"additionalProperties": False}
    tool["function"]["parameters"]["properties"]["days"] |= {"enum": [1, 2], "minimum": 1}
    messages = [user("Hi"), assistant("Yes?")]
    plain, detailed = (encoded(folder, {"messages": messages, "tools": [each]}) for each in (TOOL, tool))
    assert plain.unread_fields == ()
    assert {"tools.additionalProperties", "tools.minimum"} <= set(detailed.unread_fields)
    assert plain.input_ids == detailed.input_ids


def test_every_published_template_shows_the_values_of_a_text(folder: Path) -> None:
    tool = copy.deepcopy(TOOL)
    tool["function"]["parameters"]["properties"]["city"] |= {"enum": ["Rome", "Oslo"]}
    assert encoded(folder, {"messages": [user("Hi"), assistant("Yes?")], "tools": [tool]}).unread_fields == ()
