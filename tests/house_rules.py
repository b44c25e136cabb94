"""Rules of the source tree.

Each rule returns sentences that name what breaks it; none if nothing does.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from tests.import_graph import Tree, circle

MOST_FILES = 12
MOST_LINES = 300
# Importing one of these imports torch.
TORCH = frozenset({"torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "unsloth", "liger_kernel"})

Exemptions = Mapping[tuple[str, str], str]  # (importer, imported) -> reason


def forbidden_arrows(tree: Tree, allowed: Mapping[str, Collection[str]], exempt: Exemptions) -> list[str]:
    """Find imports between rooms that the table does not allow."""
    problems = []
    for arrow in tree.inner_arrows():
        room, target = tree.room_of(arrow.importer), tree.room_of(arrow.imported)
        if room == target or room not in allowed or target in allowed[room]:
            continue
        if (arrow.importer, arrow.imported) not in exempt:
            problems.append(f"{arrow}; {room} may not import {target}")
    return problems


def rooms_without_a_place(tree: Tree, allowed: Collection[str]) -> list[str]:
    """Find rooms that are missing in the table, and entries without a room."""
    rooms = tree.rooms()
    missing = [f"{room}: say in the table of rooms what it may import" for room in sorted(rooms - set(allowed))]
    return missing + [f"{room}: there is no such room" for room in sorted(set(allowed) - rooms)]


def needless_exemptions(tree: Tree, exempt: Exemptions) -> list[str]:
    """Find exemptions that are no longer needed."""
    arrows = {(arrow.importer, arrow.imported) for arrow in tree.arrows}
    return [
        f"{importer} does not import {imported}: delete the exemption"
        for importer, imported in exempt
        if (importer, imported) not in arrows
    ]


def file_circle(tree: Tree, exempt: Exemptions) -> list[str]:
    """Find a circle of modules.

    A process that runs a module (`python -m`) does not import it.
    """
    return circle(
        (arrow.importer, arrow.imported)
        for arrow in tree.inner_arrows()
        if arrow.how != "process" and (arrow.importer, arrow.imported) not in exempt
    )


def room_circle(tree: Tree, exempt: Exemptions) -> list[str]:
    """Find a circle of rooms."""
    pairs = (
        (tree.room_of(arrow.importer), tree.room_of(arrow.imported))
        for arrow in tree.inner_arrows()
        if arrow.how != "process" and (arrow.importer, arrow.imported) not in exempt
    )
    return circle((room, target) for room, target in pairs if room != target)


def crowded_folders(tree: Tree, exempt: Mapping[str, int]) -> list[str]:
    """Find folders with more than 12 modules, or than their exemption allows."""
    return [
        f"{folder} holds {len(files)} modules: {', '.join(sorted(files))}"
        for folder, files in tree.files_by_folder().items()
        if len(files) > exempt.get(folder, MOST_FILES)
    ]


def long_files(tree: Tree, exempt: Mapping[str, str]) -> list[str]:
    """Find modules of more than 300 lines, and exemptions of shorter ones.

    exempt: reasons why a module is not split, by its name.
    """
    lines = {module: len(path.read_text().splitlines()) for module, path in tree.modules.items()}
    long = {module for module, count in lines.items() if count > MOST_LINES}
    problems = [f"{module} has {lines[module]} lines: split it where it changes its subject" for module in long]
    needless = [f"{module} is not long any more: delete the exemption" for module in exempt if module not in long]
    return sorted(problem for problem in problems if problem.partition(" ")[0] not in exempt) + needless


def rooms_without_a_line(tree: Tree) -> list[str]:
    """Find packages whose docstring does not begin with a short sentence.

    It stands alone on a line of at most 79 columns.
    """
    problems = []
    for module, path in tree.modules.items():
        if tree.is_package(module):
            line, _, rest = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")
            quotes = '"""' if rest else '""""""'
            if not line.endswith(".") or len(line + quotes) > 79 or (rest and not rest.startswith("\n")):
                problems.append(f"{module}/__init__.py: begin with one line of at most 79 columns, ending in a period")
    return problems


def repeated_names(tree: Tree) -> list[str]:
    """Find files whose name repeats the name of their folder."""
    return [
        f"{folder}.{name} repeats the name of its folder"
        for folder, files in tree.files_by_folder().items()
        for name in files
        if "." in folder and _words(folder.rpartition(".")[2]) <= _words(name)
    ]


