"""What every part of a request has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# Where something stands in a request: field names and positions in lists.
Loc = tuple[str | int, ...]


class Contract(BaseModel):
    # What pydantic says of a wrong value must not repeat it: it may be a token, and tracebacks are logged.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def differs_from_default(self, field: str) -> bool:
        """Whether a field has another value than its default. A default that is written out says nothing new."""
        return bool(getattr(self, field) != type(self).model_fields[field].get_default(call_default_factory=True))
