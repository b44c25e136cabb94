"""Copies a model from the Hub into the objects store, once, a file at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import SecretNotFound, StepError
from gemtune.ports import Objects
from gemtune.request.base_model import copies_folder
from trainer.base_model import folder_contents
from trainer.store import manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What a model is made of; repositories hold the same weights in other formats too, and those in folders.
WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


def copy_once(
    repository: str, export: Objects, work: Path, *, token: Callable[[], str | None], check_stop: Callable[[], None]
) -> str:
    """Copy a repository's newest revision to `models/<owner>--<name>/<revision>` of the export bucket, unless it is
    there whole; return that prefix.

    Raises StepError for what the Hub refuses; errors of the network go through, and the step is tried again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    hub = HfApi(token=token_of(token) or False)  # False: never the token of whoever is logged in on this machine
    with _hub_errors(repository):
        found = hub.model_info(repository)
        prefix = f"{copies_folder(repository)}/{found.sha}"
        if manifest.read_whole(export, prefix) is None:
            names = [file.rfilename for file in found.siblings or () if is_wanted(file.rfilename)]
            _copy(hub, repository, str(found.sha), names, export, prefix, work / "hub", check_stop)
    return prefix


def _copy(
    hub: HfApi, repository: str, revision: str, names: list[str], export: Objects, prefix: str, work: Path,
    check_stop: Callable[[], None],
) -> None:  # fmt: skip
    """The small files first: they say whether the model is one for us. Of the weights, one file at a time is here."""
    weights = [name for name in names if name.endswith(folder_contents.WEIGHTS)]
    small = [name for name in names if name not in weights]

    def fetched(name: str) -> Path:
        check_stop()
        return Path(hub.hf_hub_download(repository, name, revision=revision, local_dir=work))

    artifacts = [manifest.add(export, fetched(name), prefix, name) for name in small]
    folder_contents.check_description(work, names)
    for name in weights:
        path = fetched(name)
        folder_contents.check_weights(path)
        artifacts.append(manifest.add(export, path, prefix, name))
        path.unlink()
    manifest.seal(export, prefix, artifacts)


def is_wanted(name: str) -> bool:
    """Whether a file at the top of a model's folder belongs to it."""
    return "/" not in name and name != manifest.NAME and any(fnmatch(name, pattern) for pattern in WANTED)


def token_of(token: Callable[[], str | None]) -> str | None:
    """The job's Hub token, or the service's own. Raises StepError for one that is gone."""
    try:
        return token()
    except SecretNotFound as error:
        hint = "submit the job again with hf_token"
        raise StepError(error.code, "the job's hf_token is not there any more", hint=hint) from error


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Says what the Hub's refusals mean for the user. What may pass by itself (no network, 5xx) goes through."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        hint = f"accept its terms at huggingface.co/{repository} and send hf_token"
        raise StepError("base_model_gated", f"{repository} is gated", hint=hint) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "check the name; a private one needs hf_token"
        raise StepError("base_model_not_found", f"there is no {repository} on the Hub", hint=hint) from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        # A download wraps some refusals into "no connection, and no local file".
        refusal = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if not isinstance(refusal, HfHubHTTPError) or refusal.response.status_code not in (401, 403):
            raise
        raise StepError("base_model_gated", f"the Hub refuses {repository}", hint="check hf_token") from error
