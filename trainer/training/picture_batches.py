"""Batches with pictures, read with the base model's image processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import torch

from gemtune import families
from gemtune.families.generation import Family, PictureFormat
from trainer.base_model import folder_contents
from trainer.base_model.class_names import class_of_models
from trainer.media.arrow_file import MediaFileReader
from trainer.pictures import arrow_file
from trainer.pictures.decoding import rgb
from trainer.pictures.grids import AspectRatioGrid, Grid
from trainer.pictures.tokens import picture_tokens
from trainer.rows.prepared import PICTURES
from trainer.training.batches import PaddedBatch, Row, pad_rows
from trainer.training.merged_patches import merged_patches

if TYPE_CHECKING:
    from PIL.Image import Image

_DECODERS = ThreadPoolExecutor(thread_name_prefix="decoder")


class PictureInputs(TypedDict):
    """The inputs of a model with pictures, in addition to tokens.

    token_type_ids (Gemma 3, 3n) or mm_token_type_ids (Gemma 4): (rows, positions), int64, 1 at the soft tokens of
    pictures, which attend to all soft tokens of their picture, later ones too; in Gemma 4 only where the model says so,
    in Gemma 3n never. pixel_values: of the pictures of all rows in order, float32; absent if no row has a picture.
    Gemma 3, 3n: (pictures, channels, height, width). Gemma 4: (pictures, patches, values per patch), with
    image_position_ids (pictures, patches, 2): column and row of each patch, -1 for padding. Its unified models have one
    patch per soft token.
    """

    token_type_ids: NotRequired[torch.Tensor]
    mm_token_type_ids: NotRequired[torch.Tensor]
    pixel_values: NotRequired[torch.Tensor]
    image_position_ids: NotRequired[torch.Tensor]


@dataclass(frozen=True, slots=True)
class PictureCollator:
    """The data collator of vision jobs.

    read: returns the pixels of a picture, as `pixels` does for a row with one. soft_token: the id of the tokens that
    the model replaces by picture embeddings. format: how the model's generation reads pictures.
    """

    picture_file: MediaFileReader | Sequence[bytes]
    read: Callable[[Image], torch.Tensor]
    soft_token: int
    format: PictureFormat

    @classmethod
    def from_folders(cls, base: Path, prepared: Path) -> PictureCollator:
        """Return the collator for a base model's folder and the prepared data."""
        return cls.of_pictures(base, MediaFileReader(prepared / arrow_file.NAME))

    @classmethod
    def of_pictures(cls, base: Path, pictures: MediaFileReader | Sequence[bytes]) -> PictureCollator:
        """Return the collator for a base model's folder and encoded pictures."""
        config = folder_contents.config_of(base)
        family_and_type, tokens = families.of_config(config), picture_tokens(base, config)
        assert family_and_type is not None, "the step prepare refuses other models"
        family, kind = family_and_type
        assert family.pictures is not None, "the step prepare refuses other models"
        read = _read_merged(tokens.grid) if kind.encoder_free else _read_processed(base, family)
        return cls(pictures, read, tokens.soft_id, family.pictures)

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
        type_ids = {self.format.type_ids: (input_ids == self.soft_token).long()}
        return cast("PictureInputs", type_ids | self.pixel_inputs(pixels, input_ids.device))

    def pixel_inputs(self, pixels: Sequence[torch.Tensor], device: torch.device | None = None) -> PictureInputs:
        """Return pixel_values and image_position_ids for some rows.

        Nothing if no row has a picture. pixels: per row, see `PictureCollator.pixels`.
        """
        values = torch.cat(list(pixels)).to(device)
        if not len(values):
            return {}
        if not self.format.by_aspect_ratio:
            return {"pixel_values": values}
        return {"pixel_values": values[..., :-2], "image_position_ids": values[..., -2:].long()}

    def row_inputs(self, input_ids: torch.Tensor, numbers: Sequence[int]) -> PictureInputs:
        """Return the additional model inputs for one row.

        input_ids: (1, positions). numbers: of its pictures.
        """
        return self.inputs(input_ids, self.pixels([numbers]))

    def pixels(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the pixels of each row's pictures, given by their indices.

        Returns per row, in float32, (pictures, channels, height, width); in Gemma 4 (pictures, patches, values per
        patch + 2), where the last two are the position of the patch, so that a row's pictures stay one tensor. For a
        row without pictures an empty vector, which torch.cat ignores.
        """
        indices = {index for row in rows for index in row}
        # Decoders release Python's lock, so pictures are decoded in parallel and a GPU waits less.
        pixels_of = dict(zip(indices, _DECODERS.map(self._read, indices), strict=True))
        return [torch.cat([pixels_of[index] for index in row]) if row else torch.empty(0) for row in rows]

    def _read(self, index: int) -> torch.Tensor:
        """Return the pixels of a picture, as those of a row with one."""
        return self.read(rgb(self.picture_file[index]))


def _read_merged(grid: Grid) -> Callable[[Image], torch.Tensor]:
    """Return a collator's `read`, for one large patch per soft token."""
    assert isinstance(grid, AspectRatioGrid), "unified models are of Gemma 4"

    def read(picture: Image) -> torch.Tensor:
        patches, positions = merged_patches(picture, grid)
        return torch.cat([patches, positions.float()], dim=-1)[None]

    return read


def _read_processed(base: Path, family: Family) -> Callable[[Image], torch.Tensor]:
    """Return a collator's `read`, by the base model's image processor.

    AutoImageProcessor would take the one with torchvision where that is installed, which resizes slightly differently
    from Pillow in the prepare step.
    """
    assert family.pictures is not None, "the step prepare refuses other models"
    processor = class_of_models(family.pictures.processor).from_pretrained(base)

    def read_whole(picture: Image) -> torch.Tensor:
        pixels: torch.Tensor = processor([picture], return_tensors="pt")["pixel_values"]
        return pixels

    def read_patches(picture: Image) -> torch.Tensor:
        # A picture of three pixels' width would pass for three channels.
        outputs = processor([picture], return_tensors="pt", input_data_format="channels_last")
        return torch.cat([outputs["pixel_values"], outputs["image_position_ids"].float()], dim=-1)

    return read_patches if family.pictures.by_aspect_ratio else read_whole
