"""Exports of FunctionGemma and TranslateGemma.

Their end tokens, Modelfile and README, and the certificate's probes.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gemtune.datasets.conversation import Conversation, Languages, Text, Turn
from tests.trainer import variants
from tests.trainer.export.test_usage import run_python, spec_of
from trainer.certificate.held_out_rows import collect
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import tokenizer_files
from trainer.export.modelfile import modelfile, render_prompt, turns_of
from trainer.export.usage import how_to_run
from trainer.rows.encoder import Encoder
from trainer.training.reinforcement import stop_at_turn_end

MODELS = {"FunctionGemma": variants.functiongemma, "TranslateGemma": variants.translategemma}
WAITS = "<start_function_response>"


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(tiny, folder / name) for name, make in MODELS.items()}


def template_of(folder: Path) -> ChatTemplate:
    return ChatTemplate(folder, json_object(folder / "tokenizer_config.json"))


def translation(text: str) -> Conversation:
    return Conversation((Turn("user", (Text(text, Languages("en", "de")),)),))


@pytest.mark.parametrize("name", MODELS)
def test_trained_weights_name_the_tokens_that_end_an_answer(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    tokenizer_files.add_tokenizer(models[name], tmp_path)
    token = Encoder(models[name], max_length=8).token_id
    ends = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    waits = [token(WAITS)] if name == "FunctionGemma" else []
    assert ends == [1, token("<end_of_turn>"), *waits]


def test_rl_ends_a_completion_at_a_call(models: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["FunctionGemma"])
    model: Any = SimpleNamespace(
        config=SimpleNamespace(model_type="gemma3_text"), generation_config=SimpleNamespace(eos_token_id=1)
    )
    stop_at_turn_end(model, tokenizer)
    texts = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert texts == ["<eos>", "<end_of_turn>", WAITS]


def test_the_modelfile_of_functiongemma_stops_at_calls(models: dict[str, Path]) -> None:
    template = template_of(models["FunctionGemma"])
    written = modelfile(turns_of(template), "model.gguf")
    stops = {line.partition(" stop ")[2] for line in written.splitlines() if line.startswith("PARAMETER stop")}
    assert stops == {'"<start_of_turn>"', '"<end_of_turn>"', f'"{WAITS}"'}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Who?"},
    ]
    for shown in (messages, messages[1:]):
        assert "<bos>" + render_prompt(written, shown) == template.render(shown, add_generation_prompt=True)


def test_the_modelfile_of_translategemma_takes_the_whole_instruction(models: dict[str, Path]) -> None:
    template = template_of(models["TranslateGemma"])
    turns = turns_of(template)
    prompt = template.render_conversation(translation("Hello!"), add_generation_prompt=True)
    instruction = turns.user_text_in(prompt)
    assert instruction is not None
    assert instruction.startswith("You translate English (en) into German (de).")
    message = {"role": "user", "content": instruction}
    assert "<bos>" + render_prompt(modelfile(turns, "model.gguf"), [message]) == prompt


@pytest.mark.parametrize("name", MODELS)
def test_the_code_for_a_merged_model_prints_an_answer(
    name: str,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(models[name])
    shown = how_to_run(spec_of("a/b", "merged", "none"), template=template_of(models[name]))
    run_python(shown)
    assert capsys.readouterr().out.strip()
    assert (f"`{WAITS}` and waits for the results there" in shown) is (name == "FunctionGemma")
    assert ("/v1/completions" in shown) is (name == "TranslateGemma")


def test_the_readme_of_a_gguf_file_has_the_instruction_of_a_translation(models: dict[str, Path]) -> None:
    spec = spec_of("a/b", "gguf", "q8_0")
    shown = how_to_run(spec, template=template_of(models["TranslateGemma"]))
    assert "```text\nYou translate English (en) into German (de).\n" in shown
    assert "create_chat_completion" not in shown
    assert "The `Modelfile` has no tools" in how_to_run(spec, template=template_of(models["FunctionGemma"])).replace(
        "\n", " "
    )
    assert how_to_run(spec) == how_to_run(spec, template=None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FunctionGemma", {"tools", "a question with tools", "a call of a tool", "a result that is an object"}),
        ("TranslateGemma", {"a translation", "two translations"}),
    ],
)
def test_the_certificate_asks_in_the_shape_of_the_template(
    name: str, expected: set[str], models: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    collected = collect(tmp_path, models[name])
    names = {prompt.name for prompt in collected.prompts}
    assert expected <= names
    assert ("one turn" in names) is (name == "FunctionGemma")
    assert len(collected.rows) >= len(expected)
    tokenizer = AutoTokenizer.from_pretrained(models[name])
    for prompt in collected.prompts:
        theirs = tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_dict=True, **prompt.options
        )
        assert list(theirs["input_ids"]) == prompt.tokens, prompt.name
