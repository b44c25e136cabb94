"""Page of environment variables, from gemtune's table and its settings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from docs.generate.text.markdown import Page, code, sentence
from gemtune.environment.variables import VARIABLES, Reader, Variable
from gemtune.settings import Settings, cache_folder

TITLES: dict[Reader, str] = {
    "service": "The service and the trainer",
    "command line": "The command line",
    "trainer": "The trainer alone",
    "make": "make",
    "tests": "Tests",
}
REQUIRED = {"PROJECT_ID", "REGION"} | {name for name in VARIABLES if name.endswith("BUCKET_NAME")}


def page() -> Page:
    page = Page("Settings", "Every environment variable that gemtune reads, with its default.")
    page.paragraph(
        "An empty variable counts as not set. An invalid value is an error when the program starts: "
        "[`bad_setting`](error-codes.md#the-command-line-and-the-start-of-a-service). On Google Cloud, `make deploy` "
        "sets the variables that the service needs there."
    )
    embedded = asdict(Settings.from_environment({}))
    gcp = asdict(Settings.from_environment({"GEMTUNE_BACKEND": "gcp"} | dict.fromkeys(REQUIRED, "a")))
    for reader, title in TITLES.items():
        page.heading(title)
        rows = {name: variable for name, variable in VARIABLES.items() if variable.reader == reader}
        if reader == "service":
            head = ("variable", "meaning", "default on a workstation", "default on Google Cloud")
            page.table(head, [_row(name, variable, embedded, gcp) for name, variable in rows.items()])
        else:
            page.table(
                ("variable", "meaning", "default"),
                [(code(name), sentence(each.meaning), each.default or "not set") for name, each in rows.items()],
            )
    return page


def _row(name: str, variable: Variable, embedded: dict[str, object], gcp: dict[str, object]) -> tuple[str, ...]:
    local = cloud = variable.default or ""
    if variable.setting is not None:
        local, cloud = _shown(embedded[variable.setting]), _shown(gcp[variable.setting])
    if name == "WANDB_MODE":
        local = cloud = _shown(None)
    elif name == "GEMTUNE_BACKEND":
        cloud = "`gcp` has to be set"
    elif name in REQUIRED:
        cloud = "required"
    return code(name), sentence(variable.meaning), local, cloud


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return code("yes" if value else "no")
    if isinstance(value, tuple):
        return code(",".join(value))
    if isinstance(value, Path):
        if value.is_relative_to(cache_folder({})):
            return code(f"~/.cache/gemtune/{value.relative_to(cache_folder({}))}")
        return code(value.name)
    return code(value)
