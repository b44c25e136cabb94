"""Renders a conversation with the model's chat template, tokenizes it, and marks the tokens that are trained.

Without transformers: importing its tokenizers brings torch along, which takes longer than this whole step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from trainer.conversations import Messages
from trainer.datasets import Refused

UNTRAINED = -100
OWN_TEMPLATE = Path(__file__).parent / "gemma_chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Encoded:
    """input_ids and labels, of the same length and not shifted; labels are UNTRAINED where nothing is learned."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def trained_tokens(self) -> int:
        return sum(label != UNTRAINED for label in self.labels)


class Encoder:
    """A base model's tokenizer and chat template. Raises StepError `bad_base_model` when one cannot be read."""

    def __init__(self, folder: Path, *, max_length: int):
        from tokenizers import Tokenizer

        self._max_length = max_length
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "tokenizer_config.json").read_text())
        except Exception as error:  # the library raises no class of its own
            message = f"the base model's tokenizer cannot be read: {error}"
            raise StepError(
                "bad_base_model", message, hint="it needs tokenizer.json and tokenizer_config.json"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.template_source, source = _template(folder, settings)
        self._template = _environment().from_string(source)
        self._special = {name: _text_of(settings.get(name)) for name in ("bos_token", "eos_token")}

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The text that the model reads. Raises StepError `template_failed`."""
        import jinja2

        try:
            return str(
                self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._special)
            )
        except jinja2.TemplateError as error:
            raise StepError("template_failed", f"the base model's chat template failed: {error}") from error

    def encode(self, messages: Messages) -> Encoded | Refused:
        """Tokens and labels of one conversation. Trained is what the assistant says and what ends its turn, as in
        TRL's training template for Gemma: the text, `<end_of_turn>`, and the line break."""
        text = self.render(messages)
        spans = self._assistant_spans(messages, text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        labels = [
            token if any(start <= left and right <= end for start, end in spans) and left < right else UNTRAINED
            for token, (left, right) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        kept = Encoded(encoding.ids[: self._max_length], labels[: self._max_length], len(labels) > self._max_length)
        if kept.trained_tokens == 0:
            return Refused(f"all of the assistant's {len(labels)} tokens lie beyond max_seq_length {self._max_length}")
        return kept

    def marked(self, encoded: Encoded) -> list[dict[str, Any]]:
        """The same as text, in pieces that are trained on or not."""
        pieces: list[dict[str, Any]] = []
        run: list[int] = []
        for index, token in enumerate(encoded.input_ids):
            run.append(token)
            trained = encoded.labels[index] != UNTRAINED
            last = index + 1 == len(encoded.labels)
            if last or (encoded.labels[index + 1] != UNTRAINED) is not trained:
                pieces.append({"trained": trained, "text": self._tokenizer.decode(run, skip_special_tokens=False)})
                run = []
        return pieces

    def _assistant_spans(self, messages: Messages, text: str) -> list[tuple[int, int]]:
        """Where in the text the assistant speaks, by rendering the conversation up to and after each of its turns."""
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self.render(messages[:index], add_generation_prompt=True)
                after = self.render(messages[: index + 1])
                if not (text.startswith(after) and after.startswith(before)):
                    problem = "its chat template changes earlier turns when later ones are added"
                    raise StepError("template_not_supported", problem, hint="use a base model with Gemma's template")
                spans.append((len(before), len(after)))
        return spans


def _template(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Where the chat template comes from, and its text."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return "chat_template.jinja", beside.read_text()
    if isinstance(settings.get("chat_template"), str):
        return "tokenizer_config.json", settings["chat_template"]
    return "gemtune's own for Gemma", OWN_TEMPLATE.read_text()


def _text_of(token: Any) -> str:
    """A special token as the configuration writes it: a string, or a map with its `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _environment() -> Any:
    """Jinja as transformers runs chat templates in, sandboxed: a template is a stranger's code."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        from jinja2 import TemplateError

        raise TemplateError(message)

    extensions = ["jinja2.ext.loopcontrols", "trainer.generation_tag.GenerationTag"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    return environment
