"""TensorBoard and W&B show a run; their failures never affect the job."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from tests.trainer.steps.test_train import after_steps
from tests.trainer.wandb_server import WandbServer, wandb_server
from trainer.training.tracking import wandb_process, wandb_run

KEY = "f" * 24 + "a" * 16  # fake, in the form of W&B's keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the user's home, to which W&B's client is known to write."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def wandb_state(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Run a server of W&B, which a busy machine may keep waiting."""
    monkeypatch.setattr("trainer.training.tracking.wandb_run.FINISH_SECONDS", 240.0)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@pytest.fixture
def tracked_bench_of(bench_of: Callable[..., Bench]) -> Callable[..., Bench]:
    """Return a factory of prepared jobs that report to W&B."""

    def make(api_key: str | None = KEY, **training: Any) -> Bench:
        bench = bench_of(**training)
        bench.fields |= {"job_name": "red boats", "wandb_config": {"project": "boats", "api_key": api_key}}
        bench.run(Step.PREPARE)
        return bench

    return make


def scalars(bench: Bench, attempt: int) -> dict[str, dict[int, float]]:
    """Return tag -> train_step -> value, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = bench.services.buckets.export.uri(f"jobs/{bench.job_id}/tensorboard/{attempt}")
    events = EventAccumulator(folder)
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_curve_of_each_attempt(bench: Bench) -> None:
    bench.training |= {"eval_strategy": "steps", "eval_steps": 4}
    bench.run(Step.PREPARE)
    bench.run(Step.TRAIN, should_stop=after_steps(5))
    bench.run(Step.TRAIN)
    first, second = scalars(bench, 1), scalars(bench, 2)
    curve = dict(bench.curve())
    assert first["train/loss"] == pytest.approx({step: curve[step] for step in range(1, 6)})
    assert second["train/loss"] == pytest.approx({step: curve[step] for step in range(6, 9)})
    metrics = bench.job.metrics
    assert metrics is not None
    assert metrics.baseline is not None
    assert first["baseline/loss"] == pytest.approx({0: metrics.baseline.eval_loss})
    assert second["eval/accuracy"][8] == pytest.approx(metrics.accuracy)
    assert set(first["eval/loss"]) == {4}
    assert set(first["train/learning_rate"]) == set(first["train/tokens_per_second"]) == set(range(1, 6))


def test_tensorboard_data_up_to_a_checkpoint_is_stored_with_it(bench: Bench) -> None:
    bench.run(Step.PREPARE)
    stored_steps: list[set[int]] = []

    def record_steps() -> bool:
        if bench.job.steps[Step.TRAIN].checkpoint:  # the checkpoint of train_step 3
            stored_steps.append(set(scalars(bench, 1)["train/loss"]))
        return False

    bench.run(Step.TRAIN, should_stop=record_steps)
    assert stored_steps[0] == {1, 2, 3}


def test_wandb_has_one_run_for_all_attempts(tracked_bench_of: Callable[..., Bench], wandb_state: WandbServer) -> None:
    bench = tracked_bench_of()
    bench.run(Step.TRAIN, should_stop=after_steps(5))
    url = bench.job.wandb_url
    bench.run(Step.TRAIN)
    assert url == bench.job.wandb_url == f"{wandb_state.url}/us/boats/runs/{bench.job_id}"
    (run,) = wandb_state.runs.values()
    losses = [(row["_step"], row["train/loss"]) for row in run["history"] if "train/loss" in row]
    assert losses == bench.curve()
    assert (run["name"], run["project"], run["finished"]) == ("red boats", "boats", [0, 0])
    final = run["history"][-1]
    metrics = bench.job.metrics
    assert metrics is not None
    assert (final["eval/loss"], final["eval/perplexity"]) == (metrics.eval_loss, metrics.perplexity)
    assert run["history"][0]["baseline/loss"] == pytest.approx(metrics.baseline.eval_loss)  # type: ignore[union-attr]
    config = run["config"]["training_config"]["value"]
    assert (config["method"], config["learning_rate"]) == ("LoRA", 0.005)
    assert {"train/learning_rate", "train/tokens_per_second"} <= set(final) | set(run["history"][-2])
    assert wandb_state.keys == {KEY}


@pytest.mark.parametrize(
    ("project", "entity", "name"), [("boats", None, "boats"), ("us/boats", "us", "boats"), (None, None, "gemtune")]
)
def test_a_project_may_be_named_with_its_entity(
    bench: Bench, project: str | None, entity: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fields["wandb_config"] = {"api_key": KEY} | ({} if project is None else {"project": project})
    monkeypatch.setattr(wandb_run, "WandbRun", lambda opening, *_: opening)
    opening: Any = wandb_run.start(bench.to(Step.PREPARE).context(Step.TRAIN))
    assert (opening["entity"], opening["project"], opening["api_key"]) == (entity, name, KEY)


def test_the_key_is_only_in_the_secret_store_and_sent_to_wandb(
    tracked_bench_of: Callable[..., Bench], wandb_state: WandbServer, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = tracked_bench_of()
    bench.run(Step.TRAIN)
    secrets = bench.services.settings.home / "secrets"
    holders = [
        path
        for path in bench.services.settings.home.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes() and not path.is_relative_to(secrets)
    ]
    assert holders == []
    assert KEY not in caplog.text
    assert "wandb" in caplog.text.lower()
    assert list(home.iterdir()) == []
    (run,) = wandb_state.runs.values()
    assert KEY not in str(run)


@pytest.mark.parametrize("outage", ["refused", "denied", "broken", "silent"])
def test_a_job_completes_without_wandb(
    tracked_bench_of: Callable[..., Bench],
    wandb_state: WandbServer,
    outage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("trainer.training.tracking.wandb_run.FINISH_SECONDS", 2.0)
    if outage == "refused":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb_state.status = {"denied": 403, "broken": 500}.get(outage, 200)
    wandb_state.silent = outage == "silent"
    bench = tracked_bench_of()
    bench.run(Step.TRAIN)
    assert bench.job.steps[Step.TRAIN].state == "done"
    assert bench.job.wandb_url is None
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message for message in warnings if "W&B" in message]
    if outage == "silent":  # W&B itself would wait for minutes
        assert [message for message in warnings if "did not receive everything within 2 s" in message]


def test_a_job_completes_when_wandb_dies_during_training(
    tracked_bench_of: Callable[..., Bench],
    wandb_state: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from trainer.training.tracking.wandb_run import WandbRun

    runs: list[WandbRun] = []
    monkeypatch.setattr(WandbRun, "persist", lambda run: runs.append(run) or run._process.kill())  # type: ignore[func-returns-value]
    bench = tracked_bench_of()
    bench.run(Step.TRAIN)
    assert runs
    assert bench.job.steps[Step.TRAIN].state == "done"
    assert "continues without it" in caplog.text


def test_the_file_of_an_offline_run_is_complete_when_it_is_announced(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B's service process writes the end of the file when it ends."""
    import wandb

    teardown, sizes, printed = wandb.teardown, list[int](), list[str]()

    def end_the_service() -> None:
        teardown()
        printed.append(capsys.readouterr().out)
        sizes.extend(file.stat().st_size for file in home.glob("wandb/offline-*/*.wandb"))

    opening = {"api_key": KEY, "entity": None, "project": "boats", "name": "red boats", "run_id": "j1"}
    messages = [opening | {"config": {}, "seconds": 60}, {"train_step": 1, "metrics": {"loss": 1.0}}, {"exit_code": 0}]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(home))
    monkeypatch.setattr(wandb, "teardown", end_the_service)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(message)}\n" for message in messages)))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the process sets its own
    assert wandb_process.main() == 0
    assert not [line for line in printed[0].splitlines() if line.startswith(wandb_run.FILE)]
    (announced,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(wandb_run.FILE)]
    assert sizes == [Path(announced.removeprefix(wandb_run.FILE)).stat().st_size]


