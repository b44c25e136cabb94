"""Base class of all parts of a job's record."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gemtune.untrusted import MAX_NUMBER

# Number that a store keeps in a column, or adds to. Beyond its bounds, SQLite cannot.
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]


class Record(BaseModel):
    """Frozen part of a job's record, which keeps fields it does not know.

    Fields that a newer version added are read, and written again with the others.
    """

    # An attribute may have another name than the stored field: then the field is read and written by its alias.
    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, serialize_by_alias=True)
