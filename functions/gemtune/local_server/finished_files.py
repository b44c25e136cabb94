"""Notifications about finished files: closed by a writer, or moved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver


class _FinishedFileHandler(FileSystemEventHandler):
    """Calls a function with each file that was closed or moved into place."""

    def __init__(self, call: Callable[[Path], None]):
        self._call = call

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._call(Path(os.fsdecode(event.dest_path if isinstance(event, FileMovedEvent) else event.src_path)))


def file_observer(folders: list[tuple[Path, Callable[[Path], None]]]) -> BaseObserver:
    """Return an observer that reports each finished file below some folders.

    `folders` pairs each folder with the function to call with a file's path. The calls come from the observer's own
    thread. The caller starts and stops the observer.
    """
    observer = Observer()
    finished: list[type[FileSystemEvent]] = [FileClosedEvent, FileMovedEvent]
    for folder, call in folders:
        observer.schedule(_FinishedFileHandler(call), str(folder), recursive=True, event_filter=finished)
    return observer
