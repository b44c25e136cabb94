"""`python -m trainer` as a process: its exit code agrees with the record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gemtune.admission.platform import PlatformError
from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from trainer import __main__ as entry

# Code that runs before the trainer and makes the search for the dataset raise.
FIND_RAISES = """
import trainer.dataset.source
def find(*_, **__): raise {}
trainer.dataset.source.find = find
"""
# Code that runs before the trainer and makes the search for the dataset load torch, and with it OpenMP.
FIND_LOADS_TORCH = """
import trainer.dataset.source
find = trainer.dataset.source.find
def find_with_torch(*arguments, **options):
    import torch
    return find(*arguments, **options)
trainer.dataset.source.find = find_with_torch
"""


def run_trainer(bench: Bench, step: str, *, launch: int = 1, code: str = "", job_id: str = "") -> tuple[int, str]:
    """Run one step in a process; return its exit code and output.

    `code` runs in the process before the trainer.
    """
    program = f"{code}\nimport sys\nfrom trainer.__main__ import main\nsys.exit(main())"
    arguments = [step, "--job-id", job_id or bench.job_id, "--launch", str(launch), "--execution", "e"]
    completed = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"GEMTUNE_HOME": str(bench.services.settings.home)},
    )
    return completed.returncode, completed.stdout + completed.stderr


@pytest.fixture
def ready(bench: Bench) -> Bench:
    """Return a job that was submitted and claimed, with no step begun."""
    return submit_and_claim(bench)


def submit_and_claim(bench: Bench) -> Bench:
    bench.job_id = bench.world.submit(training=bench.training)
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)
    return bench


def test_a_finished_step_does_not_run_again(ready: Bench) -> None:
    assert run_trainer(ready, "prepare")[0] == 0
    assert ready.job.steps[Step.PREPARE].state == "done"
    code, output = run_trainer(ready, "prepare")
    assert code == 0
    assert "done already" in output
    assert ready.job.steps[Step.PREPARE].attempt == 1
    assert list(ready.services.settings.work.rglob("*.parquet")) == []


def test_bad_data_fails_the_job_and_exits_1(ready: Bench) -> None:
    ready.put("train", [{"messages": []}])
    assert run_trainer(ready, "prepare")[0] == 1
    error = ready.job.error
    assert error is not None
    assert (ready.job.status, error.code, error.step) == ("failed", "bad_rows", Step.PREPARE)


def test_a_step_of_another_launch_or_a_cancelled_job_does_not_run(ready: Bench) -> None:
    for more in ({"launch": 2}, {"job_id": "training_none"}):
        assert run_trainer(ready, "prepare", **more)[0] == 0  # type: ignore[arg-type]
    ready.services.cancel(ready.job_id)
    assert run_trainer(ready, "prepare")[0] == 0
    assert ready.job.steps[Step.PREPARE].attempt == 0


@pytest.mark.parametrize(
    ("raised", "exit_code", "cause"),
    [
        ("ConnectionError('no route with hf_fakefakefake')", 70, "ConnectionError: no route with [secret]"),
        ("OSError(28, 'No space left on device')", 70, "OSError: [Errno 28] No space left on device"),
        ("KeyboardInterrupt()", 70, "KeyboardInterrupt"),
        (
            "ImportError('\\n \\nTimmWrapperModel requires timm\\nmore')",
            70,
            "ImportError: TimmWrapperModel requires timm",
        ),
    ],
)
def test_a_crash_is_recorded_with_its_cause_and_can_be_retried(
    ready: Bench, raised: str, exit_code: int, cause: str
) -> None:
    code = FIND_RAISES.format(raised)
    assert run_trainer(ready, "prepare", code=code)[0] == exit_code
    step = ready.job.steps[Step.PREPARE]
    assert (step.state, step.cause) == ("stopped", cause)
    error = PlatformError("code 70")
    ruling = ready.services.control.step_ended(ready.job_id, ready.claim, Step.PREPARE, round_number=1, error=error)
    assert ruling.verdict == "again"
    assert run_trainer(ready, "prepare")[0] == 0


def test_a_spec_of_a_newer_version_fails_the_job_at_once(ready: Bench) -> None:
    """Training without the unknown field would give another model."""
    config, name = ready.services.buckets.config, ready.job.spec_name
    spec = json.loads(config.read(name))
    spec["training_config"]["dora"] = True
    config.write(name, json.dumps(spec).encode())
    code, output = run_trainer(ready, "prepare")
    assert (code, "Traceback" in output) == (1, False)
    assert (ready.job.error.code, ready.job.error.step) == ("spec_unreadable", Step.PREPARE)
    assert "training_config.dora" in ready.job.error.message


def test_a_spec_that_is_gone_fails_the_job_at_once(ready: Bench) -> None:
    ready.services.buckets.config.delete(ready.job.spec_name)
    assert run_trainer(ready, "prepare")[0] == 1
    assert ready.job.error.code == "spec_missing"


def test_running_out_of_memory_fails_the_job_at_once(ready: Bench) -> None:
    assert run_trainer(ready, "prepare", code=FIND_RAISES.format("MemoryError"))[0] == 1
    assert ready.job.error is not None
    assert ready.job.error.code == "out_of_memory"
    assert ready.job.error.message == "the machine ran out of memory: MemoryError"


def test_a_model_that_the_libraries_cannot_build_fails_at_the_first_attempt(bench: Bench, tmp_path: Path) -> None:
    base = shutil.copytree(bench.base, tmp_path / "unknown")
    config = json.loads((base / "config.json").read_text()) | {"return_dict": False}
    (base / "config.json").write_text(json.dumps(config))
    bench.training["base_model_id"] = str(base)
    ready = submit_and_claim(bench)
    ready.run(Step.PREPARE)
    code, output = run_trainer(ready, "train")
    assert code == 1
    assert "Traceback" in output
    error = ready.job.error
    assert error is not None
    assert (ready.job.status, error.code, error.step) == ("failed", "model_not_supported", Step.TRAIN)
    assert "AttributeError: 'tuple' object has no attribute 'last_hidden_state'" in error.message
    assert "batch_size" not in str(error.hint)


def test_a_process_whose_job_was_cancelled_exits(ready: Bench, tmp_path: Path) -> None:
    """The step hangs in a long computation, so only its heartbeat can notice."""
    ready.put("train", rows.train_rows(4))
    code = """
