"""Media of a job: their tokens in the text, and the file that stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.methods import Modality
from trainer.audio import arrow_file as clips
from trainer.audio.tokens import audio_tokens
from trainer.dataset.folders import Folder
from trainer.media.arrow_file import MediaFile
from trainer.media.sources import CLIP, PICTURE, MediaSource
from trainer.media.token_text import MediaTokens
from trainer.pictures import arrow_file as pictures
from trainer.pictures.tokens import picture_tokens


@dataclass(frozen=True, slots=True)
class JobMedia:
    """Media of a vision or audio job.

    tokens: of the base model. file: opens the media file in a folder, for the media of a dataset.
    """

    tokens: MediaTokens
    file: Callable[[Path, Folder], MediaFile]


def media_of(modality: Modality, base: Path, config: Mapping[str, Any]) -> JobMedia | None:
    """Return the media of a job on a base model, or None in a text job.

    base: the model's folder. config: its config.json. Raises StepError if it cannot be trained on such media.
    """
    match modality:
        case "text":
            return None
        case "vision":
            tokens = picture_tokens(base, config)

            def picture_file(output: Path, dataset: Folder) -> MediaFile:
                return pictures.PictureFile(output / pictures.NAME, MediaSource(dataset, PICTURE), tokens.grid)

            return JobMedia(tokens, picture_file)
        case "audio":

            def clip_file(output: Path, dataset: Folder) -> MediaFile:
                return clips.ClipFile(output / clips.NAME, MediaSource(dataset, CLIP))

            return JobMedia(audio_tokens(base, config), clip_file)
