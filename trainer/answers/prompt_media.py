"""Pictures and audio of prompts, as the model's training read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gemtune.datasets.conversation import Conversation
from gemtune.methods import Modality
from trainer.answers.runtime import no_audio, no_pictures

if TYPE_CHECKING:
    from trainer.media.token_text import MediaTokens


class PromptMedia:
    """Media of a model's prompts.

    model: its folder. tokenizer: the folder with its tokenizer. modality: of its training. config: its config.json.
    Raises StepError.
    """

    def __init__(self, model: Path, tokenizer: Path, modality: Modality, config: Mapping[str, Any]):
        self._model, self._modality = model, modality
        self.tokens: MediaTokens | None = None
        if modality != "text":
            from trainer.splits.media import media_of  # the request's contract takes 0.3 s to import

            media = media_of(modality, tokenizer, config)
            self.tokens = None if media is None else media.tokens

    def opened(self, conversation: Conversation) -> Conversation:
        """Return a conversation with its media as training stores them.

        Raises BadRow, and StepError `no_pictures` or `no_audio` for media that the model was not trained on.
        """
        images, clips = conversation.images(), conversation.clips()
        if images:
            conversation = conversation.with_images(self._pictures(images))
        if clips and self._modality != "audio":
            raise no_audio("this model was not trained on audio and reads none")
        if clips:
            from trainer.audio.arrow_file import opened

            conversation = conversation.with_clips([opened(clip) for clip in clips])
        return conversation

    def _pictures(self, images: Sequence[bytes]) -> list[Any]:
        """Return pictures as training stores them. Raises BadRow, StepError."""
        if self._modality != "vision":
            raise no_pictures("this model was not trained on pictures and reads none")
        from trainer.pictures.arrow_file import Picture
        from trainer.pictures.decoding import picture_to_store, upright_size
        from trainer.pictures.tokens import PictureTokens

        assert isinstance(self.tokens, PictureTokens), "the media of vision are pictures"
        grid = self.tokens.grid
        return [Picture(picture_to_store(image, grid), upright_size(image)) for image in images]

    def inputs(self, tokens: Sequence[int], conversation: Conversation, device: torch.device) -> dict[str, Any]:
        """Return the inputs that a model with media has besides tokens."""
        ids = torch.tensor([list(tokens)], device=device)
        match self._modality:
            case "text":
                return {}
            case "vision":
                from trainer.training.picture_batches import PictureCollator

                pictures = [picture.content for picture in conversation.images()]
                collator = PictureCollator.of_pictures(self._model, pictures)
                return dict(collator.row_inputs(ids, range(len(pictures))))
            case "audio":
                from trainer.training.audio_batches import AudioCollator

                clips = [clip.content for clip in conversation.clips()]
                return dict(AudioCollator.of_clips(self._model, clips).row_inputs(ids, range(len(clips))))
