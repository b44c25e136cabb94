"""The service: functions, command line, and code shared with the trainer.

It never imports torch. `from gemtune import Client, AsyncClient` imports the clients of its HTTP API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemtune.client.asynchronous import AsyncClient as AsyncClient
    from gemtune.client.sync import Client as Client

# Equal to the version in pyproject.toml: Cloud Functions gets source files, not a package with metadata to ask.
VERSION = "0.1.0"
# Header of every answer of the service, with its version. Clients tell other services on the same port by it.
VERSION_HEADER = "Gemtune-Version"
# Names that are imported when they are used, so that `import gemtune` costs nothing.
_CLIENTS = {"Client": "gemtune.client.sync", "AsyncClient": "gemtune.client.asynchronous"}


def __getattr__(name: str) -> object:
    """Import a client."""
    if name not in _CLIENTS:
        raise AttributeError(f"module 'gemtune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_CLIENTS[name]), name)
