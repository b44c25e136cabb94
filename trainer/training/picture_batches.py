"""What a vision job trains with beside its tokens: the pictures that prepare kept, and the base model's own way of
reading them."""

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
from trainer.training.batches import PaddedBatch, Row, padded

if TYPE_CHECKING:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

_DECODERS = ThreadPoolExecutor(thread_name_prefix="decoder")


class PictureInputs(TypedDict):
    """What a model with pictures takes beside its tokens: see `Sight.inputs`."""

    token_type_ids: torch.Tensor
    pixel_values: NotRequired[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Sight:
    """processor: the base model's image processor. soft_token: the id in whose places the model puts what it sees."""

    picture_file: PictureFileReader
    processor: Gemma3ImageProcessorPil
    soft_token: int

    @classmethod
    def of(cls, base: Path, prepared: Path) -> Sight:
        from transformers import AutoConfig

        # AutoImageProcessor would ask for torchvision, which resizes a little differently from Pillow in prepare.
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        processor, config = Gemma3ImageProcessorPil.from_pretrained(base), AutoConfig.from_pretrained(base)
        return cls(PictureFileReader(prepared / "pictures.arrow"), processor, config.image_token_id)

    def collate(self, items: Sequence[Sequence[Row]]) -> PaddedBatch:
        """`padded`, with what the model is shown."""
        batch = padded(items)
        shown = self.pixels([row[PICTURES] for item in items for row in item])
        return {**batch, **self.inputs(batch["input_ids"], shown)}

    def inputs(self, input_ids: torch.Tensor, pixels: Sequence[torch.Tensor]) -> PictureInputs:
        """What goes into the model beside input_ids (rows, positions) and the `pixels` of these rows: pixel_values
        (pictures of all rows in order, channels, height, width) where there are any, and token_type_ids, 1 in the
        places of pictures: a picture's tokens see all of their own, ahead of them too."""
        together = torch.cat(list(pixels)).to(input_ids.device)
        kinds = (input_ids == self.soft_token).long()
        return {"token_type_ids": kinds, "pixel_values": together} if len(together) else {"token_type_ids": kinds}

    def pixels(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Of each row's pictures, by their numbers: (pictures, channels, height, width). Of a row without any, a vector
        of nothing, which torch.cat passes over."""
        numbers = {number for row in rows for number in row}
        # Decoders let go of Python's lock, so that a GPU need not wait for one picture after the other.
        read = dict(zip(numbers, _DECODERS.map(self._read, numbers), strict=True))
        return [torch.cat([read[number] for number in row]) if row else torch.empty(0) for row in rows]

    def _read(self, number: int) -> torch.Tensor:
        pixels: torch.Tensor = self.processor([rgb(self.picture_file[number])], return_tensors="pt")["pixel_values"]
        return pixels
