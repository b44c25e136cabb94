"""Encoder: renders a conversation, tokenizes it and labels the trained tokens.

It uses `tokenizers` and Jinja directly. Importing transformers' tokenizers would import torch, which takes longer than
the whole prepare step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import Conversation, PlainText, Turn
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.errors import StepError
from trainer.conversation.abilities import Abilities
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal, json_object, token_text
from trainer.pictures.tokens import PictureTokens
from trainer.rows.control_tokens import ControlTokens, texts_as_rendered
from trainer.rows.prepared import PICTURES
from trainer.rows.spans import (
    Span,
    spans_by_prefix,
    spans_by_tokens,
    unstable_turns,
    with_empty_thought,
)

# The label of a token without a loss: the default ignore_index of torch.nn.functional.cross_entropy.
UNTRAINED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of supervised fine-tuning, tokenized.

    input_ids and labels have the same length, at most max_length, and labels are not shifted: a label is the token's
    own id, or UNTRAINED. whole_tokens: the row's tokens before truncation. end_is_cut: truncation removed the end of
    every answer. pictures: numbers of the row's pictures in the picture file, in order.
    unread_fields: names of the row's fields that cannot change what is learned.
    """

    input_ids: list[int]
    labels: list[int]
    whole_tokens: int
    end_is_cut: bool = False
    pictures: Sequence[int] = ()
    unread_fields: Sequence[str] = ()

    unjudged_by = ()

    @property
    def columns(self) -> dict[str, Any]:
        return {"input_ids": self.input_ids, "labels": self.labels, PICTURES: self.pictures}

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def truncated(self) -> bool:
        return self.whole_tokens > self.tokens

    @property
    def trained_tokens(self) -> int:
        return sum(label != UNTRAINED for label in self.labels)


