"""Row kinds: how each training method turns a dataset row into train's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from gemtune.datasets.conversation import Conversation, PlainText
from gemtune.datasets.formats import table
from gemtune.datasets.formats.table import ReadRow
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.datasets.row_options import ReadOptions
from gemtune.datasets.trained_turns import TrainOn
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.training_config import TrainingConfig
from trainer.dataset.row import Row
from trainer.media.arrow_file import MediaFile, open_media, store_media
from trainer.rows.encoded import Encoded, Rendered
from trainer.rows.encoder import Encoder
from trainer.rows.labelled_answers import LabelledAnswers
from trainer.rows.preference_pairs import Preferences
from trainer.rows.prepared import COLUMNS
from trainer.rows.prompts import Prompts


class PreparedRow(Protocol):
    """A dataset row as train reads it.

    columns: values by the column names of the token file. tokens: the longest sequence that train makes of it, as far
    as prepare knows. whole_tokens: the same before truncation. trained_tokens: tokens with a loss. end_is_cut:
    truncation removed the end of every answer. unjudged_by: names of the rewards that cannot score its completions,
    because the row's answer gives them nothing to compare with. unread_fields: names of the row's fields that cannot
    change what is learned. format: name of the row's format.
    """

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

    @property
    def unread_fields(self) -> Sequence[str]: ...

    @property
    def format(self) -> str: ...


class RowKind(Protocol):
    """Reader of a training method's rows.

    columns: names of the token file's columns. with_media: rows may hold pictures or audio.
    """

    columns: Sequence[str]
    with_media: bool

    def encode(self, row: dict[str, Any]) -> PreparedRow | Refused:
        """Return the prepared row, or why it is refused."""
        ...

    def text_pieces(self, prepared: Any) -> list[dict[str, Any]]:
        """Return a prepared row as text, for the samples of the report.

        Pieces are `{"trained": bool, "text": str}`, and of some kinds also `"part"`, the column they come from.
        """
        ...


class Conversations:
    """Rows of supervised fine-tuning.

    media_file: stores the media of a vision or audio job; None in a text job. options: how to read rows. train_on:
    which turns to learn.
    """

    def __init__(self, encoder: Encoder, media_file: MediaFile | None, options: ReadOptions, train_on: TrainOn):
        self._encoder, self._media_file, self.text_pieces = encoder, media_file, encoder.text_pieces
        self._options, self._train_on = options, train_on
        self.with_media = media_file is not None
        self.columns: Sequence[str] = COLUMNS if media_file is None else (*COLUMNS, media_file.column)

    def encode(self, row: dict[str, Any]) -> Encoded | Refused:
        return self._encoder.tokenized(self._rendered(row))

    def encode_all(self, rows: Iterable[Row]) -> Iterator[tuple[int, Any, PreparedRow | Refused]]:
        """Yield each row with its number and its tokens, or why it is refused.

        Many rows are tokenized at once, unless they hold pictures or audio, which would take much memory.
        """
        if self.with_media:
            return encode_one_by_one(self.encode, rows)
        return self._encoder.all_tokenized(rows, self._rendered)

    def _rendered(self, row: dict[str, Any]) -> Rendered | Refused:
        """Return a row as text to tokenize, or why it is refused."""
        read = table.read(row, self._options)
        if isinstance(read, Refused):
            return read
        if isinstance(read.content, PlainText):
            rendered, conversation = self._encoder.render_text(read.content), None
        else:
            try:
                conversation = open_media(self._media_file, read.content)
            except BadRow as bad:
                return Refused(str(bad))
            rendered = self._encoder.render(conversation, self._train_on)
        if isinstance(rendered, Refused):
            return rendered
        return Rendered(rendered.text, partial(self._finished, read, conversation, rendered))

    def _finished(
        self, read: ReadRow, conversation: Conversation | None, rendered: Rendered, encoding: Any
    ) -> Encoded | Refused:
        """Return a tokenized row with what is known of it beside its tokens."""
        encoded = rendered.finish(encoding)
        if isinstance(encoded, Refused):
            return encoded
        try:
            media = () if conversation is None else store_media(self._media_file, conversation)
        except BadRow as bad:
            return Refused(str(bad))
        unread = (*read.unread_fields, *encoded.unread_fields)
        return Encoded(
            encoded.input_ids, encoded.labels, encoded.whole_tokens, encoded.end_is_cut, media, unread, read.format
        )


def encode_one_by_one(
    encode: Callable[[dict[str, Any]], PreparedRow | Refused], rows: Iterable[Row]
) -> Iterator[tuple[int, Any, PreparedRow | Refused]]:
    """Yield each row with its number and its tokens, or why it is refused."""
    for number, row in rows:
        yield number, row, row if isinstance(row, Refused) else encode(row)


def encode_rows(kind: RowKind, rows: Iterable[Row]) -> Iterator[tuple[int, Any, PreparedRow | Refused]]:
    """Yield each row with its number and its tokens, or why it is refused."""
    return kind.encode_all(rows) if isinstance(kind, Conversations) else encode_one_by_one(kind.encode, rows)


def row_kind(
    config: TrainingConfig,
    encoder: Encoder,
    media_file: MediaFile | None,
    *,
    max_length: int,
    options: ReadOptions | None = None,
) -> RowKind:
    """Return the row kind of a training method.

    Raises StepError `completion_too_long`.
    """
    options = options or ReadOptions()
    cuts = config.too_long == "cut"
    match config.rl_config:
        case GrpoConfig() as rl:
            return Prompts(encoder, rl, media_file, options, max_length=max_length)
        case DpoConfig():
            return Preferences(encoder, media_file, options, max_length=max_length, cuts=cuts)
        case KtoConfig():
            return LabelledAnswers(encoder, media_file, options, max_length=max_length, cuts=cuts)
    return Conversations(encoder, media_file, options, config.train_on)
