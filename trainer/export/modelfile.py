"""Modelfile: how Ollama runs a GGUF file, with the chat template of training.

Ollama's templates are Go's text/template, not Jinja. So marked conversations are rendered with the chat template, and
the texts around the marks give the parts of an equivalent Go template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gemtune.datasets.conversation import Languages, Message, Text, Turn
from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal
from trainer.export import go_template
from trainer.rendering.abilities import Abilities

USER, MODEL, SECOND, SYSTEM = "userturn", "modelturn", "secondturn", "systemturn"


@dataclass(frozen=True, slots=True)
class Turns:
    """Texts that a chat template writes around messages.

    begin: at the beginning of a conversation. before_answer: the generation prompt; some templates add an empty thought
    to the beginning of a model's turn. after_system: between a system message inside the user's turn and the user's
    text; None if the template does not put it there. system_turn: before and after a system message that has its own
    turn; None if it has none. hands_over: the token after which a model waits for the results of its calls, or "".
    """

    begin: str
    before_user: str
    after_user: str
    before_model: str
    after_model: str
    before_answer: str
    after_system: str | None
    system_turn: tuple[str, str] | None = None
    hands_over: str = ""

    def user_text_in(self, prompt: str) -> str | None:
        """Return the user's text in a rendered prompt of one turn, or None.

        None: the prompt has a system message or several turns.
        """
        before, after = self.begin + self.before_user, self.after_user + self.before_answer
        if not (prompt.startswith(before) and prompt.endswith(after)):
            return None
        text = prompt[len(before) : len(prompt) - len(after)]
        return None if self.after_user in text else text


def turns_of(template: ChatTemplate) -> Turns:
    """Return the texts that a chat template writes around messages.

    A template that writes instructions for a translation counts as one that writes the turns around them. Raises
    StepError `template_not_for_gguf` if it does more than writing fixed texts around messages.
    """
    translates = Abilities(template).needs_languages
    try:
        turns = _turns_around(template, _translation if translates else _message)
    except TemplateRefusal as refusal:
        raise _not_for_gguf(f"it rejects plain messages ({refusal})") from refusal
    if translates and template.turns is not None and turns.before_user.startswith(template.turns.start + "user\n"):
        turns = replace(turns, before_user=template.turns.start + "user\n")
    hands_over = hand_over_token(template)
    return replace(_with_system(turns, template), hands_over=hands_over)


def hand_over_token(template: ChatTemplate) -> str:
    """Return the token after which a model waits for results of its calls.

    It is "" if the template has no calls.
    """
    token = "" if template.turns is None else template.turns.hands_over
    return token if token in template.text else ""


def _message(text: str) -> Message:
    return Turn("user", text).message()


def _translation(text: str) -> Message:
    return Turn("user", (Text(text, Languages("en", "de")),)).message()


def _turns_around(template: ChatTemplate, ask: Callable[[str], Message]) -> Turns:
    """Return the texts around messages, without those of a system message.

    ask: makes the message of a user. Raises TemplateRefusal, StepError `template_not_for_gguf`.
    """
    question = [ask(USER)]
    answered = [*question, {"role": "assistant", "content": MODEL}]
    continued = [*answered, ask(SECOND)]
    text = template.render(continued, add_generation_prompt=True)
    match = re.fullmatch(f"(.*?){USER}(.*){MODEL}(.*){SECOND}(.*)", text, re.DOTALL)
    if match is None:
        raise _not_for_gguf("it changes or leaves out messages")
    begins, middle, between, ends = match.groups()
    before_answer = _suffix(template.render(question), template.render(question, add_generation_prompt=True))
    before_model = before_answer.removesuffix(template.turns.empty_thought if template.turns else "")
    if not (middle.endswith(before_model) and ends.endswith(before_answer)):
        raise _not_for_gguf("a model's turn does not always begin with the same text")
    after_user = middle.removesuffix(before_model)
    with_answer = template.render(answered, add_generation_prompt=False)
    after_model = _suffix(with_answer.rpartition(MODEL)[0] + MODEL, with_answer)
    if not between.startswith(after_model) or ends.removesuffix(before_answer) != after_user:
        raise _not_for_gguf("a turn does not always end with the same text")
    before_user = between.removeprefix(after_model)
    if not begins.endswith(before_user):
        raise _not_for_gguf("a user's turn does not always begin with the same text")
    begin = begins.removesuffix(before_user)
    return Turns(begin, before_user, after_user, before_model, after_model, before_answer, None)


def modelfile(turns: Turns, gguf: str) -> str:
    """Return the Modelfile of a GGUF file in the same folder.

    gguf: its name. The template leaves out `begin`, because Ollama adds `<bos>` itself.
    """
    stops = {marker(turns.after_user), marker(turns.after_model), marker(turns.before_user)}
    stops |= {turns.hands_over} - {""}
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{_go(turns)}"""', *(f'PARAMETER stop "{stop}"' for stop in sorted(stops))]
    return "\n".join(lines) + "\n"


