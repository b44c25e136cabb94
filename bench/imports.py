"""`python -m bench.imports`: what a cold function spends on imports, beside one that imports every client at its start.

Each figure is the median of some fresh processes, in seconds, of importing main.py and what the calls of one
kind use; the ratio is to the baseline of the same run.
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
    everything = "; ".join([API, "import gemtune.services.acceptance.submit", *CLIENTS.values()])
    programs = {name: "; ".join([code, *(CLIENTS[c] for c in clients)]) for name, (code, clients) in KINDS.items()}
    programs[BASELINE] = everything
    figures = {name: _seconds(code) for name, code in programs.items()}
    for name, seconds in figures.items():
        print(f"{name:40} {seconds:5.2f} s  {seconds / figures[BASELINE]:4.0%}")


def _seconds(code: str) -> float:
    spent = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=FUNCTIONS, check=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
