"""Base class of all parts of a job's record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen part of a job's record, which keeps fields it does not know.

    Fields that a newer version added are read, and written again with the others.
    """

    # An attribute may have another name than the stored field: then the field is read and written by its alias.
    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, serialize_by_alias=True)
