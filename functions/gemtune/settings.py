"""Settings, read from environment variables.

No other module of gemtune reads its configuration from the environment.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gemtune import llama_cpp
from gemtune.errors import BadSetting
from gemtune.machines import cost
from gemtune.machines.choice import CPU_STEPS, LOCAL, MACHINES, WITH_MORE_MEMORY
from gemtune.untrusted import MAX_NUMBER, Unreadable, read_number

Backend = Literal["embedded", "gcp"]
# Largest price or cap, and smallest cap.
MAX_AMOUNT, LEAST_CAP = 1e9, 1e-6
# Devices of NVIDIA's and AMD's drivers for Linux, and of GPUs in WSL.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class Settings:
    """Validated settings of one process.

    Fields marked "gcp" or "embedded" matter to that backend only.
    """

    backend: Backend
    home: Path
    project_id: str
    region: str
    port: int
    config_bucket: str
    data_bucket: str
    uploads_bucket: str
    export_bucket: str
    service_hf_token: str | None  # name of the secret with the Hub token for jobs without one
    service_wandb_key: str | None  # name of the secret with the W&B key for jobs without one
    wandb_offline: bool  # training writes W&B runs to local files, which needs no key
    unsloth_python: Path | None  # interpreter with unsloth installed; without it, unsloth jobs are rejected
    prepare_timeout_seconds: int
    train_timeout_seconds: int
    export_timeout_seconds: int
    parallel_trainings: int  # embedded: maximum number of train steps that run at the same time
    at_once: Mapping[str, int]  # kind of machine -> maximum number of steps on it at the same time, where set
    usd_per_hour: Mapping[str, float]  # kind of machine -> its price, where it is not the list's
    default_max_cost_usd: float | None  # cap of jobs whose request has none
    default_max_hours: float | None
    owner_usd_per_month: float | None  # most that the jobs of one owner may take in a calendar month
    owner_hours_per_month: float | None
    max_cost_usd: float | None  # highest cap that a request may have
    max_hours: float | None
    webhooks_to_loopback: bool  # allow webhooks to this machine, and over plain HTTP
    llama_cpp: Path  # folder of the llama.cpp build; it may not exist
    hub_cache: Path  # embedded: the Hub's own cache of this machine; it may not exist
    without_gguf: bool  # gcp: the trainer image was built without llama.cpp
    mounts: Path | None  # gcp: folder with a read-only mount of each bucket, by the bucket's name
    workflow: str  # gcp: name of the deployed workflows/fine_tune.yaml
    machines: tuple[str, ...]  # machines to train on; a job gets the first that it fits on
    gateway: str | None  # gcp: service account email of the API Gateway in front of the API, if there is one
    # gcp: endpoints of emulators for services whose clients have no emulator variable of their own.
    workflows_endpoint: str | None
    run_endpoint: str | None
    secret_manager_endpoint: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read and validate the settings, from `os.environ` by default.

        Raises BadSetting, which names the variable, if a value is invalid or a required one is missing.
        """
        env = os.environ if environment is None else environment
        name = env.get("GEMTUNE_BACKEND", "embedded")
        backend = next((candidate for candidate in get_args(Backend) if candidate == name), None)
        if backend is None:
            raise BadSetting(f"GEMTUNE_BACKEND is {name!r}; use embedded or gcp")
        on_gcp = backend == "gcp"
        return cls(
            backend=backend,
            home=Path(env.get("GEMTUNE_HOME") or ".gemtune").absolute(),
            project_id=_required(env, "PROJECT_ID") if on_gcp else env.get("PROJECT_ID", "local"),
            region=_required(env, "REGION") if on_gcp else env.get("REGION", "local"),
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
            # Cloud Run limits a GPU task to one hour; a workstation has no such limit.
            train_timeout_seconds=_whole_number(env, "GEMTUNE_TRAIN_TIMEOUT_SECONDS", 3600 if on_gcp else 7 * 86400),
            export_timeout_seconds=_whole_number(env, "GEMTUNE_EXPORT_TIMEOUT_SECONDS", 3600),
            parallel_trainings=_whole_number(env, "GEMTUNE_PARALLEL_TRAININGS", 1),
            at_once=_numbers_by_name(env, "GEMTUNE_AT_ONCE"),
            usd_per_hour=_prices(env, cost.STATED, on_gcp),
            default_max_cost_usd=_cap(env, "GEMTUNE_DEFAULT_MAX_COST_USD"),
            default_max_hours=_cap(env, "GEMTUNE_DEFAULT_MAX_HOURS"),
            owner_usd_per_month=_cap(env, "GEMTUNE_OWNER_USD_PER_MONTH"),
            owner_hours_per_month=_cap(env, "GEMTUNE_OWNER_HOURS_PER_MONTH"),
            max_cost_usd=_cap(env, "GEMTUNE_MAX_COST_USD"),
            max_hours=_cap(env, "GEMTUNE_MAX_HOURS"),
            webhooks_to_loopback=_yes_or_no(env, "GEMTUNE_WEBHOOKS_TO_LOOPBACK"),
            llama_cpp=Path(env.get("GEMTUNE_LLAMA_CPP") or cache_folder(env) / llama_cpp.FOLDER).absolute(),
            hub_cache=_hub_cache(env),
            without_gguf=_yes_or_no(env, "GEMTUNE_WITHOUT_GGUF"),
            mounts=Path(env["GEMTUNE_MOUNTS"]).absolute() if on_gcp and env.get("GEMTUNE_MOUNTS") else None,
            workflow=env.get("GEMTUNE_WORKFLOW") or "fine-tune",
            machines=_machines(env) if on_gcp else (LOCAL,),
            gateway=env.get("GEMTUNE_GATEWAY") or None,
            workflows_endpoint=env.get("WORKFLOWS_EMULATOR_HOST") or None,
            run_endpoint=env.get("CLOUD_RUN_EMULATOR_HOST") or None,
            secret_manager_endpoint=env.get("SECRET_MANAGER_EMULATOR_HOST") or None,
        )

    @property
    def on_gcp(self) -> bool:
        """Return whether the backend is Google Cloud."""
        return self.backend == "gcp"

    @property
    def may_have_gpu(self) -> bool:
        """Return whether training may have a GPU; torch decides in the end."""
        return self.on_gcp or sys.platform != "linux" or any(Path(device).exists() for device in GPU_DEVICES)

    @property
    def work(self) -> Path:
        """Return the folder of working files; on Cloud Run it is in memory."""
        return Path(tempfile.gettempdir()) / "gemtune-work" if self.on_gcp else self.home / "work"

    @property
    def work_of_checks(self) -> Path:
        """Return the folder of working files of the service's own checks.

        The service removes what is in it, so nobody else may use it.
        """
        return self.work.with_name(f"{self.work.name}-of-checks")

    @property
    def local_checks(self) -> Path:
        """Return the folder for results of checks without the service.

        They belong to the user, who reads them later.
        """
        return self.home / "checks"

    @property
    def capacities(self) -> Mapping[str, int]:
        """Return how many steps may run at once on each kind of machine.

        The kinds are the machines of training, and `prepare` and `export` for the machines of these steps.
        """
        cpu_steps = dict.fromkeys(CPU_STEPS, 4 if self.on_gcp else 2)
        return {**cpu_steps, **dict.fromkeys(self.machines, 1), LOCAL: self.parallel_trainings, **self.at_once}

    @property
    def service_owner(self) -> str:
        """Return the owner of jobs from messages and files.

        Messages and files name no caller. On a workstation it owns every job.
        """
        return f"project:{self.project_id}" if self.on_gcp else "local"


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of caches that this machine's checkouts share."""
    env = os.environ if environment is None else environment
    return Path(env.get("GEMTUNE_CACHE") or Path.home() / ".cache" / "gemtune")


