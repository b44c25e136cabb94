"""Parsing of requests, which finds all faults at once and repeats no secret."""

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
# Values for required fields that are missing or faulty, so that the rules about the other fields can still be checked.
STAND_INS: Mapping[type[BaseModel], Mapping[str, Any]] = {
    TrainRequest: {"processed_dataset_id": "absent", "training_config": {"base_model_id": "absent/absent"}},
    ExportRequest: {"export_config": {}},
}


@dataclass(frozen=True, slots=True)
class Reading(Generic[Request]):
    """Result of reading a request: its readable part, and all problems.

    request: the request with defaults in place of faulty fields. None if too little can be read to check any rule.
    """

    request: Request | None
    problems: tuple[Problem, ...]

    def require_readable(self) -> Request:
        """Return what can be read of the request.

        Raises RequestRefused with all problems if that is too little.
        """
        if self.request is None:
            raise RequestRefused(self.problems)
        return self.request

    def require_valid(self) -> Request:
        """Return the request if nothing is wrong with it.

        Raises RequestRefused with all problems.
        """
        if self.problems or self.request is None:
            raise RequestRefused(self.problems)
        return self.request


def read(document: str | bytes, source: Source) -> Reading[TrainRequest]:
    """Read a request to train from JSON.

    Rules across fields are not checked here but in `gemtune.request.rules.check`.
    source: how the request came in. From some sources, literal tokens are a problem.
    """
    return _read(TrainRequest, document, tokens_exposed=source.exposes_tokens)


def read_export(document: str | bytes) -> Reading[ExportRequest]:
    """Read a request to export again from JSON. It comes by HTTP only."""
    return _read(ExportRequest, document, tokens_exposed=False)


def complete_export_request(reading: Reading[ExportRequest], trained: Spec) -> Reading[TrainRequest]:
    """Turn a request to export again into a complete request.

    It is the one that would have trained the same and exported this. trained: spec of the job that trained.
    """
    return Reading(None if reading.request is None else reading.request.as_train_request(trained), reading.problems)


def _read(model: type[Request], document: str | bytes, *, tokens_exposed: bool) -> Reading[Request]:
    """Read a request as a model.

    tokens_exposed: whether literal tokens are a problem.
    """
    try:
        raw = read_json_object(document)
    except Unreadable as error:
        return Reading(None, (Problem(error.loc, error.message, error.code, error.hint),))
    request, problems = _validate(model, raw)
    return Reading(request, (*problems, *_misplaced_tokens(raw, tokens_exposed=tokens_exposed)))


def _validate(model: type[Request], raw: dict[str, Any]) -> tuple[Request | None, list[Problem]]:
    """Return what can be read of a request, and what is wrong with the rest.

    Faulty fields get their defaults. The request is None if even that is not possible.
    """
    text = json.dumps(raw)
    try:
        return model.model_validate_json(text), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = [_problem(model, raw, detail) for detail in details]
    readable = copy.deepcopy(raw)
    for problem in problems:
        # Without its discriminator an object cannot be validated, so all of it is removed.
        is_discriminator = bool(problem.loc) and problem.loc[-1] in DISCRIMINATORS
        _remove(readable, problem.loc[:-1] if is_discriminator else problem.loc)
    _fill_in(readable, STAND_INS[model])
    try:
        return model.model_validate_json(json.dumps(readable)), problems
    except ValidationError:
        return None, problems


def _fill_in(readable: dict[str, Any], stand_ins: Mapping[str, Any]) -> None:
    """Add stand-ins for missing fields, also in nested objects."""
    for name, value in stand_ins.items():
        present = readable.setdefault(name, copy.deepcopy(value))
        if isinstance(value, Mapping) and isinstance(present, dict):
            _fill_in(present, value)


def _problem(model: type[BaseModel], raw: object, detail: Any) -> Problem:
    """Turn an error of pydantic's into a problem.

    Its message is plain and does not contain the faulty value. raw: the request's document.
    """
    tagged_loc: Loc = detail["loc"]
    loc: Loc = tuple(redact(part) if isinstance(part, str) else part for part in without_tags(raw, tagged_loc))
    code, message = detail["type"], redact(detail["msg"])
    hint = None
    if code == "extra_forbidden":
        code, message = "unknown_field", "there is no such field"
        hint = _closest_field(model, tagged_loc)
    elif code == "missing":
        code, message = "missing_field", "this field is required"
    elif code == "union_tag_not_found":
        loc, code = (*loc, detail["ctx"]["discriminator"].strip("'")), "missing_field"
        message = "this field is required"
    elif code == "union_tag_invalid":
        loc, code = (*loc, detail["ctx"]["discriminator"].strip("'")), "not_one_of"
        message = f"it has to be one of {detail['ctx']['expected_tags']}"
    elif code == "literal_error":
        code = "not_one_of"
    elif code == "string_pattern_mismatch":
        code, message = "bad_form", "this contains characters that are not allowed"
        hint = "use letters, digits, '.', '_' and '-' in names; a Hub repository is owner/name"
    return Problem(loc, message, code, hint)


def _closest_field(model: type[BaseModel], loc: Loc) -> str:
    """Return a hint for an unknown field.

    It names the most similar field, or else all fields that are possible there.
    """
    fields = fields_at(model, loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(fields))}"


def _remove(tree: Any, loc: Loc) -> None:
    """Remove the value at a place from a document.

    If the place is inside a list, the whole list is removed.
    """
    for part in loc[:-1]:
        try:
            inner = tree[part]
        except (KeyError, IndexError, TypeError):
            return
        if isinstance(inner, list):  # one faulty item makes the whole list faulty
            tree.pop(part)
            return
        tree = inner
    if loc and isinstance(tree, dict):
        tree.pop(loc[-1], None)


def _misplaced_tokens(tree: Any, *, tokens_exposed: bool, loc: Loc = ()) -> Iterator[Problem]:
    """Yield a problem for each token in a place where it must not be.

    There it would be stored or logged in plain text.
    """
    hint = "store the token with `gemtune secret NAME` and send secret:gemtune-user-NAME"
    if isinstance(tree, dict):
        for key, value in tree.items():
            if contains_token(key):
                yield Problem((*loc, redact(key)), "the name of a field contains a token", "secret_in_the_open", hint)
            yield from _misplaced_tokens(value, tokens_exposed=tokens_exposed, loc=(*loc, redact(key)))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _misplaced_tokens(value, tokens_exposed=tokens_exposed, loc=(*loc, index))
    elif isinstance(tree, str):
        if loc in SECRET_FIELDS.values():  # in any other field it would be stored in plain text
            if re.fullmatch(SECRET_REFERENCE, tree):
                return
            if tree.startswith(REFERENCE):
                msg = "this does not refer to a secret that a user can store"
                yield Problem(loc, msg, "bad_secret_reference", hint)
            elif tokens_exposed:
                msg = "messages and files are stored and logged elsewhere, so they must not contain tokens"
                yield Problem(loc, msg, "secret_in_the_open", hint)
        elif contains_token(tree):
            yield Problem(
                loc, "this looks like a token, and the field is stored in plain text", "secret_in_the_open", hint
            )
