"""Operations of the HTTP API.

The router and the OpenAPI document are both built from this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import RootModel

from gemtune.bootstrap import Services
from gemtune.handlers import answers, routes
from gemtune.handlers.dataset_endpoints import DATASETS
from gemtune.handlers.description import openapi
from gemtune.handlers.description.endpoint import Endpoint
from gemtune.handlers.job_endpoints import JOBS


class Document(RootModel[dict[str, Any]]):
    """An OpenAPI document."""


@cache
def document() -> Document:
    """Return the OpenAPI document of this table."""
    return Document(openapi.document(ENDPOINTS))


def show_document(services: Services) -> Document:
    """Show the OpenAPI document."""
    return document()


ENDPOINTS: Sequence[Endpoint] = (
    *JOBS,
    *DATASETS,
    Endpoint(
        method="GET",
        path="/models",
        summary="List base models: those at hand, and published sizes",
        route=routes.models,
        success=200,
        answer=answers.Models,
        body=None,
        parameters=(),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/health",
        summary="Say that the service runs",
        route=routes.health,
        success=200,
        answer=answers.Health,
        body=None,
        parameters=(),
        errors=(),
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        summary="Describe this API",
        route=show_document,
        success=200,
        answer=Document,
        body=None,
        parameters=(),
        errors=(),
    ),
)
