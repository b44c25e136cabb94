"""Zip files of the data source `archive_file` of the archive provider."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

# The same time for all entries, so that equal files give equal zips.
TIME = (2049, 1, 1, 0, 0, 0)


def archive_file(config: dict[str, Any]) -> dict[str, Any]:
    """Write the zip and return its attributes.

    Raises ValueError for arguments that the stand-in does not support.
    """
    if config["type"] != "zip" or config.get("source_dir") is None:
        raise ValueError("the stand-in makes a zip of source_dir only")
    source, output = Path(config["source_dir"]), Path(config["output_path"])
    excluded = [_glob(pattern) for pattern in config.get("excludes") or []]
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            name = path.relative_to(source).as_posix()
            if any(pattern.fullmatch(name) for pattern in excluded):
                continue
            entry = zipfile.ZipInfo(name, TIME)
            entry.external_attr = int(config.get("output_file_mode") or "0644", 8) << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return _sums(output.read_bytes())


def _glob(pattern: str) -> re.Pattern[str]:
    """Compile a pattern: `**` is any folders, and `*` is within one name.

    Syntax: github.com/bmatcuk/doublestar.
    """
    parts = re.split(r"(\*\*/|/\*\*$|\*)", pattern)
    written = {"**/": "(?:.*/)?", "/**": "(?:/.*)?", "*": "[^/]*"}
    return re.compile("".join(written.get(part, re.escape(part)) for part in parts))


def _sums(content: bytes) -> dict[str, Any]:
    sha1, sha256, sha512 = (hashlib.new(name, content) for name in ("sha1", "sha256", "sha512"))
    return {
        "id": sha1.hexdigest(),
        "output_sha": sha1.hexdigest(),
        "output_sha256": sha256.hexdigest(),
        "output_sha512": sha512.hexdigest(),
        "output_base64sha256": base64.b64encode(sha256.digest()).decode(),
        "output_base64sha512": base64.b64encode(sha512.digest()).decode(),
        "output_md5": hashlib.md5(content).hexdigest(),
        "output_size": len(content),
    }
