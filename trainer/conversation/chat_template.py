"""Chat templates of base models: located, then rendered as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import Conversation, Message
from gemtune.errors import StepError
from gemtune.families import of_model_type, turn_format_of
from gemtune.untrusted import MAX_MODEL_FILE_BYTES, Unreadable, read_file, read_json_object
from trainer.conversation.render_limits import LimitReached, RenderLimits

# gemtune's own templates, for base models without one.
OWN_TEMPLATES = Path(__file__).parent
# A conversation has at most a megabyte of text. A template that writes more than this would keep the tokenizer busy.
MAX_CHARACTERS = 8 * 1024 * 1024


# Variables that are not a row's to set.
RESERVED = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "unk_token", "pad_token")
)


class TemplateRefusal(Exception):
    """Raised when a template calls `raise_exception` for a conversation."""


class ChatTemplate:
    """A compiled chat template, which runs in Jinja's sandbox.

    source: the file it comes from, or the name of gemtune's own. text: the template. turns: the turn format of Gemma
    that it writes, or None if it writes another format. variables: what a row can set, such as enable_thinking.
    """

    def __init__(self, folder: Path, tokenizer_config: dict[str, Any]):
        """Raise StepError `template_failed` if the template does not compile.

        Raises StepError `template_missing` if the model has none and its vocabulary lacks the tokens of gemtune's own.
        """
        self.source, self.text = _own_or_fallback(folder, tokenizer_config)
        self.turns = turn_format_of(self.text)
        try:
            with RenderLimits():  # Jinja evaluates constant expressions when it compiles
                self._template, self.variables = _compiled(self.text)
        except (Exception, LimitReached) as error:  # an untrusted template may raise anything
            raise _failed(error) from error
        # transformers passes these variables too, so that `tools is not none` and the like have the same result.
        special_tokens = ("bos_token", "eos_token", "unk_token", "pad_token")
        self._variables = {"tools": None, "documents": None} | {
            name: token_text(tokenizer_config.get(name)) for name in special_tokens
        }

    def render_conversation(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Return the text of a conversation, with its tools. See `render`."""
        options = dict(conversation.template_options)
        if conversation.tools:
            options["tools"] = list(conversation.tools)
        return self.render(conversation.messages(), add_generation_prompt=add_generation_prompt, options=options)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of messages. Call it in the main thread only.

        options: further variables of the template, such as tools.

        Raises TemplateRefusal, and StepError `template_failed` if the template fails or exceeds RenderLimits.
        """
        values = self._variables | dict(options or {})
        values |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            with RenderLimits():
                text = str(self._template.render(values))
        except TemplateRefusal:
            raise
        except (Exception, LimitReached) as error:  # an untrusted template may raise anything
            raise _failed(error) from error
        if len(text) > MAX_CHARACTERS:
            raise _failed(ValueError(f"it writes more than {MAX_CHARACTERS} characters for one conversation"))
        return text


def _own_or_fallback(folder: Path, tokenizer_config: dict[str, Any]) -> tuple[str, str]:
    """Return the model's template as (source, text), else gemtune's own.

    Processors of older models kept the template in chat_template.json.
    """
    jinja_file = folder / "chat_template.jinja"
    if jinja_file.exists():
        return jinja_file.name, _read_text(jinja_file)
    for file, config in (
        ("chat_template.json", json_object(folder / "chat_template.json")),
        ("tokenizer_config.json", tokenizer_config),
    ):
        template = config.get("chat_template")
        if isinstance(template, list):  # several templates, each with a name
            by_name = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
            template = by_name.get("default")
        if isinstance(template, str):
            return file, template
    return _fallback(folder)


def _fallback(folder: Path) -> tuple[str, str]:
    """Return gemtune's own template of the model's family, as (source, text).

    Raises StepError `template_missing` if the vocabulary lacks a token that begins or ends a turn. It would be split
    into letters, and the model would never learn to end an answer.
    """
    family = of_model_type(json_object(folder / "config.json").get("model_type"))
    if family is None:
        message = "the base model has no chat template, and no config.json of a Gemma model to choose one by"
        raise StepError("template_missing", message, hint="add the chat_template.jinja that belongs to its tokenizer")
    tokenizer = json_object(folder / "tokenizer.json")
    added = {str(token.get("content")) for token in tokenizer.get("added_tokens", ()) if isinstance(token, dict)}
    missing = [token for token in (family.turns.start, family.turns.end) if token not in added]
    if missing:
        message = f"the base model has no chat template, and its vocabulary has no {' and no '.join(missing)}"
        raise StepError("template_missing", message, hint="add the chat_template.jinja that belongs to its tokenizer")
    return f"gemtune's own for {family.name}", (OWN_TEMPLATES / family.turns.template).read_text()


def _read_text(path: Path) -> str:
    """Read a text file of the base model. Raises StepError `bad_base_model`."""
    try:
        return read_file(path).decode(errors="replace")
    except (OSError, Unreadable) as error:
        message = f"a file of the base model cannot be read: {error}"
        raise StepError("bad_base_model", message, hint="save the model again") from error


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a base model; {} if it does not exist.

    As in transformers, the last of several values of a key counts. Raises StepError `bad_base_model`.
    """
    try:
        content = read_file(path, max_bytes=MAX_MODEL_FILE_BYTES)
        return read_json_object(content, named=path.name, max_bytes=MAX_MODEL_FILE_BYTES, repeated_keys=True)
    except FileNotFoundError:
        return {}
    except (OSError, Unreadable) as error:
        message = f"a file of the base model cannot be read: {error}"
        raise StepError("bad_base_model", message, hint="save the model again") from error


def token_text(token: Any) -> str:
    """Return the text of a special token: a string, or an object's `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


@lru_cache(maxsize=4)
def _compiled(text: str) -> tuple[Any, frozenset[str]]:
    """Compile a template; return it, and the variables that a row can set.

    A step needs the same template several times, and Jinja takes 10 ms to compile one.
    """
    environment = _environment()
    template = environment.from_string(text)
    # Each rendering copies the globals; from the ChainMap that they are, it takes a third of its time.
    template.globals = dict(template.globals)
    return template, _variables_of(environment, text) - RESERVED


def _environment() -> Any:
    """Return Jinja with transformers' extensions, globals and filters."""
    from trainer.conversation.sandbox import Sandbox

    extensions = ["jinja2.ext.loopcontrols", "trainer.conversation.generation_tag.GenerationTag"]
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    environment.filters["tojson"] = _to_json
    return environment


def _variables_of(environment: Any, text: str) -> frozenset[str]:
    """Return the variables that a template reads and does not set itself.

    A variable with a default, `{% set x = x | default(1) %}`, is one of them.
    """
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(environment.parse(text))) - frozenset(environment.globals)


def _refuse(message: object) -> None:
    raise TemplateRefusal(str(message)[:200])


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON as transformers does; Jinja's own filter also escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _failed(error: BaseException) -> StepError:
    message = f"the base model's chat template failed: {str(error)[:300]}"
    return StepError("template_failed", message, hint="use a base model with Gemma's template")
