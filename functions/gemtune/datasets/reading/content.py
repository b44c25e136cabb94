"""Content of a turn: a text, or a list of texts, pictures and audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemtune.datasets.conversation import Audio, Content, Image, Languages, Part, Role, Text
from gemtune.datasets.reading.fields import HARMLESS, Fields, unicode_text

NO_PICTURES = "a picture, which only a vision job can have: set modality to vision"
NO_AUDIO = "audio, which only an audio job can have: set modality to audio"
WRONG_PART = (
    "a part of a content list is neither {type: text, text} nor, in vision jobs, {type: image, image}, nor, in audio "
    "jobs, {type: audio, audio}"
)


def read_content(value: Any, role: Role, fields: Fields, name: str = "content") -> Content:
    """Return the content in a field, a text or a list of parts.

    fields: of the turn. name: of the field. Raises BadRow.
    """
    if isinstance(value, str):
        return unicode_text(value)
    if not isinstance(value, list):
        raise fields.bad("the content of a message is not a text")
    if not all(isinstance(part, Mapping) for part in value):
        raise fields.bad(WRONG_PART)
    return tuple(read_part(fields.within(part, name), role) for part in value)


def read_part(part: Fields, role: Role) -> Part:
    """Return a part of a list, in OpenAI's or transformers' shape.

    Raises BadRow.
    """
    kind = part.take("type")
    if kind in ("text", "input_text", "output_text") or (kind is None and "text" in part):
        text = part.take_text("text")
        if text is None:
            raise part.bad(WRONG_PART)
        read: Part = Text(text)
    elif kind in ("image", "image_url", "input_image"):
        read = image_of(part.take_first("image_url", "image", "url", "path"), role, part)
    elif kind in ("audio", "audio_url", "input_audio"):
        read = audio_of(part.take_first("input_audio", "audio_url", "audio", "url", "path"), role, part)
    else:
        raise part.bad(WRONG_PART)
    languages = _languages(part)
    part.close(harmless=HARMLESS | {"cache_control"})
    if languages is not None and role != "user":
        raise part.bad(f"codes of languages in a message of the {role}; only users give something to translate")
    return read if languages is None else replace(read, languages=languages)


def _languages(part: Fields) -> Languages | None:
    """Return the languages of a part to translate; None if it has none.

    TranslateGemma's chat template reads them. Raises BadRow.
    """
    source, target = part.take_text("source_lang_code"), part.take_text("target_lang_code")
    if not source and not target:
        return None
    if not source or not target:
        raise part.bad("source_lang_code and target_lang_code belong together, and one of them is missing")
    return Languages(source, target)


def image_of(image: Any, role: Role, fields: Fields) -> Image:
    """Return the picture of a part, whose content is checked later.

    Raises BadRow.
    """
    if not fields.reading.options.with_pictures:
        raise fields.bad(NO_PICTURES)
    if role != "user":
        raise fields.bad(f"a picture in a message of the {role}; only users can show one")
    if isinstance(image, Mapping) and set(image) & {"url", "detail"}:
        inner = fields.within(image, "image_url")
        image = inner.take_text("url")
        inner.close(harmless={"detail"})  # OpenAI's resolutions, which Gemma does not have
    return Image(image)


def audio_of(audio: Any, role: Role, fields: Fields) -> Audio:
    """Return the audio of a part, whose content is checked later.

    Raises BadRow.
    """
    if not fields.reading.options.with_audio:
        raise fields.bad(NO_AUDIO)
    if role != "user":
        raise fields.bad(f"audio in a message of the {role}; only users can send it")
    if isinstance(audio, Mapping) and set(audio) & {"url", "data", "format"}:
        inner = fields.within(audio, "input_audio")
        data, url = inner.take_text("data"), inner.take_text("url")
        inner.close(harmless={"format"})  # the file's own header says it
        audio = url if data is None else {"bytes": data}
    return Audio(audio)


def joined(parts: Sequence[Part]) -> Content:
    """Return parts without pictures and audio as one text, others as a list.

    Formats whose parts continue each other use this: a chat template would strip the blanks between them.
    """
    texts = [part.text for part in parts if isinstance(part, Text)]
    return "".join(texts) if len(texts) == len(parts) else tuple(parts)
