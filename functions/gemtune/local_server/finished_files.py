"""Tells when a file below a folder was closed by its writer, or moved into place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver


class _Finished(FileSystemEventHandler):
    def __init__(self, call: Callable[[Path], None]):
        self._call = call

    def on_any_event(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent)
        if not event.is_directory and (moved or isinstance(event, FileClosedEvent)):
            self._call(Path(os.fsdecode(event.dest_path if moved else event.src_path)))


def observer(folders: list[tuple[Path, Callable[[Path], None]]]) -> BaseObserver:
    """Return what calls, from a thread of its own, with each file that is finished below one of the folders. It has to
    be started and stopped."""
    watching = Observer()
    for folder, call in folders:
        watching.schedule(_Finished(call), str(folder), recursive=True)
    return watching
