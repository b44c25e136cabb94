"""Rows of DPO: a prompt, the chosen answer and the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.refusal import BadRow, Refused, TooLong
from gemtune.datasets.rl.read import read_pair
from trainer.media.arrow_file import store_media
from trainer.rows.prepared import PICTURES
from trainer.rows.replies import JudgedAnswers, Reply, reply_pieces


@dataclass(frozen=True, slots=True)
class Preference:
    """One row of DPO, tokenized.

    Each answer is truncated so that it fits behind the prompt. pictures: numbers of the prompt's pictures in the
    picture file. format: name of the row's format. unread_fields: names of the row's fields that cannot change what is
    learned.
    """

    prompt_ids: list[int]
    chosen: Reply
    rejected: Reply
    pictures: Sequence[int]
    format: str
    unread_fields: Sequence[str] = ()

    unjudged_by = ()

    @property
    def columns(self) -> dict[str, Any]:
        return {
            "prompt_ids": self.prompt_ids,
            "chosen_ids": self.chosen.ids,
            "chosen_gaps": self.chosen.gaps,
            "rejected_ids": self.rejected.ids,
            "rejected_gaps": self.rejected.gaps,
            PICTURES: self.pictures,
        }

    @property
    def tokens(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def whole_tokens(self) -> int:
        """Tokens of the longer sequence before truncation."""
        return len(self.prompt_ids) + max(self.chosen.whole_tokens, self.rejected.whole_tokens)

    @property
    def truncated(self) -> bool:
        return self.whole_tokens > self.tokens

    @property
    def end_is_cut(self) -> bool:
        """Return whether the chosen answer lost its end.

        It is the one that the model learns to end.
        """
        return self.chosen.whole_tokens > len(self.chosen.ids)

    @property
    def trained_tokens(self) -> int:
        return self.chosen.trained_tokens + self.rejected.trained_tokens


class Preferences(JudgedAnswers):
    """Rows of DPO, in any of its formats."""

    token_columns = ("prompt_ids", "chosen_ids", "chosen_gaps", "rejected_ids", "rejected_gaps")

    def encode(self, row: dict[str, Any]) -> Preference | Refused:
        """Return the tokenized row, or why it is refused."""
        read = read_pair(row, self._options)
        if isinstance(read, Refused):
            return read
        pair = read.content
        encoded_prompt = self._encode_prompt(pair.prompt, pair.chosen, pair.rejected)
        if isinstance(encoded_prompt, Refused):
            return encoded_prompt
        prompt, prompt_ids = encoded_prompt
        replies = [self._encode_reply(prompt, prompt_ids, answer) for answer in (pair.chosen, pair.rejected)]
        too_long = [reply for reply in replies if isinstance(reply, TooLong)]
        if too_long:
            return max(too_long, key=lambda reply: reply.tokens)
        chosen, rejected = replies
        if isinstance(chosen, Refused):
            return chosen
        if isinstance(rejected, Refused):
            return rejected
        if chosen.ids == rejected.ids:
            is_cut = chosen.whole_tokens > len(chosen.ids) or rejected.whole_tokens > len(rejected.ids)
            return Refused(f"chosen and rejected are the same{' up to max_seq_length' if is_cut else ''}")
        try:
            pictures = store_media(self._media_file, prompt)
        except BadRow as bad:
            return Refused(str(bad))
        return Preference(prompt_ids, chosen, rejected, pictures, read.format, read.unread_fields)

    def text_pieces(self, preference: Preference) -> list[dict[str, Any]]:
        replies = {"chosen": preference.chosen, "rejected": preference.rejected}
        return [
            {"trained": False, "text": self._encoder.text(preference.prompt_ids)},
            *(
                piece | {"part": name}
                for name, reply in replies.items()
                for piece in reply_pieces(self._encoder, reply)
            ),
        ]
