"""Untrusted pictures: bad ones are refused, and stored ones look the same.

The model gets the same pixels as from transformers' own processor.
"""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.conversation import Image as ImagePart
from gemtune.datasets.refusal import BadRow
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.errors import StepError
from trainer.dataset.folders import BucketFolder
from trainer.media.arrow_file import MediaFileReader
from trainer.media.sources import MediaSource
from trainer.pictures.arrow_file import MAX_PICTURES_PER_ROW, PictureFile
from trainer.pictures.decoding import picture_to_store, rgb, upright_size
from trainer.pictures.grids import AspectRatioGrid, FixedGrid
from trainer.pictures.tokens import BICUBIC, BILINEAR

SIZE = (56, 56)
GRID = FixedGrid(4, SIZE, BILINEAR)
# As the tiny models of Gemma 4 have it.
GRID_4 = AspectRatioGrid(patch=4, pooling=3, most_tokens=70, resample=BICUBIC)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8), mode)


def gradient(width: int, height: int) -> Image.Image:
    across = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return Image.fromarray((across * [1.0, 0.5, 0.2]).astype(np.uint8))


def file_of(picture: Image.Image, file_format: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **more)
    return buffer.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: rotated by 90 degrees
    return file_of(noise(40, 20), "JPEG", exif=exif)


def with_palette() -> bytes:
    return file_of(noise(60, 50).quantize(16), transparency=3)


def with_preview() -> bytes:
    """Return a JPEG with a second picture, as phones write it."""
    return file_of(noise(60, 50), "MPO", save_all=True, append_images=[noise(10, 10)])


def decompression_bomb(side: int) -> bytes:
    """Return a PNG of a few hundred bytes that declares side * side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


GOOD = {
    "png": file_of(noise(60, 50)),
    "jpeg": file_of(noise(60, 50), "JPEG"),
    "webp": file_of(noise(60, 50), "WEBP"),
    "gif": file_of(noise(60, 50), "GIF"),
    "bmp": file_of(noise(60, 50), "BMP"),
    "grey": file_of(noise(60, 50, "L")),
    "black and white": file_of(noise(60, 50, "L").convert("1")),
    "alpha": file_of(noise(60, 50, "RGBA")),
    "palette": with_palette(),
    "cmyk": file_of(noise(60, 50, "CMYK"), "JPEG"),
    "turned": rotated_by_exif(),
    "one pixel": file_of(noise(1, 1)),
    "three pixels high": file_of(noise(300, 3)),
    "preview inside": with_preview(),
    "large and plain": file_of(gradient(1200, 900), "JPEG"),
    "large and noisy": file_of(noise(400, 300), "PNG"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_stored_picture_has_the_pixels_of_transformers_processor(
    name: str, tiny_vision: Path, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_vision)
    (tmp_path / "picture").write_bytes(GOOD[name])
    turn = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "picture")}]}]
    theirs = processor.apply_chat_template(turn, tokenize=True, return_dict=True, return_tensors="np")["pixel_values"]
    ours = processor.image_processor([rgb(picture_to_store(GOOD[name], GRID))], return_tensors="np")["pixel_values"]
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", GOOD)
def test_a_stored_picture_has_the_pixels_of_gemma_4s_own_processor(name: str) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    processor = Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70)
    theirs, ours = (
        processor([rgb(content)], return_tensors="np", input_data_format="channels_last")
        for content in (GOOD[name], picture_to_store(GOOD[name], GRID_4))
    )
    assert np.array_equal(ours["pixel_values"], theirs["pixel_values"])
    assert np.array_equal(ours["image_position_ids"], theirs["image_position_ids"])
    assert list(theirs["num_soft_tokens_per_image"]) == [GRID_4.tokens(upright_size(GOOD[name]))]


@pytest.mark.parametrize("name", GOOD)
def test_the_header_tells_the_size_that_is_decoded(name: str) -> None:
    assert upright_size(GOOD[name]) == rgb(GOOD[name]).size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_the_size_after_rotation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(noise(60, 50), "JPEG", exif=exif)
    assert upright_size(content) == rgb(content).size == ((50, 60) if orientation > 4 else (60, 50))


def test_the_smaller_of_the_file_and_the_resized_picture_is_stored() -> None:
    photo, large = GOOD["jpeg"], GOOD["large and noisy"]
    assert picture_to_store(photo, replace(GRID, size=None)) == photo
    assert picture_to_store(photo, replace(GRID, size=(896, 896))) == photo
    smaller = picture_to_store(large, GRID)
    assert len(smaller) < len(large)
    assert Image.open(io.BytesIO(smaller)).size == SIZE


def test_a_picture_that_is_costly_to_decode_is_stored_resized() -> None:
    plain = file_of(Image.new("RGB", (1200, 900), "red"), "GIF")
    assert Image.open(io.BytesIO(picture_to_store(plain, GRID))).size == SIZE


def animated(file_format: str) -> bytes:
    return file_of(noise(20, 20), file_format, save_all=True, append_images=[noise(20, 20).rotate(90)])


BAD = {
    "nothing": (b"", "cannot be read"),
    "text": (b"no picture at all", "cannot be read"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
    "tiff": (file_of(noise(20, 20), "TIFF"), "cannot be read"),
    "cut short": (GOOD["png"][:2000], "cannot be read"),
    "cut short jpeg": (GOOD["jpeg"][:-500], "cannot be read"),
    "a byte wrong": (GOOD["png"][:1000] + b"\xff" + GOOD["png"][1001:], "cannot be read"),
    "bomb": (decompression_bomb(60_000), "more than 50000000 pixels"),
    "a smaller bomb": (decompression_bomb(8_000), "more than 50000000 pixels"),
    "gif film": (animated("GIF"), "animated"),
    "png film": (animated("PNG"), "animated"),
    "webp film": (animated("WEBP"), "animated"),
    "16 bits": (file_of(Image.fromarray(np.full((9, 9), 40_000, np.uint16))), "8 bits"),
    "too many bytes": (b"\0" * (20 * 1024 * 1024 + 1), "more than"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unusable_picture_is_refused_with_the_reason(name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(BadRow, match=reason):
        picture_to_store(content, GRID)


def test_a_decompression_bomb_takes_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(BadRow):
        rgb(decompression_bomb(8_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> MediaSource:
    data = FolderObjects(tmp_path / "data", "data")
    data.write("processed_datasets/chats/red.png", GOOD["png"])
    data.write("processed_datasets/chats/more/blue.jpg", GOOD["jpeg"])
    data.write("processed_datasets/others/secret.png", GOOD["png"])
    (tmp_path / "data/processed_datasets/chats/link.png").symlink_to(
        tmp_path / "data/processed_datasets/others/secret.png"
    )
    return MediaSource(BucketFolder(data, "processed_datasets/chats"))


PNG_IN_BASE64 = base64.b64encode(GOOD["png"]).decode()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({"bytes": GOOD["png"], "path": None}, "png"),
        ({"bytes": GOOD["png"], "path": "/bytes/go/first.png"}, "png"),
        ({"bytes": PNG_IN_BASE64}, "png"),
        (f"data:image/png;base64,{PNG_IN_BASE64}", "png"),
        ({"bytes": None, "path": "red.png"}, "png"),
        ("more/blue.jpg", "jpeg"),
        ("processed_datasets/chats/more/blue.jpg", "jpeg"),
        ("link.png", "png"),
    ],
)
def test_a_picture_is_in_its_row_or_in_the_folder_of_the_dataset(source: MediaSource, image: Any, name: str) -> None:
    assert source.content(image) == GOOD[name]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "bytes, path"),
        (5, "bytes, path"),
        ({}, "neither"),
        ({"bytes": None, "path": None}, "neither"),
        ({"bytes": None, "path": ""}, "neither"),
        ({"bytes": 5}, "neither"),
        ({"bytes": "not base64!"}, "base64"),
        ("data:image/png;base64,%%%", "base64"),
        ("none.png", "no picture"),
        ("\ud800.png", "no picture"),
        ("../others/secret.png", "outside"),
        ("more/../../others/secret.png", "outside"),
        ("processed_datasets/chats/../others/secret.png", "outside"),
        ("processed_datasets/others/secret.png", "no picture"),
        ("/etc/passwd", "outside"),
        ("..\\others\\secret.png", "outside"),
        ("https://example.com/x.png", "is a URL"),
        ("gs://bucket/x.png", "is a URL"),
    ],
)
def test_a_missing_picture_or_one_outside_the_dataset_is_refused(source: MediaSource, image: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        source.content(image)


def test_a_link_out_of_the_bucket_fails_the_step_and_is_named(source: MediaSource, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(GOOD["png"])
    (tmp_path / "data/processed_datasets/chats/out.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(StepError, match=r"chats/out\.png' in data leads out of its bucket") as failed:
        source.content("red.png")
    assert failed.value.code == "bad_dataset"


def shown(*images: Any) -> Conversation:
    """Return a user's turn with these pictures, or with a text."""
    return Conversation((Turn("user", tuple(ImagePart(image) for image in images) or "Hi"),))


