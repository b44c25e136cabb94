"""Answers on the terminal: as they arrive, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from gemtune.cli.answers.child import AnswerProcess
from gemtune.cli.connection.hints import as_commands
from gemtune.cli.connection.text import echo_message
from gemtune.errors import StepError

TRAINED, BASE = "trained", "base"
TITLES = {TRAINED: "trained model", BASE: "base model"}
# End of an answer that Ctrl-C stopped.
STOPPED = "stopped"
NOTES = {
    "length": "(ends after {tokens} tokens; --max-tokens allows more)",
    "context": "(ends because the model's context is full)",
    STOPPED: "(stopped)",
}


@dataclass(frozen=True, slots=True)
class Display:
    """Printer of answers.

    Answers go to standard output; thoughts and notes to standard error. with_thoughts: whether thoughts are shown, or
    only mentioned.
    """

    as_json: bool
    quiet: bool
    with_thoughts: bool

    def note(self, text: str) -> None:
        """Print a note, unless only results are wanted."""
        if not self.quiet:
            echo_message(text, dim=True)

    def prompt(self, text: str) -> None:
        """Print a prompt of a file above its answer."""
        if not self.as_json:
            click.secho(f"> {text}", bold=True)

    def expected(self, text: str | None) -> None:
        """Print a row's own answer."""
        if not self.as_json and text is not None:
            click.secho(f"(the row has: {text})", dim=True)

    def answer(
        self, process: AnswerProcess, question: Mapping[str, Any], title: str | None = None
    ) -> Mapping[str, Any]:
        """Ask a question, show the answer while it arrives; return its end.

        title: printed above the answer. Raises StepError.
        """
        if title is not None and not self.as_json:
            click.secho(f"{title}:", bold=True)
        end = process.ask(question, self._show)
        if self.as_json:
            return end
        click.echo()
        if end["thinking"] and not self.with_thoughts:
            self.note(f"(a thought of {end['thought_tokens']} tokens is not shown; --thinking shows it)")
        if end["ended"] in NOTES:
            self.note(NOTES[end["ended"]].format(tokens=len(end["tokens"])))
        return end

    def json(self, prompt: str | None, ends: Mapping[str, Mapping[str, Any]], **more: Any) -> None:
        """Print the answers to a prompt as one line of JSON.

        ends: by TRAINED and BASE.
        """
        answers = {
            who: {
                "answer": end["text"],
                "thinking": end["thinking"],
                "ended": end["ended"],
                "tokens": len(end["tokens"]),
                "prompt_tokens": end["prompt_tokens"],
                "first_token_seconds": end["first_seconds"],
                "seconds": end["seconds"],
            }
            for who, end in ends.items()
        }
        click.echo(json.dumps({"prompt": prompt, **more, **answers}, ensure_ascii=False))

    def error(self, prompt: str | None, error: StepError, **more: Any) -> None:
        """Print why a prompt has no answer; the next one is asked then.

        It goes to standard error; as JSON it is the line of the prompt on standard output.
        """
        if self.as_json:
            cause = {"code": error.code, "message": error.message, "hint": error.hint}
            click.echo(json.dumps({"prompt": prompt, **more, "error": cause}, ensure_ascii=False))
            return
        echo_message(f"{error.code}: {as_commands(error.message)}")
        if error.hint:
            echo_message(f"  {as_commands(error.hint)}")

    def _show(self, text: str, is_thought: bool) -> None:
        if self.as_json or (is_thought and not self.with_thoughts):
            return
        click.echo(click.style(text, dim=True) if is_thought else text, nl=False, err=is_thought)
