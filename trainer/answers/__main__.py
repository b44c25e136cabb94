"""`python -m trainer.answers JOB`: loads a job's model and answers questions.

Questions are lines of standard input, answers lines of standard output: see `protocol`. SIGINT ends the answer that is
being generated. The exit code is 1 if the model cannot be loaded.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gemtune.errors import GemtuneError, StepError
from trainer.answers import tokenizer_process
from trainer.answers.answering import answer
from trainer.answers.protocol import Output, Questions
from trainer.answers.runtime import AnswerFiles, GgufFiles, Runtime, out_of_memory, parser
from trainer.answers.tokenizer_process import TokenizerProcess
from trainer.process.crashes import PERMANENT, cause_of, is_out_of_memory
from trainer.process.imports import garbage_collection_paused
from trainer.process.thread_waiting import limit_spinning

LOADED, NOT_LOADED = 0, 1


def main() -> int:
    """Load the model, answer until standard input ends; return the exit code."""
    output, stop = Output(), threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    limit_spinning()
    with tempfile.TemporaryDirectory(prefix="gemtune-answers-") as work, ExitStack() as stack:
        try:
            runtime = _load(sys.argv[1:], Path(work), stack)
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
        output.error(out_of_memory(error))


def _load(arguments: Sequence[str], work: Path, stack: ExitStack) -> Runtime:
    """Locate and load the model. Raises GemtuneError.

    arguments: the command line. stack: ends the process with the tokenizer.
    """
    parsed = parser().parse_args(arguments)
    if parsed.format == "gguf":
        from trainer.answers.files import locate

        return _loaded(locate(parsed, work))
    texts = stack.enter_context(tokenizer_process.start(arguments, work))
    _import_libraries()
    return _loaded(texts.files, texts)


def _loaded(files: AnswerFiles, texts: TokenizerProcess | None = None) -> Runtime:
    """Load the model. Raises GemtuneError.

    texts: the tokenizer of transformers.
    """
    try:
        if isinstance(files, GgufFiles):
            from trainer.answers.in_llama_cpp import LlamaCpp

            return LlamaCpp(files)
        from trainer.answers.in_transformers import Transformers

        return Transformers(files, texts)
    except GemtuneError:
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise out_of_memory(error) from error
        if not isinstance(error, (*PERMANENT, OSError)):
            raise
        message = f"the model cannot be loaded: {cause_of(error)}"
        raise StepError("model_not_loaded", message, hint="export the job again, or train again") from error


def _import_libraries() -> None:
    """Import what transformers needs to load and to generate."""
    with garbage_collection_paused():
        for name in ("transformers.generation.utils", "trainer.answers.in_transformers"):
            importlib.import_module(name)
        from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
