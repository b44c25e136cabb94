"""Prompts that are put to a model: single ones, or turns of a conversation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from gemtune.cli.answers.child import AnswerProcess
from gemtune.cli.answers.display import BASE, TITLES, TRAINED, Display
from gemtune.errors import StepError

BEGINNING = "Ask the model. Ctrl-C stops an answer, Ctrl-D ends the conversation."
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, and how it is asked.

    options: fields of every question. with_base: whether the base model answers, too.
    """

    process: AnswerProcess
    display: Display
    options: Mapping[str, Any]
    with_base: bool
    system: str | None

    def ask_once(self, prompt: str) -> None:
        """Answer one prompt. Raises StepError."""
        messages = [*self._beginning(), {"role": "user", "content": prompt}]
        ends = self._answer(dict.fromkeys(self._who(), messages))
        if self.display.as_json:
            self.display.json(prompt, ends)

    def converse(self) -> None:
        """Answer the lines of standard input as turns of a conversation.

        With the base model there are two conversations, each with its own answers.
        """
        has_terminal = sys.stdin.isatty()
        if has_terminal:
            self.display.note(BEGINNING)
        conversations = {who: self._beginning() for who in self._who()}
        while (prompt := _read_line("> " if has_terminal else "")) is not None:
            if not prompt.strip():
                continue
            turn = {"role": "user", "content": prompt}
            try:
                ends = self._answer({who: [*messages, turn] for who, messages in conversations.items()})
            except StepError as error:
                click.echo(f"{error.code}: {error.message}", err=True)
                if error.hint:
                    click.echo(f"  {error.hint}", err=True)
                continue
            for who, end in ends.items():
                conversations[who] += [turn, {"role": "assistant", "content": end["text"]}]
            if self.display.as_json:
                self.display.json(prompt, ends)

    def _answer(self, conversations: Mapping[str, Messages]) -> dict[str, Mapping[str, Any]]:
        """Return the end of each model's answer."""
        ends = {}
        for who, messages in conversations.items():
            question = {**self.options, "messages": messages, "by_base": who == BASE}
            title = TITLES[who] if self.with_base else None
            ends[who] = self.display.answer(self.process, question, title)
        return ends

    def _who(self) -> tuple[str, ...]:
        return (BASE, TRAINED) if self.with_base else (TRAINED,)

    def _beginning(self) -> Messages:
        return [] if self.system is None else [{"role": "system", "content": self.system}]


def _read_line(prompt: str) -> str | None:
    """Read a line of the conversation; None at its end.

    Ctrl-C discards the line.
    """
    while True:
        try:
            return input(prompt)
        except EOFError:
            if prompt:
                click.echo()
            return None
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D ends the conversation)", err=True)
