"""`gemtune demo`: fine-tunes the real Gemma 3 270M through a local service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from gemtune.cli.connection import ENDED, INTERRUPTED, Connection, starting
from gemtune.cli.connection.follow import follow
from gemtune.cli.connection.interrupts import explaining_interrupt
from gemtune.cli.connection.text import echo_message
from gemtune.process import parent_death
from gemtune.settings import Settings

DATASET, JOB_NAME = "capitals", "gemtune demo"
SAMPLES = 3
STOP_SECONDS = 60.0


def run(examples: str) -> int:
    """Run the demo and return its exit code.

    The code is 0 if the job completed and the held-out loss decreased.
    """
    folder = Path(examples).absolute()
    if not (folder / DATASET / "train.jsonl").is_file():
        click.echo(f"the demo's dataset is not in {folder}; run the demo in a checkout, or specify --examples")
        return 2
    settings = Settings.from_environment()
    start = time.monotonic()
    _copy_dataset(folder / DATASET, settings)
    base = _base_model(folder)
    click.echo("Starting the service")
    with _service(settings) as connection:
        job_id = _unfinished_job(connection)
        if job_id is None:
            job_id = connection.call("POST", "/train", json=_request(base))["job_id"]
            click.echo(f"Submitted job {job_id}")
        else:
            click.echo(f"Going on with job {job_id}, which an earlier demo left")
        code = follow(connection, job_id, interrupt=partial(_cancel, connection))
        if code == INTERRUPTED:
            return code
        job = connection.call("GET", f"/jobs/{job_id}/status")
    summary = _summary(job, total=time.monotonic() - start)
    (settings.home / "demo.json").write_text(json.dumps(summary, indent=1) + "\n")
    if code != 0:
        click.echo(f"Demo ended with a job that is {job['status']}: {job_id}")
        return code
    _print_metrics(summary)
    _print_samples(folder, base, job["adapter_path"])
    if not summary["after"]["eval_loss"] < summary["before"]["eval_loss"]:
        click.echo(f"Demo failed: the held-out loss did not decrease in {job_id}")
        return 1
    click.echo(f"Demo completed: {job_id}")
    return 0


def _unfinished_job(connection: Connection) -> str | None:
    """Return the job of an earlier demo that is not over, or None.

    One is left where the demo was killed. Of several, all but the newest are cancelled.
    """
    jobs = connection.call("GET", "/jobs", params={"limit": 200})["jobs"]
    unfinished = [job["job_id"] for job in jobs if job["job_name"] == JOB_NAME and job["status"] not in ENDED]
    for job_id in unfinished[1:]:
        connection.call("POST", f"/jobs/{job_id}/cancel")
    newest = next(iter(unfinished), None)
    if newest is not None and connection.call("GET", f"/jobs/{newest}/status")["status"] == "paused":
        connection.call("POST", f"/jobs/{newest}/resume")
    return newest


def _cancel(connection: Connection, job_id: str) -> int:
    """Cancel the demo's job after Ctrl-C; return the exit code."""
    connection.call("POST", f"/jobs/{job_id}/cancel")
    echo_message(f"\nCancelled job {job_id}")
    return INTERRUPTED


def _request(base: str) -> dict[str, Any]:
    """Return the training request; `base` is the folder of the base model."""
    training = {
        "method": "LoRA",
        "base_model_id": base,
        "learning_rate": 5e-4,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        # A base model does not end its turns. After 20 steps it does with a probability of 7%, after 40 with 85%.
        "max_steps": 40,
        "save_steps": 20,
        "warmup_ratio": 0.1,
    }
    return {"processed_dataset_id": DATASET, "job_name": JOB_NAME, "training_config": training}


