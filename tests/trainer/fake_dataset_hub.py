"""Hub with one dataset repository, as far as huggingface_hub reads from it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

REPOSITORY, COMMIT = "acme/chats", "7" * 40
REVISIONS = ("main", "v1", "refs/convert/parquet", COMMIT)


@dataclass
class FakeDatasetHub:
    """State of the fake Hub.

    files: content by path. required_token: the only token that is let in. fetched: paths of downloaded files.
    """

    files: dict[str, bytes]
    required_token: str | None = None
    url: str = ""
    fetched: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Answer a request for the commit, the list of files, or a file."""
        path = path.split("?")[0].replace("%2F", "/")
        if not path.removeprefix("/api").startswith(f"/datasets/{REPOSITORY}/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.required_token is not None and authorization != f"Bearer {self.required_token}":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        if (match := re.fullmatch(rf"/api/datasets/{REPOSITORY}/revision/(.+)", path)) is not None:
            if match[1] not in REVISIONS:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode()
        if (match := re.fullmatch(rf"/api/datasets/{REPOSITORY}/tree/{COMMIT}(?:/(.+))?", path)) is not None:
            return self._tree(match[1])
        name = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/")
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if method == "GET":
            self.fetched.append(name)
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content

    def _tree(self, folder: str | None) -> tuple[int, dict[str, str], bytes]:
        prefix = "" if folder is None else f"{folder}/"
        names = [name for name in self.files if name.startswith(prefix)]
        if not names:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        entries = [{"type": "file", "oid": "0" * 40, "size": len(self.files[name]), "path": name} for name in names]
        return (
            200,
            {},
            json.dumps([*entries, {"type": "directory", "oid": "0" * 40, "path": f"{prefix}folder"}]).encode(),
        )
