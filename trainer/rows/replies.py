"""Tokens of answers that follow a prompt, and which of them are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.refusal import Refused, TooLong
from trainer.rows.encoded import UNTRAINED
from trainer.rows.encoder import Encoder


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
