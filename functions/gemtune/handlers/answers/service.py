"""Health of the service, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from gemtune import VERSION


class Health(BaseModel):
    """Answer of a service that is running."""

    status: Literal["healthy"] = Field("healthy", description="always `healthy`")
    service: Literal["training"] = Field("training", description="always `training`")
    version: str = Field(VERSION, description="version of the service")


class ProblemAnswer(BaseModel):
    """One thing that is wrong with a request."""

    loc: Sequence[str | int] = Field(
        description="where it is: field names and positions in lists, or `query` or `header` and a parameter"
    )
    msg: str = Field(description="what is wrong, in one sentence")
    code: str = Field(description="stable code of the problem, for programs")
    hint: str | None = Field(description="what to do about it")


class ErrorSentence(BaseModel):
    """Error of a call."""

    code: str = Field(description="stable code of the error, for programs")
    message: str = Field(description="what went wrong, in one sentence")
    hint: str | None = Field(description="what to do about it")


class ErrorAnswer(BaseModel):
    """Answer to a call that failed."""

    error: ErrorSentence = Field(description="what went wrong")
    problems: Sequence[ProblemAnswer] | None = Field(
        None, description="everything that is wrong with the request; only with status 422"
    )
