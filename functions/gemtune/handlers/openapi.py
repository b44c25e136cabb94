"""The OpenAPI 3.1 document, made from the table of endpoints and the models behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gemtune import VERSION
from gemtune.handlers.answers import ErrorAnswer
from gemtune.jobs.status import Status

if TYPE_CHECKING:
    from gemtune.handlers.http_api import Endpoint

_SCHEMAS = "#/components/schemas/{model}"

# What a path does not say of itself: parameters, and the errors a caller has to expect.
_QUERY: Mapping[str, Mapping[str, Any]] = {
    "/jobs": {
        "status": {"enum": [status.value for status in Status]},
        "modality": {"enum": ["text", "vision"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
        "page_token": {"type": "string"},
    },
    "/jobs/<job_id>/events": {"after": {"type": "integer", "minimum": 0, "default": 0}},
    "/jobs/<job_id>/metrics": {"after": {"type": "integer", "minimum": 0}},
}
_ERRORS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("POST", "/train"): (409, 413, 422),
    ("POST", "/jobs/<job_id>/exports"): (404, 409, 413, 422),
    ("POST", "/jobs/<job_id>/cancel"): (404, 409),
    ("DELETE", "/jobs/<job_id>"): (404, 409),
    ("GET", "/jobs"): (422,),
    ("GET", "/jobs/<job_id>/status"): (404, 409),
    ("GET", "/jobs/<job_id>/events"): (404, 422),
    ("GET", "/jobs/<job_id>/metrics"): (404, 409, 422),
    ("GET", "/jobs/<job_id>/artifacts"): (404, 409, 501),
}
_MEANING = {
    404: "no such job",
    409: "contradicts what is there; `record_unreadable`: another version of the service wrote it",
    413: "too large",
    422: "refused, with every error",
    501: "the service runs as nobody who can sign links",
}


def openapi(endpoints: Mapping[tuple[str, str], Endpoint]) -> dict[str, Any]:
    """The document as JSON knows it."""
    bodies = {endpoint.body for endpoint in endpoints.values() if endpoint.body is not None}
    models: set[type[BaseModel]] = {ErrorAnswer, *bodies, *(endpoint.answer for endpoint in endpoints.values())}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), endpoint in endpoints.items():
        operations = paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", path), {})
        operations[method.lower()] = _operation(method, path, endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gemtune", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(method: str, path: str, endpoint: Endpoint) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<(\w+)>", path)
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in _QUERY.get(path, {}).items()]
    answers = {str(endpoint.success): _content(endpoint.answer.__name__, "done")}
    answers |= {str(code): _content("ErrorAnswer", _MEANING[code]) for code in _ERRORS.get((method, path), ())}
    operation: dict[str, Any] = {"operationId": endpoint.call.__name__, "responses": answers}
    if endpoint.body is not None:
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 1024}})
        operation["requestBody"] = _content(endpoint.body.__name__, "what to do") | {"required": True}
    return operation | ({"parameters": parameters} if parameters else {})


def _content(model: str, description: str) -> dict[str, Any]:
    schema = {"$ref": _SCHEMAS.format(model=model)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
