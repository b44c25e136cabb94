"""Process that locates a model and has its tokenizer.

`python -m trainer.answers.tokenizer_process CONNECTION WORK ARGUMENTS…`. Reading a tokenizer of 262,144 tokens takes
more than a second in which no other thread of its process runs, about as long as torch's imports take. So both happen
at the same time, in two processes. Messages are pickled pairs of an error and a result: the files of the model, then
the facts about its chat template, and then the result of each call.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import Refused
from gemtune.errors import GemtuneError, StepError
from gemtune.process import parent_death
from trainer.answers.runtime import AnswerFiles, TemplateFacts, TransformersFiles, out_of_memory, parser
from trainer.base_model import folder_contents
from trainer.new_tokens import embedding
from trainer.process.crashes import is_out_of_memory

if TYPE_CHECKING:
    from trainer.rows.encoder import Encoder

PROGRAM = "trainer.answers.tokenizer_process"
T = TypeVar("T")


class TokenizerProcess:
    """The other end of a running process. Its methods are those of Encoder."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection):
        self._process, self._connection = process, connection

    @cached_property
    def files(self) -> AnswerFiles:
        """The files of the model, which are waited for. Raises StepError."""
        files: AnswerFiles = self._receive()
        return files

    @cached_property
    def template(self) -> TemplateFacts:
        """The chat template, once the tokenizer is there. Raises StepError."""
        assert isinstance(self.files, TransformersFiles), "GGUF files have their tokenizer in them"
        facts: TemplateFacts = self._receive()
        return facts

    def prompt(self, conversation: Conversation) -> list[int] | Refused:
        """Return the tokens of a conversation and the generation prompt.

        Raises StepError.
        """
        tokens: list[int] | Refused = self._call("prompt", conversation)
        return tokens

    def answer_text(self, ids: Sequence[int]) -> str:
        """Decode an answer, without special tokens."""
        text: str = self._call("answer_text", ids)
        return text

    def token_id(self, text: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        token: int | None = self._call("token_id", text)
        return token

    def _call(self, method: str, argument: object) -> Any:
        assert self.template is not None, "what the process says first is received first"
        self._connection.send((method, argument))
        return self._receive()

    def _receive(self) -> Any:
        """Return the next result.

        Raises StepError, MemoryError, RuntimeError.
        """
        try:
            error, result = self._connection.recv()
        except (EOFError, ConnectionResetError):
            ended = self._process.wait()
            if ended == -signal.SIGKILL:
                raise MemoryError(
                    "the process with the tokenizer was killed, most likely because memory ran out"
                ) from None
            raise RuntimeError(f"the process with the tokenizer ended with code {ended}") from None
        if error is not None:
            code, text, hint = error
            raise StepError(code, text, hint=hint)
        return result


@contextmanager
def start(arguments: Sequence[str], work: Path) -> Iterator[TokenizerProcess]:
    """Run the process within the block.

    arguments: those of `trainer.answers`. work: folder for copies of files.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            command = ["-P", "-m", PROGRAM, str(theirs.fileno()), str(work), *arguments]
            process = subprocess.Popen(
                parent_death.command(command, signal.SIGKILL), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        try:
            yield TokenizerProcess(process, ours)
        finally:
            process.kill()
            process.wait()


def encoder_of(files: TransformersFiles) -> Encoder:
    """Return the tokenizer and chat template of a model. Raises StepError."""
    from trainer.rows.encoder import Encoder  # takes half a second, in which the other process can import torch
    from trainer.splits.media import media_of

    config = folder_contents.config_of(files.model)
    media = media_of(files.modality, files.tokenizer, config)
    return Encoder(
        files.tokenizer,
        media=None if media is None else media.tokens,
        max_length=folder_contents.max_positions(config) or sys.maxsize,
        vocab_size=_vocab_size(files, config),
    )


def _vocab_size(files: TransformersFiles, config: Mapping[str, Any]) -> int | None:
    """Return how many tokens have embeddings, those of the adapter included."""
    rows = folder_contents.vocab_size(config)
    new_tokens = None if files.adapter is None else embedding.read(files.adapter)
    return rows if rows is None or new_tokens is None else new_tokens.rows_after(rows)


def main() -> None:
    """Locate the model, load its tokenizer, and answer calls until the end."""
    connection, work, *arguments = sys.argv[1:]
    with Connection(int(connection)) as connected, suppress(EOFError):
        _serve(connected, arguments, Path(work))


def _serve(connection: Connection, arguments: Sequence[str], work: Path) -> None:
    """Send what `TokenizerProcess` receives. Raises EOFError at its end."""
    from trainer.answers.files import locate  # imports the service's records, which takes half a second

    files = _sent(connection, lambda: locate(parser().parse_args(arguments), work))
    if not isinstance(files, TransformersFiles):
        return
    loaded = _Loaded(files)
    if _sent(connection, loaded.load) is None:
        return
    while True:
        name, argument = connection.recv()
        _sent(connection, partial(loaded.call, name, argument))


class _Loaded:
    """The tokenizer and chat template of a model."""

    def __init__(self, files: TransformersFiles):
        self._files = files

    def load(self) -> TemplateFacts:
        """Load them. Raises StepError."""
        self._encoder = encoder_of(self._files)
        return TemplateFacts.of(self._encoder.template)

    def call(self, method: str, argument: Any) -> object:
        """Call one of the methods of TokenizerProcess. Raises StepError."""
        match method:
            case "prompt":
                return self._encoder.prompt(argument)
            case "answer_text":
                return self._encoder.answer_text(argument)
            case "token_id":
                return self._encoder.token_id(argument)
        raise AssertionError(f"{method} is no method of the tokenizer's process")


def _sent(connection: Connection, work: Callable[[], T]) -> T | None:
    """Do something and send its result or its error; return the result.

    Other errors than gemtune's, and than those of memory, end the process, whose log has them.
    """
    try:
        result = work()
    except GemtuneError as error:
        refusal = error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        refusal = out_of_memory(error)
    else:
        connection.send((None, result))
        return result
    connection.send(((refusal.code, refusal.message, refusal.hint), None))
    return None


if __name__ == "__main__":
    main()
