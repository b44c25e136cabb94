"""Protobuf bodies of Firestore trigger events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.events.cloud.firestore import Document, DocumentEventData, MapValue, Value


def document_event(path: str, fields: dict[str, Any], *, at: float) -> bytes:
    """Return the serialized DocumentEventData of a created document.

    `path` is the document's path below `documents/`, `at` its creation time in seconds since the epoch.
    """
    created_at = datetime.fromtimestamp(at, UTC)
    name = f"projects/local/databases/(default)/documents/{path}"
    values = {key: _value(value) for key, value in fields.items()}
    document = Document(name=name, fields=values, create_time=created_at, update_time=created_at)
    return bytes(DocumentEventData.serialize(DocumentEventData(value=document)))


def _value(value: Any) -> Value:
    """Convert a JSON value to a Firestore value. Raises TypeError."""
    match value:
        case None:
            return Value(null_value=0)
        case bool():
            return Value(boolean_value=value)
        case int():
            return Value(integer_value=value)
        case float():
            return Value(double_value=value)
        case str():
            return Value(string_value=value)
        case list():
            return Value(array_value={"values": [_value(item) for item in value]})
        case dict():
            return Value(map_value=MapValue(fields={key: _value(item) for key, item in value.items()}))
        case _:
            raise TypeError(f"Firestore cannot store a {type(value).__name__}")
