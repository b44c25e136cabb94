"""Page of the command line, from its own parser."""

from __future__ import annotations

import re
from pathlib import Path

import click

from docs.generate.text.markdown import Page, code
from gemtune.cli.group import main

MAKEFILE = Path(__file__).parents[3] / "Makefile"


def page() -> Page:
    page = Page("Command line", "Every command of `gemtune` and every target of make, with its options.")
    page.heading("gemtune")
    context = click.Context(main, info_name="gemtune")
    page.fence(_help(main, context))
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        page.heading(f"gemtune {name}", 3)
        own_context = click.Context(command, info_name=name, parent=context)
        page.fence(_help(command, own_context))
        for inner in command.commands.values() if isinstance(command, click.Group) else ():
            page.heading(f"gemtune {name} {inner.name}", 4)
            page.fence(_help(inner, click.Context(inner, info_name=inner.name, parent=own_context)))
    page.heading("make")
    page.table(("target", "purpose"), targets())
    return page


def targets() -> list[tuple[str, str]]:
    """Return each target that `make help` shows, and what it says of it."""
    lines = re.findall(r"^([a-z0-9]+):.*?## (.+)$", MAKEFILE.read_text(), re.MULTILINE)
    return [(code(f"make {name}"), text) for name, text in lines]


def _help(command: click.Command, context: click.Context) -> str:
    with context:
        formatter = click.HelpFormatter(width=100, max_width=100)
        command.format_help(context, formatter)
        return formatter.getvalue()
