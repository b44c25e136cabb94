"""Renderer: writes conversations with the base model's chat template."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import Conversation, Turn
from trainer.conversation.chat_template import ChatTemplate
from trainer.media.token_text import MediaTokens
from trainer.rendering.abilities import Abilities
from trainer.rendering.control_tokens import ControlTokens, texts_as_rendered
from trainer.rendering.provenance import Provenance, check_shown, trace
from trainer.rendering.spans import with_empty_thought
from trainer.rendering.tool_schemas import Tools, ToolSchemas


class Renderer:
    """A base model's chat template, media tokens and control tokens.

    tokenizer: of the `tokenizers` library. media: the model's tokens of pictures or audio, in
    jobs with them. Raises StepError
    `template_failed` or `template_missing`.
    """

    def __init__(self, folder: Path, tokenizer: Any, config: dict[str, Any], media: MediaTokens | None):
        self.template = ChatTemplate(folder, config)
        self._abilities = Abilities(self.template)
        self._media = media
        self._tool_schemas = ToolSchemas(self._render_tools)
        turns = self.template.turns
        self.control_tokens = ControlTokens(tokenizer, turns, () if media is None else media.tokens)

    def adapted(self, conversation: Conversation) -> Conversation:
        """Return a conversation as the template can show it.

        Raises BadRow, also if a text contains a control token.
        """
        self.control_tokens.check(texts_as_rendered(conversation))
        return self._abilities.adapted(conversation)

    def asked_to_think(self, prompt: Conversation, answer: Sequence[Turn]) -> Conversation:
        """Return a prompt that leaves room for the thoughts of an answer.

        Raises BadRow.
        """
        return self._abilities.asked_to_think(prompt, answer)

    def whole(self, conversation: Conversation) -> str:
        """Render a whole conversation, its last answer as training needs it.

        That answer begins as the generation prompt does, so that the model is trained on the prompts that it gets
        later. Raises TemplateRefusal, BadRow, StepError `template_failed`, `template_not_supported`.
        """
        turns, text = self.template.turns, self.render(conversation)
        if turns is None or not turns.scanned or conversation.turns[-1].role != "assistant":
            return text
        before = self.prompt(conversation.first(-1))
        if not before.endswith(turns.empty_thought) and any(turn.role == "tool" for turn in conversation.turns[-2:-1]):
            # The assistant's text beside its call is written behind the result, where the next turn continues.
            return text
        return with_empty_thought(turns, text, before)

    def prompt(self, conversation: Conversation) -> str:
        """Render a conversation and the beginning of an answer.

        Raises as `render`.
        """
        return self.render(conversation, add_generation_prompt=True)

    def render(self, conversation: Conversation, add_generation_prompt: bool = False) -> str:
        """Render a conversation, each medium expanded to its soft tokens.

        Raises TemplateRefusal, BadRow, StepError `template_failed`, `template_not_supported`.
        """
        text = self.template.render_conversation(conversation, add_generation_prompt=add_generation_prompt)
        return text if self._media is None else self._media.expanded(text, self._media.media_in(conversation))

    def trace(
        self, conversation: Conversation, text: str, trained: Collection[int]
    ) -> tuple[Provenance | None, tuple[str, ...]]:
        """Return which turn wrote which part of the text of `whole`.

        With it come the names of fields that the template does not show and that cannot change what is learned. None if
        every template shows all of the conversation, and all of the assistant's turns are trained. trained: indices of
        the turns to learn. Raises BadRow for other fields that are not shown, and what `whole` raises.
        """
        own = {index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"}
        if conversation.is_plain and own == {*trained}:
            return None, ()
        provenance = trace(conversation, text, self.whole)
        unread = check_shown(provenance, conversation, trained)
        return provenance, (*unread, *self._tool_schemas.unread(conversation.tools))

    def _render_tools(self, tools: Tools) -> str:
        return self.template.render_conversation(Conversation((Turn("user", "Hi"),), tuple(tools)))
