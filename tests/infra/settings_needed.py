"""Environment variables of each component, and the reasons.

Every variable that settings.py reads must be listed here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from gemtune.machines import cost
from gemtune.machines.choice import MACHINES, WITH_MORE_MEMORY
from tests.infra.offline import ROOT

# Required by every component, as settings are read as a whole.
EVERY = (
    "GEMTUNE_BACKEND",
    "PROJECT_ID",
    "REGION",
    "GCS_CONFIG_BUCKET_NAME",
    "GCS_DATA_BUCKET_NAME",
    "GCS_UPLOADS_BUCKET_NAME",
    "GCS_EXPORT_BUCKET_NAME",
)
# Components that choose a machine: they accept requests, name the job of a step (control), or decide (prepare).
CHOOSES = {"gemtune-api", "gemtune-dispatch", "gemtune-ingest", "gemtune-control", "gemtune-prepare"}
# Components that know timeouts: they answer the workflow, or replace steps without a heartbeat.
TIMES = {"gemtune-control", "gemtune-sweep"}
# Components that accept requests, and refuse those that the images do not support.
ACCEPTS = {"gemtune-api", "gemtune-dispatch", "gemtune-ingest"}
# Jobs that read weights from the buckets' mounts.
READS_WEIGHTS = {
    "gemtune-export",
    *(f"gemtune-train-{name}" for name in MACHINES),
    *(f"gemtune-export-{name}" for name in WITH_MORE_MEMORY),
}
# Components that plan, admit steps, or end before a job takes more than it may.
LIMITS_COST = {
    *ACCEPTS,
    "gemtune-control",
    "gemtune-prepare",
    "gemtune-export",
    *(f"gemtune-train-{name}" for name in MACHINES),
    *(f"gemtune-export-{name}" for name in WITH_MORE_MEMORY),
}
# Components of LIMITS_COST, and those that only enter into accounts what jobs have taken.
COUNTS_COST = LIMITS_COST | {"gemtune-fan-out", "gemtune-sweep"}
# Services that hold prices or accounts -> components that call them. Submit has the planner and the accounts inside.
COUNTED_IN: Mapping[str, set[str]] = {
    "Planner": {*ACCEPTS, "gemtune-prepare", "gemtune-control"},
    "OwnerBudgets": LIMITS_COST,
    "Advance": LIMITS_COST - {*ACCEPTS, "gemtune-control"},
    "Control": {"gemtune-control"},
    "Resume": {"gemtune-api"},
    "Delete": {"gemtune-api"},
    "FanOut": {"gemtune-fan-out"},
    "Sweep": {"gemtune-sweep"},
}
SOME: Mapping[str, set[str]] = {
    "GEMTUNE_MACHINES": CHOOSES,
    "GEMTUNE_AT_ONCE": {"gemtune-control"},
    "GEMTUNE_WITHOUT_GGUF": ACCEPTS,
    "GEMTUNE_WORKFLOW": {
        "gemtune-api",
        "gemtune-dispatch",
        "gemtune-sweep",
    },  # to cancel; to start; to start, watch and stop
    "GEMTUNE_MOUNTS": READS_WEIGHTS,
    "GEMTUNE_PREPARE_TIMEOUT_SECONDS": TIMES,
    "GEMTUNE_TRAIN_TIMEOUT_SECONDS": TIMES,
    "GEMTUNE_EXPORT_TIMEOUT_SECONDS": TIMES,
}
# Only with a variable of Terraform: to identify callers from outside; to read from and write to the Hub; to report to
# W&B, and to refuse requests that would lack a key; to accept and run trainings with unsloth.
IF_ASKED_FOR: Mapping[str, set[str]] = {
    "GEMTUNE_GATEWAY": {"gemtune-api"},
    "GEMTUNE_HF_TOKEN_SECRET": {
        "gemtune-prepare",
        "gemtune-export",
        *(f"gemtune-export-{name}" for name in WITH_MORE_MEMORY),
    },
    "GEMTUNE_WANDB_API_KEY_SECRET": {*ACCEPTS, *(f"gemtune-train-{name}" for name in MACHINES)},
    "GEMTUNE_UNSLOTH_PYTHON": {*ACCEPTS, *(f"gemtune-train-{name}" for name in MACHINES)},
    "GEMTUNE_USD_PER_HOUR": COUNTS_COST,
    "GEMTUNE_OWNER_USD_PER_MONTH": LIMITS_COST,
    "GEMTUNE_OWNER_HOURS_PER_MONTH": LIMITS_COST,
    "GEMTUNE_DEFAULT_MAX_COST_USD": ACCEPTS,
    "GEMTUNE_DEFAULT_MAX_HOURS": ACCEPTS,
    "GEMTUNE_MAX_COST_USD": ACCEPTS,
    "GEMTUNE_MAX_HOURS": ACCEPTS,
}
NOT_DEPLOYED: Mapping[str, str] = {
    "GEMTUNE_HOME": "the workstation's folder",
    "PORT": "Cloud Run sets it",
    "GEMTUNE_LLAMA_CPP": "the image sets it",
    "GEMTUNE_CACHE": "the workstation's folder for files that are built once",
    "HF_HUB_CACHE": "the Hub's cache on the workstation, whose base models are listed",
    "HF_HOME": "the workstation's folder of that cache",
    "XDG_CACHE_HOME": "the workstation's folder of caches",
    "WANDB_MODE": "offline runs on the workstation",
    "GEMTUNE_PARALLEL_TRAININGS": "how many steps share a workstation",
    "GEMTUNE_WEBHOOKS_TO_LOOPBACK": "a receiver on the workstation",
    "WORKFLOWS_EMULATOR_HOST": "a stand-in",
    "CLOUD_RUN_EMULATOR_HOST": "a stand-in",
    "SECRET_MANAGER_EMULATOR_HOST": "a stand-in",
}


def read_by_settings() -> set[str]:
    """Return the variables that settings.py names.

    These are the upper-case words among its strings, and the name that the module `cost` has for one.
    """
    tree = ast.parse((ROOT / "functions" / "gemtune" / "settings.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in words if word.isascii() and word.replace("_", "").isupper() and "_" in word} | {
        cost.STATED,
        *(word for word in words if word in ("PORT", "REGION")),
    }


def services_that_count_cost() -> set[str]:
    """Return the classes of services with a field of prices or accounts."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "functions" / "gemtune" / "services").rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        each.name
        for each in classes
        for field in each.body
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) in ("Prices", "OwnerBudgets")
    }


def needed_by(component: str, *, everything: bool = False) -> set[str]:
    """Return the variables of a function or Cloud Run job.

    everything: include all that are optional.
    """
    some = {**SOME, **(IF_ASKED_FOR if everything else {})}
    return {*EVERY, *(name for name, components in some.items() if component in components)}