def _words(name: str) -> set[str]:
    """Return the words of a name, in the singular."""
    return {re.sub("ies$", "y", word) if word.endswith("ies") else word.removesuffix("s") for word in name.split("_")}


def torch_in(tree: Tree, rooms: Collection[str]) -> list[str]:
    """Find imports of torch in rooms that do without, lazy or for types too."""
    return [
        f"{arrow}; {tree.room_of(arrow.importer)} does without torch"
        for arrow in tree.arrows
        if tree.room_of(arrow.importer) in rooms and arrow.imported.partition(".")[0] in TORCH
    ]


def torch_reached_from(tree: Tree, module: str) -> list[str]:
    """Find imports of torch that running a module may reach."""
    return [str(arrow) for arrow in tree.reached_from(module) if arrow.imported.partition(".")[0] in TORCH]


def foreign_packages(tree: Tree, room: str) -> list[str]:
    """Find imports of packages outside the standard library."""
    own = {name.partition(".")[0] for name in tree.modules} | {"__future__"} | sys.stdlib_module_names
    return [
        str(arrow)
        for arrow in tree.arrows
        if tree.room_of(arrow.importer) == room and arrow.imported.partition(".")[0] not in own
    ]


def protocols(tree: Tree, room: str) -> dict[str, set[str]]:
    """Return the methods of each Protocol that the modules of a room define."""
    return {
        node.name: _methods(node)
        for module in tree.modules
        if tree.room_of(module) == room
        for node in _classes(tree, module)
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    }


def ports_implemented(tree: Tree, room: str, ports: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return the modules of a room with the ports that each implements."""
    modules = [module for module in tree.modules if tree.room_of(module) == room and not tree.is_package(module)]
    return {
        module: [
            port
            for port, methods in ports.items()
            if any(set(methods) <= _methods(node) for node in _classes(tree, module))
        ]
        for module in modules
    }


def strangers_among_ports(
    tree: Tree, room: str, ports: Mapping[str, Collection[str]], exempt: Collection[str]
) -> list[str]:
    """Find modules of a room of ports that do not belong there.

    A module belongs if it implements a port, or if only modules of the room use it.
    """
    problems = []
    for module, implemented in ports_implemented(tree, room, ports).items():
        users = {arrow.importer for arrow in tree.inner_arrows() if arrow.imported == module}
        outside = sorted(user for user in users if tree.room_of(user) != room)
        if not implemented and module not in exempt and (outside or not users):
            problems.append(f"{module} is no port, nor a part of one: {', '.join(outside) or 'nothing'} imports it")
    return problems


def _classes(tree: Tree, module: str) -> Iterator[ast.ClassDef]:
    body = ast.parse(tree.modules[module].read_text()).body
    return (node for node in body if isinstance(node, ast.ClassDef))


def _methods(node: ast.ClassDef) -> set[str]:
    return {method.name for method in node.body if isinstance(method, ast.FunctionDef)}


def dead_mentions(texts: Mapping[str, str], files: Collection[str], elsewhere: Collection[str]) -> list[str]:
    """Find Python files and modules that a text names and that do not exist.

    elsewhere: files of other projects, which may be named.
    """
    problems = []
    for name, text in texts.items():
        for mention in re.findall(r"(?<![\w*{])[\w./-]*\w\.py\b", text):
            path = mention.lstrip("./")
            if path not in elsewhere and not any(f"/{file}".endswith(f"/{path}") for file in files):
                problems.append(f"{name} names {mention}, which is not there")
        for mention in re.findall(r"python\d? -m ((?:trainer|deploy|bench|examples|tests)[\w.]*)", text):
            path = mention.rstrip(".").replace(".", "/")
            if not any(f"{path}{end}" in files for end in (".py", "/__main__.py")):
                problems.append(f"{name} runs {mention}, which is not there")
    return problems


def floors(table: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """Return the rooms that each room may import: all on lower floors."""
    allowed: dict[str, set[str]] = {}
    below: set[str] = set()
    for floor in table:
        allowed |= {room: set(below) for room in floor}
        below |= set(floor)
    return allowed