def _hub_cache(env: Mapping[str, str]) -> Path:
    """Return the cache of huggingface_hub, by its own variables."""
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(env.get("HF_HUB_CACHE") or Path(home) / "hub").absolute()


def _required(env: Mapping[str, str], name: str) -> str:
    """Return a variable's value. Raises BadSetting if it is missing or empty."""
    value = env.get(name)
    if not value:
        raise BadSetting(f"{name} is not set; the gcp backend needs it")
    return value


def _bucket(env: Mapping[str, str], name: str, default: str, on_gcp: bool) -> str:
    """Return a bucket's name; only the embedded backend has a default."""
    value = _required(env, name) if on_gcp else env.get(name) or default
    if "/" in value or value.startswith("."):
        raise BadSetting(f"{name} is {value!r}, which is not a bucket name")
    return value


def _interpreter(env: Mapping[str, str], name: str, on_gcp: bool) -> Path | None:
    """Return a Python interpreter's path, or None if the variable is empty.

    On gcp the path is inside the trainer image, so its existence cannot be checked.
    """
    value = env.get(name)
    if not value:
        return None
    if not on_gcp and not Path(value).is_file():
        raise BadSetting(f"{name} is {value!r}, but that file does not exist; `make unsloth` prints the right value")
    return Path(value).absolute()


