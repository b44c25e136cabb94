"""Watches the folders that job files are dropped into, and queues a storage event for each finished one."""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

from gemtune.embedded.database import Database
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.embedded.sqlite_bus import enqueue
from gemtune.errors import UnsafeName
from gemtune.ports import Buckets, Clock, Objects
from gemtune.services.ingest import is_job_file

log = logging.getLogger(__name__)

# A look over both folders, for what was dropped while nobody watched or in a folder too new to be watched.
LOOK_SECONDS = 2.0


class Uploads:
    """A file counts when its writer closes it, when it is moved into place, or when two looks find it unchanged."""

    def __init__(self, database: Database, buckets: Buckets, *, clock: Clock):
        self._database = database
        self._buckets = buckets
        self._clock = clock
        self._folders = [_as_folder(buckets.uploads), _as_folder(buckets.data)]
        self._seen: dict[Path, tuple[int, int]] = {}
        self._queued: dict[Path, tuple[int, int]] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Watch until `stop`."""
        from gemtune.local_server.finished_files import observer

        watching = observer([(objects.root, partial(self._closed, objects)) for objects in self._folders])
        watching.start()
        try:
            while not self._stopping.is_set():
                self.scan()
                self._stopping.wait(LOOK_SECONDS)
        finally:
            watching.stop()
            watching.join()

    def stop(self) -> None:
        self._stopping.set()

    def _closed(self, objects: FolderObjects, path: Path) -> None:
        try:
            self.finished(objects, path)
        except Exception as error:
            log.info("%s is taken in at the next look: %s", path, error)

    def scan(self) -> None:
        """Queue every job file that is as it was at the last look."""
        for objects in self._folders:
            for path in objects.root.rglob("*.job.*"):
                try:
                    stat = path.stat()
                    state = (stat.st_mtime_ns, stat.st_size)
                    if self._seen.get(path) == state and self._queued.get(path) != state:
                        self.finished(objects, path)
                    self._seen[path] = state
                except OSError:
                    continue  # it was moved away meanwhile
                except Exception:
                    log.exception("could not take in %s; looking again", path)

    def forget_removed(self) -> None:
        """Forget job files that are there no longer. One that comes back is taken in as the same job."""
        for states in (self._seen, self._queued):
            for path in [path for path in list(states) if not path.exists()]:
                states.pop(path, None)
        rows = self._database.read().execute("SELECT bucket, name FROM uploads_seen").fetchall()
        removed = [(bucket, name) for bucket, name in map(tuple, rows) if not self._is_there(bucket, name)]
        if removed:
            with self._database.write() as connection:
                connection.executemany("DELETE FROM uploads_seen WHERE bucket = ? AND name = ?", removed)

    def _is_there(self, bucket: str, name: str) -> bool:
        try:
            return any(objects.generation(name) is not None for objects in self._folders if objects.bucket == bucket)
        except UnsafeName:  # a link that leads out by now
            return False

    def finished(self, objects: FolderObjects, path: Path) -> None:
        """Queue one storage event per generation of a job file, in the transaction that remembers it."""
        name = os.fsencode(path.relative_to(objects.root).as_posix()).decode(errors="replace")
        if not is_job_file(self._buckets, objects.bucket, name):
            return
        stat = path.stat()
        try:
            generation = objects.generation(name)
        except UnsafeName as error:  # a link that leads out; said once
            log.warning("a job file is left alone: %s", error)
            self._queued[path] = (stat.st_mtime_ns, stat.st_size)
            return
        if generation is None:
            return
        with self._database.write() as connection:
            query = "SELECT generation FROM uploads_seen WHERE bucket = ? AND name = ?"
            row = connection.execute(query, (objects.bucket, name)).fetchone()
            if row is None or row["generation"] != generation:
                upsert = "INSERT OR REPLACE INTO uploads_seen VALUES (?, ?, ?)"
                connection.execute(upsert, (objects.bucket, name, generation))
                body = self._finalized(objects.bucket, name, generation, stat.st_size)
                enqueue(connection, "trigger:objects", body, {}, now=self._clock.now())
        self._queued[path] = (stat.st_mtime_ns, stat.st_size)

    def _finalized(self, bucket: str, name: str, generation: str, size: int) -> bytes:
        """StorageObjectData, as far as a folder knows it."""
        now = self._clock.now().isoformat().replace("+00:00", "Z")
        stored: dict[str, Any] = {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": generation,
            "metageneration": "1",
            "size": str(size),
            "timeCreated": now,
            "updated": now,
        }
        return json.dumps(stored).encode()


def _as_folder(objects: Objects) -> FolderObjects:
    assert isinstance(objects, FolderObjects), "the embedded backend keeps its objects in folders"
    return objects
