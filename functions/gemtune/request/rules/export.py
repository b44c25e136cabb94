"""Rules about the export: quantization, destination, and machine."""

from __future__ import annotations

import re

from gemtune.errors import NeedsLargerMachine, Problem
from gemtune.request import placement
from gemtune.request.exports import quantizations
from gemtune.request.facts import Facts
from gemtune.request.spec import TrainRequest


def quantization(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse a quantization that the format does not have."""
    export_format, requested = request.export_config.format, request.export_config.quantization
    allowed = quantizations(export_format)
    if requested is None or requested in allowed:
        return []
    message = f"exports in format {export_format} do not have the quantization {requested!r}"
    hint = f"use one of {', '.join(allowed)}"
    return [Problem(("export_config", "quantization"), message, "quantization_not_in_format", hint)]


def destination(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse destination hfhub without a valid hf_repo_id.

    A repository with destination gcs is accepted, because the documented example has one.
    """
    export, loc = request.export_config, ("export_config", "hf_repo_id")
    if export.destination == "gcs":
        return []
    if export.hf_repo_id is None:
        return [Problem(loc, "destination hfhub needs a repository", "missing_field", "name one as owner/name")]
    # Rule of the Hub: https://huggingface.co/docs/huggingface_hub/package_reference/utilities#validation
    if re.search(r"--|\.\.|\.git$|[-.](/|$)", export.hf_repo_id):
        hint = "leave out -- and .., and do not end owner or name with -, . or .git"
        return [Problem(loc, "the Hub does not allow this name", "bad_form", hint)]
    return []


def adapter_of_trained_model(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse to publish an adapter whose base model is what a job trained.

    Nobody else could load it: that model is in this deployment's export bucket only.
    """
    export = request.export_config
    is_adapter = export.format == "adapter" and request.training_config.method != "Full"
    if not (facts.base_is_trained and is_adapter and export.destination == "hfhub"):
        return []
    message = "this adapter belongs to a model that another job trained, which is not on the Hub"
    hint = "use format merged or gguf, or destination gcs"
    return [Problem(("export_config", "format"), message, "adapter_of_trained_model", hint)]


def hub_token(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse destination hfhub without a Hub token."""
    has_token = request.hf_token is not None or facts.deployment.has_hf_token
    if request.export_config.destination != "hfhub" or has_token:
        return []
    hint = "send one with write access; `gemtune secret NAME` stores it"
    return [Problem(("hf_token",), "destination hfhub needs a Hub token", "missing_field", hint)]


def machine(request: TrainRequest, facts: Facts) -> list[Problem]:
    """Refuse an export for which no machine has enough memory."""
    try:
        placement.export_machine(request, facts)
    except NeedsLargerMachine as error:
        return [Problem(("export_config", "format"), error.message, error.code, error.hint)]
    return []
