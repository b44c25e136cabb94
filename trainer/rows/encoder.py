"""Encoder: renders a conversation, tokenizes it and labels the trained tokens.

It uses `tokenizers` and Jinja directly. Importing transformers' tokenizers would import torch, which takes longer than
the whole prepare step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import Conversation, PlainText, Turn
from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.trained_turns import TrainOn, trained_turns
from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal, json_object, token_text
from trainer.dataset.row import Row
from trainer.media.token_text import MediaTokens
from trainer.rendering.provenance import Provenance
from trainer.rendering.renderer import Renderer
from trainer.rendering.spans import (
    Span,
    spans_by_prefix,
    spans_by_tokens,
    trained_spans,
    unstable_turns,
)
from trainer.rows.encoded import UNTRAINED, Encoded, Rendered, encode_in_batches, labels_of


class Encoder:
    """A base model's tokenizer and chat template.

    max_length: longer rows are truncated to this many tokens, or without `cuts` refused as too long. vocab_size: rows
    of the model's embedding, or None if its configuration does not say. media: the model's tokens of pictures or
    audio, in jobs with them. Raises StepError `bad_base_model` when the tokenizer cannot be read, `template_failed` or
    `template_missing` for the chat template.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_length: int,
        vocab_size: int | None = None,
        media: MediaTokens | None = None,
        cuts: bool = True,
    ):
        from tokenizers import Tokenizer

        self._max_length, self._cuts, self._vocab_size, self._media = max_length, cuts, vocab_size, media
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
        if media is not None and self._tokenizer.token_to_id(media.soft) != media.soft_id:
            message = f"the base model's tokenizer and config.json disagree about the id of {media.soft}"
            raise StepError("bad_base_model", message, hint="use the tokenizer that came with the model")
        self._renderer = Renderer(folder, self._tokenizer, tokenizer_config, media)
        ends = (token_text(tokenizer_config.get(name)) for name in ("bos_token", "eos_token"))
        self._begin, self._end = (self._tokenizer.token_to_id(end) for end in ends)

    @property
    def template_source(self) -> str:
        """The chat template's file, or the name of gemtune's own template."""
        return self._renderer.template.source

    def encode(self, conversation: Conversation, train_on: TrainOn = "all_assistant_turns") -> Encoded | Refused:
        """Return a conversation's tokens and labels, or why it is refused.

        See `render`. Raises StepError `template_failed`, `template_not_supported`.
        """
        return self.tokenized(self.render(conversation, train_on))

    def tokenized(self, rendered: Rendered | Refused) -> Encoded | Refused:
        """Return the tokens of a row that was rendered, or why it is refused."""
        if isinstance(rendered, Refused):
            return rendered
        return rendered.finish(self._tokenizer.encode(rendered.text, add_special_tokens=False))

    def all_tokenized(
        self, rows: Iterable[Row], render: Callable[[dict[str, Any]], Rendered | Refused]
    ) -> Iterator[tuple[int, Any, Encoded | Refused]]:
        """Yield rows with their numbers and tokens; see `encode_in_batches`."""
        return encode_in_batches(rows, render, self._tokenizer)

    def render(self, conversation: Conversation, train_on: TrainOn = "all_assistant_turns") -> Rendered | Refused:
        """Return a conversation as text to tokenize, or why it is refused.

        Trained tokens are the assistant's text and the end of its turn. Gemma 3: the text, `<end_of_turn>` and the line
        break, as in TRL's training template for Gemma 3. Gemma 4: thinking, tool calls, the text, and `<turn|>`. The
        template writes `<bos>`. A row is refused if truncation removes a picture or audio clip or a part of one, and if
        the template leaves out something that is to be learned. train_on: which of the assistant's turns.

        Raises StepError `template_failed`, `template_not_supported`; tokenizing may raise the same.
        """
        try:
            conversation = self._renderer.adapted(conversation)
            trained = trained_turns(conversation, train_on)
            text = self._renderer.whole(conversation)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem, conversation)
        return Rendered(text, partial(self._labelled, conversation, text, trained))

    def _labelled(
        self, conversation: Conversation, text: str, trained: Collection[int], encoding: Any
    ) -> Encoded | Refused:
        """Return the tokens and labels of a rendered conversation."""
        ids = encoding.ids
        whole_tokens = len(ids)
        if whole_tokens > self._max_length and not self._cuts:
            return TooLong(f"{whole_tokens} tokens", whole_tokens)
        ids, offsets = ids[: self._max_length], encoding.offsets[: self._max_length]
        until = offsets[-1][1] if offsets else 0
        try:
            provenance, unread = self._renderer.trace(conversation, text, trained)
            spans = self._spans(conversation, text, encoding, provenance, trained, until=until)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem, conversation)
        if (media := self._media) is not None and media.whole_in(text[:until]) < len(media.media_in(conversation)):
            return Refused(f"its {media.noun.many} are beyond max_seq_length")
        if (unknown := self._vocabulary_problem(ids)) is not None:
            return unknown
        end_is_cut = whole_tokens > len(ids) and not any(len(text[:end].rstrip()) <= until for _, end in spans)
        encoded = Encoded(ids, labels_of(ids, offsets, spans), whole_tokens, end_is_cut, unread_fields=unread)
        if encoded.trained_tokens > 0:
            return encoded
        if encoded.truncated:
            limit = f"{self._max_length} of the row's {whole_tokens} tokens"
            return Refused(f"its answers are beyond max_seq_length ({limit})")
        return Refused("the chat template leaves out the assistant's messages")

    def render_text(self, plain: PlainText) -> Rendered | Refused:
        """Return a text to continue, all of whose tokens are trained.

        `<bos>` and `<eos>` stand around it, as in pretraining; truncation removes the end.
        """
        try:
            self._renderer.control_tokens.check([plain.text])
        except BadRow as problem:
            return Refused(str(problem))
        return Rendered(plain.text, self._with_ends)

    def _with_ends(self, encoding: Any) -> Encoded | Refused:
        """Return the tokens of a text, with those that begin and end it."""
        around = ([] if self._begin is None else [self._begin], [] if self._end is None else [self._end])
        whole = [*around[0], *encoding.ids, *around[1]]
        if len(whole) > self._max_length and not self._cuts:
            return TooLong(f"{len(whole)} tokens", len(whole))
        ids = whole[: self._max_length]
        return self._vocabulary_problem(ids) or Encoded(ids, ids.copy(), len(whole), len(ids) < len(whole))

    @property
    def template(self) -> ChatTemplate:
        return self._renderer.template

    def asked_to_think(self, prompt: Conversation, *answers: Sequence[Turn]) -> Conversation:
        """Return a prompt that leaves room for the thoughts of its answers.

        See `Abilities.asked_to_think`. Raises BadRow.
        """
        return self._renderer.asked_to_think(prompt, [turn for answer in answers for turn in answer])

    def prompt(self, conversation: Conversation) -> list[int] | Refused:
        """Return the tokens of a conversation and the generation prompt.

        Raises StepError `template_failed`.
        """
        try:
            text = self._renderer.prompt(self._renderer.adapted(conversation))
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._vocabulary_problem(ids) or ids

    def reply(self, conversation: Conversation, answer: Turn) -> list[int] | Refused:
        """Return the tokens of an answer, which follow `prompt(conversation)`.

        They are tokenized apart from the prompt, as the model would generate them, and include the end of the turn.
        Raises StepError `template_failed`, `template_not_supported`.
        """
        try:
            whole = self._renderer.adapted(conversation.with_turns([*conversation.turns, answer]))
            before = self._renderer.prompt(whole.first(-1))
            after = self._renderer.whole(whole)
        except (TemplateRefusal, BadRow) as problem:
            return _refused(problem)
        if not after.startswith(before):
            raise unstable_turns()
        text, turns = after[len(before) :], self._renderer.template.turns
        if turns is not None and turns.scanned and turns.end in text:
            text = text[: text.rindex(turns.end) + len(turns.end)]
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._vocabulary_problem(ids) or ids

    def text(self, ids: Sequence[int]) -> str:
        """Decode tokens for people to read.

        Special tokens are shown; those of a picture or audio clip are shortened to one.
        """
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        return text if self._media is None else self._media.shortened(text)

    def answer_text(self, ids: Sequence[int]) -> str:
        """Decode an answer, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_id(self, text: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

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

    def _spans(
        self,
        conversation: Conversation,
        text: str,
        encoding: Any,
        provenance: Provenance | None,
        trained: Collection[int],
        *,
        until: int,
    ) -> list[Span]:
        """Return the character spans of the turns to learn.

        Raises BadRow, TemplateRefusal, StepError `template_not_supported`.
        """
        turns = self._renderer.template.turns
        if turns is not None and turns.scanned:
            spans = spans_by_tokens(turns, encoding.tokens, encoding.offsets, text)
            return spans if provenance is None else trained_spans(spans, provenance, trained)
        try:
            by_turn = spans_by_prefix(conversation, text, self._renderer.render, until=until)
        except StepError as error:
            if conversation.is_plain:
                raise
            raise BadRow(error.message) from error
        return [span for index, span in by_turn.items() if index in trained]


def _refused(problem: TemplateRefusal | BadRow, conversation: Conversation | None = None) -> Refused:
    """Return the refusal of a row.

    conversation: to name what a template that rejects it may not know.
    """
    if isinstance(problem, BadRow):
        return Refused(str(problem))
    unusual = () if conversation is None else conversation.unusual_fields
    hint = f"; the row has {' and '.join(unusual)}: use a base model whose template has these" if unusual else ""
    return Refused(f"the chat template rejects it: {problem}{hint}")
