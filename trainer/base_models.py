"""Finds base weights: in a folder, in a bucket, or on the Hub, from where they are fetched once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemtune import base_model
from gemtune.errors import ObjectNotFound, StepError
from gemtune.ports import Buckets
from trainer import manifest

# What a model is made of; repositories hold the same weights in other formats too.
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]


def provide(base_model_id: str, buckets: Buckets, work: Path, *, token: Callable[[], str | None]) -> dict[str, str]:
    """Make the weights reachable for the train step and say where: {kind, id, place}.

    kind `folder`: place is a local path. kind `bucket`: place is `bucket/folder` of the objects store, whole.
    Raises StepError for what cannot be had; errors of the network go through, and the step is tried again.
    """
    named = base_model.read(base_model_id)
    if named is None:
        raise StepError("bad_base_model", "the base model's id has no form that is known")
    if named.kind == "folder":
        return {"kind": "folder", "id": base_model_id, "place": named.place}
    if named.kind == "gs":
        return {"kind": "bucket", "id": base_model_id, "place": named.place}
    return {"kind": "bucket", "id": base_model_id, "place": _from_hub(named.place, buckets, work, token=token)}


def locate(buckets: Buckets, provided: Mapping[str, str], work: Path) -> Path:
    """A local folder with the weights of what `provide` found. Raises StepError."""
    if provided["kind"] == "folder":
        folder = Path(provided["place"])
    else:
        bucket, _, name = provided["place"].partition("/")
        objects = buckets.named(bucket)
        if objects is None:
            raise StepError("base_model_not_found", f"{bucket!r} is not a bucket of this service")
        try:
            folder = objects.fetch_folder(name, work / "base_model")
        except ObjectNotFound:
            raise StepError("base_model_not_found", f"there is nothing in {provided['place']!r}") from None
    _check(folder)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises StepError `bad_base_model`."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise StepError("bad_base_model", f"config.json of the base model cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise StepError("bad_base_model", "config.json of the base model is no JSON object")
    return config


def max_positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model can read; Gemma 3 with vision keeps it with the text part."""
    found = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _check(folder: Path) -> None:
    kind = str(config_of(folder).get("model_type"))
    if not kind.startswith("gemma"):
        raise StepError("not_a_gemma", f"the base model is a {kind[:40]}, not a Gemma", hint="use a Gemma model")
    if not any(folder.glob("*.safetensors")):
        hint = "save it with save_pretrained of transformers"
        raise StepError("bad_base_model", "the base model has no *.safetensors", hint=hint)


def _from_hub(repository: str, buckets: Buckets, work: Path, *, token: Callable[[], str | None]) -> str:
    """Download a repository's newest revision into the export bucket, unless it is there. Return `bucket/folder`."""
    from huggingface_hub import HfApi, snapshot_download

    secret = token()
    with _hub_errors(repository):
        revision = str(HfApi(token=secret or False).model_info(repository).sha)
        prefix = f"models/{repository.replace('/', '--')}/{revision}"
        if manifest.read_whole(buckets.export, prefix) is None:
            folder = work / "hub"
            snapshot_download(
                repository, revision=revision, local_dir=folder, allow_patterns=WANTED, token=secret or False
            )
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the download's own notes
            _check(folder)
            manifest.publish(buckets.export, folder, prefix)
    return f"{buckets.export.bucket}/{prefix}"


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Says what the Hub's refusals mean for the user. What may pass by itself (no network, 5xx) goes through."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        hint = f"accept its terms at huggingface.co/{repository} and send hf_token"
        raise StepError("base_model_gated", f"{repository} is gated", hint=hint) from error
    except RepositoryNotFoundError as error:
        hint = "check the name; a private one needs hf_token"
        raise StepError("base_model_not_found", f"there is no {repository} on the Hub", hint=hint) from error
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code not in (401, 403):
            raise
        raise StepError("base_model_gated", f"the Hub refuses {repository}", hint="check hf_token") from error
