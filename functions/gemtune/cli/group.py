"""The group of all commands of `gemtune`, which imports their modules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from gemtune.cli.connection import INTERRUPTED, REFUSED, Connection
from gemtune.cli.connection.completing import PROFILE_MEANT, URL_MEANT, complete_profiles
from gemtune.cli.connection.debug import log_calls
from gemtune.cli.connection.groups import CommandGroup, own_option, suggest, suggest_verb
from gemtune.client.errors import BadUse
from gemtune.errors import CannotStore, GemtuneError

HELP = """Fine-tune Gemma models with a local or deployed gemtune service.

`gemtune up` starts a service on this machine. The other commands use that service, or the one that --url names.

JOB is a job's id, the beginning or the last part of one, or the name of a job.

Exit codes: 0 success (with --follow: the job completed); 1 the request was rejected or an error occurred; 2 wrong
usage; 3 the job failed; 4 the job was cancelled; 5 the service cannot be reached; 130 interrupted by Ctrl-C.
"""
# Names by which contexts keep that of the command, which errors about its use begin with, and whether to write JSON.
COMMAND, AS_JSON = "gemtune command", "gemtune json"
# Commands by the names that they have elsewhere.
OTHER_NAMES = {
    "up": "start serve server run",
    "train": "create finetune fine-tune fine-tuning ft fit submit",
    "data upload": "upload files file dataset datasets",
    "data check": "check validate",
    "jobs": "ls list ps",
    "status": "show get describe retrieve view info inspect",
    "watch": "follow tail",
    "logs": "log output",
    "events": "list-events list_events",
    "checkpoints": "list-checkpoints list_checkpoints checkpoint",
    "request": "rerun retry clone repeat",
    "cancel": "stop kill abort",
    "delete": "rm remove",
    "account": "whoami usage billing",
    "try": "chat ask generate completions infer inference predict complete",
    "artifacts": "download pull weights results files",
    "config": "login logout auth profile configure env",
    "secret": "token login",
    "version": "about",
    "metrics": "curve loss history evaluate eval results",
}
# Commands that list things, so that `gemtune jobs list` means them, too.
LISTS = ("jobs", "models")


class _LazyGroup(CommandGroup):
    """Command group that imports a command's module when the command is used.

    The options of the group are taken after the command as well.
    """

    # Commands in the order of the help text, and the modules of gemtune.cli that define them.
    sections: dict[str, dict[str, str]] = {  # noqa: RUF012
        "Begin": {
            "demo": "workstation.service",
            "up": "workstation.service",
            "down": "workstation.service",
            "models": "models",
            "data": "data",
            "plan": "jobs",
            "train": "jobs",
        },
        "Jobs": {
            "jobs": "jobs",
            "status": "jobs",
            "watch": "watching",
            "wait": "watching",
            "metrics": "watching",
            "checkpoints": "watching",
            "logs": "logs",
            **dict.fromkeys(("request", "events", "pause", "resume", "cancel", "delete", "account"), "jobs"),
        },
        "Results": {"try": "answers.command", "artifacts": "artifacts", "export": "export"},
        "Set-up": {
            "config": "setup.config",
            "secret": "workstation.secret",
            "completion": "setup.completion",
            "version": "watching",
        },
        "Messages": dict.fromkeys(("publish", "listen", "webhook-key"), "workstation.service"),
    }

    @property
    def modules(self) -> dict[str, str]:
        """The module of each command."""
        return {name: module for section in self.sections.values() for name, module in section.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by what they are for."""
        for heading, modules in self.sections.items():
            self.write_section(heading, modules, ctx, formatter)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of a command line; print errors as JSON if asked."""
        # An error may come before all options are read, so the arguments tell.
        as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _documented(error) if as_json else error from None
        ctx.meta[AS_JSON] = as_json
        return ctx

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; print its errors with a hint instead of a traceback.

        That applies to errors of gemtune and of files. Other exceptions are bugs and pass through.
        """
        try:
            return self._invoke(ctx)
        except click.ClickException as error:
            raise _documented(error) if ctx.meta[AS_JSON] else error from None

    def _invoke(self, ctx: click.Context) -> object:
        """Run a command as `invoke` does, with the text of wrong use."""
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
        except BadUse as error:
            raise _usage_error(str(error), ctx.meta.get(COMMAND, ctx)) from None
        except click.UsageError as error:
            if type(error).show is not click.UsageError.show:  # it prints the help text
                raise
            message = error.format_message()
            if isinstance(error, click.NoSuchOption) and (meant := own_option(error)) is not None:
                message = f"No such option '{error.option_name}'. Did you mean '{meant}'?"
            raise _usage_error(message, error.ctx or ctx.meta.get(COMMAND, ctx)) from None
        except (KeyboardInterrupt, click.Abort) as error:
            if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
                raise  # a question that was answered with no, or not at all
            click.echo("\nInterrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        from gemtune.cli.connection.refusals import refusal_of

        refusal_of(gemtune_error).print(as_json=ctx.meta[AS_JSON])
        raise click.exceptions.Exit(REFUSED)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with a text, without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in self.modules if name.startswith(incomplete)]

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
        own_options = {option for parameter in command.params for option in parameter.opts}
        command.params += [option for option in _common_options() if not own_options & set(option.opts)]
        for inner in command.commands.values() if isinstance(command, click.Group) else ():
            if not any("--json" in parameter.opts for parameter in inner.params):
                inner.params += _common_options()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of an argument list.

        Names near commands if there is none.
        """
        if args[0] == "help":
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args[0] in LISTS and args[1:2] in (["list"], ["ls"]):
            args = [args[0], *args[2:]]
        verb = suggest_verb(args, OTHER_NAMES)
        if verb is not None and (args[0] not in self.modules or args[0] in LISTS):
            ctx.fail(f"There is no command '{' '.join(args[:2])}'. Did you mean {verb}?")
        if args[0] not in self.modules and not args[0].startswith("-"):
            meant = suggest(args[0], [*self.modules, "help"], OTHER_NAMES)
            ctx.fail(f"There is no command {args[0]!r}.{meant or ' `gemtune --help` lists all.'}")
        return super().resolve_command(ctx, args)


def _colours(environment: Mapping[str, str]) -> bool | None:
    """Return whether text is coloured; None: if it goes to a terminal.

    The variables are those of https://no-color.org and https://bixense.com/clicolors.
    """
    if environment.get("NO_COLOR") or environment.get("CLICOLOR") == "0":
        return False
    if any(environment.get(name) not in (None, "", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return False if environment.get("TERM") == "dumb" else None


def _documented(error: click.ClickException) -> click.ClickException:
    """Return an error that click prints as JSON."""
    from gemtune.cli.connection.refusals import DocumentedError, DocumentedUse, Refusal

    if not isinstance(error, click.UsageError):
        return DocumentedError(Refusal("command_failed", error.message))
    prints_help = type(error).show is not click.UsageError.show
    message = "say which command" if prints_help else " ".join(error.format_message().split())
    hint = None if error.ctx is None else f"`{error.ctx.command_path} --help` says how to use it"
    return DocumentedUse(Refusal("bad_use", message, hint))


def _usage_error(message: str, ctx: click.Context) -> click.UsageError:
    """Return the error of a wrong use, whose message fits the terminal."""
    from gemtune.cli.connection.text import fit_message

    return click.UsageError(fit_message(message, "Error: "), ctx)


def _common_options() -> list[click.Option]:
    """Return the options of the group, as a command has them."""

    def set_url(ctx: click.Context, option: click.Parameter, url: str | None) -> None:
        ctx.meta[URL_MEANT] = url
        if url is not None and ctx.obj is not None:  # there is none while a shell completes
            ctx.obj.url_option = url

    def set_profile(ctx: click.Context, option: click.Parameter, profile: str | None) -> None:
        ctx.meta[PROFILE_MEANT] = profile
        if profile is not None and ctx.obj is not None:
            ctx.obj.profile = profile

    def set_json(ctx: click.Context, option: click.Parameter, as_json: bool) -> None:
        if ctx.obj is not None:
            ctx.obj.as_json |= as_json

    def set_quiet(ctx: click.Context, option: click.Parameter, quiet: bool) -> None:
        ctx.meta[COMMAND] = ctx
        if ctx.obj is not None:
            ctx.obj.quiet |= quiet

    def set_debug(ctx: click.Context, option: click.Parameter, debug: bool) -> None:
        if debug:
            log_calls()

    shared: dict[str, Any] = {"expose_value": False}
    return [
        click.Option(["--url"], callback=set_url, help="URL of the service.", **shared),
        click.Option(
            ["--profile"],
            metavar="NAME",
            callback=set_profile,
            shell_complete=complete_profiles,
            help="Profile of the service.",
            **shared,
        ),
        click.Option(["--json"], is_flag=True, callback=set_json, help="Print results as JSON.", **shared),
        click.Option(["--quiet", "-q"], is_flag=True, callback=set_quiet, help="Print results only.", **shared),
        click.Option(["--debug"], is_flag=True, callback=set_debug, help="Print the calls to the service.", **shared),
    ]


@click.command(cls=_LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url", help="URL of the service (default: $GEMTUNE_URL, the profile in use, or http://127.0.0.1:$PORT)."
)
@click.option(
    "--profile", metavar="NAME", shell_complete=complete_profiles, help="Profile of the service (see `gemtune config`)."
)
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print results only, no progress and no advice.")
@click.option("--debug", is_flag=True, help="Print the calls to the service to standard error, without their contents.")
@click.version_option(None, "-V", "--version", package_name="gemtune")
@click.pass_context
def main(ctx: click.Context, url: str | None, profile: str | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Connect to the service that the options name, for the command to use."""
    ctx.color = _colours(os.environ)
    if debug or os.environ.get("GEMTUNE_DEBUG"):
        log_calls()
    ctx.obj = Connection(url, as_json=as_json, quiet=quiet, profile=profile)
