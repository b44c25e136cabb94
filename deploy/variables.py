"""Names in terraform.tfvars that nothing reads.

Terraform drops unknown names inside an object without a word, and only warns of unknown variables. So a misspelt limit
would be no limit, and a machine with a misspelt accelerator one without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from deploy.tools import ROOT, Refused

VARIABLE = re.compile(r'^variable "(\w+)" \{\n(.*?)^\}', re.M | re.S)
TYPE = re.compile(r"^  type += (map\(object|object)?(.*?)(?=^  \w|\Z)", re.M | re.S)
NAME = re.compile(r"^    (\w+) += ", re.M)
UNDECLARED = re.compile(r'does\s+not\s+declare\s+a\s+variable\s+named\s+"([^"]+)"')


def check(values: Mapping[str, Any], warnings: str) -> None:
    """Raise Refused if a variable or a name in its value is unknown.

    values: those of the variables as they were written, which Terraform's plan has as JSON. warnings: output of the
    plan.
    """
    unknown = [*_undeclared(warnings), *_unknown_in_objects(values)]
    if unknown:
        raise Refused(
            f"nothing reads {', '.join(unknown)}; correct the names in terraform/terraform.tfvars, or remove them. "
            "terraform/variables.tf describes all of them"
        )


def _undeclared(warnings: str) -> Iterator[str]:
    names = [name for name, _ in VARIABLE.findall(_text())]
    for name in dict.fromkeys(UNDECLARED.findall(warnings.replace("│", " "))):
        yield _with_advice(name, name, names)


def _unknown_in_objects(values: Mapping[str, Any]) -> Iterator[str]:
    for variable, body in VARIABLE.findall(_text()):
        described = TYPE.search(body)
        shape, names = ("", []) if described is None else (described[1], NAME.findall(described[2]))
        value = values.get(variable)
        if not shape or not isinstance(value, dict):
            continue
        objects = value if shape == "map(object" else {"": value}
        for key, each in objects.items():
            for name in each if isinstance(each, dict) else ():
                if name not in names:
                    yield _with_advice(".".join(filter(None, (variable, key, name))), name, names)


def _with_advice(place: str, name: str, names: Iterable[str]) -> str:
    similar = get_close_matches(name, list(names), n=1)
    return f"{place} (perhaps {similar[0]})" if similar else place


def _text() -> str:
    return (ROOT / "terraform" / "variables.tf").read_text()
