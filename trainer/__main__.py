"""`python -m trainer prepare|train|export`: begins the step, runs it, and tells the truth by its exit code.

0: done, or stopped at a checkpoint, or no longer this process's to do. 1: it can never succeed, and the record says
why. Anything else: a crash, to be tried again.
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

from gemtune.bootstrap import Services, services
from gemtune.errors import JobNotFound, ObjectNotFound, RecordUnreadable, SpecUnreadable, Stale, StepError
from gemtune.jobs.record import Claim, Failure, FencingToken, Job
from gemtune.jobs.status import Step
from gemtune.redaction import RedactingFormatter, redact
from gemtune.request.spec import Spec, read_spec
from trainer.context import Context, StopRequested
from trainer.process.crashes import cause_of, is_out_of_memory
from trainer.process.heartbeat import Heartbeat
from trainer.process.thread_waiting import wait_briefly

log = logging.getLogger("trainer")

DONE, FAILED, CRASHED = 0, 1, 70


def main() -> int:
    """Returns the exit code."""
    arguments = _arguments()
    wait_briefly()
    _log_to_stdout()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    here = services()
    _go_to_unsloth(here, arguments)
    step = Step(arguments.step)
    claim = Claim(launch=arguments.launch, execution=arguments.execution)
    execution = os.environ.get("CLOUD_RUN_EXECUTION", f"local-{os.getpid()}")
    try:
        begun = here.advance.begin(arguments.job_id, step, claim, execution=execution)
    except (Stale, JobNotFound) as error:
        log.info("nothing to do: %s", error)
        return DONE
    if begun is None:
        log.info("%s is done already", step)
        return DONE
    job, fence = begun
    try:
        return _guarded(here, job, fence, arguments.seconds, stop)
    except (Stale, JobNotFound) as error:
        log.info("this attempt is no longer the one: %s", error)
        return DONE


def _go_to_unsloth(here: Services, arguments: argparse.Namespace) -> None:
    """unsloth changes what it is imported beside, so it has an environment of its own: a training by it goes on there,
    as the same process. Where that is not possible it stays, and is told so."""
    python = here.settings.unsloth_python
    if python is None or arguments.step != Step.TRAIN or sys.executable == str(python):
        return
    try:
        job = here.store.get(arguments.job_id)
        spec = read_spec(here.buckets.config.read(job.spec_name))
    except (JobNotFound, ObjectNotFound, RecordUnreadable, SpecUnreadable):  # who begins the step says so better
        return
    if spec.training_config.provider != "unsloth":
        return
    if here.settings.on_gcp:  # what is paid for as a GPU shall be one
        os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
    try:
        os.execv(python, [str(python), "-m", "trainer", *sys.argv[1:]])
    except OSError as error:
        log.error("%s cannot be run: %s", python, error)


def _guarded(here: Services, job: Job, fence: FencingToken, seconds: int | None, stop: threading.Event) -> int:
    """Run the step, and put what ends it into the record. Raises Stale, JobNotFound."""
    work = _work_folder(here, job, fence)
    try:
        with Heartbeat(lambda: here.advance.heartbeat(job.job_id, fence)) as heartbeat:
            context = _context(here, job, fence, seconds, work, stop, heartbeat)
            log.info("%s of %s begins, attempt %d", fence.step, job.job_id, fence.attempt)
            importlib.import_module(f"trainer.steps.{fence.step}").run(context)
        return DONE
    except (Stale, JobNotFound):
        raise
    except StopRequested:
        here.advance.stop(job.job_id, fence, cause="sigterm")
        return DONE
    except StepError as error:
        log.error("%s: %s", error.code, error)
        return _fail(here, job, fence, error.code, error.message, error.hint)
    except BaseException as error:
        if is_out_of_memory(error):
            hint = "lower batch_size or max_seq_length, or use a smaller base model"
            message = f"the machine's memory was not enough: {cause_of(error)}"
            return _fail(here, job, fence, "out_of_memory", message, hint)
        log.exception("%s crashed", fence.step)
        here.advance.stop(job.job_id, fence, cause=cause_of(error))
        return CRASHED
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty: another step's, or another attempt's
            work.parent.rmdir()


def _fail(here: Services, job: Job, fence: FencingToken, code: str, message: str, hint: str | None) -> int:
    failure = Failure(code=code, message=redact(message), step=fence.step, hint=hint)
    here.advance.fail(job.job_id, fence, failure)
    return FAILED


def _context(
    here: Services,
    job: Job,
    fence: FencingToken,
    seconds: int | None,
    work: Path,
    stop: threading.Event,
    heartbeat: Heartbeat,
) -> Context:
    return Context(
        job=job,
        spec=_spec(here, job),
        fence=fence,
        buckets=here.buckets,
        advance=here.advance,
        work=work,
        secret=lambda role: here.advance.secret(job, role),
        deadline=None if seconds is None else here.clock.monotonic() + seconds,
        clock=here.clock,
        should_stop=lambda: stop.is_set() or heartbeat.lost.is_set(),
        machines=here.settings.machines,
        llama_cpp=here.settings.llama_cpp,
    )


def _spec(here: Services, job: Job) -> Spec:
    """Raises StepError: another attempt would find it no better."""
    try:
        return read_spec(here.buckets.config.read(job.spec_name))
    except SpecUnreadable as error:
        raise StepError(error.code, error.message, hint=error.hint) from error
    except ObjectNotFound as error:
        raise StepError("spec_missing", f"the job's configuration is gone: {error}", hint="submit it again") from error


def _work_folder(here: Services, job: Job, fence: FencingToken) -> Path:
    """An empty folder of this attempt. What killed attempts of the same step left is removed."""
    parent = here.settings.work / job.job_id
    for old in parent.glob(f"{fence.step}-*"):
        shutil.rmtree(old, ignore_errors=True)
    work = parent / f"{fence.step}-{fence.attempt}"
    work.mkdir(parents=True)
    return work


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Run one step of a job.")
    parser.add_argument("step", choices=[step.value for step in Step])
    parser.add_argument("--job-id", required=True)
    parser.add_argument("--launch", type=int, required=True)
    parser.add_argument("--execution", required=True, help="the workflow execution that runs the job")
    parser.add_argument("--seconds", type=int, help="end by then, at a checkpoint")
    return parser.parse_args()


def _log_to_stdout() -> None:
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output], force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs each URL, and some of the Hub's are signed
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns of a package that is not needed


if __name__ == "__main__":
    sys.exit(main())