class Encoder:
    """A base model's tokenizer and chat template.

    max_length: longer rows are truncated to this many tokens. vocab_size: rows of the model's embedding, or None if
    its configuration does not say. pictures: the model's picture tokens, in a vision job. Raises StepError
    `bad_base_model` when the tokenizer cannot be read, `template_failed` or `template_missing` for the chat template.
    """

    def __init__(
        self, folder: Path, *, max_length: int, vocab_size: int | None = None, pictures: PictureTokens | None = None
    ):
        from tokenizers import Tokenizer

        self._max_length, self._vocab_size, self._pictures = max_length, vocab_size, pictures
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises no class of its own
            message = f"the base model's tokenizer cannot be read: {error}"
            hint = "it needs tokenizer.json and tokenizer_config.json"
            raise StepError("bad_base_model", message, hint=hint) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        tokenizer_config = json_object(folder / "tokenizer_config.json")
        if not tokenizer_config:  # without it the template would silently render without <bos>
            raise StepError("bad_base_model", "the base model's tokenizer_config.json is missing or empty")
        if pictures is not None and self._tokenizer.token_to_id(pictures.soft) != pictures.soft_id:
            message = f"the base model's tokenizer and config.json disagree about the id of {pictures.soft}"
            raise StepError("bad_base_model", message, hint="use the tokenizer that came with the model")
        self._template = ChatTemplate(folder, tokenizer_config)
        self._abilities = Abilities(self._template)
        turns = self._template.turns
        self._control_tokens = ControlTokens(
            self._tokenizer,
            turns.control_tokens if turns is not None and turns.scanned else (),
            () if pictures is None else pictures.tokens,
        )
        ends = (token_text(tokenizer_config.get(name)) for name in ("bos_token", "eos_token"))
        self._begin, self._end = (self._tokenizer.token_to_id(end) for end in ends)

    @property
    def template_source(self) -> str:
        """The chat template's file, or the name of gemtune's own template."""
        return self._template.source

    def encode(self, conversation: Conversation) -> Encoded | Refused:
        """Return a conversation's tokens and labels, or why it is refused.

        Trained tokens are the assistant's text and the end of its turn. Gemma 3: the text, `<end_of_turn>` and the line
        break, as in TRL's training template for Gemma 3. Gemma 4: the text, tool calls, and `<turn|>`. The template
        writes `<bos>`. A row is refused if truncation removes a picture or a part of one.

        Raises StepError `template_failed`, `template_not_supported`.
        """
        conversation = self._abilities.adapted(conversation)
        try:
            text = self._conversation(conversation)
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            ids, offsets = encoding.ids[: self._max_length], encoding.offsets[: self._max_length]
            until = offsets[-1][1] if offsets else 0
            spans = self._spans(conversation, text, encoding, until=until)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem)
        if self._pictures is not None and self._pictures.whole_in(text[:until]) < len(conversation.images()):
            return Refused("its pictures are beyond max_seq_length")
        if (unknown := self._vocabulary_problem(ids)) is not None:
            return unknown
        whole_tokens = len(encoding.ids)
        end_is_cut = whole_tokens > len(ids) and not any(len(text[:end].rstrip()) <= until for _, end in spans)
        encoded = Encoded(ids, _labels(ids, offsets, spans), whole_tokens, end_is_cut)
        if encoded.trained_tokens > 0:
            return encoded
        if encoded.truncated:
            limit = f"{self._max_length} of the row's {whole_tokens} tokens"
            return Refused(f"its answers are beyond max_seq_length ({limit})")
        return Refused("the chat template leaves out the assistant's messages")

    def encode_text(self, plain: PlainText) -> Encoded | Refused:
        """Return the tokens of a text to continue, all of them trained.

        `<bos>` and `<eos>` stand around it, as in pretraining; truncation removes the end.
        """
        try:
            self._control_tokens.check([plain.text])
        except BadRow as problem:
            return Refused(str(problem))
        ids: list[int] = self._tokenizer.encode(plain.text, add_special_tokens=False).ids
        around = ([] if self._begin is None else [self._begin], [] if self._end is None else [self._end])
        whole = [*around[0], *ids, *around[1]]
        ids = whole[: self._max_length]
        return self._vocabulary_problem(ids) or Encoded(ids, ids.copy(), len(whole), len(ids) < len(whole))

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def prompt(self, conversation: Conversation) -> list[int] | Refused:
        """Return the tokens of a conversation and the generation prompt.

        Raises StepError `template_failed`.
        """
        try:
            text = self._render(self._abilities.adapted(conversation), add_generation_prompt=True)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._vocabulary_problem(ids) or ids

    def reply(self, conversation: Conversation, answer: Turn) -> list[int] | Refused:
        """Return the tokens of an answer, which follow `prompt(conversation)`.

        They are tokenized apart from the prompt, as the model would generate them, and include the end of the turn.
        Raises StepError `template_failed`, `template_not_supported`.
        """
        whole = self._abilities.adapted(conversation.with_turns([*conversation.turns, answer]))
        try:
            before = self._render(whole.first(-1), add_generation_prompt=True)
            after = self._conversation(whole)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem)
        if not after.startswith(before):
            raise unstable_turns()
        text, turns = after[len(before) :], self._template.turns
        if turns is not None and turns.scanned:
            text = text[: text.rindex(turns.end) + len(turns.end)]
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._vocabulary_problem(ids) or ids

    def text(self, ids: Sequence[int]) -> str:
        """Decode tokens for people to read.

        Special tokens are shown; a picture's soft tokens are shortened to one.
        """
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        return text if self._pictures is None else self._pictures.shortened(text)

    def text_pieces(self, encoded: Encoded) -> list[dict[str, Any]]:
        """Decode a row into runs of trained and untrained tokens.

        Returns `{"trained": bool, "text": str}` for each run.
        """
        pieces: list[dict[str, Any]] = []
        run: list[int] = []
        for index, token in enumerate(encoded.input_ids):
            run.append(token)
            trained = encoded.labels[index] != UNTRAINED
            last = index + 1 == len(encoded.labels)
            if last or (encoded.labels[index + 1] != UNTRAINED) is not trained:
                pieces.append({"trained": trained, "text": self.text(run)})
                run = []
        return pieces

    def _conversation(self, conversation: Conversation) -> str:
        """Render a whole conversation, its last answer as training needs it.

        That answer begins as the generation prompt does, so that the model is trained on the prompts that it gets
        later. Raises TemplateRefusal, BadRow, StepError `template_failed`, `template_not_supported`.
        """
        turns, text = self._template.turns, self._render(conversation)
        if turns is None or not turns.scanned or conversation.turns[-1].role != "assistant":
            return text
        return with_empty_thought(turns, text, self._render(conversation.first(-1), add_generation_prompt=True))

    def _render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Render a conversation, each picture expanded to its soft tokens.

        Texts must have no control tokens. Raises TemplateRefusal, BadRow, StepError
        `template_failed`, `template_not_supported`.
        """
        self._control_tokens.check(texts_as_rendered(conversation))
        text = self._template.render_conversation(conversation, add_generation_prompt=add_generation_prompt)
        if self._pictures is None:
            return text
        return self._pictures.expanded(text, [picture.size for picture in conversation.images()])

    def _vocabulary_problem(self, ids: Sequence[int]) -> Refused | None:
        """Return which token the model has no embedding for, or None.

        Gemma 3's tokenizer has picture tokens that the embedding of its text-only models lacks. On a GPU they would
        fail with nothing but an index out of range.
        """
        largest = max(ids, default=0)
        if self._vocab_size is None or largest < self._vocab_size:
            return None
        token = str(self._tokenizer.id_to_token(largest))
        return Refused(f"its text contains {token!r}, for which the base model has no embedding")

    def _spans(self, conversation: Conversation, text: str, encoding: Any, *, until: int) -> list[Span]:
        """Return the character spans of the assistant's turns.

        Raises TemplateRefusal, StepError `template_not_supported`.
        """
        turns = self._template.turns
        if turns is not None and turns.scanned:
            return spans_by_tokens(turns, encoding.tokens, encoding.offsets, text)
        return spans_by_prefix(conversation, text, self._render_for_spans, until=until)

    def _render_for_spans(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        return self._render(conversation, add_generation_prompt=add_generation_prompt)


def _refused(problem: TemplateRefusal | BadRow) -> Refused:
    return Refused(str(problem) if isinstance(problem, BadRow) else f"the chat template rejects it: {problem}")


def _labels(ids: Sequence[int], offsets: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """Return ids where a token is wholly inside a span, else UNTRAINED.

    offsets: the characters (begin, end) of each token. Spans and offsets are sorted.
    """
    ahead = deque(spans)
    labels = [UNTRAINED] * len(ids)
    for index, (left, right) in enumerate(offsets):
        while ahead and ahead[0][1] <= left:
            ahead.popleft()
        if ahead and ahead[0][0] <= left < right <= ahead[0][1]:
            labels[index] = ids[index]
    return labels
