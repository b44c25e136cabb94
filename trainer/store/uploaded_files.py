"""Files that leave the local disk as soon as they are complete.

They are uploaded. The disk is memory on Cloud Run, where a whole model would often not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gemtune.jobs.parts.results import Artifact
from gemtune.ports import Objects
from trainer.store import manifest


@dataclass(frozen=True, slots=True)
class UploadedFiles:
    """Files of a local folder that are below `prefix/` in the object store.

    Links take their places in the folder, so that it can be read as if it were whole. copies: folder for downloads,
    where the store can only be read by them. artifacts: by name.
    """

    objects: Objects
    prefix: str
    copies: Path
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def move(self, path: Path) -> None:
        """Upload a complete file, and put a link in its place."""
        self.artifacts[path.name] = manifest.add(self.objects, path, self.prefix, path.name)
        path.unlink()
        self._link(path)

    def rename(self, path: Path, target: Path) -> None:
        """Rename a file of the folder, and what was uploaded of it."""
        artifact = self.artifacts.pop(path.name, None)
        if artifact is None:
            path.rename(target)
            return
        name = f"{self.prefix}/{target.name}"
        self.objects.join([f"{self.prefix}/{path.name}"], name)
        self.objects.delete(f"{self.prefix}/{path.name}")
        (self.copies / path.name).unlink(missing_ok=True)
        path.unlink()
        self._link(target)
        renamed = {"name": target.name, "uri": self.objects.uri(name)}
        self.artifacts[target.name] = artifact.model_copy(update=renamed)

    def _link(self, path: Path) -> None:
        path.symlink_to(self.objects.fetch(f"{self.prefix}/{path.name}", self.copies, in_place=True))
