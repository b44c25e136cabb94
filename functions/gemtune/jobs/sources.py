"""The ways by which requests come in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, assert_never

from pydantic import Field


class Source(StrEnum):
    HTTP = "http"
    PUBSUB = "pubsub"
    UPLOAD = "upload"

    @property
    def exposes_tokens(self) -> bool:
        """Whether others store and log what comes this way, so that no token may stand in it."""
        match self:
            case Source.HTTP:
                return False
            case Source.PUBSUB | Source.UPLOAD:
                return True
        assert_never(self)


OpenSource = Annotated[Source | str, Field(union_mode="left_to_right")]  # a newer version may know more ways
