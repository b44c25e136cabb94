"""Exceptions that end a step: their description, and whether a retry may help."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gemtune.errors import GemtuneError, StepError
from gemtune.redaction import redact

log = logging.getLogger(__name__)

CAUSE_LENGTH = 300
# Errors that repeat with the same files, when a model is built or computes for the first time.
PERMANENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Words in torch's RuntimeErrors about the device, its driver or its libraries. Another machine may not have the error.
DEVICE_WORDS = ("CUDA", "cuDNN", "CUBLAS", "NVML")
MODEL_NOT_SUPPORTED = "model_not_supported"


def cause_of(error: BaseException) -> str:
    """Describe an exception in one line, with secrets redacted.

    The line has its type and the first line of its message that is not blank.
    """
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__
    return redact(f"{kind}: {first_line[:CAUSE_LENGTH]}" if first_line else kind)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether main memory or GPU memory ran out."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or "can't allocate memory" in str(error)


@contextmanager
def refuse_unsupported_model(base_model_id: str, *, trained: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Fail the step at once if the libraries cannot build or train the model.

    The same files give the same error each time, until `trained` says that the model finished a train_step: then the
    libraries can train it, and an error has another cause. Errors of memory, files and devices, and gemtune's own,
    pass, because another attempt may do better. Raises StepError `model_not_supported`.
    """
    try:
        yield
    except GemtuneError:
        raise
    except PERMANENT as error:
        if trained() or is_out_of_memory(error) or _is_device_error(error):
            raise
        log.exception("the libraries cannot train %s", base_model_id)
        message = f"the libraries cannot train {base_model_id}: {cause_of(error)}"
        hint = "use a base model of Gemma 1 to 4; the step's log has the whole error"
        raise StepError(MODEL_NOT_SUPPORTED, message, hint=hint) from error


def _is_device_error(error: BaseException) -> bool:
    """Return whether an error comes from the GPU rather than from the model."""
    if type(error).__name__ == "AcceleratorError":  # torch's
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in DEVICE_WORDS)
