"""`gemtune`: starts the local service, and speaks to it or to a deployed one.

Exit codes: 0 done (with --follow: the job completed); 1 refused, or an error answer; 2 wrong usage; 3 the job failed;
4 the job was cancelled; 5 the service cannot be reached.
"""

from __future__ import annotations

import os

import click

from gemtune.cli.connection import REFUSED, Connection
from gemtune.errors import CannotStore, GemtuneError


class _Lazy(click.Group):
    """Finds a command's module when the command is asked for, so that `gemtune --help` stays quick."""

    places: dict[str, str] = {  # noqa: RUF012
        "up": "local", "publish": "local", "listen": "local", "secret": "local",
        "webhook-key": "local", "demo": "local",
        "train": "jobs", "jobs": "jobs", "status": "jobs", "events": "jobs", "cancel": "jobs", "delete": "jobs",
        "export": "export", "artifacts": "artifacts",
    }  # fmt: skip

    def invoke(self, ctx: click.Context) -> object:
        """An error of ours, or of a file, is a sentence and what to do, never a traceback."""
        try:
            return super().invoke(ctx)
        except (OSError, CannotStore) as error:
            from gemtune.cli.unusable_files import explained

            about_file = explained(error)
            if about_file is None:
                raise
            explained_error: GemtuneError = about_file
        except GemtuneError as error:
            explained_error = error
        click.echo(f"{explained_error.code}: {explained_error}", err=True)
        if explained_error.hint:
            click.echo(f"  {explained_error.hint}", err=True)
        raise click.exceptions.Exit(REFUSED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        import importlib

        if name not in self.places:
            return None
        module = importlib.import_module(f"gemtune.cli.{self.places[name]}")
        command = module.COMMANDS[name]
        assert isinstance(command, click.Command)
        return command


@click.command(cls=_Lazy, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="GEMTUNE_URL", help="The service; http://127.0.0.1:$PORT when left out.")
@click.option("--json", "as_json", is_flag=True, help="Print answers as JSON, for scripts.")
@click.version_option(package_name="gemtune")
@click.pass_context
def main(ctx: click.Context, url: str | None, as_json: bool) -> None:
    ctx.obj = Connection(url or f"http://127.0.0.1:{os.environ.get('PORT') or 8080}", as_json=as_json)
