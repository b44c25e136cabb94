"""OpenAPI 3.1 document, built from the table of endpoints and their models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gemtune import VERSION
from gemtune.handlers.answers import ErrorAnswer
from gemtune.handlers.description.endpoint import Binary, Endpoint

ABOUT = "Fine-tunes Gemma models: datasets, jobs, their events, metrics, logs and results."
IDENTITY_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "Identity token of Google Cloud for a deployed service; a workstation needs none.",
}
_SCHEMAS = "#/components/schemas/{model}"


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the document of these endpoints, in JSON's types."""
    bodies = {endpoint.body for endpoint in endpoints if isinstance(endpoint.body, type)}
    models: set[type[BaseModel]] = {ErrorAnswer, *bodies, *(endpoint.answer for endpoint in endpoints)}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gemtune", "version": VERSION, "description": ABOUT},
        "servers": [{"url": "/", "description": "the service that this document comes from"}],
        "security": [{}, {"identity_token": []}],
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"identity_token": IDENTITY_TOKEN}},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    """Return the Operation Object of an endpoint."""
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in endpoint.path_parts
    ]
    parameters += [
        {
            "name": parameter.name,
            "in": parameter.place,
            "description": parameter.description,
            "required": False,
            "schema": parameter.schema,
        }
        for parameter in endpoint.parameters
    ]
    responses = {str(endpoint.success): _content(endpoint.answer, "success")}
    responses |= {str(status): _content(ErrorAnswer, meaning) for status, meaning in endpoint.refusals.items()}
    operation: dict[str, Any] = {
        "operationId": endpoint.route.__name__,
        "summary": endpoint.summary,
        "tags": [endpoint.path.split("/")[1]],
        "parameters": parameters,
        "responses": responses,
    }
    if isinstance(endpoint.body, Binary):
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"description": "the bytes", "required": True, "content": content}
    elif endpoint.body is not None:
        required = any(field.is_required() for field in endpoint.body.model_fields.values())
        operation["requestBody"] = _content(endpoint.body, "the request") | {"required": required}
    return operation


def _content(model: type[BaseModel], description: str) -> dict[str, Any]:
    """Return a Response Object with JSON content that follows a model."""
    schema = {"$ref": _SCHEMAS.format(model=model.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
