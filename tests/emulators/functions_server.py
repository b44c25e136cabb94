"""`python -m tests.emulators.functions_server PORT`: every function of main.py below its name; api at the root."""

from __future__ import annotations

import sys
from pathlib import Path

FUNCTIONS = Path(__file__).parent.parent.parent / "functions"
EVENTS = ("dispatch", "ingest", "fan_out", "notify", "control", "sweep")


def main(port: int) -> None:
    import waitress
    from functions_framework import create_app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    source = str(FUNCTIONS / "main.py")
    behind = {f"/{name}": create_app(target=name, source=source) for name in EVENTS}
    app = DispatcherMiddleware(create_app(target="api", source=source), behind)
    waitress.serve(app, host="127.0.0.1", port=port, threads=16)


if __name__ == "__main__":
    main(int(sys.argv[1]))
