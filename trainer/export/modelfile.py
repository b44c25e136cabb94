"""The Modelfile by which Ollama runs a GGUF file, its template made from the chat template that was trained with.

Ollama has a template language of its own (Go's), so a chat template is taken apart by rendering marked conversations:
what stands around a user's and a model's turn, and where a system message goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal
from trainer.export import go_template

USER, MODEL, SECOND, SYSTEM = "userturn", "modelturn", "secondturn", "systemturn"


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template writes around what is said.

    before_answer: where the model is to go on; some templates add an empty thought to what else begins its turn.
    after_system: between a system message and the first user's words, where it stands in the user's turn; None when the
    template knows no such message. system_turn: around a system message that has a turn of its own.
    """

    begin: str
    before_user: str
    after_user: str
    before_model: str
    after_model: str
    before_answer: str
    after_system: str | None
    system_turn: tuple[str, str] | None = None

    def user_text_in(self, prompt: str) -> str | None:
        """What the user says in a prompt of one turn; None when it is no such prompt."""
        before, after = self.begin + self.before_user, self.after_user + self.before_answer
        if not (prompt.startswith(before) and prompt.endswith(after)):
            return None
        said = prompt[len(before) : len(prompt) - len(after)]
        return None if self.after_user in said else said


def turns_of(template: ChatTemplate) -> Turns:
    """Raises StepError `template_not_for_gguf` when the template does more than put words around turns."""
    asked = [{"role": "user", "content": USER}]
    answered = [*asked, {"role": "assistant", "content": MODEL}]
    longer = [*answered, {"role": "user", "content": SECOND}]
    text = template.render(longer, add_generation_prompt=True)
    match = re.fullmatch(f"(.*?){USER}(.*){MODEL}(.*){SECOND}(.*)", text, re.DOTALL)
    if match is None:
        raise _odd("it does not write down what is said")
    begins, middle, between, ends = match.groups()
    before_answer = _grown(template.render(asked), template.render(asked, add_generation_prompt=True))
    before_model = before_answer.removesuffix(template.turns.empty_thought if template.turns else "")
    if not (middle.endswith(before_model) and ends.endswith(before_answer)):
        raise _odd("a model's turn begins in two ways")
    after_user = middle.removesuffix(before_model)
    after_model = _grown(template.render(answered, add_generation_prompt=False).rpartition(MODEL)[0] + MODEL,
                         template.render(answered, add_generation_prompt=False))  # fmt: skip
    if not between.startswith(after_model) or ends.removesuffix(before_answer) != after_user:
        raise _odd("turns end in two ways")
    before_user = between.removeprefix(after_model)
    if not begins.endswith(before_user):
        raise _odd("a user's turn begins in two ways")
    begin = begins.removesuffix(before_user)
    turns = Turns(begin, before_user, after_user, before_model, after_model, before_answer, None)
    return _with_system(turns, template)


def modelfile(turns: Turns, gguf: str) -> str:
    """The text of a Modelfile beside a GGUF file. What begins a conversation is left to Ollama, which adds `<bos>`."""
    stops = {marker(turns.after_user), marker(turns.after_model), marker(turns.before_user)}
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{_go(turns)}"""', *(f'PARAMETER stop "{stop}"' for stop in sorted(stops))]
    return "\n".join(lines) + "\n"


def rendered(text: str, messages: Sequence[Mapping[str, str]]) -> str:
    """What Ollama sends to the model by a Modelfile, without the `<bos>` that it adds."""
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    spoken = [{"Role": each["role"], "Content": each["content"]} for each in messages]
    return go_template.render(template, {"System": system, "Messages": spoken})


def _go(turns: Turns) -> str:
    parts = (turns.before_user, turns.after_user, turns.before_answer, turns.after_model, turns.after_system or "",
             *(turns.system_turn or ()))  # fmt: skip
    if any('"""' in part or "{{" in part for part in parts):
        raise _odd("it writes what a Modelfile cannot")
    system = ""
    if turns.after_system is not None:
        system = "{{ if $system }}{{ $system }}" + turns.after_system + '{{ end }}{{ $system = "" }}'
    user = '{{ if eq .Role "user" }}' + turns.before_user + system + "{{ .Content }}" + turns.after_user
    model = '{{ else if eq .Role "assistant" }}' + turns.before_model + "{{ .Content }}" + turns.after_model
    said = "{{ $system := .System }}" if system else ""
    if turns.system_turn is not None:
        said = "{{ if .System }}" + turns.system_turn[0] + "{{ .System }}" + turns.system_turn[1] + "{{ end }}"
    return said + "{{ range .Messages }}" + user + model + "{{ end }}{{ end }}" + turns.before_answer


def _with_system(turns: Turns, template: ChatTemplate) -> Turns:
    """The same with where a system message goes: into the user's turn, or into one of its own."""
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


def _grown(shorter: str, longer: str) -> str:
    if not longer.startswith(shorter):
        raise _odd("it changes earlier turns when later ones are added")
    return longer[len(shorter) :]


def marker(text: str) -> str:
    """The token that a turn begins or ends with: what a model writes when it goes on for somebody else."""
    found = re.search(r"<[^<>\s]+>", text)
    return found[0] if found else text.strip()


def _odd(why: str) -> StepError:
    message = f"the chat template cannot be said in a Modelfile: {why}"
    return StepError("template_not_for_gguf", message, hint="export as merged, or use Gemma's template")
