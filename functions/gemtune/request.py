"""Reads a request and finds everything wrong with it at once, without repeating a secret."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from gemtune.errors import Problem, RequestRefused
from gemtune.redaction import looks_secret, redacted
from gemtune.spec import QUANTIZATIONS, SECRET_REFERENCE, TrainRequest

Loc = tuple[str | int, ...]

# Where a token may stand; a token anywhere else would be stored in the clear.
SECRET_FIELDS: frozenset[Loc] = frozenset({("hf_token",), ("wandb_config", "api_key")})


@dataclass(frozen=True, slots=True)
class Reading:
    """A request as far as it can be read, its faulty fields at their defaults, and all that is wrong with it.

    `request` is None when too little of it can be read for any rule to make sense.
    """

    request: TrainRequest | None
    problems: tuple[Problem, ...]

    def check(self, rules: Iterable[Rule]) -> Reading:
        """The same with what these rules find; a rule about a faulty field is not asked."""
        if self.request is None:
            return self
        faulty = [problem.loc for problem in self.problems]
        asked = [rule for rule in rules if not any(loc[: len(read)] == read for read in rule.reads for loc in faulty)]
        found = [problem for rule in asked for problem in rule.check(self.request)]
        return Reading(self.request, (*self.problems, *found))

    def accepted(self) -> TrainRequest:
        """The request, if nothing is wrong with it. Raises RequestRefused with every problem."""
        if self.problems or self.request is None:
            raise RequestRefused(self.problems)
        return self.request


def read(document: str | bytes, *, in_the_open: bool) -> Reading:
    """What a JSON document says. `in_the_open`: it came by a way that others store and log, so a literal token in it
    is a problem."""
    try:
        return _read(document, in_the_open=in_the_open)
    except RecursionError:
        return Reading(None, (Problem((), "this is nested too deep", "too_deep", "see GET /openapi.json"),))


def _read(document: str | bytes, *, in_the_open: bool) -> Reading:
    try:
        raw = json.loads(document)
    except ValueError as error:
        where = (
            f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "unreadable"
        )
        return Reading(None, (Problem((), f"this is not JSON ({where})", "not_json", "send a JSON object"),))
    if not isinstance(raw, dict):
        return Reading(None, (Problem((), "a request is a JSON object", "not_an_object", "see GET /openapi.json"),))
    request, problems = _validated(raw)
    return Reading(request, (*problems, *_tokens_out_of_place(raw, in_the_open=in_the_open))).check(RULES)


def parse(document: str | bytes, *, in_the_open: bool) -> TrainRequest:
    """The request in a JSON document, by itself. Raises RequestRefused with every problem there is."""
    return read(document, in_the_open=in_the_open).accepted()


def _validated(raw: dict[str, Any]) -> tuple[TrainRequest | None, list[Problem]]:
    """The request as far as it can be read, faulty fields at their defaults, and what is wrong with the others."""
    text = json.dumps(raw)
    try:
        return TrainRequest.model_validate_json(text), []
    except ValidationError as error:
        problems = [_problem(raw, detail) for detail in error.errors(include_url=False, include_input=False)]
    readable = copy.deepcopy(raw)
    for problem in problems:
        _take_out(readable, problem.loc)
    # What a request cannot do without gets a stand-in, so that the rules about the rest can still be asked.
    readable.setdefault("processed_dataset_id", "absent")
    readable.setdefault("training_config", {})
    if isinstance(readable["training_config"], dict):
        readable["training_config"].setdefault("base_model_id", "absent/absent")
    try:
        return TrainRequest.model_validate_json(json.dumps(readable)), problems
    except ValidationError:
        return None, problems


def _problem(raw: object, detail: Any) -> Problem:
    loc: Loc = tuple(part for part in detail["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    loc = tuple(redacted(part) if isinstance(part, str) else part for part in loc)
    kind, message = detail["type"], redacted(detail["msg"])
    hint = None
    if kind == "extra_forbidden":
        kind, message = "unknown_field", "no such field"
        hint = _closest(loc)
    elif kind == "missing":
        kind, message = "missing_field", "this field is required"
    elif kind == "literal_error":
        kind = "not_one_of"
    elif kind == "string_pattern_mismatch":
        kind, message = "bad_form", "this has characters that it must not have"
        hint = "names have letters, digits, '.', '_' and '-'; a Hub repository is owner/name"
    return Problem(loc, message, kind, hint)


def _closest(loc: Loc) -> str:
    fields = _fields_at(TrainRequest, loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(sorted(fields))}"


def _fields_at(model: type[BaseModel], path: Loc) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)


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


def _tokens_out_of_place(tree: Any, *, in_the_open: bool, loc: Loc = ()) -> Iterator[Problem]:
    hint = "store the token with `gemtune secret NAME` and send secret:gemtune-user-NAME"
    if isinstance(tree, dict):
        for key, value in tree.items():
            if looks_secret(key):
                yield Problem((*loc, redacted(key)), "a field's name holds a token", "secret_in_the_open", hint)
            yield from _tokens_out_of_place(value, in_the_open=in_the_open, loc=(*loc, redacted(key)))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _tokens_out_of_place(value, in_the_open=in_the_open, loc=(*loc, index))
    elif isinstance(tree, str):
        if loc in SECRET_FIELDS:
            if in_the_open and not re.match(SECRET_REFERENCE, tree):
                msg = "messages and files are stored and logged by others, so a token may not stand in them"
                yield Problem(loc, msg, "secret_in_the_open", hint)
        elif looks_secret(tree):
            yield Problem(
                loc, "this looks like a token, and the field is stored in the clear", "secret_in_the_open", hint
            )


# Rules across fields. Each names the fields it reads and is skipped while one of them is faulty.


@dataclass(frozen=True, slots=True)
class Rule:
    reads: tuple[Loc, ...]
    check: Callable[[TrainRequest], list[Problem]]


def _not_available(loc: Loc, value: str, instead: str) -> list[Problem]:
    return [Problem(loc, f"{value} is not available yet", "not_available_yet", instead)]


def _method(request: TrainRequest) -> list[Problem]:
    method = request.training_config.method
    return [] if method == "LoRA" else _not_available(("training_config", "method"), f"method {method}", "use LoRA")


def _provider(request: TrainRequest) -> list[Problem]:
    provider = request.training_config.provider
    if provider == "huggingface":
        return []
    return _not_available(("training_config", "provider"), f"provider {provider}", "use huggingface")


def _modality(request: TrainRequest) -> list[Problem]:
    return [] if request.modality == "text" else _not_available(("modality",), "modality vision", "use text")


def _packing(request: TrainRequest) -> list[Problem]:
    return (
        _not_available(("training_config", "packing"), "packing", "use false")
        if request.training_config.packing
        else []
    )


def _format(request: TrainRequest) -> list[Problem]:
    format = request.export_config.format
    return [] if format == "adapter" else _not_available(("export_config", "format"), f"format {format}", "use adapter")


def _quantization(request: TrainRequest) -> list[Problem]:
    format, got = request.export_config.format, request.export_config.quantization
    allowed = QUANTIZATIONS[format]
    if got is None or got in allowed:
        return []
    message = f"{format} exports know no quantization {got!r}"
    return [
        Problem(
            ("export_config", "quantization"), message, "quantization_not_in_format", f"use one of {', '.join(allowed)}"
        )
    ]


def _destination(request: TrainRequest) -> list[Problem]:
    """A repository that is named along with `gcs` is let through: the interface's own example does it."""
    export = request.export_config
    if export.destination == "gcs":
        return []
    problems = _not_available(("export_config", "destination"), "destination hfhub", "use gcs")
    if export.hf_repo_id is None:
        loc = ("export_config", "hf_repo_id")
        problems.append(Problem(loc, "hfhub needs a repository", "missing_field", "name one as owner/name"))
    return problems


