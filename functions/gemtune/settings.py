"""The only reader of environment variables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gemtune import llama_cpp
from gemtune.errors import BadSetting
from gemtune.machines.choice import LOCAL, MACHINES
from gemtune.untrusted import MAX_NUMBER, Unreadable, read_number

Backend = Literal["embedded", "gcp"]


@dataclass(frozen=True, slots=True)
class Settings:
    backend: Backend
    home: Path
    project_id: str
    region: str
    port: int
    config_bucket: str
    data_bucket: str
    uploads_bucket: str
    export_bucket: str
    service_hf_token: str | None  # name of the secret that jobs without a token of their own use
    service_wandb_key: str | None  # the same for W&B
    wandb_offline: bool  # trainings keep what W&B would be told in files, and need no key
    unsloth_python: Path | None  # the interpreter that has unsloth; without it its jobs are refused
    prepare_timeout_seconds: int
    train_timeout_seconds: int
    export_timeout_seconds: int
    parallel_trainings: int  # embedded: how many train steps share this machine at once
    webhooks_to_loopback: bool  # whether a webhook may be on this machine, over plain HTTP too
    llama_cpp: Path  # where llama.cpp's tools are, if they are
    without_gguf: bool  # gcp: the image was built without llama.cpp
    workflow: str  # gcp: the name of the deployed workflows/fine_tune.yaml
    machines: tuple[str, ...]  # what can train here; of those that a job fits on it gets the first
    gateway: str | None  # gcp: the email of the API Gateway that outside callers come through
    # gcp: stand-ins of services whose clients know no emulator variable of their own.
    workflows_endpoint: str | None
    run_endpoint: str | None
    secret_manager_endpoint: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Raises BadSetting, naming the variable, when one is wrong."""
        env = os.environ if environment is None else environment
        named = env.get("GEMTUNE_BACKEND", "embedded")
        backend = next((known for known in get_args(Backend) if known == named), None)
        if backend is None:
            raise BadSetting(f"GEMTUNE_BACKEND is {named!r}; use embedded or gcp")
        on_gcp = backend == "gcp"
        return cls(
            backend=backend,
            home=Path(env.get("GEMTUNE_HOME") or ".gemtune").absolute(),
            project_id=_needed(env, "PROJECT_ID") if on_gcp else env.get("PROJECT_ID", "local"),
            region=_needed(env, "REGION") if on_gcp else env.get("REGION", "local"),
            port=_whole_number(env, "PORT", 8080),
            config_bucket=_bucket(env, "GCS_CONFIG_BUCKET_NAME", "config", on_gcp),
            data_bucket=_bucket(env, "GCS_DATA_BUCKET_NAME", "data", on_gcp),
            uploads_bucket=_bucket(env, "GCS_UPLOADS_BUCKET_NAME", "uploads", on_gcp),
            export_bucket=_bucket(env, "GCS_EXPORT_BUCKET_NAME", "export", on_gcp),
            service_hf_token=env.get("GEMTUNE_HF_TOKEN_SECRET") or None,
            service_wandb_key=env.get("GEMTUNE_WANDB_API_KEY_SECRET") or None,
            wandb_offline=env.get("WANDB_MODE") == "offline",  # W&B's own variable, which its client reads too
            unsloth_python=_interpreter(env, "GEMTUNE_UNSLOTH_PYTHON", on_gcp),
            prepare_timeout_seconds=_whole_number(env, "GEMTUNE_PREPARE_TIMEOUT_SECONDS", 3600),
            # A GPU task on Cloud Run may run for an hour; a workstation has no such limit.
            train_timeout_seconds=_whole_number(env, "GEMTUNE_TRAIN_TIMEOUT_SECONDS", 3600 if on_gcp else 7 * 86400),
            export_timeout_seconds=_whole_number(env, "GEMTUNE_EXPORT_TIMEOUT_SECONDS", 3600),
            parallel_trainings=_whole_number(env, "GEMTUNE_PARALLEL_TRAININGS", 1),
            webhooks_to_loopback=_yes_or_no(env, "GEMTUNE_WEBHOOKS_TO_LOOPBACK"),
            llama_cpp=Path(env.get("GEMTUNE_LLAMA_CPP") or cache_folder(env) / llama_cpp.FOLDER).absolute(),
            without_gguf=_yes_or_no(env, "GEMTUNE_WITHOUT_GGUF"),
            workflow=env.get("GEMTUNE_WORKFLOW") or "fine-tune",
            machines=_machines(env) if on_gcp else (LOCAL,),
            gateway=env.get("GEMTUNE_GATEWAY") or None,
            workflows_endpoint=env.get("WORKFLOWS_EMULATOR_HOST") or None,
            run_endpoint=env.get("CLOUD_RUN_EMULATOR_HOST") or None,
            secret_manager_endpoint=env.get("SECRET_MANAGER_EMULATOR_HOST") or None,
        )

    @property
    def on_gcp(self) -> bool:
        return self.backend == "gcp"

    @property
    def work(self) -> Path:
        """Where steps keep what they work on: below GEMTUNE_HOME on a workstation, in memory on Cloud Run."""
        return Path(tempfile.gettempdir()) / "gemtune-work" if self.on_gcp else self.home / "work"

    @property
    def service_owner(self) -> str:
        """Who owns what comes without a sender's name: a message, a file, and on a workstation everything."""
        return f"project:{self.project_id}" if self.on_gcp else "local"


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder for what is made once per machine and shared by its checkouts."""
    env = os.environ if environment is None else environment
    return Path(env.get("GEMTUNE_CACHE") or Path.home() / ".cache" / "gemtune")


def _needed(env: Mapping[str, str], name: str) -> str:
    value = env.get(name)
    if not value:
        raise BadSetting(f"{name} is not set; the gcp backend needs it")
    return value


def _bucket(env: Mapping[str, str], name: str, default: str, on_gcp: bool) -> str:
    value = _needed(env, name) if on_gcp else env.get(name) or default
    if "/" in value or value.startswith("."):
        raise BadSetting(f"{name} is {value!r}, which is no bucket name")
    return value


def _interpreter(env: Mapping[str, str], name: str, on_gcp: bool) -> Path | None:
    """A Python of this machine; on gcp one of the trainer's image, where functions cannot look."""
    value = env.get(name)
    if not value:
        return None
    if not on_gcp and not Path(value).is_file():
        raise BadSetting(f"{name} is {value!r}, and no such file is there; `make unsloth` says what to set")
    return Path(value).absolute()


def _yes_or_no(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name) or "no"
    if value not in ("yes", "no"):
        raise BadSetting(f"{name} is {value!r}; use yes or no")
    return value == "yes"


def _machines(env: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (env.get("GEMTUNE_MACHINES") or "l4").split(","))
    unknown = [name for name in names if name not in MACHINES]
    if unknown or len(set(names)) < len(names):
        known = ", ".join(MACHINES)
        raise BadSetting(f"GEMTUNE_MACHINES is {','.join(names)!r}; name each once, out of {known}")
    return names


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name)
    if value is None or value == "":
        return default
    try:
        return read_number(value, least=1, most=MAX_NUMBER)
    except Unreadable:
        raise BadSetting(f"{name} is {value[:80]!r}; use a whole number above 0") from None
