"""Imports between this project's modules, read from their source.

Imports inside functions, imports under TYPE_CHECKING, and modules that are only named in strings count like any other:
`importlib.import_module(f"trainer.steps.{step}")`, `[sys.executable, "-m", "trainer"]`, the text of a program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Literal

from tests.syntax import tree_of

# The folder of the repository that holds each of our packages.
PARENTS: Mapping[str, str] = {
    "gemtune": "functions",
    "main": "functions",
    "trainer": ".",
    "bench": ".",
    "deploy": ".",
    "docs": ".",
    "examples": ".",
    "tests": ".",
}
_OURS = "gemtune|trainer|bench|deploy|examples"
_NAME = re.compile(rf"(?:{_OURS})(?:\.\w+)+")
_PROGRAM_LINE = re.compile(rf"^\s*(?:from (?:{_OURS})[\w.]* import .+|import (?:{_OURS})(?:\.\w+)*)$", re.MULTILINE)

# types: under TYPE_CHECKING. name: a string that is a module's name. process: `python -m`, or a program's text.
How = Literal["import", "types", "name", "process"]


@dataclass(frozen=True, slots=True)
class Arrow:
    """Import of one module by another.

    Our modules have their full name, others the name in the statement.
    """

    importer: str
    imported: str
    line: int
    how: How

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: {self.how} of {self.imported}"


@dataclass(frozen=True, slots=True)
class Tree:
    """All modules of a repository and the imports between them.

    dead_names: names in strings that look like one of our modules and are none.
    """

    root: Path
    modules: Mapping[str, Path]
    arrows: Sequence[Arrow]
    dead_names: Sequence[str]

    def room_of(self, module: str) -> str:
        """Return the folder of a module, which is its room.

        Files directly in `gemtune` and `trainer` are rooms of their own.
        """
        if self.is_package(module):
            return module
        folder = module.rpartition(".")[0]
        return module if folder in ("", "gemtune", "trainer") else folder

    def is_package(self, module: str) -> bool:
        return self.modules[module].name == "__init__.py"

    def of(self, packages: Collection[str]) -> Tree:
        """Return the modules of some packages, and their imports."""
        modules = {name: path for name, path in self.modules.items() if name.partition(".")[0] in packages}
        return Tree(
            self.root,
            modules,
            [arrow for arrow in self.arrows if arrow.importer in modules],
            [name for name in self.dead_names if name.partition(",")[0] in modules],
        )

    def inner_arrows(self) -> Iterator[Arrow]:
        """Return the arrows from one of our modules to another."""
        return (arrow for arrow in self.arrows if arrow.imported in self.modules and arrow.imported != arrow.importer)

    def rooms(self) -> set[str]:
        return {self.room_of(module) for module in self.modules}

    def files_by_folder(self) -> dict[str, list[str]]:
        """Return the names of the modules in each package, without `__init__`."""
        folders: dict[str, list[str]] = {module: [] for module in self.modules if self.is_package(module)}
        for module in self.modules:
            folder, _, name = module.rpartition(".")
            if folder and not self.is_package(module):
                folders[folder].append(name)
        return folders

    def reached_from(self, module: str) -> list[Arrow]:
        """Return the arrows that a process follows when it runs this module.

        Lazy imports are followed too.
        """
        followed: list[Arrow] = []
        waiting, visited = [module], {module}
        while waiting:
            current = waiting.pop()
            for arrow in self.arrows:
                if arrow.importer == current and arrow.how in ("import", "name"):
                    followed.append(arrow)
                    if arrow.imported in self.modules and arrow.imported not in visited:
                        visited.add(arrow.imported)
                        waiting.append(arrow.imported)
        return followed


def read(root: Path, packages: Collection[str] = tuple(PARENTS)) -> Tree:
    """Read every module of these packages."""
    modules: dict[str, Path] = {}
    for package in packages:
        folder = root / PARENTS[package]
        for path in sorted([*(folder / package).rglob("*.py"), *folder.glob(f"{package}.py")]):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    trees = {module: tree_of(path.read_text()) for module, path in modules.items()}
    names = {module: set(_names_defined(tree)) for module, tree in trees.items()}
    arrows: list[Arrow] = []
    dead: list[str] = []
    for module, tree in trees.items():
        reader = _Reader(module, modules[module].name == "__init__.py", names)
        reader.read(tree)
        arrows += reader.arrows
        dead += reader.dead_names
    return Tree(root, modules, arrows, dead)


def circle(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Return the nodes of one circle, in order; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for start, end in arrows:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        nodes: list[str] = error.args[1]
        return nodes[::-1]  # graphlib lists predecessors
    return []


def _names_defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


@dataclass
class _Reader(ast.NodeVisitor):
    """Visitor that collects the arrows of one module."""

    module: str
    is_package: bool
    names: Mapping[str, Collection[str]]  # of each of our modules, what it defines
    arrows: list[Arrow] = field(default_factory=list)
    dead_names: list[str] = field(default_factory=list)
    _for_types: bool = False
    _passed: set[ast.AST] = field(default_factory=set)

    def read(self, tree: ast.Module) -> None:
        self.visit(tree)

    def visit_Module(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Pass over the docstring."""
        self._passed |= {statement.value for statement in node.body[:1] if isinstance(statement, ast.Expr)}
        self.generic_visit(node)

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = visit_Module

    def visit_If(self, node: ast.If) -> None:
        before, self._for_types = self._for_types, "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body:
            self.visit(statement)
        self._for_types = before
        for part in (node.test, *node.orelse):
            self.visit(part)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(self._nearest(alias.name) or alias.name, node.lineno, self._how)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.module.split(".")[: len(self.module.split(".")) - node.level + self.is_package]
            base = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            self._add(name if name in self.names else base, node.lineno, self._how)

    def visit_List(self, node: ast.List | ast.Tuple | ast.Call) -> None:
        """Add the module after `-m` in the arguments of a process."""
        elements = node.args if isinstance(node, ast.Call) else node.elts
        for flag, name in pairwise(elements):
            if isinstance(flag, ast.Constant) and flag.value == "-m" and isinstance(name, ast.Constant):
                self._passed.add(name)
                if str(name.value).partition(".")[0] in PARENTS:
                    self._add_process(str(name.value), node.lineno)
        self.generic_visit(node)

    visit_Tuple = visit_Call = visit_List

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or node in self._passed:
            return
        if _NAME.fullmatch(node.value):
            self._add_name(node.value, node.lineno, "name")
            return
        for line in _PROGRAM_LINE.findall(node.value):
            self._add_program(line.strip(), node.lineno)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Add all modules that an f-string may name.

        `f"trainer.steps.{step}"` may be any module of trainer.steps.
        """
        start = node.values[0] if node.values else None
        text = start.value if isinstance(start, ast.Constant) else ""
        if isinstance(text, str) and _NAME.fullmatch(f"{text}x"):
            folder = text.rpartition(".")[0]
            members = [module for module in self.names if module.rpartition(".")[0] == folder]
            if not members:
                self.dead_names.append(f"{self.module}, line {node.lineno}: {text}…")
            for member in members:
                self._add(member, node.lineno, "name")
        self.generic_visit(node)

    @property
    def _how(self) -> How:
        return "types" if self._for_types else "import"

    def _add(self, imported: str, line: int, how: How) -> None:
        self.arrows.append(Arrow(self.module, imported, line, how))

    def _add_process(self, name: str, line: int) -> None:
        module = f"{name}.__main__" if f"{name}.__main__" in self.names else name
        if module not in self.names:
            self.dead_names.append(f"{self.module}, line {line}: python -m {name}")
        self._add(module, line, "process")

    def _add_name(self, name: str, line: int, how: How) -> None:
        module = self._nearest(name)
        rest = name.removeprefix(module).lstrip(".").partition(".")[0]
        if not module or (rest and rest not in self.names[module]):
            self.dead_names.append(f"{self.module}, line {line}: {name}")
            return
        self._add(module, line, how)

    def _add_program(self, program: str, line: int) -> None:
        try:
            statements = ast.parse(program).body
        except SyntaxError:  # prose that begins like an import
            return
        for statement in statements:
            imported = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom):
                imported = [f"{statement.module}.{alias.name}" for alias in statement.names]
            for name in imported:
                if _NAME.fullmatch(name):
                    self._add_name(name, line, "process")

    def _nearest(self, name: str) -> str:
        """Return the longest prefix of a dotted name that is our module."""
        while name and name not in self.names:
            name = name.rpartition(".")[0]
        return name
