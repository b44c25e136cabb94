"""Usage section of an export's README.md: commands that run the model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.conversation import Conversation, Languages, Text, Turn
from gemtune.errors import StepError
from gemtune.methods import Modality
from gemtune.request.exports import AdapterExport, GgufExport
from gemtune.request.spec import Spec
from trainer.conversation.chat_template import ChatTemplate
from trainer.export.modelfile import hand_over_token, turns_of
from trainer.rendering.abilities import Abilities

FP16_WARNING = """> **Gemma 3 overflows in fp16 arithmetic.** Its hidden states exceed 65,504, the largest fp16
> number, and its answers become empty or nonsense. These weights are stored in fp16, and none of them exceeds it;
> compute in bfloat16 or float32."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question to a model, as code.

    messages: in Python. picture: the content of a message with a picture, in Python. prompt: the whole prompt without
    `<bos>`, for programs whose messages cannot have what the chat template needs; None where they can. instruction: the
    user's part of it. tools_end: the token after which the model waits for the results of its calls, "" if there is
    none; None without tools.
    """

    messages: str
    picture: str
    prompt: str | None = None
    instruction: str = ""
    tools_end: str | None = None

    def request(self, address: str) -> str:
        """Return a command that asks a server with OpenAI's API."""
        body: dict[str, Any]
        if self.prompt is None:
            path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}]}
        else:
            path, body = "/v1/completions", {"prompt": self.prompt, "max_tokens": 64}
        quoted = shlex.quote(json.dumps({"model": "mine"} | body, ensure_ascii=False))
        return f"curl {address}{path} -H 'Content-Type: application/json' \\\n  -d {quoted}"


_PLAIN = Example(
    '[{"role": "user", "content": "Hello!"}]',
    '[{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is this?"}]',
)


def how_to_run(
    spec: Spec, base: str | None = None, *, is_lossy: bool = False, template: ChatTemplate | None = None
) -> str:
    """Return Markdown with commands for one format.

    They are complete, and meant to be run in the folder of the export. base: where the adapter's base model is; None:
    as the request names it. is_lossy: the name of a GGUF file says that it loses more than its format may. template:
    the chat template of training; None: one that has messages only.
    """
    base = base or spec.training_config.base_model_id
    example = _PLAIN if template is None else _example_for(template)
    commands = _commands(spec, base, example, is_lossy=is_lossy)
    return f"## Use\n\n{commands}{_notes(example, is_gguf=isinstance(spec.export, GgufExport))}"


def _commands(spec: Spec, base: str, example: Example, *, is_lossy: bool) -> str:
    match spec.export:
        case AdapterExport() if spec.training_config.method != "Full":
            has_new_tokens = spec.training_config.new_tokens is not None
            return _adapter(base, example, spec.modality, has_new_tokens=has_new_tokens)
        case GgufExport() as export:
            name = export.lossy_file_name if is_lossy else export.file_name
            return _gguf(name, example) + _MEDIA[spec.modality].format(name)
        case export:
            return _whole_model(export.quantization, example, spec.modality)


# The vision encoder of a GGUF export, by llama.cpp's usual name.
PROJECTOR = "mmproj-f16.gguf"


def _adapter(base_model_id: str, example: Example, modality: Modality, *, has_new_tokens: bool) -> str:
    model, reader, answer = _code(example, modality)
    names = ", ".join(
        dict.fromkeys((model, reader, *(["AutoTokenizer"] if has_new_tokens else []), "GenerationConfig"))
    )
    note, resize = (_RESIZE_NOTE, _RESIZE) if has_new_tokens else ("", "")
    return f"""{note}```python
from peft import PeftModel
from transformers import {names}

folder = "."  # the folder of this file
base = {model}.from_pretrained({base_model_id!r}, dtype="auto")
{resize}model = PeftModel.from_pretrained(base, folder)
model.generation_config = GenerationConfig.from_pretrained(folder)  # with the token that ends an answer
{answer}
```"""


_RESIZE_NOTE = """The tokenizer in this folder has new tokens, and the adapter contains their rows of the embedding.
The base model's embedding only has to be long enough for them before PEFT loads the adapter.

"""
_RESIZE = """rows = max(len(AutoTokenizer.from_pretrained(folder)), base.get_input_embeddings().num_embeddings)
base.resize_token_embeddings(rows, mean_resizing=False)  # the adapter has the rows of the new tokens
"""