def _wandb(request: TrainRequest) -> list[Problem]:
    if request.wandb_config is None:
        return []
    return _not_available(("wandb_config",), "reporting to W&B", "leave wandb_config out")


def _webhook(request: TrainRequest) -> list[Problem]:
    if request.notify is None or request.notify.webhook_url is None:
        return []
    return _not_available(("notify", "webhook_url"), "a webhook", "follow GET /jobs/{id}/events, or job-status")


def _eval_steps(request: TrainRequest) -> list[Problem]:
    config = request.training_config
    if config.eval_strategy == "steps" or "eval_steps" not in config.model_fields_set:
        return []
    if config.eval_steps == type(config).model_fields["eval_steps"].default:
        return []  # the documented example sends the default along with any strategy
    message = f"eval_steps has no use with eval_strategy {config.eval_strategy!r}"
    return [Problem(("training_config", "eval_steps"), message, "field_without_use", "set eval_strategy to steps")]


def _evaluation_metrics(request: TrainRequest) -> list[Problem]:
    metrics = request.training_config.evaluation_metrics
    if len(set(metrics)) == len(metrics):
        return []
    return [
        Problem(("training_config", "evaluation_metrics"), "a metric stands twice", "repeated_value", "name each once")
    ]


def _sees(request: TrainRequest) -> list[Problem]:
    """Gemma 1 and 2 and the smallest Gemma 3 (270M, 1B) have no vision tower."""
    name = request.training_config.base_model_id.rsplit("/", 1)[-1].lower()
    blind = re.match(r"^gemma-(2b|7b|1\.1|2-)|^gemma-3-(270m|1b)", name)
    if request.modality == "text" or not blind:
        return []
    return [
        Problem(
            ("modality",), f"{name} cannot see pictures", "model_without_vision", "use gemma-3-4b-it or larger, or text"
        )
    ]


def _base_model(request: TrainRequest) -> list[Problem]:
    from gemtune.base_model import problem_of

    problem = problem_of(request.training_config.base_model_id)
    return [] if problem is None else [problem]


_TRAINING: Loc = ("training_config",)
_EXPORT: Loc = ("export_config",)
RULES: tuple[Rule, ...] = (
    Rule(((*_TRAINING, "base_model_id"),), _base_model),
    Rule(((*_TRAINING, "method"),), _method),
    Rule(((*_TRAINING, "provider"),), _provider),
    Rule((("modality",),), _modality),
    Rule((("modality",), (*_TRAINING, "base_model_id")), _sees),
    Rule(((*_TRAINING, "packing"),), _packing),
    Rule(((*_TRAINING, "eval_steps"), (*_TRAINING, "eval_strategy")), _eval_steps),
    Rule(((*_TRAINING, "evaluation_metrics"),), _evaluation_metrics),
    Rule(((*_EXPORT, "format"),), _format),
    Rule(((*_EXPORT, "format"), (*_EXPORT, "quantization")), _quantization),
    Rule(((*_EXPORT, "destination"), (*_EXPORT, "hf_repo_id")), _destination),
    Rule((("wandb_config",),), _wandb),
    Rule((("notify",),), _webhook),
)
