"""`gemtune demo`: the real Gemma 3 270M, fine-tuned on this machine through the whole service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import Connection, Unreachable
from gemtune.cli.follow import follow
from gemtune.process import parent_death
from gemtune.settings import Settings

DATASET = "capitals"
SAMPLES = 3
START_SECONDS, STOP_SECONDS = 120.0, 60.0


def run(examples: str) -> int:
    """Run the demo; return its exit code: 0 when the job completed and the held-out loss fell."""
    folder = Path(examples).absolute()
    if not (folder / DATASET / "train.jsonl").is_file():
        click.echo(f"the demo's dataset is not in {folder}; run it in a checkout, or name the folder by --examples")
        return 2
    settings = Settings.from_environment()
    began = time.monotonic()
    _put_dataset(folder / DATASET, settings)
    base = _base_model(folder)
    click.echo("starting the service")
    with _service(settings) as connection:
        job_id = connection.call("POST", "/train", json=_request(base))["job_id"]
        click.echo(f"submitted {job_id}")
        code = follow(connection, job_id)
        job = connection.call("GET", f"/jobs/{job_id}/status")
    summary = _summary(job, total=time.monotonic() - began)
    (settings.home / "demo.json").write_text(json.dumps(summary, indent=1) + "\n")
    if code != 0:
        click.echo(f"demo: {job['status']} {job_id}")
        return code
    _print_figures(summary)
    _print_samples(folder, base, job["adapter_path"])
    if not summary["after"]["eval_loss"] < summary["before"]["eval_loss"]:
        click.echo(f"demo: the held-out loss did not fall in {job_id}")
        return 1
    click.echo(f"demo: completed {job_id}")
    return 0


def _request(base: str) -> dict[str, Any]:
    training = {
        "method": "LoRA",
        "base_model_id": base,
        "learning_rate": 5e-4,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        # A base model knows no turns: after 20 of these it ends one with a probability of 7%, after 40 with 85%.
        "max_steps": 40,
        "save_steps": 20,
        "warmup_ratio": 0.1,
    }
    return {"processed_dataset_id": DATASET, "job_name": "gemtune demo", "training_config": training}


def _base_model(examples: Path) -> str:
    """Return the folder of the base model, built in a process of its own the first time.

    What that process says of its progress goes to standard error, as it comes.
    """
    command = [sys.executable, "-m", "examples.build_base_model"]
    built = subprocess.run(command, cwd=examples.parent, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise click.ClickException(f"the base model could not be built ({_how_it_ended(built.returncode)}); see above")
    return built.stdout.strip().rpartition("\n")[2]


def _how_it_ended(returncode: int) -> str:
    """Tell an exit code from a signal; SIGKILL mostly means that memory ran out."""
    if returncode >= 0:
        return f"exit code {returncode}"
    out_of_memory = ", perhaps for want of memory" if returncode == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-returncode).name}{out_of_memory}"


def _put_dataset(source: Path, settings: Settings) -> None:
    target = settings.home / settings.data_bucket / "processed_datasets" / DATASET
    target.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copyfile(source / name, target / name)


@contextmanager
def _service(settings: Settings) -> Iterator[Connection]:
    """`gemtune up` on $PORT, or on a free port when that is not set, for as long as the demo needs it."""
    port = settings.port if os.environ.get("PORT") else 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            message = f"port {port} is taken; stop what listens there, or run `make demo PORT=…`"
            raise click.ClickException(message) from None
        port = probe.getsockname()[1]
    log = settings.home / "server.log"
    with log.open("ab") as output:
        up = ["-c", "from gemtune.cli import main; main()", "up", "--port", str(port)]
        command = parent_death.command(up, signal.SIGTERM)  # kill -9 of the demo stops it, too
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        connection = Connection(f"http://127.0.0.1:{port}", as_json=False)
        _wait_until_healthy(connection, server, log)
        yield connection
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # what it was about to do it does at its next start
            server.kill()
            server.wait()


def _wait_until_healthy(connection: Connection, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            connection.ask("GET", "/health")
            return
        except Unreachable:
            time.sleep(0.1)
    raise click.ClickException(f"the service did not start:\n{log.read_text()[-2000:]}")


def _summary(job: dict[str, Any], *, total: float) -> dict[str, Any]:
    metrics = job["metrics"] or {}
    names = ("eval_loss", "accuracy", "perplexity")
    return {
        "job_id": job["job_id"],
        "status": job["status"],
        "adapter_path": job["adapter_path"],
        "before": {name: (metrics.get("baseline") or {}).get(name) for name in names},
        "after": {name: metrics.get(name) for name in names},
        "seconds": {name: step["seconds"] for name, step in job["steps"].items()} | {"total": round(total, 1)},
    }


def _print_samples(examples: Path, base: str, adapter: str) -> None:
    held_out = (examples / DATASET / "eval.jsonl").read_text().splitlines()
    questions = [json.loads(line)["messages"][0]["content"] for line in held_out[:SAMPLES]]
    click.echo(f"asking {SAMPLES} held-out questions before and after: less than a minute on 2 cores")
    command = [sys.executable, "-m", "examples.sample_answers", base, adapter, *questions]
    answered = subprocess.run(command, cwd=examples.parent, stdout=subprocess.PIPE, text=True, check=False)
    if answered.returncode != 0:
        how = _how_it_ended(answered.returncode)
        raise click.ClickException(f"the sample answers could not be made ({how}); the adapter is whole: {adapter}")
    answers = json.loads(answered.stdout.strip().rpartition("\n")[2])
    for question, before, after in zip(questions, answers["before"], answers["after"], strict=True):
        click.echo(f"\n{question}\n  before: {' '.join(before.split())}\n  after:  {' '.join(after.split())}")


def _print_figures(summary: dict[str, Any]) -> None:
    click.echo(f"\n{'held-out rows':14}{'before':>12}{'after':>12}")
    for name in summary["before"]:
        click.echo(f"{name:14}{summary['before'][name]:12.4f}{summary['after'][name]:12.4f}")
    seconds = ", ".join(f"{name} {taken:.1f} s" for name, taken in summary["seconds"].items())
    click.echo(f"\nadapter: {summary['adapter_path']}\ntime: {seconds}")
