"""Schemas of Terraform providers, read from their wheels for CDK Terrain.

Older ones are for cdktf, as it was called before. The wheels were generated from these schemas. They have one folder
per resource: `index.js` has the names and types of attributes and blocks and says which are computed; `index.d.ts` says
which are required, and which values the documentation allows.

A schema: {"provider": BLOCK, "resources": {type: BLOCK}, "data": {type: BLOCK}}. A BLOCK: {"attributes": {name:
{"type", "required" | "optional" | "computed", "values"}}, "blocks": {name: {"nesting", "min", "max", "block"}}}.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

Block = dict[str, Any]

ENTRY = re.compile(
    r'^ +(\w+): \{\n +value: (.*?),\n +isBlock: (\w+),\n +type: "(\w+)",\n +storageClassType: "(\w+)",', re.M | re.S
)
STRUCT = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{\n(.*?)^\}", re.M | re.S)
CLASS = re.compile(r"^class (\w+) extends cdkt[fn]\.(\w+) \{\n(.*?)^\}", re.M | re.S)
FLAGS = re.compile(r"// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n(?=((?:.*\n){2}))")
INTERFACE = re.compile(r"^export interface (\w+)[^\n]*\{\n(.*?)^\}", re.M | re.S)
PROPERTY = re.compile(r"/\*\*(.*?)\*/\n    readonly (\w+)(\??):", re.S)
REGISTRY = re.compile(r"registry\.terraform\.io/\S+#(\w+) ")
VALUES = re.compile(r'Possible values: \[("[^\]]*)\]')
PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool"}
KINDS = {"TerraformResource": "resources", "TerraformDataSource": "data", "TerraformProvider": "provider"}


def read(wheel: Path, only: str = "") -> dict[str, Any]:
    """Return the schema in a wheel.

    only: pattern of the resource types to read.
    """
    schema: dict[str, Any] = {"provider": {}, "resources": {}, "data": {}}
    for sources in _folders(wheel):
        folder = _Folder(sources)
        if folder.kind == "provider":
            schema["provider"] = folder.block()
            del schema["provider"]["attributes"]["alias"]  # Terraform's own
        elif folder.kind is not None and re.search(only, folder.type):
            schema[folder.kind][folder.type] = folder.block()
    return schema


def _folders(wheel: Path) -> list[dict[str, str]]:
    """Return the sources of each folder of the library, by extension.

    Large resources are split into several files.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        library = archive.read(name)
    folders: dict[str, dict[str, str]] = defaultdict(lambda: {".js": "", ".d.ts": ""})
    with tarfile.open(fileobj=io.BytesIO(library), mode="r:gz") as files:
        for member in files:
            parts = member.name.split("/")
            kind = next((kind for kind in (".d.ts", ".js") if member.name.endswith(kind)), None)
            if parts[:2] == ["package", "lib"] and len(parts) > 3 and kind is not None:
                content = files.extractfile(member)
                assert content is not None
                folders[parts[2]][kind] += content.read().decode().partition("//# sourceMappingURL")[0] + "\n"
    return list(folders.values())


class _Folder:
    """Sources of one resource, data source or provider."""

    def __init__(self, sources: dict[str, str]):
        script = sources[".js"]
        self._classes = {name: (base, body) for name, base, body in CLASS.findall(script)}
        self._structs = {name: ENTRY.findall(body) for name, body in STRUCT.findall(script)}
        self._interfaces = {name: _properties(body) for name, body in INTERFACE.findall(sources[".d.ts"])}
        self._class = next((name for name, (base, _) in self._classes.items() if base in KINDS), None)
        self.kind = None if self._class is None else KINDS[self._classes[self._class][0]]
        named = re.search(r'tfResourceType = "(\w+)"', script)
        self.type = "" if named is None else named[1]

    def block(self) -> Block:
        assert self._class is not None
        body = self._classes[self._class][1]
        entries = ENTRY.findall(body[body.rindex("    synthesizeHclAttributes() {") :])
        block = self._block(entries, f"{self._class}Config")
        _add_computed(block, body)
        return block

    def _block(self, entries: list[tuple[str, ...]], interface: str) -> Block:
        properties = self._interfaces.get(interface, {})
        block: Block = {"attributes": {}, "blocks": {}}
        for name, value, is_block, kind, stored_as in entries:
            required, values = properties.get(name, (False, []))
            if is_block == "true":
                block["blocks"][name] = self._nested(value, kind, stored_as, required)
                continue
            attribute: dict[str, Any] = {"type": _type(kind, stored_as), "required" if required else "optional": True}
            if values:
                attribute["values"] = values
            if name in ("id", "project") and not required:
                attribute["computed"] = True
            block["attributes"][name] = attribute
        return block

    def _nested(self, value: str, kind: str, stored_as: str, required: bool) -> Block:
        struct = stored_as.removesuffix("List") if stored_as.removesuffix("List") in self._interfaces else stored_as
        block = self._block(self._structs.get(struct[0].lower() + struct[1:], []), struct)
        reference = self._classes.get(f"{struct}OutputReference")
        if reference is not None:
            _add_computed(block, reference[1])
        if kind == "struct":
            return {"nesting": "single", "min": 0, "max": 0, "block": block}
        many = "Mapper" in value.partition("(")[0]  # only lists of any length have a mapper
        return {"nesting": kind, "min": int(required), "max": 0 if many else 1, "block": block}


def _properties(interface: str) -> dict[str, tuple[bool, list[str]]]:
    """Return whether each property is required, and its values if listed.

    The keys are the names in Terraform.
    """
    properties = {}
    for comment, _, optional in PROPERTY.findall(interface):
        name, values = REGISTRY.search(comment), VALUES.search(comment)
        if name is not None:
            properties[name[1]] = (not optional, re.findall(r'"([^"]*)"', values[1]) if values else [])
    return properties


def _add_computed(block: Block, class_body: str) -> None:
    """Add the attributes that the provider computes.

    Some may be set as well; the others appear in the class only.
    """
    for name, computed, _, _, code in FLAGS.findall(class_body):
        if computed != "true" or name in block["blocks"]:
            continue
        attribute = block["attributes"].setdefault(name, {"type": _computed_type(code)})
        if not attribute.get("required"):
            attribute["computed"] = True


def _type(kind: str, stored_as: str) -> Any:
    if kind == "simple":
        return PRIMITIVES.get(stored_as, "dynamic")
    of = re.fullmatch(r"(string|number|boolean)(?:List|Map|Set)", stored_as)
    return [kind, PRIMITIVES[of[1]]] if of and kind in ("list", "set", "map") else "dynamic"


def _computed_type(code: str) -> Any:
    kinds = {"String": "string", "Number": "number", "Boolean": "bool", "List": ["list", "string"]}
    for name, kind in kinds.items():
        if f"get{name}Attribute" in code:
            return kind
    return ["map", "string"] if re.search(r"cdkt[fn]\.StringMap\(", code) else "dynamic"


if __name__ == "__main__":
    wheel, only, into = sys.argv[1:]
    Path(into).write_text(json.dumps(read(Path(wheel), only), sort_keys=True))
