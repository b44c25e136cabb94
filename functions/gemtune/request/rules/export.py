"""Rules about the export: format, quantization, destination, and the machine that it needs."""

from __future__ import annotations

import re

from gemtune.errors import NeedsLargerMachine, Problem
from gemtune.request import placement
from gemtune.request.exports import quantizations
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest


def quantization(request: TrainRequest, facts: Facts) -> list[Problem]:
    format, wanted = request.export_config.format, request.export_config.quantization
    allowed = quantizations(format)
    if wanted is None or wanted in allowed:
        return []
    message = f"{format} exports know no quantization {wanted!r}"
    hint = f"use one of {', '.join(allowed)}"
    return [Problem(("export_config", "quantization"), message, "quantization_not_in_format", hint)]


def destination(request: TrainRequest, facts: Facts) -> list[Problem]:
    """A repository that is named along with `gcs` is let through: the interface's own example does it."""
    export, loc = request.export_config, ("export_config", "hf_repo_id")
    if export.destination == "gcs":
        return []
    if export.hf_repo_id is None:
        return [Problem(loc, "hfhub needs a repository", "missing_field", "name one as owner/name")]
    # The Hub's own rule: https://huggingface.co/docs/huggingface_hub/package_reference/utilities#validation
    if re.search(r"--|\.\.|\.git$|[-.](/|$)", export.hf_repo_id):
        hint = "no -- and no .. in it, and neither owner nor name ends with - or . or .git"
        return [Problem(loc, "the Hub takes no such name", "bad_form", hint)]
    return []


def hub_token(request: TrainRequest, facts: Facts) -> list[Problem]:
    has_token = request.hf_token is not None or facts.deployment.has_hf_token
    if request.export_config.destination != "hfhub" or has_token:
        return []
    hint = "send one with write access; `gemtune secret NAME` keeps it"
    return [Problem(("hf_token",), "hfhub needs a token of the Hub", "missing_field", hint)]


def machine(request: TrainRequest, facts: Facts) -> list[Problem]:
    try:
        placement.export_machine(request, facts)
    except NeedsLargerMachine as error:
        return [Problem(("export_config", "format"), error.message, error.code, error.hint)]
    return []
