"""Rows with pictures get the same tokens as from transformers' own processor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gemtune.datasets.conversation import Conversation, of_messages
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import ReadOptions
from gemtune.errors import StepError
from tests import tiny_gemma
from tests.conversations import conversation_of
from trainer.base_model.folder_contents import config_of
from trainer.pictures.arrow_file import Picture
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

PICTURE_PART = {"type": "image", "image": "red.png"}
# Handles lists as google/gemma-3-4b-it's template does: one token per picture, each text trimmed.
GEMMA_STYLE_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set before = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set before = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set before = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
    {{- before if loop.first -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{- '<start_of_image>' -}}
            {%- elif item['type'] == 'text' -%}{{- item['text'] | trim -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""


def encoder_of(folder: Path, max_length: int = 4096) -> Encoder:
    return Encoder(folder, max_length=max_length, media=picture_tokens(folder, config_of(folder)))


def row(*turns: Any, system: str | None = None) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


def opened(row: dict[str, Any], size: tuple[int, int] = (20, 20)) -> Conversation:
    """Return the conversation of a row, with pictures of one size."""
    conversation = conversation_of(row, with_pictures=True)
    return conversation.with_images([Picture(b"", size)] * len(conversation.images()))


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


ROWS = {
    "one": row([PICTURE_PART, text_part("What is it?")], "Captain, red."),
    "picture last": row([text_part(" What is it? "), PICTURE_PART], "Captain, red."),
    "between texts": row([text_part("This "), PICTURE_PART, text_part(" or\n\n"), text_part("that?")], "Captain, red."),
    "two at once": row([PICTURE_PART, PICTURE_PART, text_part("Both?")], "Captain, yes."),
    "in two turns": row(
        [PICTURE_PART, text_part("A?")], "Captain, yes.", [text_part("And"), PICTURE_PART], " Captain,\n no. "
    ),
    "later only": row("Hi", "Captain.", [PICTURE_PART], "Captain, red."),
    "none": row("Hi", "Captain."),
    "none, as a list": row([text_part("Hi"), text_part("there")], [text_part("Captain.")]),
    "with a system message": row([PICTURE_PART, text_part("What?")], "Captain, red.", system="Be brief."),
    "a picture alone": row([PICTURE_PART], "Captain, red."),
}


@pytest.fixture(scope="module", params=["gemtune's template", "a template in Gemma's style"])
def folder(request: pytest.FixtureRequest, tiny_vision: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(tiny_vision, tmp_path_factory.mktemp("vision") / "model"))
    if request.param != "gemtune's template":
        (copy / "chat_template.jinja").write_text(GEMMA_STYLE_TEMPLATE)
    return copy


@pytest.mark.parametrize("name", ROWS)
def test_tokens_are_those_of_transformers_processor(name: str, folder: Path) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    picture = Image.new("RGB", (20, 20), "red")
    turns = [
        turn
        | {
            "content": [part | {"image": picture} if "image" in part else part for part in turn["content"]]
            if isinstance(turn["content"], list)
            else turn["content"]
        }
        for turn in ROWS[name]["messages"]
    ]
    theirs = processor.apply_chat_template(turns, tokenize=True, return_dict=True)
    messages = opened(ROWS[name])
    ours = encoder_of(folder).encode(messages)
    assert isinstance(ours, Encoded)
    assert ours.input_ids == list(theirs["input_ids"][0])
    soft = processor.tokenizer.image_token_id
    assert [int(token == soft) for token in ours.input_ids] == list(theirs["token_type_ids"][0])
    assert all(label == UNTRAINED for label, token in zip(ours.labels, ours.input_ids, strict=True) if token == soft)
    trained = processor.tokenizer.decode([label for label in ours.labels if label != UNTRAINED])
    answers = [turn["content"] for turn in ROWS[name]["messages"] if turn["role"] == "assistant"]
    texts = [answer if isinstance(answer, str) else answer[0]["text"] for answer in answers]
    assert trained == "".join(f"{text.strip()}<end_of_turn>\n" for text in texts)


@pytest.mark.parametrize("token", ["<start_of_image>", "<image_soft_token>", "<end_of_image>"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_row_with_a_picture_token_in_its_text_is_refused(token: str, turn: int, tiny_vision: Path) -> None:
    texts = ["Hi", "Captain"]
    texts[turn] += token
    refused = encoder_of(tiny_vision).encode(opened(row([PICTURE_PART, text_part(texts[0])], texts[1])))
    assert isinstance(refused, Refused)
    assert token in refused.reason


@pytest.mark.parametrize("halves", [("<start_of", "_image>"), ("<image_soft", "_token>")])
def test_a_row_whose_text_parts_join_to_a_picture_token_is_refused(halves: tuple[str, str], tiny_vision: Path) -> None:
    messages = opened(row([PICTURE_PART, text_part(halves[0]), text_part(halves[1])], "Captain"))
    refused = encoder_of(tiny_vision).encode(messages)
    assert isinstance(refused, Refused)
    assert "stand for a picture" in refused.reason


def test_a_row_is_never_cut_within_a_picture(tiny_vision: Path) -> None:
    messages = opened(ROWS["in two turns"])
    whole = encoder_of(tiny_vision).encode(messages)
    assert isinstance(whole, Encoded)
    end = encoder_of(tiny_vision)._tokenizer.token_to_id("<end_of_image>")
    last = max(index for index, token in enumerate(whole.input_ids) if token == end)
    for length in range(1, len(whole.input_ids)):
        cut = encoder_of(tiny_vision, length).encode(messages)
        if length <= last:
            assert isinstance(cut, Refused)
            assert "max_seq_length" in cut.reason
        elif isinstance(cut, Encoded):
            assert (cut.input_ids, cut.truncated) == (whole.input_ids[:length], True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([text_part("x"), {"type": "video", "video": "x"}], "type: text"),
        ([text_part(" ")], "empty"),
        ([], "empty"),
        ([text_part("\ud800")], "Unicode"),
        (["x"], "type: text"),
    ],
)
def test_content_that_is_neither_text_nor_picture_is_refused(content: Any, reason: str) -> None:
    refused = table.read(row(content, "Captain"), ReadOptions(with_pictures=True))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_only_users_can_show_pictures(role: str) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}]}
    row["messages"].insert(0 if role == "system" else 1, {"role": role, "content": [PICTURE_PART]})
    shown = {"messages": row["messages"][: 3 if role == "system" else 2]}
    refused = table.read(shown, ReadOptions(with_pictures=True))
    assert isinstance(refused, Refused)
    assert "a picture" in refused.reason


def test_no_part_of_a_system_message_is_lost(folder: Path) -> None:
    system = {"role": "system", "content": [text_part("Be "), text_part("brief.")]}
    encoder = encoder_of(folder)
    encoded = encoder.encode(opened({"messages": [system, *row("Hi", "Captain")["messages"]]}))
    assert isinstance(encoded, Encoded)
    # A template in Gemma's style renders the first part only, so it gets one text.
    assert encoder.text(encoded.input_ids).partition("\n\nHi")[0].endswith(("Be brief.", "Bebrief."))


def changed_copy(base: Path, tmp_path: Path, **files: Any) -> Path:
    folder = Path(shutil.copytree(base, tmp_path / "changed"))
    for stem, change in files.items():
        path = folder / f"{stem}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return folder


def set_to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda configuration: configuration.update(values)


def test_the_preprocessor_config_of_older_models_is_read(tiny_vision: Path, tmp_path: Path) -> None:
    older = changed_copy(tiny_vision, tmp_path)
    processor = json.loads((older / "processor_config.json").read_text())
    (older / "preprocessor_config.json").write_text(json.dumps(processor.pop("image_processor")))
    (older / "processor_config.json").write_text(json.dumps(processor))
    assert picture_tokens(older, config_of(older)) == picture_tokens(tiny_vision, config_of(tiny_vision))


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"config": lambda it: it.update(model_type="gemma2")}, "model_without_vision"),
        ({"config": lambda it: it.pop("vision_config")}, "model_without_vision"),
        ({"config": lambda it: it.update(mm_tokens_per_image=9)}, "bad_base_model"),
        ({"processor_config": lambda it: it.pop("image_processor")}, "bad_base_model"),
        ({"processor_config": lambda it: it.update(do_pan_and_scan=True)}, "processor_not_supported"),
        ({"tokenizer_config": lambda it: it.pop("boi_token")}, "bad_base_model"),
        *[
            (
                {"config": set_to(mm_tokens_per_image=n), "processor_config": set_to(image_seq_length=n)},
                "bad_base_model",
            )
            for n in (0, -1, True, "256", 256.0, None, 10**9)
        ],
        *[({"config": set_to(image_token_index=n)}, "bad_base_model") for n in (-1, "5", 10**40)],
        *[
            ({"processor_config": lambda it, n=n: it["image_processor"]["size"].update(width=n)}, "bad_base_model")
            for n in (0, -896, True, "896", 10**9, 112)
        ],
        ({"config": lambda it: it["vision_config"].update(image_size=600)}, "bad_base_model"),
    ],
)
def test_a_model_without_a_usable_picture_configuration_fails(
    tiny_vision: Path, tmp_path: Path, files: dict[str, Any], code: str
) -> None:
    folder = changed_copy(tiny_vision, tmp_path, **files)
    with pytest.raises(StepError) as caught:
        picture_tokens(folder, config_of(folder))
    assert caught.value.code == code


def test_a_tokenizer_of_another_model_fails(tiny_vision: Path, tmp_path: Path) -> None:
    folder = changed_copy(tiny_vision, tmp_path, config=lambda it: it.update(image_token_index=5))
    with pytest.raises(StepError, match="disagree about the id of <image_soft_token>"):
        encoder_of(folder)


def test_a_template_that_writes_no_pictures_fails(tiny_vision: Path, tmp_path: Path) -> None:
    folder = changed_copy(tiny_vision, tmp_path)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}")
    messages = opened(ROWS["one"])
    with pytest.raises(StepError, match="writes 0 pictures where a row has 1"):
        encoder_of(folder).encode(messages)


def test_other_resizing_than_bilinear_is_left_to_the_processor(tiny_vision: Path, tmp_path: Path) -> None:
    folder = changed_copy(tiny_vision, tmp_path, processor_config=lambda it: it["image_processor"].update(resample=3))
    assert picture_tokens(folder, config_of(folder)).grid.resized((20, 20)) is None


# Rows of Gemma 4, whose pictures have as many tokens as their aspect ratio allows.
SIZES = [(20, 20), (40, 10), (9, 120)]


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("gemma4") / "model", "gemma4-dense")


def test_gemma_4_gets_as_many_tokens_per_picture_as_its_processor_says(gemma4: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    turns = row([PICTURE_PART, text_part("A or "), PICTURE_PART], "Captain.", [PICTURE_PART], "Captain, red.")
    conversation = conversation_of(turns, with_pictures=True)
    folder = changed_copy(
        gemma4, tmp_path, config=lambda it: it["vision_config"].update(position_embedding_size=10_240)
    )
    ours = encoder_of(folder).encode(conversation.with_images([Picture(b"", size) for size in SIZES]))
    assert isinstance(ours, Encoded)

    pictures = [Image.new("RGB", size, "red") for size in SIZES]
    processor = Gemma4ImageProcessorPil.from_pretrained(gemma4)
    counts = processor(pictures, input_data_format="channels_last")["num_soft_tokens_per_image"]
    tokenizer = AutoTokenizer.from_pretrained(gemma4)
    first, *rest = tokenizer.apply_chat_template(turns["messages"], tokenize=False).split("<|image|>")
    text = first + "".join(
        f"<|image>{'<|image|>' * count}<image|>{after}" for count, after in zip(counts, rest, strict=True)
    )
    assert len(set(counts)) > 1
    assert ours.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    trained = tokenizer.decode([label for label in ours.labels if label != UNTRAINED])
    assert trained == "Captain.<turn|>Captain, red.<turn|>"


@pytest.mark.parametrize("width", [100, 630, 700, 2000])
def test_gemma_4_refuses_a_picture_with_more_positions_than_its_table_has(gemma4: Path, width: int) -> None:
    """Transformers has no check of its own of its table, which has 64 here."""
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    turns = row([PICTURE_PART, text_part("A?")], "Captain.")
    encoded = encoder_of(gemma4).encode(opened(turns, (width, 100)))
    picture = Image.new("RGB", (width, 100), "red")
    positions = Gemma4ImageProcessorPil.from_pretrained(gemma4)([picture])["image_position_ids"][0]
    fits = int(positions.max()) < config_of(gemma4)["vision_config"]["position_embedding_size"]
    assert fits is (width < 700)
    assert isinstance(encoded, Encoded) is fits
    if isinstance(encoded, Refused):
        assert "soft tokens along a side, and the model has positions for 21" in encoded.reason


@pytest.mark.parametrize("token", ["<|image>", "<|image|>", "<image|>", "<|audio|>", "<|video|>"])
def test_gemma_4_refuses_a_text_with_a_token_of_pictures_or_sounds(token: str, gemma4: Path) -> None:
    for texts in ((f"What {token}?", "Captain."), ("What?", f"Captain {token}.")):
        refused = encoder_of(gemma4).encode(opened(row([PICTURE_PART, text_part(texts[0])], texts[1])))
        assert isinstance(refused, Refused)
        assert token in refused.reason
    for pictures in (None, picture_tokens(gemma4, config_of(gemma4))):
        encoder = Encoder(gemma4, max_length=4096, media=pictures)
        prompt = encoder.prompt(of_messages([{"role": "user", "content": f"A {token}"}]))
        assert isinstance(prompt, Refused)
        assert token in prompt.reason


def test_a_row_of_gemma_4_is_never_cut_within_a_picture(gemma4: Path) -> None:
    messages = opened(row([PICTURE_PART, text_part("A?"), PICTURE_PART], "Captain, yes."))
    whole = encoder_of(gemma4).encode(messages)
    assert isinstance(whole, Encoded)
    last = max(
        i for i, token in enumerate(whole.input_ids) if token == encoder_of(gemma4)._tokenizer.token_to_id("<image|>")
    )
    for length in (last - 40, last, last + 1, last + 12):
        cut = encoder_of(gemma4, length).encode(messages)
        assert isinstance(cut, Encoded) is (length == last + 12)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"processor_config": lambda it: it["image_processor"].update(patch_size=8)}, "bad_base_model"),
        ({"processor_config": lambda it: it["image_processor"].update(pooling_kernel_size=0)}, "bad_base_model"),
        *[
            ({"processor_config": lambda it, n=n: it["image_processor"].update(max_soft_tokens=n)}, "bad_base_model")
            for n in (71, "70", 70.0, True, -70, 10**9)
        ],
        ({"processor_config": lambda it: it["image_processor"].update(resample=2)}, "processor_not_supported"),
        ({"processor_config": lambda it: it["image_processor"].update(do_resize=False)}, "processor_not_supported"),
    ],
)
def test_a_processor_that_divides_pictures_unlike_the_vision_tower_is_refused(
    gemma4: Path, tmp_path: Path, files: dict[str, Any], code: str
) -> None:
    folder = changed_copy(gemma4, tmp_path, **files)
    with pytest.raises(StepError) as raised:
        picture_tokens(folder, config_of(folder))
    assert raised.value.code == code
