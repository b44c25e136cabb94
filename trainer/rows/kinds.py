"""What rows a training is made of: how a row of the dataset becomes what train reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from gemtune.request.rl_spec import DpoConfig, GrpoConfig
from gemtune.request.spec import TrainingConfig
from trainer.conversation.dataset_files import Refused
from trainer.conversation.messages import conversation
from trainer.pictures.arrow_file import PictureFile, store_pictures
from trainer.rows.encoder import Encoded, Encoder
from trainer.rows.preference_pairs import Preferences
from trainer.rows.prepared import COLUMNS, PICTURES
from trainer.rows.prompts import Prompts


class PreparedRow(Protocol):
    """columns: by the names of the token file. tokens: of all it takes in memory at once, as far as prepare knows;
    whole_tokens: before it was cut. end_is_cut: whether nothing is left of it that ends an answer. unjudged_by: the
    rewards, by their names, that have nothing to compare its completions with."""

    @property
    def columns(self) -> Mapping[str, Any]: ...

    @property
    def tokens(self) -> int: ...

    @property
    def trained_tokens(self) -> int: ...

    @property
    def truncated(self) -> bool: ...

    @property
    def whole_tokens(self) -> int: ...

    @property
    def end_is_cut(self) -> bool: ...

    @property
    def unjudged_by(self) -> Sequence[str]: ...


class RowKind(Protocol):
    """sees: whether pictures are read."""

    columns: Sequence[str]
    with_pictures: bool

    def encode(self, row: dict[str, Any]) -> PreparedRow | Refused: ...

    def text_pieces(self, prepared: Any) -> list[dict[str, Any]]:
        """A prepared row as text, in pieces, each said to be trained on or not."""
        ...


class Conversations:
    """Rows of supervised fine-tuning. picture_file: where the pictures of a vision job are collected."""

    def __init__(self, encoder: Encoder, picture_file: PictureFile | None):
        self._encoder, self._picture_file, self.text_pieces = encoder, picture_file, encoder.text_pieces
        self.with_pictures = picture_file is not None
        self.columns: Sequence[str] = (*COLUMNS, PICTURES) if self.with_pictures else COLUMNS

    def encode(self, row: dict[str, Any]) -> Encoded | Refused:
        messages = conversation(row, with_pictures=self.with_pictures)
        encoded = messages if isinstance(messages, Refused) else self._encoder.encode(messages)
        if isinstance(messages, Refused) or isinstance(encoded, Refused):
            return encoded
        pictures = store_pictures(self._picture_file, messages)
        return pictures if isinstance(pictures, Refused) else replace(encoded, pictures=pictures)


def row_kind(config: TrainingConfig, encoder: Encoder, picture_file: PictureFile | None, *, max_length: int) -> RowKind:
    """Raises StepError `completion_too_long`."""
    match config.rl_config:
        case GrpoConfig() as rl:
            return Prompts(encoder, rl, picture_file, max_length=max_length)
        case DpoConfig():
            return Preferences(encoder, picture_file, max_length=max_length)
    return Conversations(encoder, picture_file)
