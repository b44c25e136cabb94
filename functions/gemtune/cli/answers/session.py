"""Prompts that are put to a model: single ones, or turns of a conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gemtune.cli.answers.child import AnswerProcess
from gemtune.cli.answers.display import BASE, STOPPED, TITLES, TRAINED, Display
from gemtune.cli.answers.rows import RowsFile
from gemtune.cli.connection.text import echo_message
from gemtune.errors import StepError

BEGINNING = "Ask the model. Ctrl-C stops an answer, Ctrl-D ends the conversation."
# Code of the error of a row that cannot be asked.
NOT_ASKED = "bad_prompt"
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, and how it is asked.

    options: fields of every question. with_base: whether the base model answers, too. system: message in front of each
    conversation. images, clips: pictures and audio that its first turn has.
    """

    process: AnswerProcess
    display: Display
    options: Mapping[str, Any]
    with_base: bool
    system: str | None = None
    images: Sequence[Path] = ()
    clips: Sequence[Path] = ()

    def ask_once(self, prompt: str, *, with_prompt: bool = False) -> None:
        """Answer one prompt. Raises StepError.

        with_prompt: print it above the answer.
        """
        if with_prompt:
            self.display.prompt(prompt)
        messages = [*self._beginning(), self._turn(prompt)]
        ends = self._answer({who: {"messages": messages} for who in self._who()})
        if self.display.as_json:
            self.display.json(prompt, ends)

    def ask_lines(self, lines: Iterable[str]) -> int:
        """Answer each line that is not blank; return how many could not be.

        Their errors are printed.
        """
        failures = 0
        for line in filter(str.strip, lines):
            try:
                self.ask_once(line.rstrip("\n"), with_prompt=True)
            except StepError as error:
                failures += 1
                self.display.error(line.rstrip("\n"), error)
        return failures

    def ask_rows(self, file: RowsFile) -> int:
        """Answer the prompt of each row; return how many were not answered.

        The row's own answer is printed below. Raises StepError if the file cannot be read.
        """
        failures = 0
        for row in self.process.rows(file.path, file.columns):
            if row["refusal"] is not None:
                failures += 1
                refusal = StepError(NOT_ASKED, f"row {row['number']} is not asked: {row['refusal']}")
                self.display.error(row["text"] or None, refusal, row=row["number"])
                continue
            self.display.prompt(row["text"])
            question = {"of_row": True, "system": self.system}
            try:
                ends = self._answer(dict.fromkeys(self._who(), question))
            except StepError as error:
                failures += 1
                self.display.error(row["text"], error, row=row["number"], expected=row["expected"])
                continue
            self.display.expected(row["expected"])
            if self.display.as_json:
                self.display.json(row["text"], ends, row=row["number"], expected=row["expected"])
        return failures

    def converse(self) -> int:
        """Answer the lines of standard input as turns of a conversation.

        With the base model there are two conversations, each with its own answers. Returns how many turns of a pipe
        were not answered; in a terminal a person sees that.
        """
        failures = 0
        has_terminal = sys.stdin.isatty()
        if has_terminal:
            self.display.note(BEGINNING)
        conversations = {who: self._beginning() for who in self._who()}
        while (prompt := _read_line("> " if has_terminal else "")) is not None:
            if not prompt.strip():
                continue
            is_first = all(len(messages) == len(self._beginning()) for messages in conversations.values())
            turn = self._turn(prompt) if is_first else {"role": "user", "content": prompt}
            questions = {who: {"messages": [*messages, turn]} for who, messages in conversations.items()}
            try:
                ends = self._answer(questions, goes_on=has_terminal)
            except StepError as error:
                failures += 1
                self.display.error(prompt, error)
                continue
            for who, end in ends.items():
                conversations[who] += [turn, {"role": "assistant", "content": end["text"]}]
            if self.display.as_json:
                self.display.json(prompt, ends)
        return 0 if has_terminal else failures

    def _answer(
        self, questions: Mapping[str, Mapping[str, Any]], *, goes_on: bool = False
    ) -> dict[str, Mapping[str, Any]]:
        """Return the end of each model's answer.

        goes_on: whether Ctrl-C ends an answer only; otherwise raises KeyboardInterrupt.
        """
        ends = {}
        for who, question in questions.items():
            title = TITLES[who] if self.with_base else None
            line = {**self.options, **question, "by_base": who == BASE}
            ends[who] = self.display.answer(self.process, line, title)
            if ends[who]["ended"] == STOPPED and not goes_on:
                raise KeyboardInterrupt
        return ends

    def _turn(self, prompt: str) -> dict[str, Any]:
        """Return the first turn of a user, with its pictures and audio."""
        if not self.images and not self.clips:
            return {"role": "user", "content": prompt}
        media = [{"type": "image", "path": str(image.absolute())} for image in self.images]
        media += [{"type": "audio", "path": str(clip.absolute())} for clip in self.clips]
        return {"role": "user", "content": [*media, {"type": "text", "text": prompt}]}

    def _who(self) -> tuple[str, ...]:
        return (BASE, TRAINED) if self.with_base else (TRAINED,)

    def _beginning(self) -> Messages:
        return [] if self.system is None else [{"role": "system", "content": self.system}]


def _read_line(prompt: str) -> str | None:
    """Read a line of the conversation; None at its end.

    In a terminal, which has a prompt, Ctrl-C discards the line.
    """
    while True:
        try:
            return input(prompt)
        except EOFError:
            if prompt:
                click.echo()
            return None
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not text in UTF-8: {error.reason}") from None
        except KeyboardInterrupt:
            if not prompt:
                raise
            echo_message("\n(Ctrl-D ends the conversation)")
