"""Runtimes of trained and exported models: transformers, PEFT, llama.cpp.

Each one tokenizes prompts, and computes logits and answers. Logits come in batches of positions, as a single position
has 262,144 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from trainer.base_model import folder_contents
from trainer.base_model.language_model import is_wrapped, unwrap
from trainer.certificate.batches import Batch
from trainer.certificate.output_head import OutputHead
from trainer.conversation.chat_template import json_object
from trainer.conversation.render_limits import RenderLimits
from trainer.export import modelfile
from trainer.gguf import file_template
from trainer.gguf.llama_library import LlamaModel
from trainer.model import loading

Tokens = Sequence[int]
Messages = list[dict[str, Any]]
Options = Mapping[str, Any]
# Inputs of a model besides tokens, by name; those of text have none.
Inputs = Mapping[str, torch.Tensor]
# Models with up to this many bytes of weights are computed in float32, so that nothing is rounded but the stored
# weights. Larger ones are computed in bf16, because float32 would take twice the memory.
FLOAT32_UP_TO = 4 << 30
# The way to render a prompt that belongs to Ollama.
MODELFILE = "Modelfile"
# Media whose places in a text multimodal models mark by a token of their own.
MEDIA = ("image", "audio", "video")


class Runtime(Protocol):
    """A model that was loaded from files.

    reads_media: whether it takes pictures and audio. suppressed: tokens whose logits are minus infinity.
    """

    name: str
    reads_media: bool
    suppressed: Sequence[int]

    def prompts(self, messages: Messages, options: Options) -> Mapping[str, Tokens]:
        """Return the tokens of a prompt, by each way that the export offers.

        options: variables of the chat template. A way that has none is left out of prompts with some.
        """
        ...

    def trimmed_prompts(self, messages: Messages) -> Mapping[str, Tokens]:
        """Return `prompts` of trimmed messages, by the ways that do not trim.

        Such a way differs from a chat template that trims, and the certificate says so.
        """
        ...

    def stops_at(self, token: int) -> bool:
        """Return whether the export's configuration ends answers at a token."""
        ...

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch, (positions, vocabulary) in float32.

        A runtime that reads no media is not asked for rows with some.
        """
        ...

    def answer(self, tokens: Tokens, limit: int) -> list[int]:
        """Generate up to `limit` tokens greedily; leave out the end token."""
        ...

    def text(self, tokens: Tokens) -> str:
        """Decode tokens, without special tokens."""
        ...


class Transformers:
    """A model folder in transformers, or an adapter folder in PEFT.

    folder: the model, or the base model of the adapter. with_media: with the towers for pictures and audio.
    """

    reads_media = True
    suppressed: Sequence[int] = ()

    def __init__(self, folder: Path, adapter: Path | None = None, *, with_media: bool = False):
        from transformers import AutoTokenizer

        self.name = "transformers" if adapter is None else "PEFT"
        loaded = loading.load(folder, adapter, dtype=dtype_for(folder), attention="eager", with_media=with_media)
        self._adapted = loaded if is_wrapped(loaded) else None
        self._model: Any = loaded  # its own class has `generate`, and not that of all models
        model = unwrap(loaded)
        self._tokenizer = AutoTokenizer.from_pretrained(adapter or folder)
        self._body = model.get_submodule("model")
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self.head = OutputHead(model.get_output_embeddings().weight, cap)
        # transformers replaces the embeddings of these tokens, llama.cpp does not: in an answer that is compared they
        # would look like a fault of the export.
        tokens = [getattr(model.config, f"{medium}_token_id", None) for medium in MEDIA]
        self._media_tokens = [token for token in tokens if token is not None]

    def prompts(self, messages: Messages, options: Options) -> Mapping[str, Tokens]:
        with RenderLimits():
            encoding = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, **options
            )
        assert isinstance(encoding, Mapping)
        return {"chat template": list(encoding["input_ids"])}

    def trimmed_prompts(self, messages: Messages) -> Mapping[str, Tokens]:
        return {}

    def stops_at(self, token: int) -> bool:
        """Generate two tokens with the first one given."""
        with torch.no_grad():
            generated = self._model.generate(
                input_ids=torch.tensor([[token]]),
                attention_mask=torch.ones(1, 1, dtype=torch.long),
                max_new_tokens=2,
                do_sample=False,
                prefix_allowed_tokens_fn=lambda batch, ids: [token],
            )
        return int(generated.shape[1]) == 2

    def hidden(self, tokens: Tokens, positions: Sequence[int], inputs: Inputs) -> torch.Tensor:
        """Return the last hidden states, (positions, width) in float32."""
        dtype = self._model.dtype
        typed = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        with torch.no_grad():
            states: torch.Tensor = self._body(input_ids=torch.tensor([list(tokens)]), **typed).last_hidden_state
        return states[0, list(positions)].float()

    def base_hidden(self, tokens: Tokens, positions: Sequence[int], inputs: Inputs) -> torch.Tensor | None:
        """Return `hidden` without the adapter, or None if there is no adapter.

        `head` belongs to the model with the adapter, whose new tokens have rows of their own in it.
        """
        if self._adapted is None:
            return None
        with self._adapted.disable_adapter():
            return self.hidden(tokens, positions, inputs)

    def logits(self, batch: Batch) -> torch.Tensor:
        pairs = zip(batch.rows, batch.states, strict=True)
        return self.head(torch.cat([self.hidden(row.input_ids, row.positions, each.inputs) for row, each in pairs]))

    def answer(self, tokens: Tokens, limit: int) -> list[int]:
        ends = self._model.generation_config.eos_token_id
        ending = {ends} if isinstance(ends, int) else set(ends or ())
        return [token for token in self.answer_and_end(tokens, limit) if token not in ending]

    def answer_and_end(self, tokens: Tokens, limit: int) -> list[int]:
        """Generate greedily, without tokens of pictures and sounds.

        The end token is included, so there is at least one token.
        """
        with torch.no_grad():
            generated = self._model.generate(
                input_ids=torch.tensor([list(tokens)]),
                max_new_tokens=limit,
                do_sample=False,
                attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                suppress_tokens=self._media_tokens or None,
            )
        return list(generated[0, len(tokens) :].tolist())

    def text(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


class LlamaCpp:
    """A GGUF file in llama.cpp, with the Modelfile in its folder.

    trained: a folder with tokenizer_config.json.
    """

    name = "llama.cpp"
    reads_media = False

    def __init__(self, model: LlamaModel, folder: Path, trained: Path):
        self._model = model
        self.suppressed: Sequence[int] = suppressed_tokens(trained)
        self._modelfile = (folder / "Modelfile").read_text()
        self._template = file_template.read(self._model, json_object(trained / "tokenizer_config.json"))

    def prompts(self, messages: Messages, options: Options) -> Mapping[str, Tokens]:
        by_template = self._template.render(messages, add_generation_prompt=True, options=options)
        ways = {"chat template": self._model.tokens(by_template)}
        return ways if options or not _are_texts(messages) else ways | {MODELFILE: self._by_modelfile(messages)}

    def trimmed_prompts(self, messages: Messages) -> Mapping[str, Tokens]:
        if not _are_texts(messages):
            return {}
        trimmed = [each | {"content": str(each["content"]).strip()} for each in messages]
        return {MODELFILE: self._by_modelfile(trimmed)}

    def _by_modelfile(self, messages: Messages) -> Tokens:
        return self._model.tokens(self._model.bos + modelfile.render_prompt(self._modelfile, messages))

    def stops_at(self, token: int) -> bool:
        return self._model.ends(token)

    def logits(self, batch: Batch) -> torch.Tensor:
        assert not any(row.media for row in batch.rows), "llama.cpp's library for pictures and audio is another one"
        blocks = (block for row in batch.rows for block in self._model.logits(row.input_ids, set(row.positions)))
        return torch.cat([torch.from_numpy(block.copy()) for block in blocks])

    def answer(self, tokens: Tokens, limit: int) -> list[int]:
        return self._model.answer(tokens, limit)

    def text(self, tokens: Tokens) -> str:
        return self._model.text(tokens)


def _are_texts(messages: Messages) -> bool:
    """Return whether the contents of all messages are texts.

    A Modelfile's template renders nothing else.
    """
    return all(isinstance(message["content"], str) for message in messages)


def suppressed_tokens(trained: Path) -> list[int]:
    """Return the tokens that a model never generates.

    trained: folder with the generation config of training. The unified models of Gemma 4 suppress tokens of media.
    """
    tokens = json_object(trained / "generation_config.json").get("suppress_tokens")
    return [token for token in tokens if isinstance(token, int)] if isinstance(tokens, list) else []


def dtype_for(folder: Path) -> torch.dtype | Literal["auto"]:
    """Return the dtype in which the comparison loads and computes a model."""
    if "quantization_config" in folder_contents.config_of(folder):
        return "auto"
    size = sum(path.stat().st_size for path in folder.glob(f"*{folder_contents.WEIGHTS}"))
    return torch.float32 if size <= FLOAT32_UP_TO else torch.bfloat16
