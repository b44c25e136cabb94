"""Which part needs which environment variable, and why. A variable that settings.py reads has to be decided on here."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from gemtune.machines.choice import MACHINES, WITH_MORE_MEMORY
from tests.infra.offline import ROOT

# Settings are read as a whole, and refuse to be without these.
EVERY = (
    "GEMTUNE_BACKEND",
    "PROJECT_ID",
    "REGION",
    "GCS_CONFIG_BUCKET_NAME",
    "GCS_DATA_BUCKET_NAME",
    "GCS_UPLOADS_BUCKET_NAME",
    "GCS_EXPORT_BUCKET_NAME",
)
# Accepts requests (api, dispatch, ingest), names the job of a step (control), decides at last (prepare).
CHOOSES = {"gemtune-api", "gemtune-dispatch", "gemtune-ingest", "gemtune-control", "gemtune-prepare"}
# Answers the workflow, or takes a silent step for lost.
TIMES = {"gemtune-control", "gemtune-sweep"}
# Refuses a request that the images could not carry out.
ACCEPTS = {"gemtune-api", "gemtune-dispatch", "gemtune-ingest"}
SOME: Mapping[str, set[str]] = {
    "GEMTUNE_MACHINES": CHOOSES,
    "GEMTUNE_WITHOUT_GGUF": ACCEPTS,
    "GEMTUNE_WORKFLOW": {"gemtune-api", "gemtune-dispatch", "gemtune-sweep"},  # cancel; start; start, look and stop
    "GEMTUNE_PREPARE_TIMEOUT_SECONDS": TIMES,
    "GEMTUNE_TRAIN_TIMEOUT_SECONDS": TIMES,
    "GEMTUNE_EXPORT_TIMEOUT_SECONDS": TIMES,
}
# Only where a variable of Terraform asks for it. The first tells outside callers apart; the second reads and writes the
# Hub; the third tells W&B, and refuses what would need a key that nobody has; the last is accepted, and run.
IF_ASKED_FOR: Mapping[str, set[str]] = {
    "GEMTUNE_GATEWAY": {"gemtune-api"},
    "GEMTUNE_HF_TOKEN_SECRET": {
        "gemtune-prepare",
        "gemtune-export",
        *(f"gemtune-export-{name}" for name in WITH_MORE_MEMORY),
    },
    "GEMTUNE_WANDB_API_KEY_SECRET": {*ACCEPTS, *(f"gemtune-train-{name}" for name in MACHINES)},
    "GEMTUNE_UNSLOTH_PYTHON": {*ACCEPTS, *(f"gemtune-train-{name}" for name in MACHINES)},
}
NOT_DEPLOYED: Mapping[str, str] = {
    "GEMTUNE_HOME": "the workstation's folder",
    "PORT": "Cloud Run sets it",
    "GEMTUNE_LLAMA_CPP": "the image knows where it put the tools",
    "GEMTUNE_CACHE": "the workstation's folder for what is built once",
    "WANDB_MODE": "files to send later, on the workstation",
    "GEMTUNE_PARALLEL_TRAININGS": "the workstation's turns",
    "GEMTUNE_WEBHOOKS_TO_LOOPBACK": "a receiver on the workstation",
    "WORKFLOWS_EMULATOR_HOST": "a stand-in",
    "CLOUD_RUN_EMULATOR_HOST": "a stand-in",
    "SECRET_MANAGER_EMULATOR_HOST": "a stand-in",
}


def read_by_settings() -> set[str]:
    """Every variable that settings.py names: the upper-case words among its strings."""
    tree = ast.parse((ROOT / "functions" / "gemtune" / "settings.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in words if word.isascii() and word.replace("_", "").isupper() and "_" in word} | {
        word for word in words if word in ("PORT", "REGION")
    }


def needed_by(component: str, *, everything: bool = False) -> set[str]:
    """The variables of a function or a Cloud Run job; `everything`: with all that is optional."""
    some = {**SOME, **(IF_ASKED_FOR if everything else {})}
    return {*EVERY, *(name for name, components in some.items() if component in components)}
