"""Code and commands for transformers, PEFT and vLLM."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.methods import Modality
from trainer.export.commands.example import Example

FP16_WARNING = """> **Gemma 3 overflows in fp16 arithmetic.** Its hidden states exceed 65,504, the largest fp16
> number, and its answers become empty or nonsense. These weights are stored in fp16, and none of them exceeds it;
> compute in bfloat16 or float32."""


def adapter_in_peft(base_model_id: str, example: Example, modality: Modality, *, has_new_tokens: bool) -> str:
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
# AutoProcessor of a Gemma 3n or 4 needs torchvision and librosa even for audio alone; the example needs neither.
_AUDIO_MODEL = (
    "AutoModelForImageTextToText",
    "AutoFeatureExtractor, AutoTokenizer",
    """import soundfile

tokenizer, extractor = AutoTokenizer.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)

samples, rate = soundfile.read("speech.wav", dtype="float32")  # one channel, at most 30 seconds
assert rate == 16_000 and samples.ndim == 1
audio = extractor([samples], return_tensors="pt")
if model.config.model_type == "gemma3n":  # every clip has the same number of soft tokens
    count, around, type_ids = model.config.audio_soft_tokens_per_image, "\\n\\n", "token_type_ids"
else:  # one stands for four frames, and in a unified model, which reads the samples themselves, for one
    frames = 1 if model.config.model_type == "gemma4_unified" else 4
    count, around, type_ids = int(audio["input_features_mask"][0, ::frames].sum()), "", "mm_token_type_ids"
soft = tokenizer.boa_token + tokenizer.audio_token * count + tokenizer.eoa_token
content = [{"type": "audio"}, {"type": "text", "text": "What is said?"}]
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
)
text = text.replace(tokenizer.audio_token, around + soft + around)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
inputs[type_ids] = 3 * (inputs["input_ids"] == model.config.audio_token_id)
output = model.generate(**inputs, **audio, max_new_tokens=64)
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


def whole_model(quantization: str, example: Example, modality: Modality) -> str:
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
