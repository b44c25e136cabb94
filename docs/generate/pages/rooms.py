"""Page of the rooms of the source, from the table that a test holds them to."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from docs.generate.text.markdown import Page, code, codes
from tests.unit.source_tree.test_rooms import FLOORS, SERVICE

ROOT = Path(__file__).parents[3]


def page() -> Page:
    page = Page("Rooms of the source", "Every folder of the code, its purpose, and which other ones it may import.")
    page.paragraph(
        "A test (`tests/unit/source_tree/test_rooms.py`) fails on any other import. An arrow points to what may be "
        "imported; arrows that follow from others are left out, and so are rooms that almost every other one "
        f"may import: {codes(sorted(FOUNDATION))}."
    )
    arrows = {room: set(names.split()) for room, names in SERVICE.items()}
    page.heading("The service: `functions/gemtune/`")
    page.fence(_picture(arrows, FOUNDATION), "mermaid")
    page.table(("room", "purpose"), [(code(room), _purpose("functions/gemtune", room)) for room in SERVICE])
    page.heading("The trainer: `trainer/`")
    page.paragraph("Each room may import those on lower floors, and the domain of the service.")
    page.fence(_floors(), "mermaid")
    rooms = [room.removeprefix("trainer.") for floor in FLOORS for room in floor if room != "trainer"]
    page.table(("room", "purpose"), [(code(room), _purpose("trainer", room)) for room in rooms])
    return page


FOUNDATION = frozenset(
    {
        "clock",
        "environment",
        "error_codes",
        "errors",
        "log_lines",
        "methods",
        "object_name",
        "process",
        "redaction",
        "secret_name",
        "untrusted",
    }
)


def _picture(arrows: Mapping[str, set[str]], without: Collection[str]) -> str:
    shown = {room: targets - set(without) for room, targets in arrows.items() if room not in without}
    lines = ["flowchart TD"]
    for room, targets in shown.items():
        implied = set().union(*(_reached(shown, target) for target in targets))
        lines.append(f"    {_node(room)}[{room}]")
        lines += [f"    {_node(room)} --> {_node(target)}" for target in sorted(targets - implied)]
    return "\n".join(lines)


def _reached(arrows: Mapping[str, set[str]], room: str) -> set[str]:
    """Return the rooms that may be reached from one."""
    reached: set[str] = set()
    waiting = [*arrows.get(room, ())]
    while waiting:
        target = waiting.pop()
        if target not in reached:
            reached.add(target)
            waiting += arrows.get(target, ())
    return reached


def _floors() -> str:
    lines = ["flowchart BT"]
    for number, floor in enumerate(FLOORS):
        rooms = "<br>".join(room.removeprefix("trainer.") for room in floor)
        lines.append(f'    floor{number}["{rooms}"]')
    lines += [f"    floor{number + 1} --> floor{number}" for number in range(len(FLOORS) - 1)]
    return "\n".join(lines)


def _node(room: str) -> str:
    return re.sub(r"\W", "_", room)


def _purpose(parent: str, room: str) -> str:
    """Return the first line of a room's docstring."""
    place = ROOT / parent / room.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
