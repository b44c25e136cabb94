"""Commands for profiles: config set, list, use, delete."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.completing import complete_profiles
from gemtune.cli.connection.groups import CommandGroup
from gemtune.cli.connection.text import echo_message
from gemtune.client import profiles
from gemtune.client.calls import check_token
from gemtune.client.errors import BadUse
from gemtune.client.profiles import Profile, Profiles

# Fields that can be set, and what each of them replaces.
REPLACED: Mapping[str, dict[str, None]] = {
    "url": {},
    "token": {"token_command": None},
    "token-command": {"token": None},
}
DEFAULT_NAME = "default"


@click.group(cls=CommandGroup)
def config() -> None:
    """Keep URLs and tokens of services in profiles.

    The file is ~/.config/gemtune/config.json, or the one that GEMTUNE_CONFIG names; only its owner may read it. --url
    and the variables GEMTUNE_URL and GEMTUNE_ID_TOKEN count before the profile in use, and --profile counts
    before the variables.
    """


@config.command("set")
@click.argument("field", type=click.Choice(tuple(REPLACED)))
@click.argument("value", required=False)
@click.pass_obj
def set_(connection: Connection, field: str, value: str | None) -> None:
    """Set a field of the profile in use, or of the one that --profile names.

    A token is read from a prompt or from standard input, so that it is in no history. A token-command prints a token,
    as `gcloud auth print-identity-token` does; each of the two replaces the other. The first profile is in use at once.
    """
    if field == "token":
        if value is not None:
            raise click.UsageError("a token is not an argument: it is read from a prompt, or from standard input")
        value = click.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not value:
        raise click.UsageError(f"the {field} is empty")
    if field == "url":
        value = profiles.url_of(value)
    if field == "token":
        check_token(value)
    path, stored = _load()
    name = connection.profile or stored.current or DEFAULT_NAME
    if not profiles.NAME.fullmatch(name):
        raise click.UsageError("a profile's name has letters, digits, '.', '_' and '-'")
    before = stored.profiles.get(name, Profile())
    stored.profiles[name] = before.model_copy(update=REPLACED[field] | {field.replace("-", "_"): value})
    profiles.save(stored.model_copy(update={"current": stored.current or name}), path)
    echo_message(f"Set the {field} of profile {name}")


@config.command("list")
@click.pass_obj
def list_(connection: Connection) -> None:
    """List the profiles; the one in use has a star. Tokens are not shown."""
    path, stored = _load()
    shown = {
        name: {"url": each.url, "has_token": bool(each.token), "token_command": each.token_command}
        for name, each in sorted(stored.profiles.items())
    }
    if connection.print_if_json({"file": str(path), "current": stored.current, "profiles": shown}):
        return
    if not shown:
        echo_message(f"There are no profiles in {path}. `gemtune config set url URL` makes one.")
    for name, each in shown.items():
        mark = "*" if name == stored.current else " "
        token = "token" if each["has_token"] else "token-command" if each["token_command"] else "no token"
        click.echo(f"{mark} {name:16}{each['url'] or '(this machine)'}  {token}")


@config.command("use")
@click.argument("name", shell_complete=complete_profiles)
def choose(name: str) -> None:
    """Use a profile from now on."""
    path, stored = _load()
    _require(stored, name)
    profiles.save(stored.model_copy(update={"current": name}), path)
    echo_message(f"Profile {name} is in use: {stored.profiles[name].url or 'this machine'}")


@config.command()
@click.argument("name", shell_complete=complete_profiles)
def delete(name: str) -> None:
    """Delete a profile, with its token."""
    path, stored = _load()
    _require(stored, name)
    del stored.profiles[name]
    current = None if stored.current == name else stored.current
    profiles.save(stored.model_copy(update={"current": current}), path)
    echo_message(f"Deleted profile {name}")


def _load() -> tuple[Path, Profiles]:
    """Return the file and its profiles."""
    path = profiles.file_path()
    return path, profiles.load(path)


def _require(stored: Profiles, name: str) -> None:
    """Raise BadUse if there is no profile of this name."""
    if name not in stored.profiles:
        raise BadUse(f"there is no profile {name!r}; there are: {', '.join(sorted(stored.profiles)) or 'none'}")


COMMANDS = {"config": config}
