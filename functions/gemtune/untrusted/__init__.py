"""The only parser of untrusted JSON, YAML and numbers.

It limits size, nesting and parsing time, and raises Unreadable for every violation.

Requests, query strings, page tokens, job files, model configurations, rows and manifests are read here. The values that
this module returns are finite, unless their reader asks for others, at most MAX_DEPTH levels deep, and can be encoded
as UTF-8.
"""

from __future__ import annotations

from gemtune.untrusted.files import read_file
from gemtune.untrusted.json_reader import read_json, read_json_object
from gemtune.untrusted.limits import (
    LONE_SURROGATE,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_MODEL_FILE_BYTES,
    MAX_NUMBER,
    MAX_YAML_BYTES,
    Unreadable,
    too_large,
)
from gemtune.untrusted.numbers import read_number
from gemtune.untrusted.text import first_repeated
from gemtune.untrusted.yaml_reader import read_yaml

__all__ = [
    "LONE_SURROGATE",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_MODEL_FILE_BYTES",
    "MAX_NUMBER",
    "MAX_YAML_BYTES",
    "Unreadable",
    "first_repeated",
    "read_file",
    "read_json",
    "read_json_object",
    "read_number",
    "read_yaml",
    "too_large",
]
