"""Renders a conversation with the model's chat template, tokenizes it, and marks the tokens that are trained.

Without transformers: importing its tokenizers brings torch along, which takes longer than this whole step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal, json_object
from trainer.conversation.dataset_files import Refused
from trainer.conversation.messages import Message, Messages, texts_in
from trainer.pictures.tokens import PictureTokens
from trainer.rows.prepared import PICTURES
from trainer.rows.spans import (
    Span,
    control_token_in,
    spans_by_prefix,
    spans_by_tokens,
    unstable_turns,
    with_empty_thought,
)

UNTRAINED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """input_ids and labels, of the same length and not shifted; labels are UNTRAINED where nothing is learned.

    whole_tokens: of the row before it was cut. end_is_cut: whether it is trained on the end of no answer. pictures: the
    numbers of those that its tokens stand for, once they are in an picture_file."""

    input_ids: list[int]
    labels: list[int]
    whole_tokens: int
    end_is_cut: bool = False
    pictures: Sequence[int] = ()

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

    max_length: tokens of a row at most. vocab_size: how many tokens the model knows, when that is known. pictures: how
    they are written, in a vision job. Raises StepError `bad_base_model` when the tokenizer cannot be read,
    `template_failed` for the template.
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
        if not tokenizer_config:  # without it the template would render without <bos>, and nobody would notice
            raise StepError("bad_base_model", "the base model's tokenizer_config.json is not there or cannot be read")
        if pictures is not None and self._tokenizer.token_to_id(pictures.soft) != pictures.soft_id:
            message = f"the base model's tokenizer has another {pictures.soft} than its config.json"
            raise StepError("bad_base_model", message, hint="use the tokenizer that came with the model")
        self._template = ChatTemplate(folder, tokenizer_config)

    @property
    def template_source(self) -> str:
        return self._template.source

    def encode(self, messages: Messages) -> Encoded | Refused:
        """Tokens and labels of one conversation.

        Trained is what the assistant says and what ends its turn: the text, `<end_of_turn>`, and the line break, as in
        TRL's training template for Gemma 3; of Gemma 4 the text, its calls of tools, and `<turn|>`. The template writes
        `<bos>`. A row with pictures is cut behind the last one only: half a picture is none.

        Raises StepError `template_failed`, `template_not_supported`.
        """
        try:
            text = self._conversation(messages)
            if isinstance(text, Refused):
                return text
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            ids, offsets = encoding.ids[: self._max_length], encoding.offsets[: self._max_length]
            until = offsets[-1][1] if offsets else 0
            spans = self._spans(messages, text, encoding, until=until)
        except TemplateRefusal as refusal:
            return Refused(f"the chat template refuses it: {refusal}")
        blurred = self._blurred(messages, text, text[:until])
        if blurred is not None:
            return blurred
        known = self._known(ids)
        if isinstance(known, Refused):
            return known
        whole_tokens = len(encoding.ids)
        end_is_cut = whole_tokens > len(ids) and not any(len(text[:end].rstrip()) <= until for _, end in spans)
        encoded = Encoded(ids, _labels(ids, offsets, spans), whole_tokens, end_is_cut)
        if encoded.trained_tokens > 0:
            return encoded
        if encoded.truncated:
            return Refused(f"all trained tokens lie beyond max_seq_length: {self._max_length} of {len(encoding.ids)}")
        return Refused("the chat template leaves nothing of what the assistant says")

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def prompt(self, messages: Messages) -> list[int] | Refused:
        """Tokens of a conversation, and of what makes the assistant speak next. Raises StepError `template_failed`."""
        try:
            text = self._render(messages, add_generation_prompt=True)
        except TemplateRefusal as refusal:
            return Refused(f"the chat template refuses it: {refusal}")
        blurred = self._blurred(messages, text, text)
        return blurred or self._known(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def reply(self, messages: Messages, answer: Message) -> list[int] | Refused:
        """Tokens of what the assistant answers to a conversation, as it would generate them: apart from the prompt's,
        and with what ends its turn. Raises StepError `template_failed`, `template_not_supported`."""
        try:
            before = self._render(messages, add_generation_prompt=True)
            after = self._conversation([*messages, answer])
        except TemplateRefusal as refusal:
            return Refused(f"the chat template refuses it: {refusal}")
        if isinstance(after, Refused):
            return after
        if not after.startswith(before):
            raise unstable_turns()
        blurred = self._blurred(messages, after, after)
        said, turns = after[len(before) :], self._template.turns
        if turns is not None and turns.scanned:
            said = said[: said.rindex(turns.end) + len(turns.end)]
        return blurred or self._known(self._tokenizer.encode(said, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """The same for people: special tokens written out, a picture's shortened."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        return text if self._pictures is None else self._pictures.shortened(text)

    def text_pieces(self, encoded: Encoded) -> list[dict[str, Any]]:
        """The same as text, in pieces that are trained on or not."""
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

    def _conversation(self, messages: Messages) -> str | Refused:
        """The text of a whole conversation, its last answer after the prompt that the model is asked with. Raises
        TemplateRefusal, StepError `template_failed`, `template_not_supported`."""
        turns = self._template.turns
        text = self._render(messages)
        if turns is None or not turns.scanned:
            return text
        control = control_token_in(turns, texts_in(messages))
        if control is not None:
            return Refused(f"it holds {control!r}, which the chat template would take for its own")
        if messages[-1]["role"] != "assistant":
            return text
        return with_empty_thought(turns, text, self._render(messages[:-1], add_generation_prompt=True))

    def _render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """With pictures as what they are tokenized from."""
        text = self._template.render(messages, add_generation_prompt=add_generation_prompt)
        return text if self._pictures is None else self._pictures.expanded(text)

    def _blurred(self, messages: Messages, text: str, read: str) -> Refused | None:
        """If pictures of a rendered row cannot be told from its text, or are not all in what is left of it."""
        problem = None if self._pictures is None else self._pictures.problem_of(messages, text, read)
        return None if problem is None else Refused(problem)

    def _known(self, ids: list[int]) -> list[int] | Refused:
        """Gemma 3's tokenizer has tokens for pictures that its text models have no row for; a GPU would only say that
        an index is out of range."""
        largest = max(ids, default=0)
        if self._vocab_size is None or largest < self._vocab_size:
            return ids
        unknown = str(self._tokenizer.id_to_token(largest))
        return Refused(f"it holds {unknown!r}, for which the base model has no embedding")

    def _spans(self, messages: Messages, text: str, encoding: Any, *, until: int) -> list[Span]:
        """Characters of what the assistant says. Raises TemplateRefusal, StepError `template_not_supported`."""
        turns = self._template.turns
        if turns is not None and turns.scanned:
            return spans_by_tokens(turns, encoding.tokens, encoding.offsets, text)
        return spans_by_prefix(messages, text, self._render_for_spans, until=until)

    def _render_for_spans(self, messages: Messages, add_generation_prompt: bool) -> str:
        return self._render(messages, add_generation_prompt=add_generation_prompt)


def _labels(ids: Sequence[int], offsets: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """The ids of tokens that lie wholly in one of the spans; spans and offsets are in characters and in order."""
    ahead = deque(spans)
    labels = [UNTRAINED] * len(ids)
    for index, (left, right) in enumerate(offsets):
        while ahead and ahead[0][1] <= left:
            ahead.popleft()
        if ahead and ahead[0][0] <= left < right <= ahead[0][1]:
            labels[index] = ids[index]
    return labels