def render_prompt(text: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Return the prompt that Ollama renders with a Modelfile, without `<bos>`.

    text: the Modelfile.
    """
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    spoken = [{"Role": each["role"], "Content": each["content"]} for each in messages]
    return go_template.render(template, {"System": system, "Messages": spoken})


def _go(turns: Turns) -> str:
    around_turns = (turns.before_user, turns.after_user, turns.before_answer, turns.after_model)
    around_system = (turns.after_system or "", *(turns.system_turn or ()))
    if any('"""' in part or "{{" in part for part in (*around_turns, *around_system)):
        raise _not_for_gguf("it writes characters that a Modelfile's template cannot contain")
    system = ""
    if turns.after_system is not None:
        system = "{{ if $system }}{{ $system }}" + turns.after_system + '{{ end }}{{ $system = "" }}'
    user = '{{ if eq .Role "user" }}' + turns.before_user + system + "{{ .Content }}" + turns.after_user
    model = '{{ else if eq .Role "assistant" }}' + turns.before_model + "{{ .Content }}" + turns.after_model
    prefix = "{{ $system := .System }}" if system else ""
    if turns.system_turn is not None:
        prefix = "{{ if .System }}" + turns.system_turn[0] + "{{ .System }}" + turns.system_turn[1] + "{{ end }}"
    return prefix + "{{ range .Messages }}" + user + model + "{{ end }}{{ end }}" + turns.before_answer


def _with_system(turns: Turns, template: ChatTemplate) -> Turns:
    """Add the place of a system message: in the user's turn, or in its own."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    try:
        text = template.render(messages)
    except (TemplateRefusal, StepError):
        return turns
    match = re.match(f"(.*?){SYSTEM}(.*?){USER}", text, re.DOTALL)
    if match is None:
        return turns
    before, after = match.groups()
    if before == turns.begin + turns.before_user:
        return replace(turns, after_system=after)
    if before.startswith(turns.begin) and after.endswith(turns.before_user):
        own = (before.removeprefix(turns.begin), after.removesuffix(turns.before_user))
        return replace(turns, system_turn=own)
    return turns


def _suffix(shorter: str, longer: str) -> str:
    if not longer.startswith(shorter):
        raise _not_for_gguf("it changes earlier turns when later ones are added")
    return longer[len(shorter) :]


def marker(text: str) -> str:
    """Return the first control token of a text around turns, or its words.

    A model that generates it has finished its answer.
    """
    match = re.search(r"<[^<>\s]+>", text)
    return match[0] if match else text.strip()


def _not_for_gguf(reason: str) -> StepError:
    message = f"the chat template cannot be written as a Modelfile: {reason}"
    return StepError("template_not_for_gguf", message, hint="export as merged, or use Gemma's template")
