"""Usage section of an export's README.md: commands that run the model."""

from __future__ import annotations

from gemtune.request.exports import AdapterExport, GgufExport
from gemtune.request.spec import Spec

FP16_WARNING = """> **Gemma 3 overflows in fp16 arithmetic.** Its hidden states exceed 65,504, the largest fp16
> number, and its answers become empty or nonsense. These weights are stored in fp16, and none of them exceeds it;
> compute in bfloat16 or float32."""


def how_to_run(spec: Spec, base: str | None = None, *, is_lossy: bool = False) -> str:
    """Return Markdown with commands for one format.

    They are complete, and meant to be run in the folder of the export. base: where the adapter's base model is; None:
    as the request names it. is_lossy: the name of a GGUF file says that it loses more than its format may.
    """
    base = base or spec.training_config.base_model_id
    return f"## Use\n\n{_commands(spec, base, with_pictures=spec.modality == 'vision', is_lossy=is_lossy)}"


def _commands(spec: Spec, base: str, *, with_pictures: bool, is_lossy: bool) -> str:
    match spec.export:
        case AdapterExport() if spec.training_config.method != "Full":
            has_new_tokens = spec.training_config.new_tokens is not None
            return _adapter(base, with_pictures=with_pictures, has_new_tokens=has_new_tokens)
        case GgufExport() as export:
            name = export.lossy_file_name if is_lossy else export.file_name
            return _gguf(name) + (_PICTURES.format(name) if with_pictures else "")
        case export:
            return _whole_model(export.quantization, with_pictures=with_pictures)


# The vision encoder of a GGUF export, by llama.cpp's usual name.
PROJECTOR = "mmproj-f16.gguf"


def _adapter(base_model_id: str, *, with_pictures: bool, has_new_tokens: bool) -> str:
    model, reader, answer = _VISION_MODEL if with_pictures else _TEXT_MODEL
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


# (model class, tokenizer or processor class, code that prints an answer) for text models and for vision models.
_TEXT_MODEL = (
    "AutoModelForCausalLM",
    "AutoTokenizer",
    """tokenizer = AutoTokenizer.from_pretrained(folder)

turn = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)
_VISION_MODEL = (
    "AutoModelForImageTextToText",
    "AutoProcessor",
    """processor = AutoProcessor.from_pretrained(folder)  # needs Pillow, and for Gemma 4 torchvision

content = [{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is this?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True,
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))""",
)


def _whole_model(quantization: str, *, with_pictures: bool) -> str:
    model, reader, answer = _VISION_MODEL if with_pictures else _TEXT_MODEL
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
curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "mine", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
```"""


def _gguf(name: str) -> str:
    return f"""With llama.cpp, whose programs apply the chat template in the file:

```sh
llama-cli --model {name} --jinja
llama-server --model {name} --jinja --port 8081
```

With llama-cpp-python:

```python
from llama_cpp import Llama

model = Llama("{name}", n_ctx=2048)
answer = model.create_chat_completion([{{"role": "user", "content": "Hello!"}}])
print(answer["choices"][0]["message"]["content"])
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
