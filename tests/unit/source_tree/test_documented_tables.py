"""The tables behind docs/reference/ have an entry for everything in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from gemtune.environment.variables import VARIABLES
from gemtune.jobs import events, status
from gemtune.jobs.status import Status, Step
from gemtune.request import rewards, rl_spec, spec
from gemtune.request.training_config import TrainingConfig
from gemtune.settings import Settings
from tests.syntax import nodes_of

ROOT = Path(__file__).parents[3]
# Variables that one of our programs sets for another, or that are not settings.
INNER = {
    "GEMTUNE_OVERHEAD_FOLDER": "bench.overhead tells its own process",
    "GEMTUNE_OWN_MOUNTS": "tests/fresh_machine.sh tells itself",
    "GEMTUNE_EXPORT": "the beginning of another name",
}


def test_every_status_has_a_meaning() -> None:
    assert list(status.MEANINGS) == list(Status)


def event_types_written() -> Iterator[str]:
    """Yield the event types in strings of the code that changes jobs."""
    folders = (ROOT / "functions/gemtune" / name for name in ("jobs", "admission"))
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        for node in nodes_of(path.read_text()):
            if isinstance(node, ast.Call):
                named = [keyword.value for keyword in node.keywords if keyword.arg in ("type", "event_type")]
                arguments = [*node.args, *named]
                texts = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
                yield from (text for text in texts if isinstance(text, str) and re.fullmatch("(job|step)_[a-z]+", text))


def test_every_event_type_has_a_meaning() -> None:
    moves = {f"job_{status}" for status in Status if status is not Status.UNKNOWN}
    steps = {f"{step}_restarted" for step in Step} | {f"{step}_done" for step in (Step.PREPARE, Step.TRAIN)}
    others = {"job_relaunched", "job_waiting", "job_admitted", "job_resumed"}
    assert set(events.EVENT_TYPES) == moves | steps | others | {"unknown"}
    assert {"job_queued", *others} <= set(event_types_written()) <= set(events.EVENT_TYPES)


class Recording(Mapping[str, str]):
    """Environment that records which variables are read."""

    def __init__(self, **values: str):
        self.values_of, self.read_names = values, set[str]()

    def __getitem__(self, name: str) -> str:
        self.read_names.add(name)
        return self.values_of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def test_every_setting_is_described_under_the_variable_that_it_comes_from() -> None:
    names = {name: "a" for name in VARIABLES if name.endswith("BUCKET_NAME")}
    environment = Recording(GEMTUNE_BACKEND="gcp", PROJECT_ID="a", REGION="a", **names)
    settings = Settings.from_environment(environment)
    described = {name for name, variable in VARIABLES.items() if variable.setting is not None}
    assert described == environment.read_names - {"GEMTUNE_CACHE", "HF_HOME", "XDG_CACHE_HOME"}
    fields = [variable.setting for variable in VARIABLES.values() if variable.setting is not None]
    assert sorted(fields) == sorted(type(settings).__dataclass_fields__)


def test_every_variable_of_ours_is_described() -> None:
    sources = [
        path.read_text()
        for pattern in (
            "functions/**/*.py",
            "trainer/**/*.py",
            "deploy/*.py",
            "bench/**/*.py",
            "tests/**/*.py",
            "setup/*.sh",
            "tests/*.sh",
            "Makefile",
            "terraform/*.tf",
        )
        for path in ROOT.glob(pattern)
    ]
    names = {name for source in sources for name in re.findall(r"\bGEMTUNE_[A-Z_]*[A-Z]\b", source)}
    assert names - set(VARIABLES) == set(INNER), "describe it in gemtune.environment.variables.py"


def contracts() -> Iterator[type[BaseModel]]:
    """Yield every model of a request."""
    yield from (spec.TrainRequest, spec.ExportRequest, TrainingConfig, spec.ExportConfig, spec.WandbConfig)
    yield from (spec.Notify, rl_spec.GrpoConfig, rl_spec.DpoConfig, *get_args(get_args(rewards.Reward)[0]))


def test_every_field_of_a_request_has_a_description() -> None:
    def is_described(field: Any) -> bool:
        return bool(field.description) and not field.description.endswith(".")

    fields = [(model, name, field) for model in contracts() for name, field in model.model_fields.items()]
    assert [f"{model.__name__}.{name}" for model, name, field in fields if not is_described(field)] == []
