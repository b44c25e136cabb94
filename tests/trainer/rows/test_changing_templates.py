"""Chat templates that change earlier turns are refused.

The assistant's tokens are found by rendering the conversation up to and after each answer. A template that renders
earlier turns differently once later ones are added would make the wrong text be trained on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gemtune.datasets.conversation import of_messages
from gemtune.errors import StepError
from trainer.rows.encoded import Encoded
from trainer.rows.encoder import Encoder

TURN = "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n"
STABLE = (
    "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Conversations with one answer and with two.
TWO = of_messages(
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Captain"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Aye"},
    ]
)
ONE = TWO.first(2)
CHANGING = {
    "marks the last turn": STABLE.replace(TURN, "{% if loop.last %}(last) {% endif %}" + TURN),
    "leaves out answers but the last": STABLE.replace(
        TURN, TURN.replace("{{ m.content }}", "{{ m.content if m.role == 'user' or loop.last else '…' }}")
    ),
    "counts the turns": STABLE.replace("{{ bos_token }}", "{{ bos_token }}{{ messages | length }} turns\n"),
    "repeats the first turn at the end": STABLE.replace("{% endfor %}", "{% endfor %}{{ messages[0].content }}"),
}
# With this template an answer does not begin where the generation prompt ends.
OTHER_PROMPT = STABLE.replace("<start_of_turn>model\n{% endif %}", "<start_of_turn>assistant\n{% endif %}")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(tiny / name, tmp_path / name)
    return tmp_path


def encoder(folder: Path, template: str) -> Encoder:
    (folder / "chat_template.jinja").write_text(template)
    return Encoder(folder, max_length=512)


def test_a_stable_template_trains_every_answer_and_nothing_else(folder: Path) -> None:
    encoded = encoder(folder, STABLE).encode(TWO)
    assert isinstance(encoded, Encoded)
    trained = [piece["text"] for piece in encoder(folder, STABLE).text_pieces(encoded) if piece["trained"]]
    assert trained == ["Captain<end_of_turn>\n", "Aye<end_of_turn>\n"]


@pytest.mark.parametrize("template", CHANGING.values(), ids=CHANGING.keys())
def test_a_template_that_changes_earlier_turns_is_refused(folder: Path, template: str) -> None:
    with pytest.raises(StepError) as caught:
        encoder(folder, template).encode(TWO)
    assert (caught.value.code, caught.value.hint) == (
        "template_not_supported",
        "use a base model with Gemma's template",
    )


def test_an_answer_that_does_not_follow_the_generation_prompt_is_refused(folder: Path) -> None:
    for encode in (
        lambda: encoder(folder, OTHER_PROMPT).encode(ONE),
        lambda: encoder(folder, OTHER_PROMPT).reply(ONE.first(1), ONE.turns[1]),
    ):
        with pytest.raises(StepError) as caught:
            encode()
        assert caught.value.code == "template_not_supported"


def test_a_reply_is_the_text_after_its_prompt(folder: Path) -> None:
    stable = encoder(folder, STABLE)
    reply = stable.reply(TWO.first(3), TWO.turns[3])
    assert isinstance(reply, list)
    assert stable.text(reply) == "Aye<end_of_turn>\n"
    with pytest.raises(StepError):
        encoder(folder, CHANGING["counts the turns"]).reply(TWO.first(3), TWO.turns[3])