def test_the_offline_file_of_wandb_can_be_synchronized_later(
    tracked_bench_of: Callable[..., Bench], wandb_state: WandbServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    bench = tracked_bench_of()
    bench.run(Step.TRAIN)
    assert (bench.job.wandb_url, wandb_state.operations) == (None, [])
    (stored,) = bench.services.buckets.export.list(f"jobs/{bench.job_id}/wandb/1/")
    file = bench.services.buckets.export.uri(stored.name)
    assert KEY.encode() not in Path(file).read_bytes()
    environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_MODE": "online", "WANDB_DIR": str(home)}
    sync = [sys.executable, "-m", "wandb", "sync", file]
    subprocess.run(sync, env=environment, check=True, capture_output=True)
    history = wandb_state.runs[bench.job_id]["history"]
    assert [(row["_step"], row["train/loss"]) for row in history if "train/loss" in row] == bench.curve()


def test_a_process_of_wandb_that_reads_nothing_does_not_hold_up_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr(wandb_run.sys, "executable", str(program))
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0)
    run = wandb_run.WandbRun({"api_key": None}, tmp_path / "wandb", lambda prefix, rest: None)

    def log_more_than_a_pipe_holds() -> None:
        for train_step in range(3000):
            run.log(train_step, {"loss": 1.0, "learning_rate": 0.001})

    thread = threading.Thread(target=log_more_than_a_pipe_holds, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    run.close(failed=False)
    assert "W&B receives no more metrics (BlockingIOError)" in caplog.text


def test_wandb_gets_neither_code_nor_the_state_of_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **options: opened.append(options))
    names = ("api_key", "entity", "project", "name", "run_id", "config")
    wandb_process._open_run({**dict.fromkeys(names), "seconds": 5})
    settings = opened[0]["settings"]
    assert (settings.disable_code, settings.disable_git, settings.console, settings.quiet) == (True, True, "off", True)
    assert (settings.init_timeout, settings.finish_timeout) == (wandb_process.INIT_SECONDS, 5)
