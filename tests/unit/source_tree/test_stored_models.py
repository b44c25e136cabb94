"""Models of stored records let versions of the service run side by side."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from gemtune.jobs.record import Job
from gemtune.request.contract import Contract
from tests.syntax import nodes_of
from tests.unit.jobs.newer_records import parts_of

FUNCTIONS = Path(__file__).parent.parent.parent.parent / "functions"
# Rooms whose models hold what comes from clients and from servers, which no store keeps.
NOT_STORED = ("cli", "client", "handlers", "local_server")
# Models that are shown and never written again: there, unknown fields may be ignored.
SHOWN = {"JobSummary", "CheckSummary", "CheckReport", "CheckedRow", "EvaluationMetrics"}
# A newer configuration is refused as a whole, since a job must not run with a part of it.
STRICT = {"Spec", "TrainRequest"}


def models_read() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models that the service validates, and the module that does."""
    for path in sorted((FUNCTIONS / "gemtune").rglob("*.py")):
        parts = path.relative_to(FUNCTIONS).with_suffix("").parts
        if parts[1] in NOT_STORED:
            continue
        for node in nodes_of(path.read_text()):
            if isinstance(node, ast.Attribute) and node.attr in ("model_validate", "model_validate_json"):
                value: Any = getattr(importlib.import_module(".".join(parts)), ast.unparse(node.value), None)
                if value is not None:  # else it is a parameter, in the room that reads requests
                    yield ".".join(parts), value


READ: Mapping[str, type[BaseModel]] = {model.__name__: model for _, model in models_read()}


def treatment(model: type[BaseModel]) -> Literal["allow", "ignore", "forbid"]:
    return model.model_config.get("extra") or "ignore"


def test_the_models_are_found() -> None:
    rewritten = {"Job", "Event", "SlotTable", "AccountPage", "_Table", "DatasetRecord"}
    rewritten |= {"Position", "Span", "_Secret"}
    assert set(READ) == rewritten | SHOWN | STRICT


@pytest.mark.parametrize("name", sorted(READ.keys() - SHOWN - STRICT))
def test_what_is_written_again_keeps_unknown_fields_in_every_part(name: str) -> None:
    losing = [part.__name__ for part in parts_of(READ[name]) if treatment(part) != "allow"]
    assert losing in ([], ["_Table"])  # a mapping has no fields of its own


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_what_is_shown_never_fails_for_an_unknown_field(name: str) -> None:
    assert [part.__name__ for part in parts_of(READ[name]) if treatment(part) == "forbid"] == []


def test_configurations_are_refused_rather_than_misread() -> None:
    assert {treatment(part) for name in STRICT for part in parts_of(READ[name])} == {"forbid"}
    assert issubclass(READ["Spec"], Contract)
    assert treatment(Job) == "allow"
