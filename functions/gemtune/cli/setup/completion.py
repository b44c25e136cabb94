"""The command `completion`: completes commands, ids and values in a shell."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from gemtune.cli.connection.groups import CommandGroup
from gemtune.cli.connection.text import echo_message
from gemtune.client.profiles import file_path

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "gemtune", "_GEMTUNE_COMPLETE"
# zsh has the completion system only where its own set-up, or this, has loaded it. A file of $fpath has to begin with
# the line of `#compdef`.
ZSH_BEGIN = f"#compdef {PROGRAM}\n"
ZSH_SYSTEM = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n"
# Files in which the shells read their set-up, below the home folder.
START_FILES = {"bash": ".bashrc", "zsh": ".zshrc"}


class _CompletionGroup(CommandGroup):
    """Group of commands that takes `completion zsh` for `completion show zsh`.

    That is how other programs print the script.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of an argument list."""
        return super().resolve_command(ctx, ["show", *args] if args[0] in SHELLS else args)


@click.group(cls=_CompletionGroup)
def completion() -> None:
    """Complete commands, ids and values with the tab key."""


@completion.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def install(shell: str | None) -> None:
    """Install the completion for a shell (default: that of $SHELL).

    It is used in new shells. Installing it again changes nothing.
    """
    shell = shell or _shell_in_use()
    if shell == "fish":
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fish" / "completions"
        _write(folder / f"{PROGRAM}.fish", script(shell))
        return
    file = file_path().parent / f"completion.{shell}"
    _write(file, script(shell))
    start = Path(os.environ.get("ZDOTDIR") or Path.home()) if shell == "zsh" else Path.home()
    start_file = start / START_FILES[shell]
    line = f'[ -f "{file}" ] && . "{file}"  # completion of {PROGRAM}\n'
    existing = start_file.read_bytes() if start_file.exists() else b""  # in any encoding
    if line.encode() not in existing:
        with start_file.open("ab") as opened:
            opened.write((line if existing.endswith(b"\n") or not existing else f"\n{line}").encode())
        echo_message(f"{start_file} reads it in new shells")


@completion.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def show(shell: str | None) -> None:
    """Print the script that completes in a shell (default: that of $SHELL)."""
    click.echo(script(shell or _shell_in_use()), nl=False)


def script(shell: str) -> str:
    """Return the script that completes the program's arguments in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE).source()
    if shell == "fish":  # click's script ends a description at its first comma
        return source.replace('string split ","', 'string split --max 1 ","')
    return ZSH_BEGIN + ZSH_SYSTEM + source.removeprefix(ZSH_BEGIN) if shell == "zsh" else source


def _shell_in_use() -> str:
    name = Path(os.environ.get("SHELL") or "").name
    if name not in SHELLS:
        raise click.UsageError(f"say which shell: {', '.join(SHELLS)}")
    return name


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    echo_message(f"Wrote {path}")


COMMANDS = {"completion": completion}
