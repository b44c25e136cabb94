"""Values for the completion of a shell; none if the service is slow or away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from gemtune.client.calls import Call
from gemtune.client.errors import ClientError
from gemtune.client.profiles import file_path, find_address, load
from gemtune.client.references import find_job
from gemtune.client.transport import Transport

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
# Seconds that a person waits for values after a key.
TIMEOUT_SECONDS = 2.0
# Options after the command, as a context keeps them.
URL_MEANT, PROFILE_MEANT = "gemtune url", "gemtune profile"


def words(*values: str) -> Complete:
    """Complete some fixed words, in any case."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(value) for value in values if value.lower().startswith(incomplete.lower())]

    return complete


class AnyCase(click.ParamType[str]):
    """Words of the service, taken in any case, such as `lora` for LoRA.

    Other words are left as they are: a newer service may know them, and any service says what is allowed.
    """

    name = "text"

    def __init__(self, *values: str):
        self.values = values

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word as the service writes it."""
        return next((word for word in self.values if word.lower() == value.lower()), value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the words."""
        return words(*self.values)(ctx, param, incomplete)


def complete_jobs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ids and names of the newest jobs."""
    jobs = _listed(ctx, "/jobs", "jobs", limit=200)
    items = []
    for job in jobs:
        described = f"{job['status']}, {job['job_name']}"
        items += [
            CompletionItem(value, help=described)
            for value in dict.fromkeys((job["job_id"], job["job_name"]))
            if value.startswith(incomplete) and " " not in value
        ]
    return items


def complete_checkpoints(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete train_steps of the checkpoints of the command's job."""
    # click leaves the arguments unread while the last option lacks its value.
    reference = ctx.params.get("job") or next(iter(ctx.args), "")
    try:
        transport = _transport(ctx)
        job_id = transport.run(find_job(reference))
        listed = transport.send(Call("GET", f"/jobs/{job_id}/checkpoints"))["checkpoints"]
    except ClientError:
        return []
    return [
        CompletionItem(str(each["train_step"]), help="best" if each["is_best"] else "")
        for each in listed
        if str(each["train_step"]).startswith(incomplete)
    ] + [CompletionItem(word) for word in ("best", "newest") if word.startswith(incomplete)]


def complete_datasets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ids of datasets."""
    datasets = _listed(ctx, "/datasets", "datasets", limit=200)
    return [
        CompletionItem(dataset["dataset_id"], help=dataset["name"] or "")
        for dataset in datasets
        if dataset["dataset_id"].startswith(incomplete)
    ]


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete base models that are at hand."""
    models = _listed(ctx, "/models", "at_hand")
    return [
        CompletionItem(model["base_model_id"], help=model["family"] or "")
        for model in models
        if model["base_model_id"].startswith(incomplete)
    ]


def complete_profiles(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of profiles."""
    try:
        names: Sequence[str] = sorted(load(file_path()).profiles)
    except ClientError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _listed(ctx: click.Context, path: str, name: str, **params: int) -> list[dict[str, Any]]:
    """Return a list of the service that the options name; empty on any error."""
    try:
        answer = _transport(ctx).send(Call("GET", path, params=params))
    except ClientError:
        return []
    listed: list[dict[str, Any]] = answer[name]
    return listed


def _transport(ctx: click.Context) -> Transport:
    """Return what calls the service that the options name. Raises ClientError."""
    before = ctx.find_root().params
    url, profile = ctx.meta.get(URL_MEANT) or before.get("url"), ctx.meta.get(PROFILE_MEANT) or before.get("profile")
    return Transport(find_address(url, profile=profile), timeout=TIMEOUT_SECONDS)


job_argument = click.argument("job", shell_complete=complete_jobs)
