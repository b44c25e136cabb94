"""Groups of commands: whole sentences in help texts, and names of elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

# Characters of a sentence; click would cut it at the width of the terminal.
LONGEST_SENTENCE = 500
# Commands of groups by the names that they have elsewhere.
OTHER_NAMES = {
    "list": "ls all get view",
    "show": "get describe retrieve info inspect view",
    "delete": "rm remove del unset",
    "upload": "push create add put",
    "download": "pull content retrieve-content fetch export",
    "check": "validate lint",
    "rows": "head preview cat sample",
    "set": "add put create login edit",
    "use": "switch select activate",
}


# Nouns that begin commands elsewhere, by the nouns here.
OTHER_NOUNS = {
    "jobs": "jobs job runs run fine-tuning fine_tuning finetune fine-tune fine-tunes fine_tunes ft",
    "data": "files file dataset datasets",
    "models": "models model",
}
# Options by the names that they have elsewhere.
OTHER_OPTIONS: Mapping[str, str] = {
    "--data": "-d -t --training-file --train-file --file --dataset-file --rows",
    "--eval": "--validation-file --eval-file --validation --val --test",
    "--model": "-m --base-model --base",
    "--name": "--suffix --job-name --run-name --title",
    "--epochs": "--n-epochs --num-epochs --num-train-epochs --epoch",
    "--learning-rate": "--lr",
    "--batch-size": "--bs --batch --per-device-train-batch-size",
    "--max-seq-length": "--max-length --seq-length --context-length --max-len",
    "--lora-rank": "--rank --lora-r --lora",
    "--column": "--columns --map --dataset-columns",
    "--ignore": "--drop --exclude",
    "--export": "--export-format --quantization --quantize --gguf",
    "--repo": "--hub-model-id --hub-repo --hf-repo --hf-repo-id --push-to-hub",
    "--follow": "--watch --wait --stream",
    "--limit": "-L --max --count",
    "--output": "--out --output-file --output-dir --download-dir --local-dir",
    "--force": "--overwrite --clobber --replace",
    "--json": "-o --format --output-format --jq --template --query",
    "--yes": "--confirm --no-confirm --assume-yes --force",
    "--debug": "--verbose --trace --log-level",
    "--download": "-o --output --out --output-dir --download-dir --local-dir --dir --folder",
}


class FieldOption(click.Option):
    """Option that sets any field of a request, as FIELD=VALUE.

    fields: what it is given by the names that options of elsewhere have, without the dashes in front and with
    underscores.
    """

    def __init__(self, *arguments: Any, fields: Mapping[str, str], **more: Any):
        super().__init__(*arguments, **more)
        self.fields = fields

    def instead_of(self, option: str) -> str | None:
        """Return what says the same as an option of elsewhere, or None."""
        field = self.fields.get(option.lstrip("-").replace("-", "_"))
        return None if field is None else f"{self.opts[0]} {field}"


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of an argument list.

        Names near commands if there is none.
        """
        own = self.list_commands(ctx)
        if args[0] == "help" and args[0] not in own:
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args[0] not in own and not args[0].startswith("-"):
            meant = suggest(args[0], own, {name: others for name, others in OTHER_NAMES.items() if name in own})
            help_text = f" `{ctx.command_path} --help` lists all."
            ctx.fail(f"There is no command {args[0]!r}.{meant or help_text}")
        return super().resolve_command(ctx, args)


def suggest_verb(args: Sequence[str], commands: Mapping[str, str]) -> str | None:
    """Return the command that a noun and a verb of elsewhere mean, or None.

    They are two words, or one with a dot between them. commands: own commands with their names elsewhere.
    """
    words = [word for arg in args[:2] for word in arg.split(".")]
    nouns = [own for own, others in OTHER_NOUNS.items() if words[0] in others.split()]
    if not nouns or len(words) < 2 or words[1].startswith("-"):
        return None
    verb = words[2] if len(words) > 2 and words[1] in OTHER_NOUNS["jobs"].split() else words[1]
    own = OTHER_NAMES if nouns == ["data"] else {name: other for name, other in commands.items() if " " not in name}
    meant = [name for name, others in own.items() if verb == name or verb in others.split()]
    if nouns == ["models"]:
        return "models" if meant else None
    if nouns == ["data"]:
        meant = [f"data {name}" for name in meant]
    elif (verb in OTHER_NAMES["list"].split() or verb == "list") and (not meant or len(args) < 3):
        meant = ["jobs"]  # `run view` alone lists, and `run view JOB` shows one
    return " or ".join(f"gemtune {name}" for name in meant) or None


def suggest(name: str, own_names: Iterable[str], other_names: Mapping[str, str]) -> str:
    """Return a sentence with the commands that a name may mean, or nothing.

    other_names: words that mean each command elsewhere.
    """
    meant = [own for own, others in other_names.items() if name in others.split()]
    meant = meant or difflib.get_close_matches(name, [*own_names], n=3)
    return f" Did you mean {' or '.join(meant)}?" if meant else ""


def own_option(error: click.NoSuchOption) -> str | None:
    """Return the option of the command that has this name elsewhere, or None."""
    parameters = () if error.ctx is None else error.ctx.command.params
    meant = {own for own, others in OTHER_OPTIONS.items() if error.option_name in others.split()}
    own = (option for parameter in parameters for option in parameter.opts if option in meant)
    fields = (each.instead_of(error.option_name) for each in parameters if isinstance(each, FieldOption))
    return next(own, None) or next(fields, None)