import time, trainer.dataset.source, trainer.process.heartbeat
trainer.process.heartbeat.SECONDS = trainer.process.heartbeat.GRACE_SECONDS = 0.1
from gemtune.bootstrap import services
def find(*_, **__):
    services().cancel(sys.argv[3])
    time.sleep(60)
trainer.dataset.source.find = find
import sys
"""
    assert run_trainer(ready, "prepare", code=code)[0] == 0
    assert ready.job.status == "cancelled"


@pytest.mark.parametrize(
    ("configured", "spins", "step"),
    [
        ({}, "1000", Step.TRAIN),
        ({"GOMP_SPINCOUNT": "7"}, "7", Step.PREPARE),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "0", Step.PREPARE),
    ],
    ids=str,
)
def test_openmp_threads_spin_briefly_unless_configured(
    ready: Bench, monkeypatch: pytest.MonkeyPatch, configured: dict[str, str], spins: str, step: Step
) -> None:
    """OpenMP prints its settings when it is loaded."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (configured | {"OMP_DISPLAY_ENV": "VERBOSE"}).items():
        monkeypatch.setenv(name, value)
    if step is Step.TRAIN:
        ready.run(Step.PREPARE)
    code, output = run_trainer(ready, step, code=FIND_LOADS_TORCH if step is Step.PREPARE else "")
    assert code == 0
    assert f"GOMP_SPINCOUNT = '{spins}'" in output


def test_a_process_that_ends_at_its_cap_leaves_no_working_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, codes = tmp_path / "train-1", []
    work.mkdir()
    (work / "large").write_bytes(b"x")
    monkeypatch.setattr(os, "_exit", codes.append)
    entry._end_process(work, 0)
    assert codes == [0]
    assert not work.exists()
