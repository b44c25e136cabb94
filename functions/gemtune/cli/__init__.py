"""The command line `gemtune`; its commands are imported when they are used."""

from __future__ import annotations

import os

import click

from gemtune.cli.connection import REFUSED, Connection
from gemtune.errors import CannotStore, GemtuneError

HELP = """Fine-tune Gemma models with a local or deployed gemtune service.

`gemtune up` starts a service on this machine. The other commands use that service, or the one that --url names.

Exit codes: 0 success (with --follow: the job completed); 1 the request was rejected or an error occurred; 2 wrong
usage; 3 the job failed; 4 the job was cancelled; 5 the service cannot be reached.
"""


class _LazyGroup(click.Group):
    """Command group that imports a command's module when the command is used."""

    # Commands and the modules of gemtune.cli that define them.
    modules: dict[str, str] = {  # noqa: RUF012
        **dict.fromkeys(("up", "publish", "listen", "secret", "webhook-key", "demo"), "local"),
        **dict.fromkeys(("train", "jobs", "status", "events", "cancel", "delete"), "jobs"),
        "export": "export",
        "artifacts": "artifacts",
    }

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; print its errors with a hint instead of a traceback.

        That applies to errors of gemtune and of files. Other exceptions are bugs and pass through.
        """
        try:
            return super().invoke(ctx)
        except (OSError, CannotStore) as error:
            from gemtune.cli.unusable_files import as_unusable_file

            unusable_file = as_unusable_file(error)
            if unusable_file is None:
                raise
            gemtune_error: GemtuneError = unusable_file
        except GemtuneError as error:
            gemtune_error = error
        click.echo(f"{gemtune_error.code}: {gemtune_error}", err=True)
        if gemtune_error.hint:
            click.echo(f"  {gemtune_error.hint}", err=True)
        raise click.exceptions.Exit(REFUSED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help text."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return a command, or None if there is none."""
        import importlib

        if name not in self.modules:
            return None
        module = importlib.import_module(f"gemtune.cli.{self.modules[name]}")
        command = module.COMMANDS[name]
        assert isinstance(command, click.Command)
        return command


@click.command(cls=_LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="GEMTUNE_URL", help="URL of the service (default: http://127.0.0.1:$PORT).")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
@click.version_option(package_name="gemtune")
@click.pass_context
def main(ctx: click.Context, url: str | None, as_json: bool) -> None:
    """Connect to the service that the options name, for the command to use."""
    ctx.obj = Connection(url or f"http://127.0.0.1:{os.environ.get('PORT') or 8080}", as_json=as_json)
