"""Publishes an export in a repository of the Hub: the whole of it in one commit, or nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import StepError
from gemtune.jobs.record import Artifact
from gemtune.redaction import redact
from gemtune.request import base_model
from trainer.base_model import hub_download
from trainer.context import Context
from trainer.hub import card
from trainer.hub.refusals import AGAIN, TransientError, translated
from trainer.hub.session import TIMEOUT, uploading
from trainer.store import manifest

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.lfs import UploadInfo

log = logging.getLogger(__name__)

# Seconds before each repetition of what may pass by itself; the library has waits of its own inside.
WAITS = (2.0, 10.0, 30.0)
# A server that asks for more is asked again by the step's own next try.
LONGEST_WAIT = 300.0
THREADS = 4

# What an older adapter in the repository would do to a whole model: loaders find it first, and put it on top.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


@dataclass(frozen=True)
class Upload:
    """One export on its way to a repository `owner/name`."""

    folder: Path
    repository: str
    token: str
    base_model_id: str
    title: str
    check_stop: Callable[[], None]
    sleep: Callable[[float], None] = time.sleep

    def __call__(self) -> str:
        """Make the repository private if there is none, upload what it does not have, and commit all at once. Return
        the commit.

        A repetition goes on where the last try broke: files that have arrived are not sent again, and a commit whose
        answer was lost is found. Raises StepError for what no repetition mends, TransientError after the last one.
        """
        hashed: dict[str, UploadInfo] = {}
        waits = iter(WAITS)
        while True:
            self.check_stop()
            try:
                return self._once(hashed)
            except TransientError as problem:
                wait = next(waits, None)
                if wait is None or problem.seconds > LONGEST_WAIT:
                    raise (problem.final or problem) from None
                log.warning("%s; again in %.0f s", problem, max(wait, problem.seconds))
                self._wait(max(wait, problem.seconds))

    def _once(self, hashed: dict[str, UploadInfo]) -> str:
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        try:
            with uploading(self.check_stop):
                there = self._repository(api)
                additions = [card.card(self.folder, self.base_model_id, api), *self._additions(hashed)]
                # By this word of ours, a .gitignore in the repository leaves nothing out.
                api.preupload_lfs_files(self.repository, additions, num_threads=THREADS, gitignore_content="")
                commit = api.create_commit(
                    self.repository,
                    [*additions, *self._removals(there)],
                    commit_message=self.title,
                    num_threads=THREADS,
                    parent_commit=there.sha,  # what is removed was looked up there
                )
        except Exception as error:
            meant = translated(error, self.repository)
            if meant is error:
                raise
            raise meant from None  # the chain names links that are signed
        return str(commit.oid)

    def _repository(self, api: HfApi) -> ModelInfo:
        """The repository, which is made when there is none."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        try:
            return api.model_info(self.repository, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            log.info("making the private repository %s", self.repository)
        try:
            api.create_repo(self.repository, private=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # somebody was faster
                raise
        return api.model_info(self.repository, timeout=TIMEOUT)

    def _additions(self, hashed: dict[str, UploadInfo]) -> list[CommitOperationAdd]:
        """Every file but the card and our own list of them. Each try has operations of its own, which ask what is there
        by now; what was learned of the contents is kept in `hashed`."""
        from huggingface_hub import CommitOperationAdd

        additions = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in (card.NAME, manifest.NAME):
                addition = CommitOperationAdd(name, self._shown(path))
                addition.upload_info = hashed.setdefault(name, addition.upload_info)
                additions.append(addition)
        return additions

    def _shown(self, path: Path) -> Path | bytes:
        """A file as others may see it: PEFT's file names its base model by the path on this machine."""
        public = base_model.public_name(self.base_model_id)
        if path.name != ADAPTER_CONFIG or public == self.base_model_id:
            return path
        config = json.loads(path.read_bytes())
        return json.dumps(config | {"base_model_name_or_path": public}, indent=2).encode()

    def _removals(self, there: ModelInfo) -> list[CommitOperationDelete]:
        """What an earlier export of another kind left there and would spoil this one. Git keeps it."""
        from huggingface_hub import CommitOperationDelete

        here = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        if not any(card.is_shard(name) for name in here):  # no whole model: an adapter, or GGUF beside others
            return []
        present = [file.rfilename for file in there.siblings or ()]
        stale = [name for name in present if name in ADAPTER_FILES or card.is_shard(name)]
        return [CommitOperationDelete(name) for name in stale if name not in here]

    def _wait(self, seconds: float) -> None:
        """In short sleeps, so that a stop is noticed."""
        while seconds > 0:
            self.check_stop()
            self.sleep(min(seconds, 1.0))
            seconds -= 1.0


def push(context: Context, folder: Path, artifacts: Sequence[Artifact]) -> str:
    """Publish an exported folder in the repository that the job names; return `hf://owner/name@commit`.

    artifacts: its copy in the objects store, which is recorded before, so that it is found whatever the Hub says.
    Raises StepError, TransientError, StopRequested, Stale.
    """
    repository = context.spec.export_config.hf_repo_id
    assert repository is not None, "the request's rules let no hfhub through without one"
    context.advance.record_artifacts(context.job.job_id, context.fence, artifacts)
    upload = Upload(
        folder,
        repository,
        _checked(hub_download.token_of(lambda: context.secret("hf_token"))),
        context.spec.training_config.base_model_id,
        redact(f"{context.spec.job_name} ({context.job.job_id})"),
        context.check_stop,
    )
    return f"hf://{repository}@{upload()}"


def _checked(token: str | None) -> str:
    """The token. Raises StepError for one that could not stand in a header; an error about that would repeat it."""
    if token is None:
        raise StepError("hub_token_missing", "the job has no hf_token", hint=f"send one that may write; {AGAIN}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise StepError("hub_token_refused", "the hf_token is no token of the Hub", hint=f"copy it again; {AGAIN}")
    return token
