"""Benchmark of a cold function's imports.

`python -m bench.imports`. Each number is the median of some fresh processes, in seconds, of importing main.py and what
one kind of call uses. The ratio is to a function that imports every client at its start, measured in the same run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

FUNCTIONS = Path(__file__).parent.parent / "functions"
RUNS = 7

CLIENTS = {
    "firestore": "from google.cloud import firestore",
    "pubsub": "from google.cloud import pubsub_v1",
    "storage": "from google.cloud import storage",
    "secret manager": "from google.cloud import secretmanager_v1",
    "workflows": "from google.cloud.workflows import executions_v1",
    "run": "from google.cloud import run_v2",
}
API = "import main; from gemtune.handlers import http_api; import gemtune.gcp.firestore_store"
KINDS = {
    "python and functions-framework alone": ("import functions_framework", ()),
    "api: GET /health": ("import main; from gemtune.handlers import http_api", ()),
    "api: GET /jobs, /jobs/{id}/…": (API, ("firestore",)),
    "api: POST /train without a token": (
        f"{API}; import gemtune.services.acceptance.submit",
        ("firestore", "storage", "pubsub"),
    ),
    "dispatch: a message with a job id": (f"{API}; import gemtune.services.dispatch", ("firestore", "workflows")),
    "control": ("import main; from gemtune.handlers import control_api", ("firestore",)),
    "fan_out": ("import main; from google.events.cloud.firestore import DocumentEventData", ("firestore", "pubsub")),
}
BASELINE = "everything at the start"


def main() -> None:
    """Print seconds and ratio for each kind of call."""
    everything = "; ".join([API, "import gemtune.services.acceptance.submit", *CLIENTS.values()])
    programs = {name: "; ".join([code, *(CLIENTS[c] for c in clients)]) for name, (code, clients) in KINDS.items()}
    programs[BASELINE] = everything
    medians = {name: _seconds(code) for name, code in programs.items()}
    for name, seconds in medians.items():
        print(f"{name:40} {seconds:5.2f} s  {seconds / medians[BASELINE]:4.0%}")


def _seconds(code: str) -> float:
    """Return the median seconds of a fresh process that runs the code."""
    spent = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=FUNCTIONS, check=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
