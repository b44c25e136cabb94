"""Answers of a GGUF file, which llama.cpp runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from gemtune.llama_cpp import is_built
from trainer.answers.runtime import GgufFiles, Prompt, Request, TemplateFacts, bad_prompt, no_audio, no_pictures
from trainer.conversation.chat_template import TemplateRefusal
from trainer.gguf import file_template
from trainer.gguf.llama_library import LlamaModel, LoadError
from trainer.rendering.abilities import Abilities

CANNOT_LOAD = "model_not_loaded"


class LlamaCpp:
    """A GGUF file with the chat template and the end tokens that are in it.

    Raises StepError `gguf_tools_missing`, `model_not_loaded`.
    """

    name = "llama.cpp"
    has_base = False

    def __init__(self, files: GgufFiles):
        if not is_built(files.tools):
            message = f"running GGUF needs llama.cpp, which is not in {files.tools}"
            raise StepError("gguf_tools_missing", message, hint="run `make llama` once, or leave out --format")
        try:
            self._model = LlamaModel(files.tools, files.model)
        except LoadError as error:
            raise StepError(CANNOT_LOAD, str(error), hint="export the job as gguf again") from error
        self._template = file_template.read(self._model, self._model.special_tokens())
        self.template = TemplateFacts.of(self._template)
        self._abilities = Abilities(self._template)
        self.context_length: int | None = self._model.context_length

    def prompt(self, conversation: Conversation) -> Prompt:
        """Return the tokens of a conversation. Raises StepError."""
        if conversation.clips():
            raise no_audio("GGUF files are asked without audio here; `llama-mtmd-cli` takes it")
        if conversation.images():
            raise no_pictures("GGUF files are asked without pictures here; `llama-mtmd-cli` takes them")
        try:
            shown = self._abilities.adapted(conversation)
            text = self._template.render_conversation(shown, add_generation_prompt=True)
        except (BadRow, TemplateRefusal) as problem:
            raise bad_prompt(problem) from problem
        return Prompt(self._model.tokens(text), {})

    def generate(self, request: Request, take: Callable[[int], None]) -> None:
        """Pass each token of an answer on.

        Raises StepError `model_not_loaded`.
        """
        try:
            for token in self._model.generate(request.prompt.tokens, request.limit, request.sampling):
                take(token)
                if request.is_stopped():
                    return
        except LoadError as error:
            raise StepError(CANNOT_LOAD, str(error), hint="ask a shorter prompt, or use a larger machine") from error

    def token_id(self, text: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        tokens = self._model.tokens(text)
        return tokens[0] if len(tokens) == 1 else None

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        return self._model.text(tokens)
