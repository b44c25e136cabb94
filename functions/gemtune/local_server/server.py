"""`gemtune up`: API, control, events, scheduler and workflow in one process."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import gemtune
from gemtune.bootstrap import Services, services
from gemtune.embedded.sqlite_bus import SqliteBus
from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.handlers import error_answers
from gemtune.handlers.http_api import LARGEST_BODY_BYTES, MAX_BODY_BYTES
from gemtune.local_server import home_lock, work_folders
from gemtune.local_server.cloud_run_jobs import CloudRunJobs
from gemtune.local_server.delivery import Delivery, receivers
from gemtune.local_server.home_lock import CannotServe
from gemtune.local_server.recovery import recover
from gemtune.local_server.stop_signals import stop_signals
from gemtune.local_server.uploads import Uploads
from gemtune.local_server.workflow_runner import WorkflowRunner
from gemtune.machines.choice import LOCAL

log = logging.getLogger(__name__)

FUNCTIONS = Path(gemtune.__file__).parent.parent
WORKFLOW = FUNCTIONS.parent / "workflows" / "fine_tune.yaml"
# Cloud Scheduler calls `sweep` every few minutes; on one machine it is cheap enough to run more often.
SWEEP_SECONDS = 20.0


def serve(*, port: int | None = None, kind: type[Server] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `kind` replaces the class Server.

    Raises CannotServe if another server uses this GEMTUNE_HOME or the port.
    """
    app = services()
    port = app.settings.port if port is None else port
    with home_lock.locked(app.settings.home):
        (kind or Server)(app, port).run()


class Server:
    """Local server: the HTTP API, the control API, and background loops.

    The API is on the port that users know, and what the workflow calls on a random one. Requests to the second port
    need a token that only this process knows.
    """

    def __init__(self, app: Services, port: int):
        """Bind both ports and create the loops that `run` starts.

        Raises CannotServe.
        """
        from gemtune.local_server.http_server import listen

        self._app = app
        self._stop = threading.Event()
        token = secrets.token_urlsafe(32)
        try:
            # waitress passes on bodies of up to twice the limit, so that the app can answer with the limit.
            self._api = listen(_function("api"), port=port, max_body_bytes=LARGEST_BODY_BYTES + MAX_BODY_BYTES)
        except OSError as error:
            hint = "set PORT to a free port, or stop the process that uses this one"
            raise CannotServe(f"port {port} is not available: {error.strerror}", hint=hint) from None
        control = _guarded(_function("control"), token)
        self._control = listen(control, port=0, max_body_bytes=MAX_BODY_BYTES)
        url = f"http://{self._control.effective_host}:{self._control.effective_port}"
        launcher = SqliteLauncher(app.database, clock=app.clock)
        names = ("gemtune-prepare", f"gemtune-train-{LOCAL}", "gemtune-export")
        self._jobs = CloudRunJobs(app.database, app.settings, names=names)
        self.runner = WorkflowRunner(launcher, self._jobs, WORKFLOW, control_url=url, token=token)
        self._bus = SqliteBus(app.database, clock=app.clock)
        self._delivery = Delivery(self._bus, receivers(app))
        self._uploads = Uploads(app.database, app.buckets, clock=app.clock)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then shut down."""
        with stop_signals() as wait_for_stop:
            self._start()
            wait_for_stop()
            print("Stopping gemtune; unfinished jobs continue at the next start", flush=True)
            self._shut_down()

    def _start(self) -> None:
        """Recover from an earlier crash, then start all loops."""
        recover(self._app, self._bus)
        self._jobs.forget_ended()
        for loop in self.loops():
            threading.Thread(target=loop, daemon=True).start()
        url = f"http://{self._api.effective_host}:{self._api.effective_port}"
        print(f"gemtune is serving {url} (home: {self._app.settings.home})", flush=True)

    def loops(self) -> list[Callable[[], None]]:
        """Return the loops to run until the server stops, one per thread."""
        return [
            partial(_answer, self._control, self._stop),
            partial(_answer, self._api, self._stop),
            self._delivery.run,
            self.runner.run,
            self._uploads.run,
            self._sweep_periodically,
        ]

    def _shut_down(self) -> None:
        """Stop the loops, terminate running steps, and close the ports."""
        self._stop.set()
        for part in (self._uploads, self._delivery, self.runner):
            part.stop()
        self._jobs.stop()
        self._api.close()
        self._control.close()

    def _sweep_periodically(self) -> None:
        """Call `sweep` every SWEEP_SECONDS, and clean up.

        On Google Cloud, Cloud Scheduler calls it.
        """
        while not self._stop.wait(SWEEP_SECONDS):
            try:
                self._app.sweep()
                self._bus.delete_expired()
                work_folders.remove_idle(self._app.settings.work, self._app.store)
                work_folders.remove_ended_checks(self._app.settings.work_of_checks)
                self._uploads.forget_removed()
            except Exception:
                log.exception("a sweep failed; the next one starts in %d s", SWEEP_SECONDS)


def _answer(server: Any, is_stopping: threading.Event) -> None:
    """Answer requests until another thread closes the server.

    The server waits for its sockets, and closing them can raise an error there, which is none once it `is_stopping`.
    """
    try:
        server.run()
    except OSError:
        if not is_stopping.is_set():
            raise


def _function(target: str) -> Any:
    """Return the WSGI app of a function in main.py.

    functions-framework makes it, as on Cloud Functions.
    """
    from functions_framework import create_app

    return create_app(target=target, source=str(FUNCTIONS / "main.py"))


def _guarded(app: Any, token: str) -> Callable[..., Iterable[bytes]]:
    """Wrap an app so that it answers 403 to requests without the token.

    On Google Cloud, IAM does this.
    """

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            response: Iterable[bytes] = app(environ, start_response)
            return response
        start_response("403 Forbidden", [("Content-Type", error_answers.JSON)])
        return [error_answers.body("forbidden", "only gemtune itself may send events", None)]

    return guard
