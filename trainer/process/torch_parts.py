"""Two parts of torch that training on one device has no use for, and that transformers, PEFT and accelerate import all
the same, to mark what should not be compiled and to ask what is spread over processes: torch's compiler, and tensors
over many devices. A process is most of a second faster without them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"
# The only other module of it that is imported early: transformers takes one class from it, for masks of its own kind.
MASKS = f"{COMPILER}._trace_wrapped_higher_order_op"
# transformers' Trainer asks whether a weight is one of these.
TENSORS = "torch.distributed.tensor"


def leave_out() -> None:
    """To be called before transformers is imported, by a process that neither compiles nor trains together with
    others. The compiler comes when something asks more of it than to leave a function alone. On a GPU nothing is left
    out: kernels there may compile, and a second is little beside loading a model."""
    import torch

    if torch.cuda.is_available():
        return
    if COMPILER not in sys.modules:
        sys.modules |= {COMPILER: _Compiler(COMPILER), MASKS: _Masks(MASKS)}
        sys.meta_path.insert(0, _PartsOfCompiler())
    if TENSORS not in sys.modules:
        sys.modules[TENSORS] = _Tensors(TENSORS)
    torch.distributed.is_available = lambda: False  # as of a torch that was built without it


class _StandIn(ModuleType):
    """A module that is imported when something is asked of it that it does not have here."""

    __file__ = None  # type: ignore[assignment]  # `inspect` asks all modules
    __path__: Sequence[str] = ()  # a package: see _PartsOfCompiler

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} has no {name} before it is imported", name=name)
        return getattr(_imported(self.__name__), name)


class _Compiler(_StandIn):
    """What is asked of a compiler that compiles nothing."""

    eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))  # what no module is

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
        return _itself if fn is None else fn

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """Of the graph that there is none."""

    @staticmethod
    def assume_constant_result(fn: Callable[..., Any]) -> Callable[..., Any]:
        return fn

    @staticmethod
    def allow_in_graph(fn: Callable[..., Any]) -> Callable[..., Any]:
        return fn


class _Masks(_StandIn):
    @staticmethod
    def TransformGetItemToIndex() -> Any:  # the name of a class
        return _imported(MASKS).TransformGetItemToIndex()


class _Tensors(_StandIn):
    DTensor = type("DTensor", (), {})  # what no tensor is


class _PartsOfCompiler(MetaPathFinder, Loader):
    """Who imports a part of the compiler gets the whole, and the part that came with it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(f"{COMPILER}.") or not isinstance(sys.modules.get(COMPILER), _Compiler):
            return None
        real = _imported(COMPILER)
        return ModuleSpec(name, self) if name in sys.modules else PathFinder.find_spec(name, real.__path__)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._spec = sys.modules[spec.name].__spec__
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _imported(name: str) -> ModuleType:
    for stood_in in (TENSORS,) if name == TENSORS else (COMPILER, MASKS):
        if isinstance(sys.modules.get(stood_in), _StandIn):
            del sys.modules[stood_in]
    return importlib.import_module(name)


def _itself(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn
