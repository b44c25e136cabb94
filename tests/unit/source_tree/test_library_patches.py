"""None of our code patches a library or replaces its modules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.syntax import nodes_of

ROOT = Path(__file__).parents[3]
FOLDERS = ("functions", "trainer", "examples", "deploy", "bench")
OWN_PACKAGES = {"gemtune", *FOLDERS, "tests"}
# (file, replacement) -> the reason why it is allowed.
ALLOWED = {
    (
        "trainer/training/tracking/wandb_process.py",
        "sys.excepthook = …",
    ): "documented hook: one line instead of a traceback",
    ("trainer/hub/session.py", "constants.HF_HUB_DISABLE_XET = …"): "a documented setting; restored after an upload",
    ("trainer/model/engines/unsloth.py", "del sys.modules[…]"): "undoes unsloth's own replacements in TRL",
    ("bench/overhead/probe.py", "_frozen_importlib._find_and_load = …"): "measures imports; not part of a release",
    ("bench/overhead/probe.py", "setattr(…)"): "measures functions of gemtune; not part of a release",
    ("examples/sentencepiece_tokenizer.py", "setattr(…)"): "fields of a protobuf message of ours",
    ("trainer/model/on_cpu/recompute.py", "setattr(…)"): "a mark on a tensor of ours",
}
TAKES_AN_ATTRIBUTE = {"setattr", "delattr"}
CHANGES_A_MAPPING = {"update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__"}
CHANGES_A_LIST = {"insert", "append", "extend", "remove", "pop", "clear"}


def replacements(code: str) -> Iterator[str]:
    """Yield every place in the code that may patch a library.

    That is setting or deleting an attribute of something imported from elsewhere, changing sys.modules or the import
    system, taking a module by its name to change it, and using mock, which can do all of these.
    """
    nodes = nodes_of(code)
    imported = set(_imported_names(nodes))
    imported |= set(_other_names(nodes, imported))
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if _root(node) in imported or _takes_a_module(node.value) or _takes_a_class(node.value):
                yield f"{ast.unparse(node)} = …" if isinstance(node.ctx, ast.Store) else f"del {ast.unparse(node)}"
        elif isinstance(node, ast.Subscript) and _is_of_imports(node.value):
            yield f"del {ast.unparse(node.value)}[…]" if isinstance(node.ctx, ast.Del) else ast.unparse(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            if _is_namespace(node.value, imported):
                yield f"{ast.unparse(node.value)}[…]"
        elif isinstance(node, ast.Call):
            yield from _calls(node, imported)
        elif isinstance(node, ast.Import | ast.ImportFrom) and "mock" in ast.unparse(node):
            yield ast.unparse(node)


def _imported_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield names that stand for another project's module, class or function."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in OWN_PACKAGES:
            yield from (alias.asname or alias.name for alias in node.names)


def _other_names(nodes: Iterable[ast.AST], imported: set[str]) -> Iterator[str]:
    """Yield names that stand for an import or a part of one."""
    for node in nodes:
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            elements = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else ()
            yield from (node.target.id for element in elements if _root(element) in imported)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Name | ast.Attribute):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _root(node.value) in imported:
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def _calls(call: ast.Call, imported: set[str]) -> Iterator[str]:
    function = call.func
    if isinstance(function, ast.Name) and function.id in TAKES_AN_ATTRIBUTE:
        yield f"{function.id}(…)"
    elif isinstance(function, ast.Attribute):
        if ast.unparse(function) in {"type.__setattr__", "type.__delattr__"}:
            yield f"{ast.unparse(function)}(…)"
        of_imports = _is_of_imports(function.value) or _is_namespace(function.value, imported)
        if of_imports and function.attr in CHANGES_A_MAPPING | CHANGES_A_LIST:
            yield f"{ast.unparse(function)}(…)"


def _is_of_imports(node: ast.AST) -> bool:
    return ast.unparse(node) in {"sys.modules", "sys.meta_path", "sys.path_hooks"}


def _takes_a_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}


def _takes_a_class(node: ast.AST) -> bool:
    """Return whether an expression is the class of an object."""
    if isinstance(node, ast.Attribute):
        return node.attr == "__class__" or _takes_a_class(node.value)
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "type"


def _is_namespace(node: ast.AST, imported: set[str]) -> bool:
    """Return whether an expression has the attributes of an import by name."""
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return _root(node) in imported or _takes_a_class(node.value)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
        return _root(node.args[0]) in imported or _takes_a_class(node.args[0])
    return False


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.arange = print",
        "import torch.distributed as dist\ndist.is_available = lambda: False",
        "from torch.nn import Linear\nLinear.reset_parameters = print",
        "from transformers.models.gemma3 import modeling_gemma3\nmodeling_gemma3.apply_rotary_pos_emb = print",
        "def f():\n    import trl\n    trl.trainer.utils.pad = print",
        "import functools\nfunctools.lru_cache, x = print, 1",
        "import torch\ndel torch.arange",
        "import torch\nwith x as torch.arange: pass",
        "import sys\nsys.modules['bitsandbytes'] = None",
        "import sys\nsys.modules |= {'datasets': None}",
        "import sys\ndel sys.modules['trl']",
        "import sys\nsys.modules.update(datasets=None)",
        "import sys\npart = sys.modules[type(module).__module__]",
        "import sys\nsys.meta_path.insert(0, finder)",
        "import sys\nsys.meta_path += [finder]",
        "import importlib\nimportlib.import_module('torch').arange = print",
        "import torch\nlibrary: Any = torch\nlibrary.arange = print",
        "import torch\nlayer = torch.nn.Linear\nlayer.forward = print",
        "setattr(torch, 'arange', print)",
        "def f(model):\n    type(model).forward = print",
        "def f(model):\n    model.__class__.forward = print",
        "def f(model):\n    type.__setattr__(type(model), 'forward', print)",
        "import torch\nvars(torch)['arange'] = print",
        "import torch\ntorch.__dict__['arange'] = print",
        "import torch\nvars(torch).update(arange=print)",
        "from torch import nn\nfor layer in (nn.Linear, nn.Embedding):\n    layer.reset_parameters = print",
        "from unittest.mock import patch",
        "import unittest.mock as m",
    ],
)
def test_a_replacement_is_recognized(code: str) -> None:
    assert list(replacements(code))


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nhas_torch = 'torch' in sys.modules and sys.modules.get('torch')",
        "import sys\ncount = len(sys.modules)",
        "import os\nos.environ['HF_HUB_OFFLINE'] = '1'",
        "def install(module):\n    module.forward = print",
        "def install(model):\n    vars(model)['save_pretrained'] = print",
        "class A:\n    def __init__(self):\n        self.x = 1",
    ],
)
def test_other_code_is_not_mistaken_for_a_replacement(code: str) -> None:
    assert not list(replacements(code))


def test_only_allowed_places_patch_a_library() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 100
    places = {(str(path.relative_to(ROOT)), place) for path in paths for place in replacements(path.read_text())}
    assert places == ALLOWED.keys()
