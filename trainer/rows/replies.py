"""Tokens of answers that follow a prompt, and which of them are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.row_options import ReadOptions
from trainer.media.arrow_file import MediaFile, open_media
from trainer.rows.encoded import UNTRAINED
from trainer.rows.encoder import Encoder
from trainer.rows.prepared import PICTURES


@dataclass(frozen=True, slots=True)
class Reply:
    """Tokens of an answer.

    gaps: indices of the tokens that are not trained, because a user or a tool says them, between turns of the
    assistant. whole_tokens: tokens before truncation.
    """

    ids: list[int]
    gaps: list[int]
    whole_tokens: int

    @property
    def trained_tokens(self) -> int:
        return len(self.ids) - len(self.gaps)


def encode_prompt(encoder: Encoder, prompt: Conversation) -> list[int] | Refused:
    """Return the tokens of a prompt, or why it is refused.

    A prompt is refused, too, if the chat template cannot show all of it.
    """
    ids = encoder.prompt(prompt)
    if isinstance(ids, Refused) or not prompt.unusual_fields:
        return ids
    answered = encoder.encode(prompt.with_turns([*prompt.turns, Turn("assistant", "Yes.")]))
    return answered if isinstance(answered, Refused) and "max_seq_length" not in answered.reason else ids


def encode_reply(
    encoder: Encoder,
    prompt: Conversation,
    prompt_ids: list[int],
    answer: Sequence[Turn],
    *,
    max_length: int,
    cuts: bool,
) -> Reply | Refused:
    """Return the tokens of an answer, or why it is refused.

    prompt_ids: see `encode_prompt`. max_length: tokens of prompt and answer together. cuts: a longer answer is cut, and
    otherwise refused as too long.
    """
    if cuts and len(prompt_ids) >= max_length:
        return Refused(f"the prompt alone has {len(prompt_ids)} tokens; max_seq_length is {max_length}")
    if len(answer) == 1 and not answer[0].calls and not answer[0].thinking:
        ids = encoder.reply(prompt, answer[0])
        if isinstance(ids, Refused):
            return ids
        tokens = len(prompt_ids) + len(ids)
        if tokens > max_length and not cuts:
            return TooLong(f"{tokens} tokens", tokens)
        return Reply(ids[: max_length - len(prompt_ids)], [], len(ids))
    whole = prompt.with_turns([*prompt.turns, *answer])
    encoded = encoder.encode(whole)
    if isinstance(encoded, Refused):
        return encoded
    if encoded.input_ids[: len(prompt_ids)] != prompt_ids:
        return Refused("the chat template writes its prompt in another way before an answer than alone")
    ids, labels = encoded.input_ids[len(prompt_ids) :], encoded.labels[len(prompt_ids) :]
    while labels and labels[-1] == UNTRAINED and not encoded.truncated:
        ids, labels = ids[:-1], labels[:-1]
    if all(label == UNTRAINED for label in labels):
        return Refused("its answer is beyond max_seq_length")
    gaps = [index for index, label in enumerate(labels) if label == UNTRAINED]
    return Reply(ids, gaps, encoded.whole_tokens - len(prompt_ids) if encoded.truncated else len(ids))


def reply_pieces(encoder: Encoder, reply: Reply) -> list[dict[str, Any]]:
    """Decode an answer into runs of trained and untrained tokens.

    Returns `{"trained": bool, "text": str}` for each run.
    """
    gaps = set(reply.gaps)
    runs = groupby(range(len(reply.ids)), key=lambda index: index not in gaps)
    return [{"trained": trained, "text": encoder.text([reply.ids[index] for index in run])} for trained, run in runs]


class JudgedAnswers:
    """Rows of a prompt and of answers that are judged.

    media_file: stores the pictures of a vision job, which only prompts may hold. options: how to read rows.
    max_length: tokens of a prompt and one answer together. cuts: longer answers are cut, and otherwise their rows
    refused as too long.
    """

    token_columns: Sequence[str]

    def __init__(
        self,
        encoder: Encoder,
        media_file: MediaFile | None,
        options: ReadOptions,
        *,
        max_length: int,
        cuts: bool,
    ):
        self._encoder, self._media_file, self._options = encoder, media_file, options
        self._max_length, self._cuts = max_length, cuts
        self.with_media = media_file is not None
        self.columns: Sequence[str] = (*self.token_columns, PICTURES) if self.with_media else self.token_columns

    def _encode_prompt(
        self, prompt: Conversation, *answers: Sequence[Turn]
    ) -> tuple[Conversation, list[int]] | Refused:
        """Return a prompt with open media and its tokens, or a refusal.

        answers: those that follow it.
        """
        try:
            prompt = open_media(self._media_file, self._encoder.asked_to_think(prompt, *answers))
        except BadRow as bad:
            return Refused(str(bad))
        ids = encode_prompt(self._encoder, prompt)
        return ids if isinstance(ids, Refused) else (prompt, ids)

    def _encode_reply(self, prompt: Conversation, prompt_ids: list[int], answer: Sequence[Turn]) -> Reply | Refused:
        return encode_reply(self._encoder, prompt, prompt_ids, answer, max_length=self._max_length, cuts=self._cuts)
