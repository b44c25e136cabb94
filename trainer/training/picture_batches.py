"""Batches with pictures, read with the base model's image processor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch

from trainer.pictures.arrow_file import PictureFileReader
from trainer.pictures.decoding import rgb
from trainer.rows.prepared import PICTURES
from trainer.training.batches import PaddedBatch, Row, pad_rows

if TYPE_CHECKING:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

_DECODERS = ThreadPoolExecutor(thread_name_prefix="decoder")


class PictureInputs(TypedDict):
    """The inputs of a model with pictures, in addition to tokens.

    token_type_ids: (rows, positions), int64, 1 at the soft tokens of pictures, which attend to all soft tokens of their
    picture, later ones too. pixel_values: (pictures of all rows in order, channels, height, width), float32; absent if
    no row has a picture.
    """

    token_type_ids: torch.Tensor
    pixel_values: NotRequired[torch.Tensor]


@dataclass(frozen=True, slots=True)
class PictureCollator:
    """The data collator of vision jobs.

    processor: the base model's image processor. soft_token: the id of the tokens that the model replaces by picture
    embeddings.
    """

    picture_file: PictureFileReader
    processor: Gemma3ImageProcessorPil
    soft_token: int

    @classmethod
    def from_folders(cls, base: Path, prepared: Path) -> PictureCollator:
        """Return the collator for a base model's folder and the prepared data."""
        from transformers import AutoConfig

        # AutoImageProcessor would need torchvision, which resizes slightly differently from Pillow in the prepare step.
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        processor, config = Gemma3ImageProcessorPil.from_pretrained(base), AutoConfig.from_pretrained(base)
        return cls(PictureFileReader(prepared / "pictures.arrow"), processor, config.image_token_id)

    def collate(self, items: Sequence[Sequence[Row]]) -> PaddedBatch:
        """Return a padded batch with its pictures."""
        batch = pad_rows(items)
        pixels = self.pixels([row[PICTURES] for item in items for row in item])
        return {**batch, **self.inputs(batch["input_ids"], pixels)}

    def inputs(self, input_ids: torch.Tensor, pixels: Sequence[torch.Tensor]) -> PictureInputs:
        """Return the additional model inputs for some rows.

        input_ids: (rows, positions). pixels: per row, see `PictureCollator.pixels`. The result is on the device of
        input_ids.
        """
        pixel_values = torch.cat(list(pixels)).to(input_ids.device)
        token_type_ids = (input_ids == self.soft_token).long()
        return (
            {"token_type_ids": token_type_ids, "pixel_values": pixel_values}
            if len(pixel_values)
            else {"token_type_ids": token_type_ids}
        )

    def pixels(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the pixels of each row's pictures, given by their indices.

        Returns per row (pictures, channels, height, width) in float32; for a row without pictures an empty vector,
        which torch.cat ignores.
        """
        indices = {index for row in rows for index in row}
        # Decoders release Python's lock, so pictures are decoded in parallel and a GPU waits less.
        pixels_of = dict(zip(indices, _DECODERS.map(self._read, indices), strict=True))
        return [torch.cat([pixels_of[index] for index in row]) if row else torch.empty(0) for row in rows]

    def _read(self, index: int) -> torch.Tensor:
        """Return the pixels of a picture, (1, channels, height, width)."""
        pixels: torch.Tensor = self.processor([rgb(self.picture_file[index])], return_tensors="pt")["pixel_values"]
        return pixels
