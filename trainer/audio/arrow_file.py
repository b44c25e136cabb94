"""Clip file: the media file of an audio job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from trainer.audio.decoding import decoded, smaller_file
from trainer.media.arrow_file import MediaFile

# max_seq_length is reached long before: a second takes 25 tokens.
MAX_CLIPS_PER_ROW = 32
NAME = "audio.arrow"


@dataclass(frozen=True, slots=True)
class Clip:
    """A row's audio clip.

    content: an encoded file. samples: how many it has when it is decoded.
    """

    content: bytes
    samples: int


class ClipFile(MediaFile):
    """Writer of a clip file."""

    column = "audio"

    def open(self, conversation: Conversation) -> Conversation:
        """Return a row's conversation with a Clip for each audio part.

        Raises BadRow.
        """
        clips = conversation.clips()
        if len(clips) > MAX_CLIPS_PER_ROW:
            raise BadRow(f"{len(clips)} audio clips; a row can have at most {MAX_CLIPS_PER_ROW}")
        return conversation.with_clips([opened(self.source.content(clip)) for clip in clips])

    def store(self, conversation: Conversation) -> Sequence[int]:
        """Store the clips of an opened row and return their numbers, in order."""
        return self._add(clip.content for clip in conversation.clips())


def opened(content: bytes) -> Clip:
    """Return the clip in an encoded file, to be stored. Raises BadRow."""
    samples = decoded(content)
    return Clip(smaller_file(content, samples), len(samples))
