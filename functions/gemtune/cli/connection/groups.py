"""Groups of commands, whose help text has the whole first sentence of each."""

from __future__ import annotations

from collections.abc import Iterable

import click

# Characters of a sentence; click would cut it at the width of the terminal.
LONGEST_SENTENCE = 500


class CommandGroup(click.Group):
    """Group of commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and their first sentences."""
        self.write_section("Commands", self.list_commands(ctx), ctx, formatter)

    def write_section(
        self, heading: str, names: Iterable[str], ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write some of the commands below a heading."""
        commands = [(name, self.get_command(ctx, name)) for name in names]
        with formatter.section(heading):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(LONGEST_SENTENCE))
                    for name, command in commands
                    if command is not None
                ]
            )
