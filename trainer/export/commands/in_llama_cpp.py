"""Commands for llama.cpp, llama-cpp-python and Ollama."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.methods import Modality
from trainer.export.commands.example import Example

# The vision encoder of a GGUF export, by llama.cpp's usual name.
PROJECTOR = "mmproj-f16.gguf"

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


def gguf(name: str, example: Example) -> str:
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

MEDIA: Mapping[Modality, str] = {"text": "", "vision": _PICTURES, "audio": _AUDIO}
