"""A plan, to be asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """Made of what `terraform show -json` says of a plan."""

    shown: Mapping[str, Any]

    def resources(self, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Address and values of each resource of these types, or of all; without what is known after apply only."""
        for resource in self.shown["planned_values"]["root_module"]["resources"]:
            if resource["mode"] == "managed" and (not types or resource["type"] in types):
                yield resource["address"], resource["values"]

    def named(self, type_: str, attribute: str = "name") -> dict[str, dict[str, Any]]:
        """The resources of a type by an attribute of theirs."""
        return {values[attribute]: values for _, values in self.resources(type_)}

    def references(self, type_: str) -> Mapping[str, Any]:
        """The expressions of the configuration, by the name of a resource: what its values are made from."""
        resources = self.shown["configuration"]["root_module"]["resources"]
        return {resource["name"]: resource["expressions"] for resource in resources if resource["type"] == type_}
