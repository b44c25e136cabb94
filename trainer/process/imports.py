"""What importing costs a process, and how it costs less: without packages that nobody here has a use for, and that
others import because they are installed; and without looking for garbage among what has come, then or ever."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from trainer.process import torch_parts


def leave_out_unused(step: Step, spec: Spec) -> None:
    """For the process of a step. It saves a training that needs neither 4 bits nor TRL two seconds, and a quarter of a
    gigabyte, and preparing rows a fifth of a second."""
    config = spec.training_config
    if step is Step.EXPORT or (step is Step.TRAIN and config.provider == "unsloth"):
        return
    by_trl = step is Step.TRAIN and config.method == "RL"
    by_8_bits = step is Step.TRAIN and config.method == "Full" and _has_gpu()
    leave_out(bitsandbytes=config.method != "QLoRA" and not by_8_bits, datasets=not by_trl)
    if not by_trl:
        sys.meta_path.insert(0, _WithoutPandas())
    if step is Step.TRAIN and not by_trl:
        with quickly():
            torch_parts.leave_out()
            import_transformers()


def leave_out(**packages: bool) -> None:
    """Make importing those that are true fail, which transformers and PEFT take for "not installed". Called once,
    before either is imported."""
    for package, is_unused in packages.items():
        if is_unused and package not in sys.modules:
            sys.modules[package] = None  # type: ignore[assignment]  # what the import system knows as "cannot be had"


def can_be_had(package: str) -> bool:
    """Whether it is installed, and not left out."""
    try:
        return find_spec(package) is not None
    except ValueError:  # it is left out
        return False


def _has_gpu() -> bool:
    with quickly():
        import torch

    return torch.cuda.is_available()


class _WithoutPandas(MetaPathFinder, Loader):
    """Arrow and TensorBoard import pandas where they find it. Arrow's compiled code takes the None of `leave_out` for a
    module; so this one can be found, as transformers wants it, and not be loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> None:
        raise ModuleNotFoundError("pandas is left out: nothing here needs it", name=spec.name)


def import_transformers() -> None:
    """It reads from some thousand files what its models are, folder by folder, and again a moment later: what it read
    is cached, but of 128 folders, and there are more. With room for all it takes a quarter of a second less."""
    lru_cache = functools.lru_cache

    def roomy(maxsize: Any = 128, typed: bool = False) -> Any:
        return lru_cache(4096)(maxsize) if callable(maxsize) else lru_cache(maxsize, typed)

    functools.lru_cache = roomy  # type: ignore[assignment]
    try:
        import transformers  # noqa: F401
    finally:
        functools.lru_cache = lru_cache


@contextmanager
def quickly() -> Iterator[None]:
    """Imports make hundreds of thousands of objects that stay: to look again and again whether some of them are garbage
    is a fifth of the time that transformers takes. Nor is it looked for among them later, which takes half a second
    each time, and as much again when Python ends. For imports that come before all else: what is garbage by then stays.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > modules:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
