"""Causes that are recorded for a step's exceptions, and which can be retried."""

from __future__ import annotations

import pytest
import torch

from gemtune.errors import StaleAttempt, StepError
from trainer.context import StopRequested
from trainer.process.child import ChildResult
from trainer.process.crashes import cause_of, refuse_unsupported_model


class AmbiguousGlobalPerLayerAttributeError(AttributeError):
    """Stand-in for transformers' error about values that differ by layer."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("\none\ntwo"), "ValueError: one"),
        (ImportError("\r\n  \n\tone\n"), "ImportError: one"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\n"), "RuntimeError"),
        (ValueError("\nhf_fakefakefake is no token"), "ValueError: [secret] is no token"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 300),
    ],
    ids=repr,
)
def test_a_cause_is_the_type_and_the_first_line_with_text(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause


@pytest.mark.parametrize(
    "error",
    [
        ImportError("\nTimmWrapperModel requires the timm library"),
        ModuleNotFoundError("No module named 'timm'"),
        ValueError("Unrecognized configuration class"),
        KeyError("gemma99"),
        TypeError("unsupported operand type(s) for +: 'int' and 'list'"),
        AmbiguousGlobalPerLayerAttributeError("head_dim"),
        NotImplementedError("no such attention"),
        RuntimeError("Tensor on device meta is not on the expected device cpu!"),
    ],
    ids=repr,
)
def test_an_error_that_would_repeat_fails_at_the_first_attempt(error: Exception) -> None:
    with pytest.raises(StepError) as raised, refuse_unsupported_model("google/gemma-3-4b-it"):
        raise error
    assert raised.value.code == "model_not_supported"
    assert "google/gemma-3-4b-it" in raised.value.message
    assert cause_of(error) in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ConnectionError("reset by peer"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        StopRequested(),
        StaleAttempt("attempt 1 is not the running one"),
        KeyboardInterrupt(),
        StepError("unsloth_missing", "the trainer's environment has no unsloth"),
    ],
    ids=repr,
)
def test_an_error_that_may_pass_is_raised_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, refuse_unsupported_model("google/gemma-3-4b-it"):
        raise error
    assert raised.value is error


def test_a_dead_child_process_is_described_by_the_end_of_its_traceback() -> None:
    output = "Loading\nTraceback (most recent call last):\n  File x\n\nValueError:\n\nNo such model.\n\n"
    assert ChildResult(1, output).last_lines == "File x ValueError: No such model."
