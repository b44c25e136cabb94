"""The protobuf that a Firestore trigger carries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.events.cloud.firestore import Document, DocumentEventData, MapValue, Value


def document_event(path: str, fields: dict[str, Any], *, at: float) -> bytes:
    """A serialized DocumentEventData of a document that was created at a time (seconds since the epoch)."""
    time = datetime.fromtimestamp(at, UTC)
    name = f"projects/local/databases/(default)/documents/{path}"
    values = {key: _value(value) for key, value in fields.items()}
    document = Document(name=name, fields=values, create_time=time, update_time=time)
    return bytes(DocumentEventData.serialize(DocumentEventData(value=document)))


def _value(value: Any) -> Value:
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
            raise TypeError(f"Firestore holds no {type(value).__name__}")
