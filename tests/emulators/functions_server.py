"""Local server of the functions in main.py.

`python -m tests.emulators.functions_server PORT` serves the api at the root and every other function below its own
name.
"""

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
    mounted = {f"/{name}": create_app(target=name, source=source) for name in EVENTS}
    app = DispatcherMiddleware(create_app(target="api", source=source), mounted)
    waitress.serve(app, host="127.0.0.1", port=port, threads=16)


if __name__ == "__main__":
    main(int(sys.argv[1]))
