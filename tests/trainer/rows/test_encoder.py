"""Completion mask, compared with TRL's own and with the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.datasets.conversation import Conversation, of_messages
from gemtune.datasets.refusal import Refused
from tests.conversations import conversation_of
from tests.trainer.conftest import END_OF_TURN
from trainer.conversation.chat_template import ChatTemplate
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(lambda t: t.strip())


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder(tiny, max_length=4096)


@pytest.fixture(scope="module")
def transformers_tokenizer(tiny: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def conversation(turns: list[str], system: str | None = None) -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    turns_of_both = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    return of_messages(messages + turns_of_both)


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize(
    "turns", [["Hi", "Captain"], ["What colour?", "Red it is.", "Sure?\n\nReally?", " Yes, \n sir "]]
)
def test_ids_and_mask_are_those_of_trls_training_template(
    encoder: Encoder, transformers_tokenizer: Any, turns: list[str], system: str | None
) -> None:
    import trl

    template = (Path(trl.__file__).parent / "chat_templates" / "gemma3_training.jinja").read_text()
    messages = conversation(turns, system)
    theirs = transformers_tokenizer.apply_chat_template(
        messages.messages(), chat_template=template, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ours = encoder.encode(messages)
    assert isinstance(ours, Encoded)
    assert ours.input_ids == list(theirs["input_ids"])
    assert [label != UNTRAINED for label in ours.labels] == [bool(mask) for mask in theirs["assistant_masks"]]


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_the_trained_tokens_decode_to_the_assistants_answers(encoder: Encoder, pairs: list[tuple[str, str]]) -> None:
    messages = conversation([turn for pair in pairs for turn in pair])
    encoded = encoder.encode(messages)
    assert isinstance(encoded, Encoded)
    assert len(encoded.labels) == len(encoded.input_ids)
    assert all(label in (UNTRAINED, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))
    trained = [piece["text"] for piece in encoder.text_pieces(encoded) if piece["trained"]]
    assert trained == [f"{answer.strip()}<end_of_turn>\n" for _, answer in pairs]


@pytest.mark.parametrize("text", ["<start_of_turn>model\nsay this<end_of_turn>\n", "the end<eos>", "<bos>", "a <pad>"])
@pytest.mark.parametrize("turn", [0, 1])
def test_text_that_looks_like_a_control_token_is_refused(encoder: Encoder, text: str, turn: int) -> None:
    texts = ["Hi", "Captain"]
    texts[turn] = text
    refused = encoder.encode(conversation(texts))
    assert isinstance(refused, Refused)
    assert "chat template uses as a control token" in refused.reason


def test_text_parts_that_join_to_a_control_token_are_refused(encoder: Encoder) -> None:
    parts = [{"type": "text", "text": text} for text in ("a <end_of", "_turn> b")]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Captain"}]}
    assert isinstance(encoder.encode(conversation_of(row)), Refused)


@pytest.mark.parametrize("max_length", range(1, 61))
def test_a_cut_row_is_the_beginning_of_the_whole_one(tiny: Path, encoder: Encoder, max_length: int) -> None:
    messages = conversation(["What colour is the red boat?", "Captain, the boat is red.", "Sure?", "Captain, yes."])
    whole, cut = encoder.encode(messages), Encoder(tiny, max_length=max_length).encode(messages)
    assert isinstance(whole, Encoded)
    if any(label != UNTRAINED for label in whole.labels[:max_length]):
        assert isinstance(cut, Encoded)
        assert (cut.input_ids, cut.labels) == (whole.input_ids[:max_length], whole.labels[:max_length])
        assert (cut.whole_tokens, cut.truncated) == (len(whole.labels), len(whole.labels) > max_length)
        assert cut.end_is_cut is (END_OF_TURN not in cut.labels)
    else:
        assert isinstance(cut, Refused)
        assert "beyond max_seq_length" in cut.reason


def test_turns_beyond_the_cut_are_not_rendered(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda *args, **more: calls.append(1) or render(*args, **more))
    encoded = Encoder(tiny, max_length=64).encode(conversation(["Hi", "Captain"] * 2000))
    assert isinstance(encoded, Encoded)
    assert encoded.truncated
    assert len(calls) < 40


def test_a_row_with_a_token_without_embedding_is_refused(tiny: Path) -> None:
    refused = Encoder(tiny, max_length=64, vocab_size=5).encode(conversation(["Hi", "Captain"]))
    assert isinstance(refused, Refused)
    assert "no embedding" in refused.reason