def _base_model(examples: Path) -> str:
    """Return the folder of the base model; build it if it does not exist.

    The build runs in its own process, which prints its progress to standard error.
    """
    code, printed = _run_example(examples, ["examples.build_base_model"], signal.SIGINT)
    if code != 0:
        raise click.ClickException(f"could not build the base model ({_exit_reason(code)}); see the output above")
    return printed.strip().rpartition("\n")[2]


def _run_example(examples: Path, arguments: Sequence[str], stop: signal.Signals) -> tuple[int, str]:
    """Run a program of examples; return its exit code and what it printed.

    stop: the signal that it gets after Ctrl-C, which does not reach it, and when this process dies.
    """
    command = parent_death.command(["-m", *arguments], stop)
    program = subprocess.Popen(
        command,
        cwd=examples.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = program.communicate()
    except BaseException:
        program.send_signal(stop)
        program.communicate()
        raise
    return program.returncode, printed


def _exit_reason(returncode: int) -> str:
    """Describe the exit code of a process, or the signal that ended it.

    SIGKILL usually comes from the out-of-memory killer.
    """
    if returncode >= 0:
        return f"exit code {returncode}"
    out_of_memory = ", probably out of memory" if returncode == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-returncode).name}{out_of_memory}"


def _copy_dataset(source: Path, settings: Settings) -> None:
    """Copy the demo's dataset to the data bucket of this machine's service."""
    target = settings.home / settings.data_bucket / "processed_datasets" / DATASET
    target.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copyfile(source / name, target / name)


@contextmanager
def _service(settings: Settings) -> Iterator[Connection]:
    """Run `gemtune up` for the block, on $PORT or else on a free port."""
    port = settings.port if os.environ.get("PORT") else 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            message = f"port {port} is in use; stop the process that uses it, or run `make demo PORT=…`"
            raise click.ClickException(message) from None
        port = probe.getsockname()[1]
    log = starting.log_file(settings.home)
    with log.open("ab") as output:
        up = [*starting.UP, "--port", str(port)]
        command = parent_death.command(up, signal.SIGTERM)  # stops the server even if the demo is killed with SIGKILL
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        connection = Connection(f"http://127.0.0.1:{port}", as_json=False)
        starting.wait_until_healthy(connection, server, log)
        yield connection
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()  # safe: a server recovers unfinished work when it starts again
            server.wait()


def _summary(job: dict[str, Any], *, total: float) -> dict[str, Any]:
    """Return held-out metrics before and after, and durations in seconds.

    `total` is the duration of the whole demo.
    """
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
    """Print the answers of base model and adapter to held-out questions."""
    held_out = (examples / DATASET / "eval.jsonl").read_text().splitlines()
    questions = [json.loads(line)["messages"][0]["content"] for line in held_out[:SAMPLES]]
    click.echo(f"Answering {SAMPLES} held-out questions before and after (less than a minute on 2 cores)")
    arguments = ["examples.sample_answers", base, adapter, *questions]
    with explaining_interrupt(f"The training is done, only the sample answers are not. The adapter: {adapter}"):
        code, printed = _run_example(examples, arguments, signal.SIGKILL)
    if code != 0:
        reason = _exit_reason(code)
        message = f"could not generate sample answers ({reason}); the adapter itself is complete: {adapter}"
        raise click.ClickException(message)
    answers = json.loads(printed.strip().rpartition("\n")[2])
    for question, before, after in zip(questions, answers["before"], answers["after"], strict=True):
        click.echo(f"\n{question}\n  before: {' '.join(before.split())}\n  after:  {' '.join(after.split())}")


def _print_metrics(summary: dict[str, Any]) -> None:
    """Print the held-out metrics, the adapter's path and the durations."""
    click.echo(f"\n{'held-out rows':14}{'before':>12}{'after':>12}")
    for name in summary["before"]:
        click.echo(f"{name:14}{summary['before'][name]:12.4f}{summary['after'][name]:12.4f}")
    durations = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary["seconds"].items())
    click.echo(f"\nadapter: {summary['adapter_path']}\ntime: {durations}")
