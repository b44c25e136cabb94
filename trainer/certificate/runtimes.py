"""Trained and exported models as what they are run by: transformers, PEFT, llama.cpp. Each gives tokens, logits and
answers; logits come some positions at a time, since one position has 262,144 of them."""

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
# Columns of the head that are in float32 at once.
COLUMNS = 32_768
# Weights up to this are computed with in float32, in which nothing is rounded but what was stored; larger ones as they
# are, since float32 would take twice the memory.
FLOAT32_UP_TO = 4 << 30


class Runtime(Protocol):
    """A model that was loaded from files."""

    name: str

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        """The tokens of a conversation that waits for an answer, by each way that the export offers."""
        ...

    def logits(self, tokens: Tokens, positions: Sequence[int]) -> Iterator[torch.Tensor]:
        """Of each of these positions, in order, POSITIONS at most at a time: (positions, vocabulary), float32."""
        ...

    def answer(self, tokens: Tokens, limit: int) -> list[int]:
        """The likeliest token each time, without the one that ends."""
        ...

    def text(self, tokens: Tokens) -> str: ...


class Transformers:
    """A model folder, or an adapter folder on its base model's."""

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

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        with RenderLimits():
            found = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert isinstance(found, Mapping)
        return {"chat template": list(found["input_ids"])}

    def hidden(self, tokens: Tokens, positions: Sequence[int]) -> torch.Tensor:
        """The last hidden states of some positions, (positions, width) in float32."""
        with torch.no_grad():
            states: torch.Tensor = self._body(input_ids=torch.tensor([list(tokens)])).last_hidden_state
        return states[0, list(positions)].float()

    def base_hidden(self, tokens: Tokens, positions: Sequence[int]) -> torch.Tensor | None:
        """The same of the model without its adapter; None where all weights were trained. An adapter never changes the
        head."""
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
        """The same with the token that ends it: at least one."""
        with torch.no_grad():
            found = self._model.generate(
                input_ids=torch.tensor([list(tokens)]), max_new_tokens=limit, do_sample=False,
                attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            )  # fmt: skip
        return list(found[0, len(tokens) :].tolist())

    def text(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model with an adapter folder put into it, and what that folder says of generating."""
    from peft import PeftModel
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(adapter)
    return PeftModel.from_pretrained(model, adapter)


class Head:
    """The last layer by itself: hidden states to logits, in float32, some columns at a time."""

    def __init__(self, weight: torch.Tensor, cap: float | None):
        self._weight, self._cap = weight.detach(), cap

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = torch.cat([hidden @ block.float().T for block in self._weight.split(COLUMNS)], dim=1)
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


class LlamaCpp:
    """A GGUF file with the Modelfile beside it. trained: a folder with the tokenizer's configuration."""

    name = "llama.cpp"

    def __init__(self, gguf: Path, trained: Path, tools: Path):
        self._model = LlamaModel(tools, gguf)
        self._modelfile = (gguf.parent / "Modelfile").read_text()
        self._template = _template_in(self._model, trained)

    def prompts(self, messages: list[dict[str, str]]) -> Mapping[str, Tokens]:
        by_template = self._template.render(messages, add_generation_prompt=True)
        # The chat template trims what is said, and Ollama does not.
        trimmed = [each | {"content": each["content"].strip()} for each in messages]
        by_modelfile = self._model.bos + modelfile.rendered(self._modelfile, trimmed)
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
    """The chat template in a GGUF file, which its programs apply."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "chat_template.jinja").write_text(model.chat_template or "")
        return ChatTemplate(Path(folder), json_object(trained / "tokenizer_config.json"))


def dtype_for(folder: Path) -> torch.dtype | Literal["auto"]:
    """What a model's weights are computed in here."""
    if "quantization_config" in folder_contents.config_of(folder):
        return "auto"
    size = sum(path.stat().st_size for path in folder.glob(f"*{folder_contents.WEIGHTS}"))
    return torch.float32 if size <= FLOAT32_UP_TO else torch.bfloat16