# (model class, tokenizer or processor class, code that prints an answer) by modality.
_TEXT_MODEL = (
    "AutoModelForCausalLM",
    "AutoTokenizer",
    """tokenizer = AutoTokenizer.from_pretrained(folder)

turn = TURN
inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)
_VISION_MODEL = (
    "AutoModelForImageTextToText",
    "AutoProcessor",
    """processor = AutoProcessor.from_pretrained(folder)  # needs Pillow, and for Gemma 4 torchvision

content = CONTENT
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True,
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)
# AutoProcessor of a Gemma 4 needs torchvision and librosa even for audio alone; the example needs neither.
_AUDIO_MODEL = (
    "AutoModelForImageTextToText",
    "AutoFeatureExtractor, AutoTokenizer",
    """import soundfile

tokenizer, extractor = AutoTokenizer.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)

samples, rate = soundfile.read("speech.wav", dtype="float32")  # one channel, at most 30 seconds
assert rate == 16_000 and samples.ndim == 1
audio = extractor([samples], return_tensors="pt")
# A soft token stands for four frames, and in a unified model, which reads the samples themselves, for one.
frames = 1 if model.config.model_type == "gemma4_unified" else 4
soft = tokenizer.audio_token * int(audio["input_features_mask"][0, ::frames].sum())
content = [{"type": "audio"}, {"type": "text", "text": "What is said?"}]
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
)
text = text.replace(tokenizer.audio_token, tokenizer.boa_token + soft + tokenizer.eoa_token)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
types = 3 * (inputs["input_ids"] == model.config.audio_token_id)
output = model.generate(**inputs, **audio, mm_token_type_ids=types, max_new_tokens=64)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)
_MODELS: Mapping[Modality, tuple[str, str, str]] = {
    "text": _TEXT_MODEL,
    "vision": _VISION_MODEL,
    "audio": _AUDIO_MODEL,
}


def _code(example: Example, modality: Modality) -> tuple[str, str, str]:
    """Return the model class, the class of its reader, and code that answers.

    The reader is a tokenizer or a processor.
    """
    model, reader, code = _MODELS[modality]
    return model, reader, code.replace("TURN", example.messages).replace("CONTENT", example.picture)


def _whole_model(quantization: str, example: Example, modality: Modality) -> str:
    model, reader, answer = _code(example, modality)
    warning = f"{FP16_WARNING}\n\n" if quantization == "fp16" else ""
    needs = "It needs `pip install bitsandbytes`, and no other options.\n\n" if quantization == "q4" else ""
    dtype = '"bfloat16"' if quantization == "fp16" else '"auto"'
    more = " --quantization bitsandbytes" if quantization == "q4" else ""
    return f"""{warning}{needs}With transformers:

```python
from transformers import {model}, {reader}

folder = "."  # the folder of this file
model = {model}.from_pretrained(folder, dtype={dtype})
{answer}
```

With vLLM, as a server with OpenAI's API:

```sh
vllm serve . --served-model-name mine --dtype bfloat16{more}
{example.request("http://127.0.0.1:8000")}
```"""


_CHAT = """With llama.cpp, whose programs apply the chat template in the file:

```sh
llama-cli --model {0} --jinja
llama-server --model {0} --jinja --port 8081
```"""
_COMPLETE = """With llama.cpp's server, which gets the whole prompt, because its messages have no codes of languages:

```sh
llama-server --model {0} --port 8081
{1}
```"""


def _gguf(name: str, example: Example) -> str:
    served = _CHAT.format(name)
    call = 'model.create_chat_completion([{"role": "user", "content": "Hello!"}])'
    text = 'answer["choices"][0]["message"]["content"]'
    if example.prompt is not None:
        served = _COMPLETE.format(name, example.request("http://127.0.0.1:8081"))
        call, text = f"model({example.prompt!r}, max_tokens=64)", 'answer["choices"][0]["text"]'
    return f"""{served}

With llama-cpp-python:

```python
from llama_cpp import Llama

model = Llama("{name}", n_ctx=2048)
answer = {call}
print({text})
```

With Ollama, and the `Modelfile` in this folder:

```sh
ollama create mine -f Modelfile
ollama run mine "Hello!"
```

The chat template of training trims messages, and Ollama cannot: send messages without white space around them. The
certificate says on which of its prompts that makes a difference."""


_PICTURES = f"""

For pictures, pass `{PROJECTOR}` to llama.cpp: it turns them into the language model's input.

```sh
llama-mtmd-cli --model {{0}} --mmproj {PROJECTOR} --jinja --image picture.jpg --prompt "What is this?"
llama-server --model {{0}} --mmproj {PROJECTOR} --jinja --port 8081
```

Without it, the commands above and the `Modelfile` are for text only."""

_AUDIO = f"""

The file `{PROJECTOR}` has what hears for llama.cpp. What llama.cpp makes of audio was not compared with transformers,
which the model was trained with.

```sh
llama-mtmd-cli --model {{0}} --mmproj {PROJECTOR} --jinja --audio speech.wav --prompt "What is said?"
llama-server --model {{0}} --mmproj {PROJECTOR} --jinja --port 8081
```

Without it, the commands above and the `Modelfile` are for text only."""

_MEDIA: Mapping[Modality, str] = {"text": "", "vision": _PICTURES, "audio": _AUDIO}


def _example_for(template: ChatTemplate) -> Example:
    """Return a question that a chat template takes."""
    abilities = Abilities(template)
    tools_end = hand_over_token(template) if abilities.shows_tools else None
    if not abilities.needs_languages:
        return Example(_PLAIN.messages, _PLAIN.picture, tools_end=tools_end)
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
