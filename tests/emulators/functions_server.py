"""Local servers of the functions in main.py, each in its own process.

`python -m tests.emulators.functions_server FUNCTIONS` takes JSON: `{"api": {"port": 8080, "environment": {…}}, …}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent.parent.parent / "functions" / "main.py"


def main(functions: Mapping[str, Mapping[str, Any]]) -> None:
    """Serve until SIGTERM, then end all processes before this one.

    The libraries are imported once, before the processes are forked: no client of Google's exists before that.
    """
    from functions_framework import create_app

    applications = {name: create_app(target=name, source=str(SOURCE)) for name in functions}
    reading, writing = os.pipe()
    children = []
    for name, function in functions.items():
        child = os.fork()
        if child == 0:
            os.close(writing)
            threading.Thread(target=_end_with, args=(reading,), daemon=True).start()
            os.environ.update(function["environment"])
            _serve(applications[name], function["port"])
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: _end(children))
    os.wait()  # no function ends by itself
    _end(children)


def _end_with(pipe: int) -> None:
    """End this process when its parent has ended, which closes the pipe."""
    os.read(pipe, 1)
    os._exit(1)


def _end(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            continue  # main() has waited for it
    os._exit(1)


def _serve(application: Any, port: int) -> None:
    import waitress

    waitress.serve(application, host="127.0.0.1", port=port, threads=16)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
