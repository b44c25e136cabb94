"""How a step's exceptions are told, and which of them another attempt could mend."""

from __future__ import annotations

import pytest
import torch

from gemtune.errors import StaleAttempt, StepError
from trainer.context import StopRequested
from trainer.process.child import Ended
from trainer.process.crashes import cause_of, refuse_unsupported_model


class AmbiguousGlobalPerLayerAttributeError(AttributeError):
    """Raised by transformers where a value of a configuration differs by layer."""


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
def test_a_cause_is_the_type_and_the_first_line_that_says_something(error: BaseException, cause: str) -> None:
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
def test_what_fails_the_same_way_each_time_is_tried_once(error: Exception) -> None:
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
def test_what_may_pass_by_itself_is_left_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, refuse_unsupported_model("google/gemma-3-4b-it"):
        raise error
    assert raised.value is error


def test_a_child_that_died_is_told_by_the_end_of_its_traceback() -> None:
    said = "Loading\nTraceback (most recent call last):\n  File x\n\nValueError:\n\nNo such model.\n\n"
    assert Ended(1, said).last_words == "File x ValueError: No such model."
