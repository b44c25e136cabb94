"""`gemtune up`: the functions, their events, their schedule and the workflow's runner, in one local process."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gemtune
from gemtune.bootstrap import Services, services
from gemtune.embedded.disk import make_folder, writing
from gemtune.embedded.sqlite_bus import SqliteBus
from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.errors import GemtuneError
from gemtune.handlers import error_answers
from gemtune.handlers.http_api import MAX_BODY_BYTES
from gemtune.local_server import work_folders
from gemtune.local_server.cloud_run_jobs import CloudRunJobs
from gemtune.local_server.delivery import Delivery, FunctionClient
from gemtune.local_server.recovery import recover
from gemtune.local_server.stop_signals import stop_signals
from gemtune.local_server.uploads import Uploads
from gemtune.local_server.workflow_runner import WorkflowRunner
from gemtune.machines.choice import LOCAL

log = logging.getLogger(__name__)

FUNCTIONS = Path(gemtune.__file__).parent.parent
WORKFLOW = FUNCTIONS.parent / "workflows" / "fine_tune.yaml"
# Cloud Scheduler has `sweep` every few minutes; here a round costs nothing.
SWEEP_SECONDS, SWEEP_TIMEOUT_SECONDS = 20.0, 120.0
# A message of Pub/Sub has at most 10 MB, which are a third more in base64.
MAX_EVENT_BYTES = 16 * 1024 * 1024


class CannotServe(GemtuneError):
    """The server cannot start as things are."""

    code = "cannot_serve"


def serve(*, port: int | None = None, kind: type[Server] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotServe when another server has this GEMTUNE_HOME or the port."""
    here = services()
    port = here.settings.port if port is None else port
    with _only_server(here.settings.home):
        (kind or Server)(here, port).run()


class Server:
    """The functions behind two ports of this machine, and the loops beside them."""

    def __init__(self, here: Services, port: int):
        from gemtune.local_server.http_server import listen

        self._here = here
        self._stop = threading.Event()
        token = secrets.token_urlsafe(32)  # made at every start: whoever has it is us
        try:
            # Up to twice its limit the app reads a body, and says what the limit is.
            self._api = listen(_function("api"), port=port, max_body_bytes=2 * MAX_BODY_BYTES)
        except OSError as error:
            hint = "set PORT to a free port, or stop what listens there"
            raise CannotServe(f"port {port} cannot be had: {error.strerror}", hint=hint) from None
        self._events = listen(_guarded(_event_functions(), token), port=0, max_body_bytes=MAX_EVENT_BYTES)
        url = f"http://{self._events.effective_host}:{self._events.effective_port}"
        self._functions = FunctionClient(url, token=token, timeout_seconds=SWEEP_TIMEOUT_SECONDS)
        launcher = SqliteLauncher(here.database, clock=here.clock)
        turns = {
            "gemtune-prepare": 2,
            f"gemtune-train-{LOCAL}": here.settings.parallel_trainings,
            "gemtune-export": 2,
        }
        self._jobs = CloudRunJobs(here.database, here.settings, parallel=turns)
        self.runner = WorkflowRunner(launcher, self._jobs, WORKFLOW, control_url=f"{url}/control", token=token)
        self._bus = SqliteBus(here.database, clock=here.clock)
        self._delivery = Delivery(self._bus, base_url=url, token=token)
        self._uploads = Uploads(here.database, here.buckets, clock=here.clock)

    def run(self) -> None:
        with stop_signals() as told_to_stop:
            self._start()
            told_to_stop()
            print("gemtune stops; jobs go on at the next start", flush=True)
            self._shut_down()

    def _start(self) -> None:
        recover(self._here, self._bus)
        self._jobs.forget_ended()
        for part in self.parts():
            threading.Thread(target=part, daemon=True).start()
        home = self._here.settings.home
        print(f"gemtune serves http://{self._api.effective_host}:{self._api.effective_port} (home {home})", flush=True)

    def parts(self) -> list[Callable[[], None]]:
        """Return what runs until the end, each in a thread."""
        return [
            self._events.run, self._api.run, self._delivery.run, self.runner.run, self._uploads.run, self._sweeping,
        ]  # fmt: skip

    def _shut_down(self) -> None:
        self._stop.set()
        for part in (self._uploads, self._delivery, self.runner):
            part.stop()
        self._jobs.stop()
        self._api.close()
        self._events.close()

    def _sweeping(self) -> None:
        """What Cloud Scheduler does."""
        while not self._stop.wait(SWEEP_SECONDS):
            try:
                status = self._functions.post("/sweep/")
                if status != 200:
                    raise RuntimeError(f"the sweep answered {status}")
                self._bus.delete_expired()
                work_folders.remove_idle(self._here.settings.work, self._here.store)
                self._uploads.forget_removed()
            except Exception:
                log.exception("a sweep failed; the next one comes in %d s", SWEEP_SECONDS)


def _function(target: str) -> Any:
    """A function of main.py as functions-framework serves it, on Cloud Functions too."""
    from functions_framework import create_app

    return create_app(target=target, source=str(FUNCTIONS / "main.py"))


def _event_functions() -> Any:
    from werkzeug.exceptions import NotFound
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    names = ("dispatch", "ingest", "fan_out", "notify", "control", "sweep")
    return DispatcherMiddleware(NotFound(), {f"/{name}": _function(name) for name in names})


def _guarded(app: Any, token: str) -> Callable[..., Iterable[bytes]]:
    """The app, for callers who have the token. On gcp this is IAM's part."""

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sent = environ.get("HTTP_AUTHORIZATION", "")
        if secrets.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            answer: Iterable[bytes] = app(environ, start_response)
            return answer
        start_response("403 Forbidden", [("Content-Type", error_answers.JSON)])
        return [error_answers.body("forbidden", "events come from gemtune itself", None)]

    return guard


@contextmanager
def _only_server(home: Path) -> Iterator[None]:
    """The lock of this GEMTUNE_HOME; it goes with the process, however that ends."""
    make_folder(home)
    with writing(home):
        lock = (home / "server.lock").open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another gemtune serves {home} already"
            raise CannotServe(message, hint="use it, or set GEMTUNE_HOME to another folder") from None
        with writing(home):
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        yield
