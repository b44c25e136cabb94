"""Untrusted audio: checked, decoded, mixed to one channel and resampled.

The result is what `librosa.load` returns: the mean of the channels, resampled by soxr with its quality HQ. Models of
Gemma read 16,000 samples per second. This module imports no torch: prepare checks every clip with it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from gemtune.datasets.refusal import BadRow
from trainer.media.sources import MAX_BYTES

if TYPE_CHECKING:
    import numpy as np

    Samples = np.ndarray[Any, np.dtype[np.float32]]

RATE = 16_000
# Gemma's processors cut what is longer: max_length of Gemma4AudioFeatureExtractor, 480,000 samples.
MAX_SECONDS = 30
TOO_LONG = f"an audio clip of more than {MAX_SECONDS} seconds: split it"
FORMATS = "WAV, FLAC, OGG, MP3 or AU"
# A few bytes can decompress to gigabytes: with these bounds to 0.2 GB.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 192_000, 8
# Bytes with which files of the formats begin. libsndfile would try its decoders of rare formats on others.
_BEGINNINGS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b".snd")
# MP3 files may begin with their first frame: eleven bits that are set.
_FRAME, _FRAME_BITS = 0xFF, 0xE0


def decoded(content: bytes) -> Samples:
    """Decode an audio clip: (samples,) in float32, at RATE. Raises BadRow."""
    import numpy as np
    import soxr

    channels, rate = _read(content)
    if not np.isfinite(channels).all():
        raise BadRow("an audio clip with samples that are not numbers")
    mono = np.ascontiguousarray(channels.mean(axis=1, dtype=np.float32))
    samples: Samples = mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")
    if len(samples) > MAX_SECONDS * RATE:
        raise BadRow(TOO_LONG)
    return samples


def _read(content: bytes) -> tuple[Samples, int]:
    """Return the samples of a file, (frames, channels), and its rate.

    Its header is checked before anything is decoded. Raises BadRow.
    """
    import soundfile

    if len(content) > MAX_BYTES:
        raise BadRow(f"an audio clip of more than {MAX_BYTES} bytes")
    is_frame = len(content) > 1 and content[0] == _FRAME and content[1] & _FRAME_BITS == _FRAME_BITS
    if not content.startswith(_BEGINNINGS) and not is_frame:
        raise BadRow(f"an audio clip that is not {FORMATS}")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check(file)
            # The header may say less than the file has, so no more is read than a row may have.
            longest = MAX_SECONDS * file.samplerate
            samples = file.read(longest + 1, dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (BadRow, MemoryError):
        raise
    except Exception as error:  # the file is untrusted, and decoders may raise anything
        reason = str(getattr(error, "error_string", error)) or type(error).__name__
        raise BadRow(f"an audio clip cannot be read as {FORMATS}: {reason[:100]}") from None
    if len(samples) > longest:
        raise BadRow(TOO_LONG)
    return samples, rate


def _check(file: Any) -> None:
    """Check what a header says. Raises BadRow."""
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        message = f"an audio clip with {file.samplerate} samples per second: expected {MIN_RATE} to {MAX_RATE}"
        raise BadRow(message)
    if file.channels > MAX_CHANNELS:
        raise BadRow(f"an audio clip with {file.channels} channels: at most {MAX_CHANNELS} can be mixed")


def smaller_file(content: bytes, samples: Samples) -> bytes:
    """Return the smaller of a clip's own file and one with its samples.

    Both are decoded to the same samples.
    """
    import soundfile

    written = io.BytesIO()
    # A WAV file would have the time at which it was written.
    soundfile.write(written, samples, RATE, format="AU", subtype="FLOAT")
    return min(content, written.getvalue(), key=len)
