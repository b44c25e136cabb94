"""Untrusted audio: what is read, and what is refused before it is decoded."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soxr

from gemtune.datasets.refusal import BadRow
from tests.trainer.tones import encoded, samples
from trainer.audio.decoding import MAX_SECONDS, RATE, decoded, smaller_file

LARGEST_ERROR = {"PCM_U8": 1 / 127, "PCM_16": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-24, "FLOAT": 0, "DOUBLE": 0}


@pytest.mark.parametrize("subtype", LARGEST_ERROR)
def test_every_width_of_samples_is_read(subtype: str) -> None:
    wave = samples(1)
    read = decoded(encoded(wave, subtype=subtype))
    assert (read.dtype, read.shape) == (np.float32, wave.shape)
    assert float(np.abs(read - wave).max()) <= LARGEST_ERROR[subtype]


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_compressed_audio_is_read(kind: str, subtype: str | None) -> None:
    wave = samples(0, length=RATE)
    read = decoded(encoded(wave, kind=kind, subtype=subtype))
    assert abs(len(read) - len(wave)) <= RATE // 10
    # An encoder may shift what it writes, but the tone is the same.
    peaks = [int(np.argmax(np.abs(np.fft.rfft(each[: RATE // 2])))) for each in (wave, read)]
    assert abs(peaks[0] - peaks[1]) <= 1


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled_as_librosa_does(rate: int) -> None:
    wave = samples(2, rate=rate)
    read = decoded(encoded(wave, rate=rate, subtype="FLOAT"))
    assert np.array_equal(read, soxr.resample(wave, rate, RATE, quality="HQ"))
    assert abs(len(read) - len(samples(2))) <= 1


def test_channels_are_mixed_to_their_mean() -> None:
    left, right = samples(0, length=3000), samples(1, length=3000)
    read = decoded(encoded(np.stack([left, right], axis=1), subtype="FLOAT"))
    assert np.allclose(read, (left + right) / 2, atol=1e-7)


def declared(seconds: float, *, rate: int = RATE, channels: int = 1) -> bytes:
    """Return a WAV file whose header says so, with a tenth of a second in it."""
    data = b"\0" * (rate // 10 * 2 * channels)
    size = int(seconds * rate) * 2 * channels
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + layout + struct.pack("<4sI", b"data", size) + data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not WAV, FLAC, OGG, MP3 or AU"),
        (b"text", "not WAV, FLAC, OGG, MP3 or AU"),
        (b"RIFF", "cannot be read as WAV"),
        (b"\xff\xfb" + b"\0" * 400, "cannot be read as WAV"),
        (b"OggS" + bytes(range(256)), "cannot be read as WAV"),
        (encoded(samples(0))[:30], "cannot be read as WAV"),
        (encoded(np.zeros(RATE * (MAX_SECONDS + 1), np.float32), kind="FLAC"), "more than 30 seconds"),
        (encoded(np.zeros(RATE * MAX_SECONDS + 1, np.float32)), "more than 30 seconds"),
        (encoded(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), "samples that are not numbers"),
        (encoded(np.zeros((100, 9), np.float32)), "9 channels"),
        (encoded(np.zeros(100, np.float32), rate=1000), "1000 samples per second"),
        (encoded(np.zeros(100, np.float32), rate=384_000), "384000 samples per second"),
        (b"RIFF" + b"\0" * (20 * 1024 * 1024), "more than 20971520 bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        decoded(content)


def test_a_header_that_promises_hours_costs_nothing() -> None:
    assert len(decoded(declared(3600))) == RATE // 10


def test_thirty_seconds_are_read_at_every_rate() -> None:
    for rate in (RATE, 48_000):
        assert len(decoded(encoded(np.zeros(rate * MAX_SECONDS, np.float32), rate=rate))) == RATE * MAX_SECONDS


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (48_000, 2), (11_025, 1)])
def test_the_smaller_file_has_the_same_samples(rate: int, channels: int) -> None:
    wave = samples(3, rate=rate)
    content = encoded(np.stack([wave] * channels, axis=1), rate=rate, subtype="PCM_24")
    stored = smaller_file(content, decoded(content))
    assert np.array_equal(decoded(stored), decoded(content))
    assert len(stored) <= len(content)
    assert (stored == content) is (rate != 48_000)
    assert smaller_file(content, decoded(content)) == stored
