"""Parsing of requests: reports all problems at once, quotes no secrets."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gemtune.errors import Problem, RequestRefused
from gemtune.jobs.secret_names import REFERENCE
from gemtune.jobs.sources import Source
from gemtune.redaction import contains_token, redact
from gemtune.request.contract import Loc
from gemtune.request.places import fields_at, without_tags
from gemtune.request.rl_spec import DISCRIMINATORS
from gemtune.request.spec import SECRET_FIELDS, SECRET_REFERENCE, ExportRequest, ResumeRequest, Spec, TrainRequest
from gemtune.untrusted import Unreadable, read_json_object

Request = TypeVar("Request", bound=BaseModel)  # a whole request
# Values for required fields that are missing or invalid, so that the rules for the other fields can still be checked.
STAND_INS: Mapping[type[BaseModel], Mapping[str, Any]] = {
    TrainRequest: {"processed_dataset_id": "absent", "training_config": {"base_model_id": "absent/absent"}},
    ExportRequest: {"export_config": {}},
}
# Problems that an answer lists. A request of 1 MiB can have a hundred thousand, and each takes time to describe.
MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Reading(Generic[Request]):
    """Result of parsing a request: its valid part, and all problems.

    request: the request with defaults in place of invalid fields. None if too little is valid to check any rule.
    """

    request: Request | None
    problems: tuple[Problem, ...]

    def require_readable(self) -> Request:
        """Return the valid part of the request, even if there are problems.

        Raises RequestRefused with all problems if too little is valid.
        """
        if self.request is None:
            raise RequestRefused(self.problems)
        return self.request

    def require_valid(self) -> Request:
        """Return the request.

        Raises RequestRefused with all problems if there are any.
        """
        if self.problems or self.request is None:
            raise RequestRefused(self.problems)
        return self.request


def read(document: str | bytes, source: Source) -> Reading[TrainRequest]:
    """Parse a training request from JSON.

    Cross-field rules are not checked here but in `gemtune.request.rules.check`.
    source: how the request arrived. Some sources must not contain tokens, only references to secrets.
    """
    return read_as(TrainRequest, document, STAND_INS[TrainRequest], tokens_exposed=source.exposes_tokens)


def read_export(document: str | bytes) -> Reading[ExportRequest]:
    """Parse an export request from JSON. These arrive only over HTTP."""
    return read_as(ExportRequest, document, STAND_INS[ExportRequest], tokens_exposed=False)


def read_resume(document: bytes) -> Reading[ResumeRequest]:
    """Parse a request to resume a job from JSON, which may be absent."""
    return read_as(ResumeRequest, document.strip() or b"{}", {}, tokens_exposed=True)


def complete_export_request(reading: Reading[ExportRequest], trained: Spec) -> Reading[TrainRequest]:
    """Combine an export request with the spec of the job that trained.

    The result is a training request with that job's training and this export. trained: spec of that job.
    """
    return Reading(None if reading.request is None else reading.request.as_train_request(trained), reading.problems)


def read_as(
    model: type[Request], document: str | bytes, stand_ins: Mapping[str, Any], *, tokens_exposed: bool
) -> Reading[Request]:
    """Parse a request into its pydantic model.

    stand_ins: values of required fields, with which the rest can be validated.
    tokens_exposed: whether to report tokens, as opposed to references to secrets.
    """
    try:
        raw = read_json_object(document)
    except Unreadable as error:
        return Reading(None, (Problem(error.loc, error.message, error.code, error.hint),))
    request, problems = _validate(model, raw, stand_ins)
    tokens = tuple(islice(_misplaced_tokens(raw, tokens_exposed=tokens_exposed), MOST_PROBLEMS + 1))
    if len(tokens) > MOST_PROBLEMS:
        tokens = (*tokens[:MOST_PROBLEMS], _more_problems("further texts look like tokens"))
    return Reading(request, (*problems, *tokens))


def _validate(
    model: type[Request], raw: dict[str, Any], stand_ins: Mapping[str, Any]
) -> tuple[Request | None, list[Problem]]:
    """Return the valid part of a request, and the problems of the rest.

    Invalid fields get their defaults. The request is None if it does not validate even then, or has more than
    MOST_PROBLEMS.
    """
    text = json.dumps(raw)
    try:
        return model.model_validate_json(text), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = [_problem(model, raw, detail) for detail in details[:MOST_PROBLEMS]]
    if len(details) > MOST_PROBLEMS:
        return None, [*problems, _more_problems(f"{len(details) - MOST_PROBLEMS} further problems are not listed")]
    readable = copy.deepcopy(raw)
    for problem in problems:
        # Without its discriminator an object cannot be validated, so all of it is removed.
        is_discriminator = bool(problem.loc) and problem.loc[-1] in DISCRIMINATORS
        _remove(readable, problem.loc[:-1] if is_discriminator else problem.loc)
    for name, value in stand_ins.items():
        readable.setdefault(name, value)
    try:
        return model.model_validate_json(json.dumps(readable)), problems
    except ValidationError:
        return None, problems


def _more_problems(message: str) -> Problem:
    """Return the problem that stands for those that are not listed."""
    return Problem((), message, "more_problems", "correct those that are listed, and send the request again")


def _problem(model: type[BaseModel], raw: object, detail: Any) -> Problem:
    """Turn a pydantic error into a problem.

    Its message is plain and does not contain the invalid value. raw: the decoded request.
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

    It names the object that has such a field, the most similar field, or else all fields of the object.
    """
    fields, name = fields_at(model, loc[:-1]), loc[-1]
    owners = [field for field in fields if name in fields_at(model, (*loc[:-1], field))]
    if owners or name in model.model_fields:
        return f"it belongs to {owners[0]}" if owners else "it belongs to the request"
    close = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(fields))}"


def _remove(tree: Any, loc: Loc) -> None:
    """Remove an invalid value from a decoded document, by its location.

    A list with an invalid item is removed as a whole.
    """
    for part in loc[:-1]:
        try:
            inner = tree[part]
        except (KeyError, IndexError, TypeError):
            return
        if isinstance(inner, list):
            tree.pop(part)
            return
        tree = inner
    if loc and isinstance(tree, dict):
        tree.pop(loc[-1], None)


def _misplaced_tokens(tree: Any, *, tokens_exposed: bool, loc: Loc = ()) -> Iterator[Problem]:
    """Yield a problem for each token that would be stored in plain text.

    tokens_exposed: whether that is so even in the fields for tokens.
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
