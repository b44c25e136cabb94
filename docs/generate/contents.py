"""The pages by name, each with the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generate.pages import (
    command_line,
    error_codes,
    exports,
    formats,
    http_api,
    models,
    requests,
    rooms,
    settings,
    sizing,
    statuses,
    workflow,
)
from docs.generate.text.markdown import Page

FOLDER = Path(__file__).parents[1] / "reference"
MAKERS: Mapping[str, Callable[[], Page]] = {
    "command-line.md": command_line.page,
    "error-codes.md": error_codes.page,
    "exports.md": exports.page,
    "formats.md": formats.page,
    "http-api.md": http_api.page,
    "models.md": models.page,
    "requests.md": requests.page,
    "rewards.md": requests.rewards_page,
    "rooms.md": rooms.page,
    "settings.md": settings.page,
    "sizing.md": sizing.page,
    "state-machine.md": statuses.state_machine_page,
    "statuses-and-events.md": statuses.page,
    "workflow.md": workflow.page,
}


def pages() -> dict[str, str]:
    """Return the text of every page, by file name."""
    by_name = {name: maker() for name, maker in MAKERS.items()}
    index = Page("Reference", "Pages that are generated from the code, so that they describe exactly this version.")
    index.table(("page", "content"), [(f"[{page.title}]({name})", page.about) for name, page in by_name.items()])
    return {"README.md": index.text()} | {name: page.text() for name, page in by_name.items()}
