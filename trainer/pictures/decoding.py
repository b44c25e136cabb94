"""Untrusted pictures: checked, decoded, and converted to RGB.

The conversion is that of transformers' image processors: rotated by the EXIF orientation; CMYK, grey and palette images
converted; the stored colour of transparent pixels. Animations are refused, because it is not clear which frame is
meant, and so are 16-bit greys, which a conversion would clip. This module imports no torch: prepare checks every
picture with it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gemtune.datasets.refusal import BadRow
from trainer.media.sources import MAX_BYTES
from trainer.pictures.grids import Grid, Size

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# A few bytes can decompress to gigabytes. Cameras take pictures of up to 50 million pixels: 150 MB in RGB.
MAX_PIXELS = 50_000_000
TOO_MANY_PIXELS = f"a picture of more than {MAX_PIXELS} pixels"
# EXIF orientations that exchange width and height (Exif 2.32, 4.6.4, tag 274).
QUARTER_TURNS = (5, 6, 7, 8)
# Formats that can be animated. A JPEG with several pictures (MPO) is not: it has one picture and its previews.
_ANIMATED = ("PNG", "WEBP", "GIF")
# A file with at most this many bytes per pixel of the model's input is stored unchanged: PNG is seldom smaller.
BYTES_PER_PIXEL = 0.5
# A picture with more than this many pixels per pixel of the model's input is always stored resized, because train would
# have to decode all of them in every epoch.
MAX_PIXEL_RATIO = 8


def rgb(content: bytes) -> Image:
    """Decode a picture, upright and in RGB. Raises BadRow."""
    from PIL import ImageOps

    with _opened(content) as opened:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return opened.convert("RGB")


def upright_size(content: bytes) -> Size:
    """Return the (width, height) of a picture as `rgb` decodes it.

    Only the header is read. Raises BadRow.
    """
    from PIL import ExifTags

    with _opened(content) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS
        return (opened.height, opened.width) if turned else opened.size


@contextmanager
def _opened(content: bytes) -> Iterator[Image]:
    """Open a picture with an acceptable header.

    Raises BadRow, also for pixels that the block cannot decode.
    """
    from PIL import Image

    if len(content) > MAX_BYTES:
        raise BadRow(f"a picture of more than {MAX_BYTES} bytes")
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(opened)
        yield opened
    except (BadRow, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadRow(TOO_MANY_PIXELS) from None
    except Exception as error:  # the file is untrusted, and decoders may raise anything
        reason = str(error).partition(" <")[0] or type(error).__name__
        raise BadRow(f"a picture cannot be read as {', '.join(FORMATS)}: {reason[:100]}") from None


def _check(opened: Image) -> None:
    """Check what the header says, before pixels are decoded. Raises BadRow."""
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadRow(TOO_MANY_PIXELS)
    if opened.format in _ANIMATED and getattr(opened, "is_animated", False):
        raise BadRow("an animated picture: save one frame of it as a picture")
    if opened.mode.startswith(("I", "F")):
        raise BadRow("a grey picture of more than 8 bits per pixel: save it with 8 bits, scaled as you need it")


def picture_to_store(content: bytes, grid: Grid) -> bytes:
    """Return the encoded picture to store: the file, or a resized PNG.

    grid: of the model's processor, which determines the size. The PNG is stored if it is smaller, or if the file has
    far more pixels than the model reads. Both give the model the same pixels. Raises BadRow.
    """
    from PIL.Image import Resampling

    picture = rgb(content)
    size = grid.resized(picture.size)
    # The processor could divide a resized picture differently.
    if size is None or grid.resample is None or grid.resized(size) != size:
        return content
    model_pixels = size[0] * size[1]
    large = picture.width * picture.height > MAX_PIXEL_RATIO * model_pixels
    if not large and len(content) <= BYTES_PER_PIXEL * model_pixels:
        return content
    resized = io.BytesIO()
    picture.resize(size, Resampling(grid.resample)).save(resized, "PNG", compress_level=1)
    return resized.getvalue() if large else min(content, resized.getvalue(), key=len)
