"""Opens pictures that strangers sent: checked before they are decoded, decoded whole, and turned into RGB exactly as
transformers' processors do it. No torch: prepare checks every picture with this, and train reads what it kept.

What a file may hide is handled on purpose: turned by its EXIF entry; CMYK, grey and palettes converted; of transparent
pixels the colour that is stored, as the processors show it. Animations are refused, since nobody says which frame is
meant, and greys of 16 bits, which a conversion would clip.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from trainer.conversation.messages import BadRow

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 20 * 1024 * 1024
# A file of a few bytes can say that it holds gigabytes. Cameras make 50 million; in RGB that is 150 MB.
MAX_PIXELS = 50_000_000
TOO_MANY_PIXELS = f"a picture of more than {MAX_PIXELS} pixels"
# Of formats that hold films. A JPEG with several pictures (MPO) is one picture and its previews.
_FILMS = ("PNG", "WEBP", "GIF")
# A file is kept as it came while it has at most this many bytes a pixel that the model sees: PNG seldom has less.
BYTES_A_PIXEL = 0.5
# Beyond this many pixels for each that the model sees, it is not kept in any case: train would decode them every time.
MAX_TIMES_SEEN = 8


def rgb(content: bytes) -> Image:
    """The picture of a file, upright, in RGB. Raises BadRow."""
    from PIL import Image, ImageOps

    if len(content) > MAX_BYTES:
        raise BadRow(f"a picture of more than {MAX_BYTES} bytes")
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(opened)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return opened.convert("RGB")
    except (BadRow, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadRow(TOO_MANY_PIXELS) from None
    except Exception as error:  # anything: the file is a stranger's, and decoders raise whatever comes
        reason = str(error).partition(" <")[0] or type(error).__name__
        raise BadRow(f"a picture that cannot be read ({', '.join(FORMATS)} can): {reason[:100]}") from None


def _check(opened: Image) -> None:
    """What can be told before anything is decoded."""
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadRow(TOO_MANY_PIXELS)
    if opened.format in _FILMS and getattr(opened, "is_animated", False):
        raise BadRow("an animated picture: save the frame that is meant")
    if opened.mode.startswith(("I", "F")):
        raise BadRow("a grey picture of more than 8 bits a pixel: save it with 8, so that you choose what white is")


def picture_to_store(content: bytes, size: tuple[int, int] | None) -> bytes:
    """What train shall read of a picture that the model sees with `size` (width, height): the file as it came, or the
    picture resized already, as PNG, when that is smaller or the file is much to decode. The model sees the same pixels.
    Raises BadRow."""
    from PIL import Image

    picture = rgb(content)
    if size is None:
        return content
    seen, much = size[0] * size[1], picture.width * picture.height > MAX_TIMES_SEEN * size[0] * size[1]
    if not much and len(content) <= BYTES_A_PIXEL * seen:
        return content
    written = io.BytesIO()
    picture.resize(size, Image.Resampling.BILINEAR).save(written, "PNG", compress_level=1)
    return written.getvalue() if much else min(content, written.getvalue(), key=len)
