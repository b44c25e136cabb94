"""Plans and states of Terraform, as objects to query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """Plan or state in the format of `terraform show -json`.

    In a plan, values that are known only after apply are missing.
    """

    shown: Mapping[str, Any]

    def resources(self, *resource_types: str) -> Iterator[tuple[str, Values]]:
        """Yield address and values of each resource of these types, or of all."""
        root = self.shown.get("planned_values") or self.shown["values"]
        for resource in root["root_module"]["resources"]:
            if resource["mode"] == "managed" and (not resource_types or resource["type"] in resource_types):
                yield resource["address"], resource["values"]

    def named(self, type_: str) -> dict[str, Values]:
        """Return the resources of a type by name."""
        return {values["name"]: values for _, values in self.resources(type_)}

    def one(self, type_: str, name: str) -> Values:
        return self.named(type_)[name]

    def settings_of(self, component: str) -> dict[str, str]:
        """Return the environment of a function or Cloud Run job, by its name."""
        functions, jobs = self.named("google_cloudfunctions2_function"), self.named("google_cloud_run_v2_job")
        if component in functions:
            return dict(functions[component]["service_config"][0]["environment_variables"])
        (container,) = jobs[component]["template"][0]["template"][0]["containers"]
        return {variable["name"]: variable["value"] for variable in container["env"]}

    def grants(self) -> Iterator[tuple[str, str, str]]:
        """Yield address, role and member of each role that is granted.

        A member that is known only after apply is empty.
        """
        for address, values in self.resources():
            if "_iam_" in address.partition(".")[0] and "role" in values:
                for member in values.get("members", [values.get("member", "")]):
                    yield address, values["role"], member
