"""Usage section of an export's README.md: commands that run the model."""

from __future__ import annotations

import json
from contextlib import suppress

from gemtune.datasets.conversation import Conversation, Languages, Text, Turn
from gemtune.errors import StepError
from gemtune.request.exports import AdapterExport, GgufExport
from gemtune.request.spec import Spec
from trainer.conversation.chat_template import ChatTemplate
from trainer.export.commands.example import PLAIN, Example
from trainer.export.commands.in_llama_cpp import MEDIA, gguf
from trainer.export.commands.in_transformers import adapter_in_peft, whole_model
from trainer.export.modelfile import hand_over_token, turns_of
from trainer.rendering.abilities import Abilities


def how_to_run(
    spec: Spec, base: str | None = None, *, is_lossy: bool = False, template: ChatTemplate | None = None
) -> str:
    """Return Markdown with commands for one format.

    They are complete, and meant to be run in the folder of the export. base: where the adapter's base model is; None:
    as the request names it. is_lossy: the name of a GGUF file says that it loses more than its format may. template:
    the chat template of training; None: one that has messages only.
    """
    base = base or spec.training_config.base_model_id
    example = PLAIN if template is None else _example_for(template)
    commands = _commands(spec, base, example, is_lossy=is_lossy)
    return f"## Use\n\n{commands}{_notes(example, is_gguf=isinstance(spec.export, GgufExport))}"


def _commands(spec: Spec, base: str, example: Example, *, is_lossy: bool) -> str:
    match spec.export:
        case AdapterExport() if spec.training_config.method != "Full":
            has_new_tokens = spec.training_config.new_tokens is not None
            return adapter_in_peft(base, example, spec.modality, has_new_tokens=has_new_tokens)
        case GgufExport() as export:
            name = export.lossy_file_name if is_lossy else export.file_name
            return gguf(name, example) + MEDIA[spec.modality].format(name)
        case export:
            return whole_model(export.quantization, example, spec.modality)


def _example_for(template: ChatTemplate) -> Example:
    """Return a question that a chat template takes."""
    abilities = Abilities(template)
    tools_end = hand_over_token(template) if abilities.shows_tools else None
    if not abilities.needs_languages:
        return Example(PLAIN.messages, PLAIN.picture, tools_end=tools_end)
    codes = {"source_lang_code": "en", "target_lang_code": "de"}
    messages = [{"role": "user", "content": [{"type": "text", **codes, "text": "Hello!"}]}]
    picture = [{"type": "image", **codes, "path": "picture.jpg"}]
    conversation = Conversation((Turn("user", (Text("Hello!", Languages("en", "de")),)),))
    prompt = instruction = template.render_conversation(conversation, add_generation_prompt=True)
    with suppress(StepError):  # raised for turns that a Modelfile cannot have either
        turns = turns_of(template)
        instruction, prompt = turns.user_text_in(prompt) or prompt, prompt.removeprefix(turns.begin)
    return Example(json.dumps(messages), json.dumps(picture), prompt, instruction, tools_end)


def _notes(example: Example, *, is_gguf: bool) -> str:
    """Return Markdown about what the chat template has besides messages.

    "" if it has messages only.
    """
    notes = ""
    if example.prompt is not None:
        notes += _TRANSLATIONS + (_TRANSLATIONS_IN_OLLAMA.format(example.instruction) if is_gguf else "")
    if example.tools_end is not None:
        notes += _TOOLS + (_TOOLS_END.format(example.tools_end) if example.tools_end else "")
        notes += _NO_TOOLS_IN_OLLAMA if is_gguf else ""
    return notes


_TRANSLATIONS = """

The chat template writes the instruction for a translation. Each message of a user is a list of one part with the codes
of both languages, as `{"type": "text", "source_lang_code": "en", "target_lang_code": "de", "text": "Hello!"}`, and
there is no system message. Programs whose messages have no such codes get the whole prompt instead."""
_TRANSLATIONS_IN_OLLAMA = """ The `Modelfile` has
the turns only, so write the whole instruction into the message for Ollama:

```text
{}
```"""
_TOOLS = """

The chat template has tools: pass their definitions as `tools`, each `{"type": "function", "function": {...}}`, to
`apply_chat_template` or in the request, and results as messages of the role `tool`."""
_TOOLS_END = """ The model ends its calls with
`{}` and waits for the results there: these files name it among the tokens that end an answer."""
_NO_TOOLS_IN_OLLAMA = """ The
`Modelfile` has no tools: use llama.cpp's programs with `--jinja` for them."""
