"""What to type to run an export: the last section of its README.md."""

from __future__ import annotations

from gemtune.request.exports import AdapterExport, GgufExport
from gemtune.request.spec import Spec

FP16_WARNING = """> **Gemma 3 overflows in fp16 arithmetic.** Its hidden states grow beyond 65,504, where fp16
> ends, and its answers become empty or nonsense. The weights here are stored in fp16 and none of them overflows;
> compute in bfloat16 or float32."""


def how_to_run(spec: Spec) -> str:
    """Markdown for one format, with every command as it is typed in the folder of the export."""
    return f"## Use\n\n{_commands(spec, with_pictures=spec.modality == 'vision')}"


def _commands(spec: Spec, *, with_pictures: bool) -> str:
    match spec.export:
        case AdapterExport() if spec.training_config.method != "Full":
            return _adapter(spec.training_config.base_model_id, with_pictures=with_pictures)
        case GgufExport() as export:
            return _gguf(export.file_name) + (_PICTURES.format(export.file_name) if with_pictures else "")
        case export:
            return _whole_model(export.quantization, with_pictures=with_pictures)


# What turns pictures into what the text model reads.
PROJECTOR = "mmproj-f16.gguf"


def _adapter(base_model_id: str, *, with_pictures: bool) -> str:
    model, reader, answer = _SEEING if with_pictures else _READING
    return f"""```python
from peft import PeftModel
from transformers import {model}, {reader}, GenerationConfig

folder = "."  # where this file lies
base = {model}.from_pretrained({base_model_id!r}, dtype="auto")
model = PeftModel.from_pretrained(base, folder)
model.generation_config = GenerationConfig.from_pretrained(folder)  # it says where answers end
{answer}
```"""


# Classes of transformers, and how to ask.
_READING = (
    "AutoModelForCausalLM", "AutoTokenizer", """tokenizer = AutoTokenizer.from_pretrained(folder)

turn = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)  # fmt: skip
_SEEING = (
    "AutoModelForImageTextToText", "AutoProcessor", """processor = AutoProcessor.from_pretrained(folder)

content = [{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is this?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True,
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)  # fmt: skip


def _whole_model(quantization: str, *, with_pictures: bool) -> str:
    model, reader, answer = _SEEING if with_pictures else _READING
    warning = f"{FP16_WARNING}\n\n" if quantization == "fp16" else ""
    needs = "It needs `pip install bitsandbytes`; nothing else has to be said.\n\n" if quantization == "q4" else ""
    dtype = '"bfloat16"' if quantization == "fp16" else '"auto"'
    more = " --quantization bitsandbytes" if quantization == "q4" else ""
    return f"""{warning}{needs}With transformers:

```python
from transformers import {model}, {reader}

folder = "."  # where this file lies
model = {model}.from_pretrained(folder, dtype={dtype})
{answer}
```

With vLLM, which then answers like the OpenAI API:

```sh
vllm serve . --served-model-name mine --dtype bfloat16{more}
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "mine", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
```"""


def _gguf(name: str) -> str:
    return f"""With llama.cpp, whose programs apply the chat template that is in the file:

```sh
llama-cli --model {name} --jinja --conversation
llama-server --model {name} --jinja --port 8080
```

With llama-cpp-python:

```python
from llama_cpp import Llama

model = Llama("{name}", n_ctx=2048)
answer = model.create_chat_completion([{{"role": "user", "content": "Hello!"}}])
print(answer["choices"][0]["message"]["content"])
```

With Ollama, by the `Modelfile` beside this:

```sh
ollama create mine -f Modelfile
ollama run mine "Hello!"
```

Ollama does not trim what it is sent, and the chat template does: send messages without blanks around them."""


_PICTURES = f"""

Pictures: `{PROJECTOR}` turns them into what the language model reads. llama.cpp is told of it:

```sh
llama-mtmd-cli --model {{0}} --mmproj {PROJECTOR} --jinja --image picture.jpg --prompt "What is this?"
llama-server --model {{0}} --mmproj {PROJECTOR} --jinja --port 8080
```

The commands above without it, and the `Modelfile`, are for text."""