def _yes_or_no(env: Mapping[str, str], name: str) -> bool:
    """Return a variable as a boolean; it is `yes` or `no`, by default no."""
    value = env.get(name) or "no"
    if value not in ("yes", "no"):
        raise BadSetting(f"{name} is {value!r}; use yes or no")
    return value == "yes"


def _machines(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the machines that GEMTUNE_MACHINES lists, in its order.

    Raises BadSetting for unknown or repeated ones.
    """
    names = tuple(name.strip() for name in (env.get("GEMTUNE_MACHINES") or "l4").split(","))
    unknown = [name for name in names if name not in MACHINES]
    if unknown or len(set(names)) < len(names):
        raise BadSetting(f"GEMTUNE_MACHINES is {','.join(names)!r}; list each machine once, from {', '.join(MACHINES)}")
    return names


def _numbers_by_name(env: Mapping[str, str], name: str) -> Mapping[str, int]:
    """Return a variable as numbers by kind of machine: `l4=2,prepare=8`.

    Raises BadSetting for unknown kinds.
    """
    values = _values_by_kind(env, name, _kinds_of_machines())
    return {
        kind: _whole_number({f"{name} for {kind}": number}, f"{name} for {kind}", 1) for kind, number in values.items()
    }


def _prices(env: Mapping[str, str], name: str, on_gcp: bool) -> Mapping[str, float]:
    """Return a variable as prices by kind of machine: `rtx-pro-6000=2.50`.

    A workstation is the only machine of its deployment: `local=0.40`. Raises BadSetting.
    """
    values = _values_by_kind(env, name, _kinds_of_machines() if on_gcp else {LOCAL})
    return {kind: _amount(f"{name} for {kind}", number, least=0.0) for kind, number in values.items()}


def _cap(env: Mapping[str, str], name: str) -> float | None:
    """Return a variable as a number above 0; None if it is empty."""
    value = env.get(name)
    return _amount(name, value, least=LEAST_CAP) if value else None


def _kinds_of_machines() -> set[str]:
    """Return the kinds of machines on Google Cloud, as slots name them."""
    return {*MACHINES, *CPU_STEPS, *(f"export-{machine}" for machine in WITH_MORE_MEMORY)}


def _values_by_kind(env: Mapping[str, str], name: str, kinds: Collection[str]) -> Mapping[str, str]:
    """Return a variable as texts by kind of machine. Raises BadSetting."""
    values: dict[str, str] = {}
    for part in filter(None, (env.get(name) or "").split(",")):
        kind, _, value = (text.strip() for text in part.partition("="))
        if kind not in kinds or kind in values:
            raise BadSetting(
                f"{name} is {part!r}; list kind=number once for each kind, from {', '.join(sorted(kinds))}"
            )
        values[kind] = value
    return values


def _amount(name: str, value: str, *, least: float) -> float:
    """Return a text as a finite number, at least `least`."""
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if not least <= amount <= MAX_AMOUNT:
        raise BadSetting(f"{name} is {value[:80]!r}; use a number of at least {least:g}, without a unit")
    return amount


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    """Return a variable as a positive integer, or the default if it is empty."""
    value = env.get(name)
    if value is None or value == "":
        return default
    try:
        return read_number(value, least=1, most=MAX_NUMBER)
    except Unreadable:
        raise BadSetting(f"{name} is {value[:80]!r}; use a positive whole number") from None
