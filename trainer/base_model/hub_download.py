"""Copies a base model from the Hub to the object store, file by file, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import StepError
from gemtune.ports import Objects
from gemtune.request.base_model import copies_folder
from trainer.base_model import folder_contents
from trainer.store import manifest
from trainer.store.hub_reading import HubRefuses, read_token, reading_hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The files of a model. Repositories may also hold the same weights in other formats, and in subfolders.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


def copy_once(
    repository: str,
    export: Objects,
    work: Path,
    *,
    token: Callable[[], str | None],
    check_stop: Callable[[], None],
    revision: str | None = None,
) -> str:
    """Copy a revision of a repository to the export bucket; None: the newest.

    Returns its prefix, `models/<owner>--<name>/<revision>`. Nothing is copied if it is complete there. Raises StepError
    if the Hub refuses. Network errors propagate: a retry may succeed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    hub = HfApi(token=read_token(token) or False)  # False: never use the token of a user logged in on this machine
    with _hub_errors(repository):
        info = hub.model_info(repository, revision=revision)
        prefix = f"{copies_folder(repository)}/{info.sha}"
        if manifest.read_whole(export, prefix) is None:
            names = [file.rfilename for file in info.siblings or () if is_model_file(file.rfilename)]
            _copy(hub, repository, str(info.sha), names, export, prefix, work / "hub", check_stop)
    return prefix


def _copy(
    hub: HfApi,
    repository: str,
    revision: str,
    names: list[str],
    export: Objects,
    prefix: str,
    work: Path,
    check_stop: Callable[[], None],
) -> None:
    """Copy files, the small ones first, and seal the copy.

    The small files tell whether the model can be trained. Only one weight file at a time is on this machine.
    """
    weights = [name for name in names if name.endswith(folder_contents.WEIGHTS)]
    small = [name for name in names if name not in weights]

    def download(name: str) -> Path:
        check_stop()
        return Path(hub.hf_hub_download(repository, name, revision=revision, local_dir=work))

    artifacts = [manifest.add(export, download(name), prefix, name) for name in small]
    folder_contents.check_description(work, names)
    for name in weights:
        path = download(name)
        folder_contents.check_weights(path)
        artifacts.append(manifest.add(export, path, prefix, name))
        path.unlink()
    manifest.seal(export, prefix, artifacts)


def is_model_file(name: str) -> bool:
    """Return whether a path in a repository is a file of the model."""
    return "/" not in name and name != manifest.NAME and any(fnmatch(name, pattern) for pattern in MODEL_FILES)


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Raise StepErrors for the Hub's refusals.

    Errors that may go away by themselves (network, 5xx) pass.
    """
    try:
        with reading_hub():
            yield
    except HubRefuses as error:
        match error.why:
            case "gated":
                hint = f"accept its terms at huggingface.co/{repository} and send hf_token"
                raise StepError("base_model_gated", f"{repository} is gated", hint=hint) from error
            case "missing":
                hint = "check the name; a private one needs hf_token"
                raise StepError("base_model_not_found", f"there is no {repository} on the Hub", hint=hint) from error
            case "revision_missing":
                message = f"{repository} has lost the revision that was trained on"
                raise StepError("base_model_not_found", message, hint="train from its newest revision") from error
        raise StepError("base_model_gated", f"the Hub refuses {repository}", hint="check hf_token") from error
