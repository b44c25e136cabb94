"""JSON schemas of pydantic models, as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from docs.generate.text.markdown import code, codes, sentence
from gemtune.request.spec import DATASET_ID, SECRET_REFERENCE

Schema = Mapping[str, Any]
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
# Patterns of texts, in words.
PATTERNS: Mapping[str, str] = {
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, `.`, `_`, `-`",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$": "`owner/name`",
    DATASET_ID: "letters, digits, `.`, `_`, `-`; or `hf://datasets/owner/name@revision/folder`",
    SECRET_REFERENCE: "`secret:gemtune-user-NAME`",
    r"^[^\x00-\x1f\x7f]*$": "no control characters",
    r"^[a-z0-9_-]{1,63}$": "a job's id",
    r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$": "the end of a layer's name",
    r"^[^\s\x00-\x1f\x7f\u2581]+$": "no blanks",
    r"^[a-z0-9_]{1,40}$": "1 to 40 of a-z, 0-9, `_`",
}


def field_rows(model: type[BaseModel], links: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type with bounds, default and description of each field.

    links: schema name -> link to its section.
    """
    schema = model.model_json_schema()
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field)
        yield code(name), type_of(field, links), default, sentence(str(field.get("description", "")))


def type_of(field: Schema, links: Mapping[str, str]) -> str:
    """Describe what a schema allows in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}]({links[name]})" if name in links else name
    if "oneOf" in field or "anyOf" in field:
        return _choice(field.get("oneOf") or field["anyOf"], links)
    if "enum" in field:
        return codes(field["enum"])
    if "const" in field:
        return code(field["const"])
    kind = field.get("type")
    if kind == "array":
        limit = f", at most {field['maxItems']}" if "maxItems" in field else ""
        inner = type_of(field["items"], links) if field.get("items") else "anything"
        return f"list{limit}, of {inner}"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"object of {type_of(values, links)}" if isinstance(values, dict) and values else "object"
    if kind is None:
        return "anything"
    if field.get("format") == "date-time":
        return "time (RFC 3339)"
    return _bounded(TYPES[kind], field)


def _choice(alternatives: list[Schema], links: Mapping[str, str]) -> str:
    """Describe alternatives.

    A text next to a list of names stands for names that a newer version may add, and is left out.
    """
    described = [type_of(each, links) for each in alternatives if each.get("type") != "null"]
    named = [text for text in described if text != "text"]
    return " or ".join(dict.fromkeys(named or described))


def _bounded(name: str, field: Schema) -> str:
    bounds = []
    if "minimum" in field or "exclusiveMinimum" in field:
        low = (
            f"from {_number(field['minimum'])}" if "minimum" in field else f"above {_number(field['exclusiveMinimum'])}"
        )
        bounds.append(low)
    if "maximum" in field or "exclusiveMaximum" in field:
        high = (
            f"to {_number(field['maximum'])}" if "maximum" in field else f"below {_number(field['exclusiveMaximum'])}"
        )
        bounds.append(high)
    text = " ".join([name, *bounds])
    if "maxLength" in field:
        text += (
            f" of {field['minLength']} to {field['maxLength']}"
            if field.get("minLength")
            else (f" of at most {field['maxLength']}")
        )
        text += " characters"
    if "pattern" in field:
        text += f": {PATTERNS[field['pattern']]}"
    return text


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "absent"
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list):
        return codes(value) or "none"
    return code(f"{value:g}" if isinstance(value, float) else value)
