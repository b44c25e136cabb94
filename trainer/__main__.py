"""`python -m trainer prepare|train|export`: runs one attempt of a step.

`python -m trainer check` checks a dataset without a job: see `trainer.check.process`.

Exit codes: 0 if the step is done, stopped at a checkpoint, or is another process's; 1 if it can never succeed, for the
reason in the record; any other code is a crash, after which the step is tried again.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from gemtune.bootstrap import Services, services
from gemtune.errors import JobNotFound, ObjectNotFound, RecordUnreadable, SpecUnreadable, Stale, StepError
from gemtune.jobs.record import Claim, Failure, FencingToken, Job
from gemtune.jobs.status import Step
from gemtune.jobs.steps import COST_CAP
from gemtune.redaction import RedactingFormatter, redact
from gemtune.request.spec import Spec, read_spec
from trainer.context import Context, StopRequested
from trainer.process.age import seconds_since_start
from trainer.process.cap_guard import CapGuard
from trainer.process.crashes import cause_of, is_out_of_memory
from trainer.process.heartbeat import Heartbeat
from trainer.process.thread_waiting import limit_spinning

log = logging.getLogger("trainer")

DONE, FAILED, CRASHED = 0, 1, 70


def main() -> int:
    """Begin the step, run it, and return the exit code."""
    if sys.argv[1:2] == ["check"]:
        from trainer.check import process

        return process.main(sys.argv[2:])
    arguments = _arguments()
    limit_spinning()
    _set_up_logging()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    backend = services()
    _switch_to_unsloth(backend, arguments)
    step = Step(arguments.step)
    claim = Claim(launch=arguments.launch, execution=arguments.execution)
    execution = os.environ.get("CLOUD_RUN_EXECUTION", f"local-{os.getpid()}")
    try:
        begun = backend.advance.begin(arguments.job_id, step, claim, execution=execution, age=seconds_since_start())
    except (Stale, JobNotFound) as error:
        log.info("nothing to do: %s", error)
        return DONE
    if begun is None:
        log.info("%s is done already, or the job is paused", step)
        return DONE
    job, fence = begun
    try:
        return _run_step(backend, job, fence, arguments.seconds, stop)
    except (Stale, JobNotFound) as error:
        log.info("this attempt no longer owns the job: %s", error)
        return DONE


def _switch_to_unsloth(backend: Services, arguments: argparse.Namespace) -> None:
    """Replace this process by one with unsloth's Python, if the job needs it.

    unsloth patches the packages that it is installed with, so it has an environment of its own. If that Python cannot
    be run, this process continues, and its train step reports that unsloth is missing.
    """
    python = backend.settings.unsloth_python
    if python is None or arguments.step != Step.TRAIN or sys.executable == str(python):
        return
    try:
        job = backend.store.get(arguments.job_id)
        spec = read_spec(backend.buckets.config.read(job.spec_name))
    except (JobNotFound, ObjectNotFound, RecordUnreadable, SpecUnreadable):  # beginning the step raises a clearer error
        return
    if spec.training_config.provider != "unsloth":
        return
    if backend.settings.on_gcp:  # a paid GPU must not silently be replaced by the CPU
        os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
    try:
        os.execv(python, [str(python), "-P", "-m", "trainer", *sys.argv[1:]])
    except OSError as error:
        log.error("%s cannot be run: %s", python, error)


def _run_step(backend: Services, job: Job, fence: FencingToken, seconds: int | None, stop: threading.Event) -> int:
    """Run the step, and record how it ended unless it is done.

    Returns the exit code. Raises StaleClaim or StaleAttempt, and JobNotFound.
    """
    work = _work_folder(backend, job, fence)
    try:
        with Heartbeat(lambda: backend.advance.heartbeat(job.job_id, fence)) as heartbeat:
            context = _context(backend, job, fence, seconds, work, stop, heartbeat)
            log.info("%s of %s begins, attempt %d", fence.step, job.job_id, fence.attempt)
            with CapGuard(
                context.seconds_over_cap,
                lambda: backend.advance.stop(job.job_id, fence, cause=COST_CAP),
                suspended=context.trains,
                exit_process=lambda code: _end_process(work, code),
            ):
                importlib.import_module(f"trainer.steps.{fence.step}").run(context)
        return DONE
    except (Stale, JobNotFound):
        raise
    except StopRequested as request:
        log.info("%s stops: %s", fence.step, request.cause)
        backend.advance.stop(job.job_id, fence, cause=request.cause)
        return DONE
    except StepError as error:
        log.error("%s: %s", error.code, error)
        return _fail(backend, job, fence, error.code, error.message, error.hint)
    except BaseException as error:
        if is_out_of_memory(error):
            hint = "lower batch_size or max_seq_length, or use a smaller base model"
            message = f"the machine ran out of memory: {cause_of(error)}"
            return _fail(backend, job, fence, "out_of_memory", message, hint)
        log.exception("%s crashed", fence.step)
        backend.advance.stop(job.job_id, fence, cause=cause_of(error))
        return CRASHED
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty: it also holds folders of other steps or attempts
            work.parent.rmdir()


def _end_process(work: Path, code: int) -> NoReturn:
    """End the process at once, without its folder of working files.

    A paused job may never be resumed, and the folder can hold gigabytes.
    """
    shutil.rmtree(work, ignore_errors=True)
    os._exit(code)


def _fail(backend: Services, job: Job, fence: FencingToken, code: str, message: str, hint: str | None) -> int:
    """Record that the job failed for good; return the exit code."""
    failure = Failure(code=code, message=redact(message), step=fence.step, hint=hint)
    backend.advance.fail(job.job_id, fence, failure)
    return FAILED


def _context(
    backend: Services,
    job: Job,
    fence: FencingToken,
    seconds: int | None,
    work: Path,
    stop: threading.Event,
    heartbeat: Heartbeat,
) -> Context:
    """Return the context of this attempt."""
    left = backend.advance.seconds_left(job, fence.step)
    return Context(
        job=job,
        spec=_spec(backend, job),
        fence=fence,
        buckets=backend.buckets,
        advance=backend.advance,
        work=work,
        secret=lambda role: backend.advance.secret(job, role),
        deadline=None if seconds is None else backend.clock.monotonic() + seconds,
        clock=backend.clock,
        cap_reached_at=None if left is None or fence.began is None else fence.began + left,
        should_stop=lambda: stop.is_set() or heartbeat.lost.is_set(),
        should_pause=heartbeat.pausing.is_set,
        machines=backend.settings.machines,
        llama_cpp=backend.settings.llama_cpp,
        mounted=backend.settings.mounts is not None,
        on_done=heartbeat.end,
    )


def _spec(backend: Services, job: Job) -> Spec:
    """Read the job's specification.

    Raises StepError if it is missing or unreadable, since a retry would not help.
    """
    try:
        return read_spec(backend.buckets.config.read(job.spec_name))
    except SpecUnreadable as error:
        raise StepError(error.code, error.message, hint=error.hint) from error
    except ObjectNotFound as error:
        raise StepError("spec_missing", f"the job's configuration is gone: {error}", hint="submit it again") from error


def _work_folder(backend: Services, job: Job, fence: FencingToken) -> Path:
    """Create an empty folder for this attempt.

    Folders of earlier attempts of this step, left by killed processes, are deleted.
    """
    parent = backend.settings.work / job.job_id
    for old in parent.glob(f"{fence.step}-*"):
        shutil.rmtree(old, ignore_errors=True)
    work = parent / f"{fence.step}-{fence.attempt}"
    work.mkdir(parents=True)
    return work


def _arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Run one step of a job.")
    parser.add_argument("step", choices=[step.value for step in Step])
    parser.add_argument("--job-id", required=True)
    parser.add_argument("--launch", type=int, required=True)
    parser.add_argument("--execution", required=True, help="the workflow execution that runs the job")
    parser.add_argument("--seconds", type=int, help="stop after this time, at a checkpoint")
    return parser.parse_args()


def _set_up_logging() -> None:
    """Log to stdout, with secrets redacted."""
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs URLs, and some of the Hub's contain signatures
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns about a package that is not needed


if __name__ == "__main__":
    sys.exit(main())
