"""Watching of folders for job files, with an event for each finished file."""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import partial
from itertools import chain
from pathlib import Path

from gemtune.embedded.database import Database
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.embedded.sqlite_bus import enqueue
from gemtune.errors import UnsafeName
from gemtune.ports import Buckets, Clock, Objects
from gemtune.services.ingest import is_job_file, may_be_request

log = logging.getLogger(__name__)

# Seconds between two scans of both folders. Scans find files that were added before the observer ran, and files in
# folders so new that the observer did not watch them yet.
SCAN_SECONDS = 2.0


class Uploads:
    """Watcher of the buckets `uploads` and `data` for job files.

    A file is finished when its writer closes it, when it is moved into place, or when two scans find it unchanged.
    """

    def __init__(self, database: Database, buckets: Buckets, *, clock: Clock):
        self._database = database
        self._buckets = buckets
        self._clock = clock
        self._folders = [_as_folder(buckets.uploads), _as_folder(buckets.data)]
        # (mtime in ns, size in bytes) of each job file at the last scan, and when its event was queued.
        self._scanned: dict[Path, tuple[int, int]] = {}
        self._queued: dict[Path, tuple[int, int]] = {}
        self._patterns = {buckets.data.bucket: ("*.job.*",), buckets.uploads.bucket: ("*.json", "*.yaml", "*.yml")}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Watch both folders until `stop` is called."""
        from gemtune.local_server.finished_files import file_observer

        observer = file_observer([(objects.root, partial(self._on_finished, objects)) for objects in self._folders])
        observer.start()
        try:
            while not self._stopping.is_set():
                self.scan()
                self._stopping.wait(SCAN_SECONDS)
        finally:
            observer.stop()
            observer.join()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    def _on_finished(self, objects: FolderObjects, path: Path) -> None:
        """Queue the event of a file that the observer reports.

        After a failure, the next scan tries again.
        """
        try:
            self.queue_event(objects, path)
        except Exception as error:
            log.info("%s could not be queued; the next scan tries again: %s", path, error)

    def scan(self) -> None:
        """Queue the event of each job file unchanged since the last scan."""
        for objects in self._folders:
            paths = chain.from_iterable(objects.root.rglob(pattern) for pattern in self._patterns[objects.bucket])
            for path in paths:
                try:
                    stat = path.stat()
                    state = (stat.st_mtime_ns, stat.st_size)
                    if self._scanned.get(path) == state and self._queued.get(path) != state:
                        self.queue_event(objects, path)
                    self._scanned[path] = state
                except OSError:
                    continue  # it was moved away since it was listed
                except Exception:
                    log.exception("%s could not be queued; the next scan tries again", path)

    def forget_removed(self) -> None:
        """Forget job files that no longer exist.

        If an identical file comes back, its event is queued again and leads to the same job.
        """
        for states in (self._scanned, self._queued):
            for path in [path for path in list(states) if not path.exists()]:
                states.pop(path, None)
        rows = self._database.read().execute("SELECT bucket, name FROM uploads_seen").fetchall()
        removed = [(bucket, name) for bucket, name in map(tuple, rows) if not self._exists(bucket, name)]
        if removed:
            with self._database.write() as connection:
                connection.executemany("DELETE FROM uploads_seen WHERE bucket = ? AND name = ?", removed)

    def _exists(self, bucket: str, name: str) -> bool:
        """Return whether a file with this object name exists."""
        try:
            return any(objects.generation(name) is not None for objects in self._folders if objects.bucket == bucket)
        except UnsafeName:  # it is now a link that leads out of the bucket
            return False

    def queue_event(self, objects: FolderObjects, path: Path) -> None:
        """Queue a storage event for a finished file, once per generation.

        Files that can be no requests are ignored. The same transaction queues the event and records the generation.
        """
        name = os.fsencode(path.relative_to(objects.root).as_posix()).decode(errors="replace")
        if not any(fits(self._buckets, objects.bucket, name) for fits in (is_job_file, may_be_request)):
            return
        stat = path.stat()
        try:
            generation = objects.generation(name)
        except UnsafeName as error:  # a link that leads out of the bucket; logged once
            log.warning("a job file is ignored: %s", error)
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
                body = json.dumps({"bucket": objects.bucket, "name": name, "generation": generation}).encode()
                enqueue(connection, "trigger:objects", body, {}, now=self._clock.now())
        self._queued[path] = (stat.st_mtime_ns, stat.st_size)


def _as_folder(objects: Objects) -> FolderObjects:
    assert isinstance(objects, FolderObjects), "the embedded backend stores its objects in folders"
    return objects
