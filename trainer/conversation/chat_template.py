"""A base model's chat template: found where models keep it, and run as transformers runs it, sandboxed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_file, read_json_object
from trainer.conversation.messages import Messages

OWN_TEMPLATE = Path(__file__).parent / "gemma_chat_template.jinja"
OWN_END_OF_TURN = "<end_of_turn>"


class TemplateRefuses(Exception):
    """The template itself says that it cannot render this conversation."""


class ChatTemplate:
    """Turns messages into what the model reads. `source` says where the template comes from, `text` is it."""

    def __init__(self, folder: Path, tokenizer_config: dict[str, Any]):
        """Raises StepError `template_failed` when the template is no Jinja."""
        self.source, self.text = _found(folder, tokenizer_config)
        try:
            self._template = _environment().from_string(self.text)
        except Exception as error:  # anything: the template is a stranger's
            raise _failed(error) from error
        # What transformers gives a template, so that `tools is not none` and the like mean the same here.
        self._given = {"tools": None, "documents": None} | {
            name: _text_of(tokenizer_config.get(name))
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        }  # fmt: skip

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """Raises TemplateRefuses, and StepError `template_failed` for a template that is broken."""
        try:
            return str(
                self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._given)
            )
        except TemplateRefuses:
            raise
        except Exception as error:  # anything: the template is a stranger's
            raise _failed(error) from error


def _found(folder: Path, tokenizer_config: dict[str, Any]) -> tuple[str, str]:
    """Where the template comes from, and its text. Processors of older models kept it in chat_template.json."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.name, beside.read_text(errors="replace")
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
    return "gemtune's own for Gemma", OWN_TEMPLATE.read_text()


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
    raise TemplateRefuses(str(message)[:200])


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _failed(error: Exception) -> StepError:
    message = f"the base model's chat template failed: {str(error)[:300]}"
    return StepError("template_failed", message, hint="use a base model with Gemma's template")
