"""Turns with the templates of Gemma 1 to 3: which of them are learned.

The trained tokens are compared with a walk over the token ids.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer

from gemtune.datasets.trained_turns import TrainOn
from tests.conversations import conversation_of
from trainer.conversation.chat_template import OWN_TEMPLATES
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

LIBRARY = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {
    "Gemma 1 and 2": LIBRARY / "gemma.jinja",
    "Gemma 3": LIBRARY / "gemma3.jinja",
    "our own": OWN_TEMPLATES / "gemma_chat_template.jinja",
}
CHAT = [
    {"role": "user", "content": " What colour? "},
    {"role": "assistant", "content": "Red it is."},
    {"role": "user", "content": "Sure?\n\nReally?"},
    {"role": "assistant", "content": " Yes, \n sir "},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Aye"},
]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied: Path = tmp_path_factory.mktemp("model")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (copied / name).write_bytes((tiny / name).read_bytes())
    (copied / "chat_template.jinja").write_text(TEMPLATES[request.param].read_text())
    return copied


def encoded(folder: Path, messages: list[dict[str, Any]], train_on: TrainOn = "all_assistant_turns") -> Encoded:
    row = Encoder(folder, max_length=512).encode(conversation_of({"messages": messages}), train_on)
    assert isinstance(row, Encoded), row
    return row


def answers_in(folder: Path, row: Encoded) -> list[list[int]]:
    """Return the indices of each answer's tokens, by the control tokens.

    These are the tokens after `<start_of_turn>model` and its line break, up to `<end_of_turn>` and its line break.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start, end = (tokenizer.token_to_id(token) for token in ("<start_of_turn>", "<end_of_turn>"))
    model = tokenizer.encode("model\n", add_special_tokens=False).ids
    ids = row.input_ids
    begins = [
        i + 1 + len(model) for i, token in enumerate(ids) if token == start and ids[i + 1 :][: len(model)] == model
    ]
    return [list(range(begin, ids.index(end, begin) + 2)) for begin in begins]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["no system", "system"])
@pytest.mark.parametrize(
    ("weights", "train_on", "learned"),
    [
        ((None, None, None), "all_assistant_turns", [0, 1, 2]),
        ((0, None, 1), "all_assistant_turns", [1, 2]),
        ((1, 1, 0), "all_assistant_turns", [0, 1]),
        ((None, 1, None), "weights", [1]),
        ((1, 1, 1), "last_turn", [2]),
    ],
)
def test_exactly_the_chosen_turns_are_learned(
    folder: Path, system: list[Any], weights: tuple[Any, ...], train_on: TrainOn, learned: list[int]
) -> None:
    chat = copy.deepcopy(CHAT)
    for message, weight in zip(chat[1::2], weights, strict=True):
        message["weight"] = weight
    row = encoded(folder, [*system, *chat], train_on)
    answers = answers_in(folder, row)
    expected = {index for number in learned for index in answers[number]}
    assert {index for index, label in enumerate(row.labels) if label != UNTRAINED} == expected
    plain = encoded(folder, [*system, *CHAT])
    assert row.input_ids == plain.input_ids


def test_a_system_message_goes_in_front_of_the_first_question(folder: Path) -> None:
    encoder = Encoder(folder, max_length=512)
    text = encoder.text(encoded(folder, [SYSTEM, *CHAT]).input_ids)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\n")
    parts = {"role": "system", "content": [{"type": "text", "text": part} for part in ("Be ", "brief.")]}
    shown = encoder.text(encoded(folder, [parts, *CHAT]).input_ids).replace("Be brief.", "Bebrief.")
    assert shown == text.replace("Be brief.", "Bebrief.")


def test_lists_of_texts_are_rendered_as_with_transformers_where_the_template_reads_them(folder: Path) -> None:
    from transformers import AutoTokenizer

    parts = [{"type": "text", "text": text} for text in (" What ", " colour?")]
    messages = [{"role": "user", "content": parts}, CHAT[1]]
    ours = encoded(folder, messages).input_ids
    joined = encoded(folder, [{"role": "user", "content": " What  colour?"}, CHAT[1]]).input_ids
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, return_dict=True)["input_ids"]
    reads_lists = ours == list(theirs)
    # Gemma 1 and 2 would render the list itself, with brackets and quotes.
    assert reads_lists or (folder / "chat_template.jinja").read_text() == TEMPLATES["Gemma 1 and 2"].read_text()
    assert reads_lists or ours == joined
