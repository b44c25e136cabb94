"""Commands for tokens that requests refer to: secret set, list, delete."""

from __future__ import annotations

import re
import sys

import click

from gemtune.bootstrap import services
from gemtune.cli.connection import Connection
from gemtune.cli.connection.groups import OTHER_NAMES, CommandGroup
from gemtune.cli.connection.text import echo_message, local_time
from gemtune.errors import SecretNotFound
from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX
from gemtune.ports import SecretStat


class _WithDefault(CommandGroup):
    """Group that takes a name in place of a command, as `set`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of an argument list."""
        own = self.list_commands(ctx)
        is_command = args[0] in own or any(args[0] in OTHER_NAMES.get(name, "").split() for name in own)
        return super().resolve_command(ctx, args if is_command else ["set", *args])


@click.group(cls=_WithDefault, subcommand_metavar="NAME | COMMAND [ARGS]...")
def secret() -> None:
    """Store a token as a secret, or list and delete secrets.

    `gemtune secret NAME` is short for `gemtune secret set NAME`.
    """


@secret.command("set")
@click.argument("name")
@click.pass_obj
def set_(connection: Connection, name: str) -> None:
    """Store a token as a secret.

    Requests refer to it as secret:gemtune-user-NAME. The token is read from standard input, or from a prompt in a
    terminal, where a secret of this name is replaced only if you agree.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise click.UsageError("NAME may have up to 64 letters, digits, '_' and '-'")
    piped = not sys.stdin.isatty()
    if not piped and any(stat.name == USER_PREFIX + name for stat in _stored()):
        click.confirm(f"There is a secret {name}. Replace it?", abort=True, err=True)
    value = sys.stdin.readline().strip() if piped else click.prompt("Token", hide_input=True)
    if not value:
        raise click.UsageError("the token is empty")
    services().secrets.create(USER_PREFIX + name, value, ttl=None)
    reference = f"{REFERENCE}{USER_PREFIX}{name}"
    if not connection.print_if_json({"name": name, "reference": reference}):
        click.echo(f"Stored the token. Use it in requests as {reference}")


@secret.command("list")
@click.pass_obj
def list_(connection: Connection) -> None:
    """List the names of stored tokens."""
    stats = _stored()
    names = [stat.name.removeprefix(USER_PREFIX) for stat in stats]
    listed = [
        {"name": name, "reference": f"{REFERENCE}{stat.name}", "created_at": stat.created_at.isoformat()}
        for name, stat in zip(names, stats, strict=True)
    ]
    if connection.print_if_json({"secrets": listed}):
        return
    for secret in listed:
        click.echo(f"{local_time(secret['created_at'])}  {secret['name']:24}  {secret['reference']}")
    if not listed and not connection.quiet:
        echo_message("There are no secrets. `gemtune secret NAME` stores a token.")


@secret.command()
@click.argument("name")
@click.pass_obj
def delete(connection: Connection, name: str) -> None:
    """Delete a token. Unfinished jobs that refer to it will fail."""
    if all(stat.name != USER_PREFIX + name for stat in _stored()):
        raise SecretNotFound(f"there is no secret {name!r}", hint="`gemtune secret list` lists them")
    services().secrets.delete(USER_PREFIX + name)
    if not connection.print_if_json({"name": name, "deleted": True}):
        click.echo(f"Deleted secret {name}")


def _stored() -> list[SecretStat]:
    """Return the tokens that users stored, by name."""
    return sorted(services().secrets.list(USER_PREFIX), key=lambda stat: stat.name)


COMMANDS = {"secret": secret}
