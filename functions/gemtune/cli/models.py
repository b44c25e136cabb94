"""The command `models`: lists base models, and the memory that they need."""

from __future__ import annotations

import shutil
from typing import Any

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.starting import offer_service
from gemtune.cli.connection.text import echo_message

METHODS = ("LoRA", "QLoRA", "Full")
# Columns of a terminal that the whole table takes.
WIDE = 90


@click.command()
@click.option("--family", metavar="NAME", help="Only models of one generation, as 'Gemma 3'.")
@click.option("--fits", is_flag=True, help="Only models that LoRA or QLoRA can train here.")
@click.pass_obj
def models(connection: Connection, family: str | None, fits: bool) -> None:
    """List base models: those at hand, and the sizes of published ones.

    For each method the machine is named whose memory suffices, with default settings and rows of up to 2,048 tokens;
    on a workstation the memory that a training takes. `gemtune plan` knows it for one request.
    """
    offer_service(connection)
    answer = connection.call("GET", "/models")
    families = dict.fromkeys(model["family"] for model in answer["published"])
    if family is not None and _plain(family) not in map(_plain, families):
        raise click.UsageError(f"there is no family {family!r}; there are: {', '.join(families)}")
    for part in ("at_hand", "published"):
        answer[part] = [model for model in answer[part] if _is_wanted(model, family, fits)]
    if connection.print_if_json(answer):
        return
    click.echo("At hand, for --model:" if answer["at_hand"] else "At hand: none")
    for model in answer["at_hand"]:
        click.echo(f"  {model['base_model_id']}")
        click.echo(f"    {_describe(model)}")
    memory = answer["memory_gib"]
    click.echo(f"\nPublished sizes{'' if memory is None else f', beside {memory:.1f} GiB of memory here'}:")
    _print_published(answer["published"], memory)
    if not connection.quiet:
        if memory is not None:
            echo_message("\nMemory in parentheses is more than there is here.")
        echo_message("A Hub id has the owner before the name and often an ending: google/gemma-3-270m-it")


def _print_published(models: list[dict[str, Any]], memory: float | None) -> None:
    """Print a table of sizes, the newest family first.

    In a narrow terminal it leaves out the columns that matter least.
    """
    wide = shutil.get_terminal_size((WIDE, 24)).columns >= WIDE
    heads = "".join(f"{method:>10}" for method in METHODS)
    extra = f"{'download':>11}  {'pictures':10}audio" if wide else ""
    click.echo(f"  {'name':19}{'size':>8}{heads}{extra}")
    families = list(dict.fromkeys(model["family"] for model in models))
    for model in sorted(models, key=lambda model: -families.index(model["family"])):
        needs = "".join(f"{_need(model, method, memory):>10}" for method in METHODS)
        size = f"{model['parameters'] / 1e9:.2f} B"
        media = f"{_yes_or_no(model['reads_pictures']):10}{_yes_or_no(model['reads_audio'])}"
        extra = f"{model['download_bytes'] / 1e9:>8.1f} GB  {media}" if wide else ""
        click.echo(f"  {model['name']:19}{size:>8}{needs}{extra}")


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _is_wanted(model: dict[str, Any], family: str | None, fits: bool) -> bool:
    """Return whether a model is to be listed."""
    if family is not None and _plain(model["family"] or "") != _plain(family):
        return False
    return not fits or any(need["machine"] for need in model["needs"] if need["method"] in ("LoRA", "QLoRA"))


def _plain(family: str) -> str:
    """Return the name of a family as any spelling has it: `gemma3`."""
    return family.lower().replace(" ", "").replace("-", "")


def _describe(model: dict[str, Any]) -> str:
    """Describe a model that is at hand in a line."""
    if model["problem"]:
        return f"cannot be trained: {model['problem']}"
    parts = [model["family"] or "unknown family", f"{model['bytes'] / 1e9:.1f} GB"]
    methods = [need["method"] for need in model["needs"] if need["machine"]]
    if model["needs"]:
        parts.append(f"fits with {', '.join(methods)}" if methods else "fits with no method")
    return ", ".join(parts)


def _need(model: dict[str, Any], method: str, memory: float | None) -> str:
    """Return the memory of a workstation that a method takes, or its machine."""
    need = next(need for need in model["needs"] if need["method"] == method)
    if memory is None:
        return need["machine"] or "none"
    return f"{need['main_gib']:.0f} GiB" if need["machine"] else f"({need['main_gib']:.0f} GiB)"


COMMANDS = {"models": models}
