"""Upload of an export to a repository of the Hub, in one commit."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import StepError
from gemtune.jobs.parts.results import Artifact
from gemtune.redaction import redact
from gemtune.request import base_model
from trainer.context import Context
from trainer.hub import card
from trainer.hub.refusals import EXPORT_AGAIN, TransientError, job_error
from trainer.hub.session import TIMEOUT, uploading
from trainer.store import manifest
from trainer.store.hub_reading import read_token

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.lfs import UploadInfo

log = logging.getLogger(__name__)

# Seconds before each retry after a transient error, in addition to huggingface_hub's own retries.
WAITS = (2.0, 10.0, 30.0)
# If a server asks for a longer wait, the upload fails, and the next attempt of the step retries it.
MAX_WAIT = 300.0
THREADS = 4

# An old adapter in the repository would corrupt a newly uploaded full model: loaders apply it to the weights.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


@dataclass(frozen=True)
class Upload:
    """Upload of one export to a repository `owner/name`."""

    folder: Path
    repository: str
    token: str
    base_model_id: str
    title: str
    check_stop: Callable[[], None]
    sleep: Callable[[float], None] = time.sleep

    def __call__(self) -> str:
        """Upload what the repository lacks, commit it and return the commit.

        A missing repository is created as a private one. Retries skip files that were uploaded, and recognize a commit
        whose response was lost. Raises StepError for permanent errors, and TransientError after the last retry.
        """
        hashed: dict[str, UploadInfo] = {}
        waits = iter(WAITS)
        while True:
            self.check_stop()
            try:
                return self._once(hashed)
            except TransientError as problem:
                wait = next(waits, None)
                if wait is None or problem.seconds > MAX_WAIT:
                    raise (problem.final or problem) from None
                log.warning("%s; retrying in %.0f s", problem, max(wait, problem.seconds))
                self._wait(max(wait, problem.seconds))

    def _once(self, hashed: dict[str, UploadInfo]) -> str:
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        try:
            with uploading(self.check_stop):
                info = self._repository(api)
                additions = [card.card(self.folder, self.base_model_id, api), *self._additions(hashed)]
                # An empty .gitignore overrides the repository's, which could exclude files.
                api.preupload_lfs_files(self.repository, additions, num_threads=THREADS, gitignore_content="")
                commit = api.create_commit(
                    self.repository,
                    [*additions, *self._removals(info)],
                    commit_message=self.title,
                    num_threads=THREADS,
                    parent_commit=info.sha,  # removals were chosen from the files of this commit
                )
        except Exception as error:
            raised = job_error(error, self.repository)
            if raised is error:
                raise
            raise raised from None  # the original error contains signed URLs
        return str(commit.oid)

    def _repository(self, api: HfApi) -> ModelInfo:
        """Return the repository; create it if it does not exist."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        try:
            return api.model_info(self.repository, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            log.info("creating the private repository %s", self.repository)
        try:
            api.create_repo(self.repository, private=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # 409: somebody else has created it just now
                raise
        return api.model_info(self.repository, timeout=TIMEOUT)

    def _additions(self, hashed: dict[str, UploadInfo]) -> list[CommitOperationAdd]:
        """Return additions of all files but the model card and the manifest.

        Each attempt needs new operations, because they record what the repository has. hashed: hashes of the files, by
        name, which are kept between attempts.
        """
        from huggingface_hub import CommitOperationAdd

        additions = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in (card.NAME, manifest.NAME):
                addition = CommitOperationAdd(name, self._public(path))
                addition.upload_info = hashed.setdefault(name, addition.upload_info)
                additions.append(addition)
        return additions

    def _public(self, path: Path) -> Path | bytes:
        """Return a file without private paths.

        PEFT's adapter_config.json contains the base model's path on this machine.
        """
        public = base_model.public_name(self.base_model_id)
        if path.name != ADAPTER_CONFIG or public == self.base_model_id:
            return path
        config = json.loads(path.read_bytes())
        return json.dumps(config | {"base_model_name_or_path": public}, indent=2).encode()

    def _removals(self, info: ModelInfo) -> list[CommitOperationDelete]:
        """Return removals of earlier files that would corrupt this export.

        Only a full model needs them: adapters and GGUF files can coexist with other exports. Git history keeps the
        removed files.
        """
        from huggingface_hub import CommitOperationDelete

        uploaded = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        if not any(card.is_shard(name) for name in uploaded):
            return []
        present = [file.rfilename for file in info.siblings or ()]
        stale = [name for name in present if name in ADAPTER_FILES or card.is_shard(name)]
        return [CommitOperationDelete(name) for name in stale if name not in uploaded]

    def _wait(self, seconds: float) -> None:
        """Sleep in short intervals, and call `check_stop` before each."""
        while seconds > 0:
            self.check_stop()
            self.sleep(min(seconds, 1.0))
            seconds -= 1.0


def push(context: Context, folder: Path, artifacts: Sequence[Artifact]) -> str:
    """Upload an export to the job's repository; return its `hf://` URI.

    The URI is `hf://owner/name@commit`. artifacts: the export's copy in the objects store, which is recorded first, so
    that it is found even if the upload fails. Raises StepError, TransientError, StopRequested, Stale.
    """
    repository = context.spec.export_config.hf_repo_id
    assert repository is not None, "the rules of requests reject the destination hfhub without hf_repo_id"
    context.advance.record_artifacts(context.job.job_id, context.fence, artifacts)
    upload = Upload(
        folder,
        repository,
        _checked(read_token(lambda: context.secret("hf_token"))),
        context.spec.training_config.base_model_id,
        redact(f"{context.spec.job_name} ({context.job.job_id})"),
        context.check_stop,
    )
    return f"hf://{repository}@{upload()}"


def _checked(token: str | None) -> str:
    """Return the token if a request's header can contain it. Raises StepError.

    The HTTP client's own error would contain the token.
    """
    if token is None:
        hint = f"send a token with write access; {EXPORT_AGAIN}"
        raise StepError("hub_token_missing", "the job has no hf_token", hint=hint)
    if not token.isascii() or not token.isprintable() or " " in token:
        hint = f"copy it again; {EXPORT_AGAIN}"
        raise StepError("hub_token_refused", "the hf_token is not a token of the Hub", hint=hint)
    return token
