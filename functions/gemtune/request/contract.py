"""Base class of all parts of a request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# Place in a request: field names, and positions in lists.
Loc = tuple[str | int, ...]


class Contract(BaseModel):
    """Part of a request: frozen and strict, without unknown fields."""

    # pydantic's messages must not repeat a wrong value: it may be a token, and tracebacks are logged.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def differs_from_default(self, field: str) -> bool:
        """Return whether a field has another value than its default.

        It makes no difference whether the request leaves the field out or repeats the default.
        """
        return bool(getattr(self, field) != type(self).model_fields[field].get_default(call_default_factory=True))
