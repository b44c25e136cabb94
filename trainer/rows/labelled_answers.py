"""Rows of KTO: a prompt, and an answer that is desirable or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.datasets.refusal import BadRow, Refused
from gemtune.datasets.rl.read import read_labelled
from gemtune.errors import StepError
from gemtune.jobs.parts.results import JobWarning
from gemtune.request.rl_spec import KtoConfig
from trainer.media.arrow_file import store_media
from trainer.rows.prepared import LABEL, PICTURES
from trainer.rows.replies import JudgedAnswers, Reply, reply_pieces


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One row of KTO, tokenized.

    The answer is truncated so that it fits behind the prompt. label: whether it is desirable. pictures: numbers of the
    prompt's pictures in the picture file. format: name of the row's format. unread_fields: names of the row's fields
    that cannot change what is learned.
    """

    prompt_ids: list[int]
    completion: Reply
    label: bool
    pictures: Sequence[int]
    format: str
    unread_fields: Sequence[str] = ()

    unjudged_by = ()

    @property
    def columns(self) -> dict[str, Any]:
        return {
            "prompt_ids": self.prompt_ids,
            "completion_ids": self.completion.ids,
            "completion_gaps": self.completion.gaps,
            LABEL: self.label,
            PICTURES: self.pictures,
        }

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion.ids)

    @property
    def whole_tokens(self) -> int:
        return len(self.prompt_ids) + self.completion.whole_tokens

    @property
    def truncated(self) -> bool:
        return self.whole_tokens > self.tokens

    @property
    def end_is_cut(self) -> bool:
        """Return whether a desirable answer lost its end.

        The model would learn from it not to stop.
        """
        return self.truncated and self.label

    @property
    def trained_tokens(self) -> int:
        return self.completion.trained_tokens


class LabelledAnswers(JudgedAnswers):
    """Rows of KTO, in any of its formats."""

    token_columns = ("prompt_ids", "completion_ids", "completion_gaps", LABEL)

    def encode(self, row: dict[str, Any]) -> LabelledAnswer | Refused:
        """Return the tokenized row, or why it is refused."""
        read = read_labelled(row, self._options)
        if isinstance(read, Refused):
            return read
        encoded_prompt = self._encode_prompt(read.content.prompt, read.content.completion)
        if isinstance(encoded_prompt, Refused):
            return encoded_prompt
        prompt, prompt_ids = encoded_prompt
        reply = self._encode_reply(prompt, prompt_ids, read.content.completion)
        if isinstance(reply, Refused):
            return reply
        try:
            pictures = store_media(self._media_file, prompt)
        except BadRow as bad:
            return Refused(str(bad))
        return LabelledAnswer(prompt_ids, reply, read.content.label, pictures, read.format, read.unread_fields)

    def text_pieces(self, row: LabelledAnswer) -> list[dict[str, Any]]:
        part = {"part": "desirable answer" if row.label else "undesirable answer"}
        return [
            {"trained": False, "text": self._encoder.text(row.prompt_ids)},
            *(piece | part for piece in reply_pieces(self._encoder, row.completion)),
        ]


# The upper bound of (desirable weight · desirable rows) / (undesirable weight · undesirable rows); the lower one is 1
# (Ethayarajh et al., arXiv:2402.01306, equation 8).
MOST_BALANCE = 4 / 3


def label_warnings(tokens: Path, rl: KtoConfig) -> Iterator[JobWarning]:
    """Yield a warning if the weights do not balance a token file's labels.

    Raises StepError `one_label` if all rows have the same label.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    labels = pq.read_table(tokens, columns=[LABEL])[LABEL]
    desirable = pc.sum(labels).as_py()
    undesirable = len(labels) - desirable
    if desirable == 0 or undesirable == 0:
        same = str(undesirable == 0).lower()
        hint = "train good answers alone with method LoRA" if desirable else "add rows with label true"
        raise StepError("one_label", f"all {len(labels)} rows have label {same}, and KTO compares both", hint=hint)
    balance = rl.desirable_weight * desirable / (rl.undesirable_weight * undesirable)
    if not 1 <= balance <= MOST_BALANCE:
        least = rl.undesirable_weight * undesirable / desirable
        message = (
            f"{desirable} rows have label true and {undesirable} false: with their weights, the good answers count "
            f"{balance:.2f} times as much as the bad ones; the authors of KTO advise 1 to {MOST_BALANCE:.2f} times"
        )
        hint = f"set desirable_weight to a value from {least:.3g} to {least * MOST_BALANCE:.3g}"
        yield JobWarning(code="labels_unbalanced", message=message, hint=hint)
