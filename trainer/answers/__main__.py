"""`python -m trainer.answers JOB`: loads a job's model and answers questions.

Questions are lines of standard input, answers lines of standard output: see `protocol`. SIGINT ends the answer that is
being generated. The exit code is 1 if the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

from gemtune.bootstrap import services
from gemtune.errors import GemtuneError, StepError
from gemtune.methods import Modality
from gemtune.request.spec import read_spec
from gemtune.settings import Settings
from trainer.answers.answering import answer
from trainer.answers.files import AnswerFiles, GgufFiles, TrainedJob, find_export, of_download
from trainer.answers.protocol import Output, Questions
from trainer.answers.runtime import Runtime
from trainer.process.crashes import PERMANENT, cause_of, is_out_of_memory
from trainer.process.imports import garbage_collection_paused
from trainer.process.thread_waiting import limit_spinning

LOADED, NOT_LOADED = 0, 1


def main() -> int:
    """Load the model, answer until standard input ends; return the exit code."""
    arguments, output, stop = _arguments(), Output(), threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    limit_spinning()
    with tempfile.TemporaryDirectory(prefix="gemtune-answers-") as work:
        try:
            runtime = _load(arguments, Path(work))
        except GemtuneError as error:
            output.error(error)
            return NOT_LOADED
        output.ready(runtime)
        questions = Questions(runtime)
        for line in sys.stdin:
            stop.clear()
            _answer(json.loads(line), questions, runtime, output, stop)
    return LOADED


def _answer(
    line: Mapping[str, Any], questions: Questions, runtime: Runtime, output: Output, stop: threading.Event
) -> None:
    """Answer one line."""
    try:
        if "file" in line:
            questions.open(Path(line["file"]), line.get("columns") or {})
        if "file" in line or "next" in line:
            output.row(questions.next_row())
        else:
            output.end(answer(runtime, questions.read(line), output.text, stop.is_set))
    except GemtuneError as error:
        output.error(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        output.error(_out_of_memory(error))


def _load(arguments: argparse.Namespace, work: Path) -> Runtime:
    """Locate and load the model. Raises GemtuneError."""
    files = _locate_and_import(arguments, work)
    try:
        if isinstance(files, GgufFiles):
            from trainer.answers.in_llama_cpp import LlamaCpp

            return LlamaCpp(files)
        from trainer.answers.in_transformers import Transformers

        return Transformers(files)
    except GemtuneError:
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise _out_of_memory(error) from error
        if not isinstance(error, (*PERMANENT, OSError)):
            raise
        message = f"the model cannot be loaded: {cause_of(error)}"
        raise StepError("model_not_loaded", message, hint="export the job again, or train again") from error


def _locate_and_import(arguments: argparse.Namespace, work: Path) -> AnswerFiles:
    """Return the files of the model, which are checked during the imports.

    Raises GemtuneError.
    """
    if arguments.format == "gguf":
        return _locate(arguments, work)
    if arguments.checkpoint is not None:
        # A checkpoint gets its chat template here. Compiling one limits the memory of the whole process, which only the
        # main thread may do, and not while libraries are imported.
        _import_libraries()
        return _locate(arguments, work)
    with ThreadPoolExecutor(1) as pool:
        locating = pool.submit(_locate, arguments, work)
        _import_libraries()
        return locating.result()


def _locate(arguments: argparse.Namespace, work: Path) -> AnswerFiles:
    """Return the files of the model. Raises GemtuneError."""
    if arguments.folder is not None:
        tools = Settings.from_environment().llama_cpp
        return of_download(arguments.folder, arguments.base_model, tools, modality=arguments.modality)
    backend = services()
    job = backend.store.get(arguments.job)
    if arguments.format is not None:
        job, spec = find_export(backend, job, arguments.format)
    else:
        spec = read_spec(backend.buckets.config.read(job.spec_name))
    trained = TrainedJob(job, spec, backend.buckets, work, backend.settings.llama_cpp)
    if arguments.checkpoint is not None:
        return trained.checkpoint(arguments.checkpoint)
    return trained.trained() if arguments.format is None else trained.exported()


def _import_libraries() -> None:
    """Import what transformers and PEFT need to load and to generate."""
    with garbage_collection_paused():
        for name in ("transformers.generation.utils", "peft", "trainer.answers.in_transformers"):
            importlib.import_module(name)
        from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _out_of_memory(error: BaseException) -> StepError:
    message = f"this machine has too little memory for the model: {cause_of(error)}"
    return StepError("out_of_memory", message, hint="use a machine with more memory, or a smaller export")


def _arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m trainer.answers", description="Answer questions.")
    parser.add_argument("job", help="id of the job")
    parser.add_argument("--format", choices=("adapter", "merged", "gguf"), help="ask the exported files")
    parser.add_argument("--folder", type=Path, help="ask the downloaded files in this folder")
    parser.add_argument("--base-model", metavar="MODEL", help="base model of a downloaded adapter")
    parser.add_argument(
        "--modality", choices=get_args(Modality), default="text", help="what the downloaded model was trained on"
    )
    parser.add_argument("--checkpoint", type=int, metavar="TRAIN_STEP", help="ask a checkpoint of the training")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
