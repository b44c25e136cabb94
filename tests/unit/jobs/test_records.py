"""Records of older versions, which lack fields, and what all records share."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from gemtune.jobs import parts, record, steps
from gemtune.jobs.events import Event
from gemtune.jobs.parts.base import Record
from gemtune.jobs.parts.results import JobWarning, RowsSummary, StepResult, UnreadField
from gemtune.jobs.record import Job, JobSummary
from gemtune.jobs.status import Step
from tests.unit.jobs.test_job import NOW, running

# Fields whose absence in a record of an older version means something.
MEANINGFUL = {
    "Job.priority": "normal",
    "Job.version": 1,
    "Job.launch": record.Launch(),
    "Job.steps": {step: record.StepRecord() for step in Step},
    "StepRecord.state": "pending",
    "Parity.verdict": "passed",
}


def record_types() -> Iterator[type[BaseModel]]:
    """Yield the classes of all stored records."""
    modules = [
        importlib.import_module(f"{parts.__name__}.{each.name}") for each in pkgutil.iter_modules(parts.__path__)
    ]
    for module in (record, *modules):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Record) and value is not Record:
                yield value


def test_a_field_that_an_older_record_lacks_reads_as_nothing() -> None:
    defaults = {
        f"{each.__name__}.{name}": field.get_default(call_default_factory=True)  # type: ignore[call-arg]
        for each in record_types()
        for name, field in each.model_fields.items()
        if not field.is_required()
    }
    assert {name: value for name, value in defaults.items() if value or isinstance(value, bool)} == MEANINGFUL


@pytest.mark.parametrize("each", [*record_types(), StepResult, JobSummary, Event], ids=lambda each: each.__name__)
def test_no_record_can_be_changed_in_place(each: type[BaseModel]) -> None:
    instance = each.model_construct()
    for name in each.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(instance, name, None)


def test_the_details_of_an_event_are_the_same_after_they_were_stored() -> None:
    rows = RowsSummary(
        train=9, files=("train.jsonl",), fields_not_read=(UnreadField(name="id", rows=9),), files_not_read=("a.txt",)
    )
    result = StepResult(warnings=(JobWarning(code="ends_cut_off", message="2 of 9 rows are cut"),), rows=rows)
    _, (event,) = steps.finish_step(*running(Step.PREPARE), result, at=NOW)
    assert event.details == json.loads(json.dumps(event.details))
    assert Event.model_validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("name", StepResult.model_fields)
def test_a_field_of_a_step_result_is_one_of_the_record_with_the_same_type(name: str) -> None:
    """Otherwise a step could deliver a value that no record keeps."""

    def without_none(annotation: Any) -> Any:
        return {each for each in get_args(annotation) if each is not type(None)} or {annotation}

    assert name in Job.model_fields, f"{name} of StepResult is no field of Job: add it there"
    delivered, stored = StepResult.model_fields[name].annotation, Job.model_fields[name].annotation
    is_optional = type(None) in get_args(stored)
    assert without_none(delivered) == (without_none(stored) if is_optional else {stored})
