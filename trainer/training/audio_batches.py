"""Batches with audio, read with the base model's feature extractor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import torch

from gemtune import families
from gemtune.families.generation import Family
from trainer.audio import arrow_file
from trainer.audio.decoding import decoded
from trainer.audio.tokens import audio_tokens
from trainer.base_model import folder_contents
from trainer.base_model.class_names import class_of_models
from trainer.media.arrow_file import MediaFileReader
from trainer.rows.prepared import AUDIO
from trainer.training.batches import PaddedBatch, Row, pad_rows

if TYPE_CHECKING:
    from transformers import SequenceFeatureExtractor

    from trainer.audio.decoding import Samples

# The type of audio in mm_token_type_ids of transformers' processors.
AUDIO_TYPE = 3
_DECODERS = ThreadPoolExecutor(thread_name_prefix="audio_decoder")


class AudioInputs(TypedDict):
    """The inputs of a model with audio, in addition to tokens.

    token_type_ids (Gemma 3n) or mm_token_type_ids (Gemma 4): (rows, positions), int64, AUDIO_TYPE at the soft tokens of
    clips, else 0. input_features: of the clips of all rows in order, (clips, frames, values per frame), float32, zero
    behind the end of a row's longest clip; absent if no row has audio. input_features_mask: (clips, frames), bool, True
    at the frames of a clip.
    """

    token_type_ids: NotRequired[torch.Tensor]
    mm_token_type_ids: NotRequired[torch.Tensor]
    input_features: NotRequired[torch.Tensor]
    input_features_mask: NotRequired[torch.Tensor]


@dataclass(frozen=True, slots=True)
class AudioCollator:
    """The data collator of audio jobs.

    clips: encoded audio by number. read: returns the features of a row's clips, (clips, frames, values per frame) in
    float32, and which frames are whole, (clips, frames) in bool. soft_token: the id of the tokens that the model
    replaces by audio. type_ids: the name of the model's input that says which these are. one_row_per_batch: whether
    the features of a row depend on the other rows of its batch.
    """

    clips: MediaFileReader | Sequence[bytes]
    read: Callable[[Sequence[Samples]], tuple[torch.Tensor, torch.Tensor]]
    soft_token: int
    type_ids: str
    one_row_per_batch: bool

    @classmethod
    def from_folders(cls, base: Path, prepared: Path) -> AudioCollator:
        """Return the collator for a base model's folder and the prepared data."""
        return cls.of_clips(base, MediaFileReader(prepared / arrow_file.NAME))

    @classmethod
    def of_clips(cls, base: Path, clips: MediaFileReader | Sequence[bytes]) -> AudioCollator:
        """Return the collator for a base model's folder and encoded audio."""
        config = folder_contents.config_of(base)
        family, extractor = _family_and_extractor(config)
        assert family.pictures is not None, "all generations that hear also see"
        return cls(
            clips,
            _reader(extractor.from_pretrained(base)),
            audio_tokens(base, config).soft_id,
            family.pictures.type_ids,
            family.audio.depends_on_batch,
        )

    def collate(self, items: Sequence[Sequence[Row]]) -> PaddedBatch:
        """Return a padded batch with its audio."""
        batch = pad_rows(items)
        return {**batch, **self.inputs(batch["input_ids"], [row[AUDIO] for item in items for row in item])}

    def inputs(self, input_ids: torch.Tensor, rows: Sequence[Sequence[int]]) -> AudioInputs:
        """Return the additional model inputs for some rows.

        input_ids: (rows, positions). rows: numbers of the clips of each row. The result is on the device of input_ids.
        """
        types = {self.type_ids: (input_ids == self.soft_token).long() * AUDIO_TYPE}
        # numpy releases Python's lock in its transforms, so that rows are read in parallel.
        read = list(_DECODERS.map(self._read, [row for row in rows if row]))
        if not read:
            return cast("AudioInputs", types)
        features, masks = ([clip for row in of_rows for clip in row] for of_rows in zip(*read, strict=True))
        inputs = {
            "input_features": _padded(features).to(input_ids.device),
            "input_features_mask": _padded(masks).to(input_ids.device),
        }
        return cast("AudioInputs", types | inputs)

    def row_inputs(self, input_ids: torch.Tensor, numbers: Sequence[int]) -> AudioInputs:
        """Return the additional model inputs for one row; see `inputs`."""
        return self.inputs(input_ids, [numbers])

    def _read(self, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of a row's clips, as the processor does."""
        return self.read([decoded(self.clips[number]) for number in numbers])


def _padded(clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a batch of clips, filled up with zeros."""
    padded: torch.Tensor = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    return padded


def _reader(extractor: SequenceFeatureExtractor) -> Callable[[Sequence[Samples]], tuple[torch.Tensor, torch.Tensor]]:
    """Return a collator's `read`, by the base model's feature extractor."""
    call: Any = extractor  # the base class has no call

    def read(clips: Sequence[Samples]) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = call(list(clips), return_tensors="pt")
        return outputs["input_features"], outputs["input_features_mask"]

    return read


def _family_and_extractor(config: dict[str, Any]) -> tuple[Family, type[SequenceFeatureExtractor]]:
    """Return the family of a model and transformers' audio feature extractor."""
    family_and_type = families.of_config(config)
    assert family_and_type is not None, "the step prepare refuses other models"
    extractor: type[SequenceFeatureExtractor] = class_of_models(family_and_type[1].feature_extractor)
    return family_and_type[0], extractor