def store(picture_file: PictureFile, conversation: Conversation) -> list[int]:
    return list(picture_file.store(picture_file.open(conversation)))


def test_a_picture_file_stores_each_picture_once_and_none_of_refused_rows(source: MediaSource, tmp_path: Path) -> None:
    with PictureFile(tmp_path / "pictures.arrow", source, GRID) as picture_file:
        assert store(picture_file, shown("red.png", "more/blue.jpg")) == [0, 1]
        assert store(picture_file, shown("more/blue.jpg", {"bytes": GOOD["png"]}, {"bytes": GOOD["grey"]})) == [
            1,
            0,
            2,
        ]
        cut_off = GOOD["webp"][: len(GOOD["webp"]) // 2]  # its header can be read, its pixels cannot
        for unusable in ([{"bytes": GOOD["bmp"]}, "none.png"], ["red.png"] * (MAX_PICTURES_PER_ROW + 1)):
            with pytest.raises(BadRow):
                picture_file.open(shown(*unusable))
        with pytest.raises(BadRow):
            store(picture_file, shown({"bytes": GOOD["bmp"]}, {"bytes": cut_off}))
        assert store(picture_file, shown()) == []
        assert len(picture_file) == 3
    reader = MediaFileReader(tmp_path / "pictures.arrow")
    assert [reader[number] for number in range(3)] == [
        picture_to_store(GOOD[name], GRID) for name in ("png", "jpeg", "grey")
    ]


def test_a_picture_file_is_written_as_it_grows(
    source: MediaSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.media.arrow_file.BATCH_BYTES", 4000)
    contents = [file_of(noise(30, number + 1)) for number in range(9)]
    with PictureFile(tmp_path / "pictures.arrow", source, GRID) as picture_file:
        assert [store(picture_file, shown({"bytes": content})) for content in contents] == [
            [number] for number in range(9)
        ]
        assert (tmp_path / "pictures.arrow").stat().st_size > 0
    reader = MediaFileReader(tmp_path / "pictures.arrow")
    assert [reader[number] for number in range(9)] == contents


def test_an_album_without_pictures_can_be_read(source: MediaSource, tmp_path: Path) -> None:
    with PictureFile(tmp_path / "pictures.arrow", source, GRID):
        pass
    MediaFileReader(tmp_path / "pictures.arrow")
