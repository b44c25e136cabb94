"""Reads a request and finds everything wrong with it at once, without repeating a secret."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gemtune.errors import Problem, RequestRefused
from gemtune.jobs.secret_names import REFERENCE
from gemtune.jobs.sources import Source
from gemtune.redaction import contains_token, redact
from gemtune.request.contract import Loc
from gemtune.request.places import fields_at, without_tags
from gemtune.request.rl_spec import DISCRIMINATORS
from gemtune.request.spec import SECRET_FIELDS, SECRET_REFERENCE, ExportRequest, Spec, TrainRequest
from gemtune.untrusted import Unreadable, read_json_object

Request = TypeVar("Request", bound=BaseModel)  # TrainRequest or ExportRequest
# What a request cannot do without gets a stand-in, so that the rules about the rest can still be asked.
STAND_INS: Mapping[type[BaseModel], Mapping[str, Any]] = {
    TrainRequest: {"processed_dataset_id": "absent", "training_config": {"base_model_id": "absent/absent"}},
    ExportRequest: {"export_config": {}},
}


@dataclass(frozen=True, slots=True)
class Reading(Generic[Request]):
    """A request as far as it can be read, its faulty fields at their defaults, and all that is wrong with it.

    `request` is None when too little of it can be read for any rule to make sense.
    """

    request: Request | None
    problems: tuple[Problem, ...]

    def require_readable(self) -> Request:
        """The request as far as it can be read. Raises RequestRefused with every problem when that is too little."""
        if self.request is None:
            raise RequestRefused(self.problems)
        return self.request

    def require_valid(self) -> Request:
        """The request, if nothing is wrong with it. Raises RequestRefused with every problem."""
        if self.problems or self.request is None:
            raise RequestRefused(self.problems)
        return self.request


def read(document: str | bytes, source: Source) -> Reading[TrainRequest]:
    """Read a JSON document, in which a literal token may be a problem where it came from.
    `gemtune.request.rules.check` asks the rules."""
    return _read(TrainRequest, document, tokens_exposed=source.exposes_tokens)


def read_export(document: str | bytes) -> Reading[ExportRequest]:
    """Read a request to export again, which comes by HTTP only."""
    return _read(ExportRequest, document, tokens_exposed=False)


def complete_export_request(reading: Reading[ExportRequest], trained: Spec) -> Reading[TrainRequest]:
    """Return a request to export again as the whole request that would have trained the same and exported this."""
    return Reading(None if reading.request is None else reading.request.as_train_request(trained), reading.problems)


def _read(model: type[Request], document: str | bytes, *, tokens_exposed: bool) -> Reading[Request]:
    try:
        raw = read_json_object(document)
    except Unreadable as error:
        return Reading(None, (Problem(error.loc, error.message, error.code, error.hint),))
    request, problems = _validated(model, raw)
    return Reading(request, (*problems, *_tokens_out_of_place(raw, tokens_exposed=tokens_exposed)))


def _validated(model: type[Request], raw: dict[str, Any]) -> tuple[Request | None, list[Problem]]:
    """The request as far as it can be read, faulty fields at their defaults, and what is wrong with the others."""
    text = json.dumps(raw)
    try:
        return model.model_validate_json(text), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = [_problem(model, raw, detail) for detail in details]
    readable = copy.deepcopy(raw)
    for problem in problems:
        says_what_it_is = bool(problem.loc) and problem.loc[-1] in DISCRIMINATORS
        _take_out(readable, problem.loc[:-1] if says_what_it_is else problem.loc)
    _stand_in(readable, STAND_INS[model])
    try:
        return model.model_validate_json(json.dumps(readable)), problems
    except ValidationError:
        return None, problems


def _stand_in(readable: dict[str, Any], needed: Mapping[str, Any]) -> None:
    for name, value in needed.items():
        there = readable.setdefault(name, copy.deepcopy(value))
        if isinstance(value, Mapping) and isinstance(there, dict):
            _stand_in(there, value)


def _problem(model: type[BaseModel], raw: object, detail: Any) -> Problem:
    found: Loc = detail["loc"]
    loc: Loc = tuple(redact(part) if isinstance(part, str) else part for part in without_tags(raw, found))
    code, message = detail["type"], redact(detail["msg"])
    hint = None
    if code == "extra_forbidden":
        code, message = "unknown_field", "no such field"
        hint = _closest(model, found)
    elif code == "missing":
        code, message = "missing_field", "this field is required"
    elif code == "union_tag_not_found":
        loc, code = (*loc, detail["ctx"]["discriminator"].strip("'")), "missing_field"
        message = "this field is required"
    elif code == "union_tag_invalid":
        loc, code = (*loc, detail["ctx"]["discriminator"].strip("'")), "not_one_of"
        message = f"it should be one of {detail['ctx']['expected_tags']}"
    elif code == "literal_error":
        code = "not_one_of"
    elif code == "string_pattern_mismatch":
        code, message = "bad_form", "this has characters that it must not have"
        hint = "names have letters, digits, '.', '_' and '-'; a Hub repository is owner/name"
    return Problem(loc, message, code, hint)


def _closest(model: type[BaseModel], loc: Loc) -> str:
    fields = fields_at(model, loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(fields))}"


def _take_out(tree: Any, loc: Loc) -> None:
    for part in loc[:-1]:
        try:
            inner = tree[part]
        except (KeyError, IndexError, TypeError):
            return
        if isinstance(inner, list):  # a faulty item makes the whole list faulty
            tree.pop(part)
            return
        tree = inner
    if loc and isinstance(tree, dict):
        tree.pop(loc[-1], None)


def _tokens_out_of_place(tree: Any, *, tokens_exposed: bool, loc: Loc = ()) -> Iterator[Problem]:
    hint = "store the token with `gemtune secret NAME` and send secret:gemtune-user-NAME"
    if isinstance(tree, dict):
        for key, value in tree.items():
            if contains_token(key):
                yield Problem((*loc, redact(key)), "a field's name holds a token", "secret_in_the_open", hint)
            yield from _tokens_out_of_place(value, tokens_exposed=tokens_exposed, loc=(*loc, redact(key)))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _tokens_out_of_place(value, tokens_exposed=tokens_exposed, loc=(*loc, index))
    elif isinstance(tree, str):
        if loc in SECRET_FIELDS.values():  # anywhere else it would be stored in the clear
            if re.fullmatch(SECRET_REFERENCE, tree):
                return
            if tree.startswith(REFERENCE):
                msg = "this refers to no secret that a user can keep"
                yield Problem(loc, msg, "bad_secret_reference", hint)
            elif tokens_exposed:
                msg = "messages and files are stored and logged by others, so a token may not stand in them"
                yield Problem(loc, msg, "secret_in_the_open", hint)
        elif contains_token(tree):
            yield Problem(
                loc, "this looks like a token, and the field is stored in the clear", "secret_in_the_open", hint
            )
