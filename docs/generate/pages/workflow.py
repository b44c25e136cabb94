"""Page of one job's way, from the workflow's own file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from docs.generate.text.markdown import Page

WORKFLOW = Path(__file__).parents[3] / "workflows" / "fine_tune.yaml"


def page() -> Page:
    page = Page("One job's way", "The workflow that runs a job, as pictures made from `workflows/fine_tune.yaml`.")
    page.paragraph(
        "Cloud Workflows runs this file on Google Cloud, and `functions/gemtune/local_server/workflow_engine/` on a "
        "workstation. It decides nothing: `control` answers each question from the job's record."
    )
    workflow = YAML(typ="safe").load(WORKFLOW)
    for name, title in (("main", "A launch of a job"), ("run_step", "A step"), ("ask", "A question to control")):
        page.heading(title)
        page.fence("\n".join(["flowchart TD", *_lines(workflow[name]["steps"])]), "mermaid")
    return page


def _lines(steps: list[dict[str, Any]]) -> Iterator[str]:
    names = [next(iter(step)) for step in steps]
    for index, step in enumerate(steps):
        name, body = names[index], step[names[index]]
        yield f'    {name}["{_label(name, body)}"]'
        following = body.get("next") or (names[index + 1] if index + 1 < len(names) else None)
        for number, case in enumerate(body.get("switch", ())):
            target = case.get("next") or f'{name}_{number}(["{_plain(case["return"])}"])'
            yield f'    {name} -- "{_plain(case["condition"])}" --> {target}'
        if "return" in body:
            yield f'    {name} --> {name}_end(["{_plain(body["return"])}"])'
        elif following is not None:
            yield f"    {name} --> {following}"


def _label(name: str, body: dict[str, Any]) -> str:
    """Return the step's name, and what it calls."""
    called = body.get("call") or body.get("try", {}).get("call")
    arguments = body.get("args", {})
    about = arguments.get("step") or arguments.get("url") or ""
    repeated = "<br>repeated until it answers" if "retry" in body else ""
    caught = "<br>an error is kept and reported" if "except" in body else ""
    call = f"<br>{called}({_plain(about)})" if called else ""
    return f"{name.replace('_', ' ')}{call}{repeated}{caught}"


def _plain(expression: str) -> str:
    """Return an expression without the marks that a picture cannot show."""
    text = str(expression)
    inner = text[2:-1] if text.startswith("${") else text
    return inner.replace('"', "'")
