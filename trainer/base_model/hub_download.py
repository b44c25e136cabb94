"""Copies a base model from the Hub to the object store, file by file, once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import StepError
from gemtune.jobs.parts.results import Artifact
from gemtune.ports import Objects
from gemtune.request.base_model import copies_folder
from trainer.base_model import folder_contents
from trainer.store import manifest, ranges
from trainer.store.hub_file import HubFile
from trainer.store.hub_reading import HubRefuses, reach_hub, read_token, reading_hub, unreachable

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
    if the Hub refuses, or cannot be reached at first. Later network errors propagate: a retry may succeed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    hub = HfApi(token=read_token(token) or False)  # False: never use the token of a user logged in on this machine
    with _hub_errors(repository):
        info = reach_hub(lambda: hub.model_info(repository, revision=revision), repository, check_stop=check_stop)
        prefix = f"{copies_folder(repository)}/{info.sha}"
        if manifest.read_whole(export, prefix) is None:
            names = [file.rfilename for file in info.siblings or () if is_model_file(file.rfilename)]
            _copy(hub, repository, str(info.sha), names, export, prefix, work / "hub", check_stop)
        export.mark_used(prefix, datetime.now(UTC))
    return prefix


def fetch_without_weights(repository: str, *, token: Callable[[], str | None]) -> Path:
    """Return a folder with the small files of a model's newest revision.

    See `fetch_whole`.
    """
    patterns = [name for name in MODEL_FILES if not name.endswith(folder_contents.WEIGHTS)]
    return _snapshot(repository, patterns, token=token)


def fetch_whole(repository: str, *, token: Callable[[], str | None]) -> Path:
    """Return a folder with all files of a model's newest revision.

    They come from the Hub's own cache on this machine as far as it has them, without a network too. Raises StepError
    if the Hub refuses, `hub_unreachable` if it cannot be reached.
    """
    return _snapshot(repository, MODEL_FILES, token=token)


def _snapshot(repository: str, patterns: Sequence[str], *, token: Callable[[], str | None]) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        with _hub_errors(repository):
            return Path(snapshot_download(repository, allow_patterns=[*patterns], token=read_token(token) or False))
    except (OSError, httpx2.TransportError) as error:
        raise unreachable(repository, str(error)) from error


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

    The small files tell whether the model can be trained. Weights go from the Hub to the bucket in ranges, since they
    may be larger than this machine's memory and disk.
    """
    weights = [name for name in names if name.endswith(folder_contents.WEIGHTS)]
    small = [name for name in names if name not in weights]

    def download(name: str) -> Path:
        check_stop()
        return Path(hub.hf_hub_download(repository, name, revision=revision, local_dir=work))

    artifacts = [manifest.add(export, download(name), prefix, name) for name in small]
    folder_contents.check_description(work, names)
    for name in weights:
        artifacts.append(_copy_weights(hub, repository, revision, name, export, prefix, check_stop))
    manifest.seal(export, prefix, artifacts)


def _copy_weights(
    hub: HfApi,
    repository: str,
    revision: str,
    name: str,
    export: Objects,
    prefix: str,
    check_stop: Callable[[], None],
) -> Artifact:
    """Copy a weight file, checked by its header and by the Hub's SHA-256."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repository, name, revision=revision)
    metadata = hub.get_hf_file_metadata(url=url, token=hub.token)
    size = metadata.size or 0

    def check_head(content: bytes) -> None:
        folder_contents.check_header(name, content, size)

    target = f"{prefix}/{name}"
    with HubFile(url, build_hf_headers(token=hub.token), check_stop) as file:
        digest = ranges.copy(export, target, size, file.read, check_stop=check_stop, check_head=check_head)
    if re.fullmatch(r"[0-9a-f]{64}", metadata.etag or "") and metadata.etag != digest:
        export.delete(target)
        raise OSError(f"the SHA-256 of {name} is {digest}, and that of the Hub {metadata.etag}")
    return Artifact(name=name, uri=export.uri(target), bytes=size, sha256=digest)


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
