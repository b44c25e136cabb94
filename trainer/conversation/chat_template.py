"""A base model's chat template: found where models keep it, and run as transformers runs it, sandboxed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.families import of_model_type, turn_format_of
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_file, read_json_object
from trainer.conversation.messages import Messages
from trainer.conversation.render_limits import LimitReached, RenderLimits

# Where the templates are that stand in for a base model's own.
OWN_TEMPLATES = Path(__file__).parent
# What a template may write for one conversation, whose text has at most a megabyte. The tokenizer reads all of it.
MAX_CHARACTERS = 8 * 1024 * 1024


class TemplateRefusal(Exception):
    """The template itself says that it cannot render this conversation."""


class ChatTemplate:
    """Turns messages into what the model reads. `source` says where the template comes from, `text` is it; `turns` is
    the turn format of Gemma that it writes, None if it writes another one."""

    def __init__(self, folder: Path, tokenizer_config: dict[str, Any]):
        """Raises StepError `template_failed` when the template is no Jinja, `template_missing` when there is none and
        the vocabulary has not the tokens of gemtune's own."""
        self.source, self.text = _own_or_stand_in(folder, tokenizer_config)
        self.turns = turn_format_of(self.text)
        try:
            with RenderLimits():  # Jinja computes constants when it compiles
                self._template = _environment().from_string(self.text)
        except (Exception, LimitReached) as error:  # anything: the template is a stranger's
            raise _failed(error) from error
        # What transformers gives a template, so that `tools is not none` and the like mean the same here.
        self._given = {"tools": None, "documents": None} | {
            name: _text_of(tokenizer_config.get(name))
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }  # fmt: skip

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """Raises TemplateRefusal, and StepError `template_failed` for a template that is broken or takes more than
        RenderLimits. For the main thread."""
        values = {"messages": messages, "add_generation_prompt": add_generation_prompt} | self._given
        try:
            with RenderLimits():
                text = str(self._template.render(values))
        except TemplateRefusal:
            raise
        except (Exception, LimitReached) as error:  # anything: the template is a stranger's
            raise _failed(error) from error
        if len(text) > MAX_CHARACTERS:
            raise _failed(ValueError(f"it writes more than {MAX_CHARACTERS} characters for one conversation"))
        return text


def _own_or_stand_in(folder: Path, tokenizer_config: dict[str, Any]) -> tuple[str, str]:
    """Where the template comes from, and its text. Processors of older models kept it in chat_template.json."""
    beside = folder / "chat_template.jinja"
    if beside.exists():
        return beside.name, _text_in(beside)
    for file, named in (
        ("chat_template.json", json_object(folder / "chat_template.json")),
        ("tokenizer_config.json", tokenizer_config),
    ):
        template = named.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}.get(
                "default"
            )
        if isinstance(template, str):
            return file, template
    return _stand_in(folder)


def _stand_in(folder: Path) -> tuple[str, str]:
    """gemtune's own template for the family of the model in `folder`.

    Raises StepError `template_missing` when the tokens around a turn are no tokens of the vocabulary: they would become
    letters, and nothing would end an answer.
    """
    family = of_model_type(json_object(folder / "config.json").get("model_type"))
    if family is None:
        message, hint = "there is no chat template, and no config.json of a Gemma to choose one by", "add the template"
        raise StepError("template_missing", message, hint=hint)
    tokenizer = json_object(folder / "tokenizer.json")
    added = {str(token.get("content")) for token in tokenizer.get("added_tokens", ()) if isinstance(token, dict)}
    missing = [token for token in (family.turns.start, family.turns.end) if token not in added]
    if missing:
        message = f"the base model has no chat template, and its vocabulary has no {' and no '.join(missing)}"
        raise StepError("template_missing", message, hint="add the chat_template.jinja that belongs to its tokenizer")
    return f"gemtune's own for {family.name}", (OWN_TEMPLATES / family.turns.template).read_text()


def _text_in(path: Path) -> str:
    """Raises StepError `bad_base_model`."""
    try:
        return read_file(path).decode(errors="replace")
    except (OSError, Unreadable) as error:
        message = f"a file of the base model cannot be read: {error}"
        raise StepError("bad_base_model", message, hint="save the model again") from error


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file beside a model; {} when it is not there. As transformers reads it, the last of several values of
    a key counts. Raises StepError `bad_base_model`."""
    try:
        content = read_file(path, max_bytes=MAX_MODEL_FILE_BYTES)
        return read_json_object(content, named=path.name, max_bytes=MAX_MODEL_FILE_BYTES, repeated_keys=True)
    except FileNotFoundError:
        return {}
    except (OSError, Unreadable) as error:
        message = f"a file of the base model cannot be read: {error}"
        raise StepError("bad_base_model", message, hint="save the model again") from error


def _text_of(token: Any) -> str:
    """A special token as the configuration writes it: a string, or a map with its `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _environment() -> Any:
    """Jinja with the extensions, globals and filters that transformers gives to chat templates."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    extensions = ["jinja2.ext.loopcontrols", "trainer.conversation.generation_tag.GenerationTag"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda wanted: datetime.now().strftime(wanted)
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: object) -> None:
    raise TemplateRefusal(str(message)[:200])


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _failed(error: BaseException) -> StepError:
    message = f"the base model's chat template failed: {str(error)[:300]}"
    return StepError("template_failed", message, hint="use a base model with Gemma's template")
