"""What a vision job trains with beside its tokens: the pictures that prepare kept, and the base model's own way of
reading them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.album import AlbumReader
from trainer.batches import Tokens, padded
from trainer.pictures import rgb

_DECODERS = ThreadPoolExecutor(thread_name_prefix="decoder")


@dataclass(frozen=True, slots=True)
class Sight:
    """processor: the base model's image processor. soft_token: the id in whose places the model puts what it sees."""

    album: AlbumReader
    processor: Any
    soft_token: int

    @classmethod
    def of(cls, base: Path, prepared: Path) -> Sight:
        from transformers import AutoConfig

        # AutoImageProcessor would ask for torchvision, which resizes a little differently from Pillow in prepare.
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        processor, config = Gemma3ImageProcessorPil.from_pretrained(base), AutoConfig.from_pretrained(base)
        return cls(AlbumReader(prepared / "pictures.arrow"), processor, config.image_token_id)

    def collate(self, items: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
        """`padded`, with pixel_values (pictures of all rows in order, channels, height, width) where there are any, and
        token_type_ids, 1 in the places of pictures: a picture's tokens see all of their own, ahead of them too."""
        batch = padded(items)
        batch["token_type_ids"] = (batch["input_ids"] == self.soft_token).long()
        contents = [content for item in items for row in item for content in row["pictures"]]
        if contents:
            # Decoders let go of Python's lock, so that a GPU need not wait for one picture after the other.
            batch["pixel_values"] = torch.cat(list(_DECODERS.map(self._pixels, contents)))
        return batch

    def _pixels(self, content: bytes) -> torch.Tensor:
        pixels: torch.Tensor = self.processor([rgb(content)], return_tensors="pt")["pixel_values"]
        return pixels
