"""Table of environment variables: who reads each of them, and its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Reader = Literal["service", "command line", "make", "trainer", "tests"]


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable.

    setting: the field of Settings that it becomes, which also shows its default.
    default: the default in words, for a variable without a setting.
    """

    reader: Reader
    meaning: str
    setting: str | None = None
    default: str | None = None


VARIABLES: Mapping[str, Variable] = {
    "GEMTUNE_BACKEND": Variable(
        "service", "`embedded` for one workstation, `gcp` for Google Cloud, whose names are then required", "backend"
    ),
    "GEMTUNE_HOME": Variable("service", "folder of a workstation's database, buckets and work files", "home"),
    "PORT": Variable("service", "port of `gemtune up`; the command line calls the same one", "port"),
    "PROJECT_ID": Variable("service", "the Google Cloud project", "project_id"),
    "REGION": Variable("service", "the Google Cloud region of workflow and jobs", "region"),
    "GCS_CONFIG_BUCKET_NAME": Variable("service", "bucket of job configurations", "config_bucket"),
    "GCS_DATA_BUCKET_NAME": Variable("service", "bucket of datasets", "data_bucket"),
    "GCS_UPLOADS_BUCKET_NAME": Variable("service", "bucket that job files are dropped into", "uploads_bucket"),
    "GCS_EXPORT_BUCKET_NAME": Variable("service", "bucket of everything that jobs write", "export_bucket"),
    "GEMTUNE_HF_TOKEN_SECRET": Variable(
        "service", "name of the secret with the Hub token for jobs without one", "service_hf_token"
    ),
    "GEMTUNE_WANDB_API_KEY_SECRET": Variable(
        "service", "name of the secret with the W&B key for jobs without one", "service_wandb_key"
    ),
    "WANDB_MODE": Variable(
        "service", "`offline` keeps what W&B would be sent in files of the job; W&B's own variable", "wandb_offline"
    ),
    "GEMTUNE_UNSLOTH_PYTHON": Variable(
        "service", "Python of an environment with unsloth; without it provider unsloth is refused", "unsloth_python"
    ),
    "GEMTUNE_PREPARE_TIMEOUT_SECONDS": Variable(
        "service", "how long one execution of prepare may take", "prepare_timeout_seconds"
    ),
    "GEMTUNE_TRAIN_TIMEOUT_SECONDS": Variable(
        "service",
        "how long one execution of train may take; it then ends at a checkpoint, and another one resumes it",
        "train_timeout_seconds",
    ),
    "GEMTUNE_EXPORT_TIMEOUT_SECONDS": Variable(
        "service", "how long one execution of export may take", "export_timeout_seconds"
    ),
    "GEMTUNE_PARALLEL_TRAININGS": Variable(
        "service", "how many train steps share a workstation at once", "parallel_trainings"
    ),
    "GEMTUNE_AT_ONCE": Variable(
        "service",
        "how many steps may run at once on each kind of machine, as `l4=2,prepare=8`; the kinds are the machine types, "
        "`prepare`, `export` and `export-rtx-pro-6000`; without an entry 1, and for prepare and export 4 (on a "
        "workstation 2)",
        "at_once",
    ),
    "GEMTUNE_USD_PER_HOUR": Variable(
        "service",
        "prices of machines in USD per hour where the list has others or none, as `rtx-pro-6000=2.50`, or of a "
        "workstation `local=0.40`",
        "usd_per_hour",
    ),
    "GEMTUNE_DEFAULT_MAX_COST_USD": Variable(
        "service", "`max_cost_usd` of jobs whose request has none", "default_max_cost_usd"
    ),
    "GEMTUNE_DEFAULT_MAX_HOURS": Variable("service", "`max_hours` of jobs whose request has none", "default_max_hours"),
    "GEMTUNE_MAX_COST_USD": Variable(
        "service", "highest `max_cost_usd` that a request may have; a request without one gets it", "max_cost_usd"
    ),
    "GEMTUNE_MAX_HOURS": Variable(
        "service", "highest `max_hours` that a request may have; a request without one gets it", "max_hours"
    ),
    "GEMTUNE_OWNER_USD_PER_MONTH": Variable(
        "service", "most that the jobs of one owner may cost in a calendar month (UTC)", "owner_usd_per_month"
    ),
    "GEMTUNE_OWNER_HOURS_PER_MONTH": Variable(
        "service",
        "most hours that the steps of one owner's jobs may run in a calendar month (UTC)",
        "owner_hours_per_month",
    ),
    "GEMTUNE_WEBHOOKS_TO_LOOPBACK": Variable(
        "service", "`yes` allows webhooks on this machine, over plain HTTP too", "webhooks_to_loopback"
    ),
    "GEMTUNE_LLAMA_CPP": Variable("service", "folder of llama.cpp's tools, which `make llama` fills", "llama_cpp"),
    "GEMTUNE_WITHOUT_GGUF": Variable(
        "service", "`yes` refuses GGUF exports, where the trainer's image has no llama.cpp", "without_gguf"
    ),
    "GEMTUNE_MOUNTS": Variable(
        "service",
        "folder with a read-only mount of each bucket, by the bucket's name, from which train and export read weights "
        "on Google Cloud; without it they are copied to the local disk, which is memory there",
        "mounts",
    ),
    "GEMTUNE_WORKFLOW": Variable("service", "name of the deployed workflow", "workflow"),
    "GEMTUNE_MACHINES": Variable(
        "service",
        "the machine types that may train, separated by commas; a job gets the first that it fits on",
        "machines",
    ),
    "GEMTUNE_GATEWAY": Variable(
        "service", "email of the API Gateway's account, through which outside callers come", "gateway"
    ),
    "WORKFLOWS_EMULATOR_HOST": Variable("service", "stand-in for Cloud Workflows", "workflows_endpoint"),
    "CLOUD_RUN_EMULATOR_HOST": Variable("service", "stand-in for Cloud Run", "run_endpoint"),
    "SECRET_MANAGER_EMULATOR_HOST": Variable("service", "stand-in for Secret Manager", "secret_manager_endpoint"),
    "HF_HUB_CACHE": Variable(
        "service", "the Hub's own cache, whose base models `gemtune models` lists; the Hub's variable", "hub_cache"
    ),
    "HF_HOME": Variable(
        "service", "folder of the Hub's cache `hub`; the Hub's variable", default="`~/.cache/huggingface`"
    ),
    "XDG_CACHE_HOME": Variable("service", "folder of caches, among them the Hub's", default="`~/.cache`"),
    "GEMTUNE_CACHE": Variable(
        "service",
        "folder for what is made once per machine: llama.cpp, the demo's base model, unsloth's environment",
        default="`~/.cache/gemtune`",
    ),
    "GEMTUNE_URL": Variable(
        "command line", "the service to call; `make smoke` reads it too", default="`http://127.0.0.1:$PORT`"
    ),
    "GEMTUNE_ID_TOKEN": Variable("command line", "identity token for a private service, which lasts an hour"),
    "GEMTUNE_PROFILE": Variable(
        "command line", "profile of the service to call", default="the one that `gemtune config use` set"
    ),
    "GEMTUNE_CONFIG": Variable(
        "command line", "file of the profiles, which only its owner may read", default="`~/.config/gemtune/config.json`"
    ),
    "GEMTUNE_DEBUG": Variable("command line", "any value prints the calls to the service, as `--debug` does"),
    "XDG_CONFIG_HOME": Variable("command line", "folder of `gemtune/config.json`", default="`~/.config`"),
    "CLOUD_RUN_EXECUTION": Variable("trainer", "name of the step's execution; set by Cloud Run"),
    "PYTHON": Variable(
        "make", "the Python that makes `.venv`", default="`python3`, else the newest of 3.14 to 3.11 that is there"
    ),
    "TORCH_INDEX": Variable(
        "make", "package index that torch comes from", default="PyTorch's CPU builds; with an NVIDIA GPU, PyPI"
    ),
    "YES": Variable("make", "`yes`: `make deploy` and `make destroy` do not ask", default="`no`"),
    "UNSLOTH": Variable("make", "`yes`: the images that are built have provider unsloth too", default="`no`"),
    "DELETE_DATA": Variable("make", "`yes`: `make destroy` removes buckets and records too", default="`no`"),
    "BUILD_REGION": Variable(
        "make", "region of Cloud Build for images", default="`REGION` if builds are open to all there, else one near it"
    ),
    "STATE_BUCKET": Variable("make", "bucket of Terraform's state", default="no bucket: `build/PROJECT_ID/`"),
    "IGNORE_QUOTAS": Variable("make", "`yes`: `make deploy` goes on if quotas are too small", default="`no`"),
    "NAME": Variable("make", "what `make output` prints, an output of Terraform", default="`api_url`"),
    "REQUEST": Variable("make", "file with a request that `make smoke` submits and follows"),
    "WANDB_BASE_URL": Variable("trainer", "a W&B server of your own; W&B's own variable", default="W&B's"),
    "GEMTUNE_TESTS_MAY_SKIP": Variable("tests", "`no` counts a skipped test as failed", default="`yes`"),
    "GEMTUNE_SCHEDULES": Variable(
        "tests", "how many random schedules of faults the tests of schedules run", default="`10`"
    ),
    "GEMTUNE_CLOUD_SDK": Variable(
        "tests", "folder of the Google Cloud SDK with its emulators", default="what `gcloud info` says"
    ),
}
