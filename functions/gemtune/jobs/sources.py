"""Sources: the ways in which requests come in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, assert_never

from pydantic import Field


class Source(StrEnum):
    """Way in which a request came in."""

    HTTP = "http"
    PUBSUB = "pubsub"
    UPLOAD = "upload"

    @property
    def exposes_tokens(self) -> bool:
        """Return whether a request of this source must not hold tokens.

        Messages and files are stored and logged by other services too.
        """
        match self:
            case Source.HTTP:
                return False
            case Source.PUBSUB | Source.UPLOAD:
                return True
        assert_never(self)


OpenSource = Annotated[Source | str, Field(union_mode="left_to_right")]  # a newer version may know more sources
