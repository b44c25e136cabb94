"""Runtimes of trained and exported models: transformers, PEFT, llama.cpp.

Each one tokenizes prompts, and computes logits and answers. Logits come in blocks of positions, as a single position
has 262,144 of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from trainer.base_model import folder_contents
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.conversation.render_limits import RenderLimits
from trainer.export import modelfile
from trainer.gguf.llama_library import POSITIONS, LlamaModel

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Tokens = Sequence[int]
# Columns of the output head that are converted to float32 at once.
COLUMNS = 32_768
# Models with up to this many bytes of weights are computed in float32, so that nothing is rounded but the stored
# weights. Larger ones are computed in bf16, because float32 would take twice the memory.
FLOAT32_UP_TO = 4 << 30
# Media whose places in a text multimodal models mark by a token of their own.
MEDIA = ("image", "audio", "video")


class Runtime(Protocol):
    """A model that was loaded from files."""

    name: str

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        """Return the tokens of a prompt, by each way that the export offers."""
        ...

    def logits(self, tokens: Tokens, positions: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield the logits of some positions, in order.

        Blocks are (at most POSITIONS positions, vocabulary), in float32.
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

    folder: the model, or the base model of the adapter.
    """

    def __init__(self, folder: Path, adapter: Path | None = None):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = "transformers" if adapter is None else "PEFT"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype_for(folder), attn_implementation="eager")
        self._adapted = None if adapter is None else _with_adapter(model, adapter)
        self._model = self._adapted or model
        self._model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(adapter or folder)
        self._body = model.get_submodule("model")
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self.head = Head(model.get_parameter("lm_head.weight"), cap)
        # transformers replaces the embeddings of these tokens, llama.cpp does not: in an answer that is compared they
        # would look like a fault of the export.
        tokens = [getattr(model.config, f"{medium}_token_id", None) for medium in MEDIA]
        self._media_tokens = [token for token in tokens if token is not None]

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        with RenderLimits():
            encoding = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert isinstance(encoding, Mapping)
        return {"chat template": list(encoding["input_ids"])}

    def hidden(self, tokens: Tokens, positions: Sequence[int]) -> torch.Tensor:
        """Return the last hidden states, (positions, width) in float32."""
        with torch.no_grad():
            states: torch.Tensor = self._body(input_ids=torch.tensor([list(tokens)])).last_hidden_state
        return states[0, list(positions)].float()

    def base_hidden(self, tokens: Tokens, positions: Sequence[int]) -> torch.Tensor | None:
        """Return `hidden` without the adapter, or None if there is no adapter.

        Adapters never change the head, so `head` belongs to both.
        """
        if self._adapted is None:
            return None
        with self._adapted.disable_adapter():
            return self.hidden(tokens, positions)

    def logits(self, tokens: Tokens, positions: Sequence[int]) -> Iterator[torch.Tensor]:
        for block in self.hidden(tokens, positions).split(POSITIONS):
            yield self.head(block)

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


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Load an adapter into a model, with the adapter's generation config."""
    from peft import PeftModel
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(adapter)
    return PeftModel.from_pretrained(model, adapter)


class Head:
    """Output head: turns hidden states into logits, in float32.

    cap: logits are cap · tanh(logits / cap), as in Gemma 2; None without a cap.
    """

    def __init__(self, weight: torch.Tensor, cap: float | None):
        self._weight, self._cap = weight.detach(), cap

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = torch.cat([hidden @ block.float().T for block in self._weight.split(COLUMNS)], dim=1)
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


class LlamaCpp:
    """A GGUF file in llama.cpp, with the Modelfile in its folder.

    trained: a folder with tokenizer_config.json. tools: the folder of llama.cpp.
    """

    name = "llama.cpp"

    def __init__(self, gguf: Path, trained: Path, tools: Path):
        self._model = LlamaModel(tools, gguf)
        self._modelfile = (gguf.parent / "Modelfile").read_text()
        self._template = _template_in(self._model, trained)

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        by_template = self._template.render(messages, add_generation_prompt=True)
        # The chat template trims messages, and Ollama does not.
        trimmed = [each | {"content": each["content"].strip()} for each in messages]
        by_modelfile = self._model.bos + modelfile.render_prompt(self._modelfile, trimmed)
        return {
            "chat template": self._model.tokens(by_template),
            "Modelfile": self._model.tokens(by_modelfile),
        }

    def logits(self, tokens: Tokens, positions: Sequence[int]) -> Iterator[torch.Tensor]:
        for block in self._model.logits(tokens, set(positions)):
            yield torch.from_numpy(block)

    def answer(self, tokens: Tokens, limit: int) -> list[int]:
        return self._model.answer(tokens, limit)

    def text(self, tokens: Tokens) -> str:
        return self._model.text(tokens)


def _template_in(model: LlamaModel, trained: Path) -> ChatTemplate:
    """Return the chat template of a GGUF file, which llama.cpp's programs use."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "chat_template.jinja").write_text(model.chat_template or "")
        return ChatTemplate(Path(folder), json_object(trained / "tokenizer_config.json"))


def dtype_for(folder: Path) -> torch.dtype | Literal["auto"]:
    """Return the dtype in which the comparison loads and computes a model."""
    if "quantization_config" in folder_contents.config_of(folder):
        return "auto"
    size = sum(path.stat().st_size for path in folder.glob(f"*{folder_contents.WEIGHTS}"))
    return torch.float32 if size <= FLOAT32_UP_TO else torch.bfloat16
