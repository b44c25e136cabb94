"""Folder of a dataset repository on the Hub, at one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.datasets.files.hub_dataset import HubDataset
from gemtune.errors import StepError
from gemtune.untrusted import too_large
from trainer.store.hub_reading import HubRefuses, reach_hub, read_token, reading_hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class HubFolder:
    """Files of a dataset on the Hub, downloaded one by one.

    Every file is of the commit to which the revision led at first. Methods raise StepError if the Hub refuses, or
    cannot be reached at first. Later network errors propagate: a retry may succeed.
    """

    def __init__(self, dataset: HubDataset, work: Path, *, token: Callable[[], str | None]):
        """Look up the commit. work: folder for downloads."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self._dataset, self._work = dataset, work / "hub_dataset"
        self._hub: HfApi = HfApi(token=read_token(token) or False)  # False: never the token of a user of this machine
        with self._errors():
            answer = reach_hub(
                lambda: self._hub.dataset_info(dataset.repository, revision=dataset.revision), dataset.repository
            )
        self._commit = str(answer.sha)

    @property
    def place(self) -> str:
        """Address of the folder at the commit."""
        folder = f"/{self._dataset.folder}" if self._dataset.folder else ""
        return f"https://huggingface.co/datasets/{self._dataset.repository}/tree/{self._commit}{folder}"

    @property
    def revision(self) -> str | None:
        """Commit of the files."""
        return self._commit

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        with self._errors(), self._missing_folder(EntryNotFoundError):
            tree = self._hub.list_repo_tree(
                self._dataset.repository,
                self._dataset.folder or None,
                recursive=True,
                revision=self._commit,
                repo_type="dataset",
            )
            return {self.relative(entry.path): entry.size for entry in tree if isinstance(entry, RepoFile)}

    def fetch(self, path: str, work: Path) -> Path:
        """Download a file to a folder below `work`."""
        whole = f"{self._dataset.folder}/{path}" if self._dataset.folder else path
        with self._errors():
            return Path(
                self._hub.hf_hub_download(
                    self._dataset.repository,
                    whole,
                    repo_type="dataset",
                    revision=self._commit,
                    local_dir=work / "hub_dataset",
                )
            )

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of a file, of which no copy stays.

        Raises Unreadable before a download.
        """
        if self.sizes[path] > max_bytes:
            raise too_large(path, max_bytes)
        local = self.fetch(path, self._work)
        try:
            return local.read_bytes()
        finally:
            local.unlink()

    def relative(self, path: str) -> str:
        """Return a path without the folder, with which it may begin."""
        return path.removeprefix(f"{self._dataset.folder}/") if self._dataset.folder else path

    @contextmanager
    def _missing_folder(self, not_found: type[Exception]) -> Iterator[None]:
        """Raise StepError `dataset_not_found` if the folder does not exist."""
        try:
            yield
        except not_found as error:
            message = f"the dataset {self._dataset.repository} has no folder {self._dataset.folder!r}"
            raise StepError("dataset_not_found", message, hint=f"see {self.place}") from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise StepError `dataset_not_found`, `dataset_gated`."""
        name, revision = self._dataset.repository, self._dataset.revision
        try:
            with reading_hub():
                yield
        except HubRefuses as error:
            match error.why:
                case "gated":
                    hint = f"accept its terms at huggingface.co/datasets/{name} and send hf_token"
                    raise StepError("dataset_gated", f"the dataset {name} is gated", hint=hint) from error
                case "missing" | "revision_missing":
                    which = f" with the revision {revision!r}" if error.why == "revision_missing" else ""
                    message = f"there is no dataset {name}{which} on the Hub"
                    hint = "check the name; a private one needs hf_token"
                    raise StepError("dataset_not_found", message, hint=hint) from error
            message = f"the Hub refuses the dataset {name}"
            raise StepError("dataset_gated", message, hint="check hf_token") from error
