"""Smoke test of a deployed service, and optionally of one job."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.tools import Refused, need, read

OVER = ("completed", "failed", "cancelled")
# Seconds between requests for a job's status, for a whole job, and for one answer (which a cold start may delay).
POLL_INTERVAL, JOB_TIMEOUT, TIMEOUT = 3.0, 4 * 3600.0, 60.0


def run(
    environment: Mapping[str, str],
    *,
    sleep: Callable[[float], None] = time.sleep,
    poll_interval: float = POLL_INTERVAL,
) -> int:
    """Check health, OpenAPI document and job list of a service; return 0.

    If REQUEST is the path of a request, also submits it and follows its job; returns 1 if the job does not complete.
    Raises Refused with the first check that fails.
    """
    url = (environment.get("GEMTUNE_URL") or "").rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise Refused("set GEMTUNE_URL to the service's address: make output PROJECT_ID=… REGION=…")
    service = Service(url, _token(url, environment))
    if service.token is not None:
        _check_private(url)
    health = service.ask("GET", "/health")
    if (health.get("status"), health.get("service")) != ("healthy", "training"):
        raise Refused(f"/health answers {health}", exit_code=1)
    paths = service.ask("GET", "/openapi.json").get("paths", {})
    if "/train" not in paths:
        raise Refused("/openapi.json has no /train", exit_code=1)
    listed = service.ask("GET", "/jobs?limit=1")
    print(f"{url} is healthy, serves {len(paths)} paths, and lists {'jobs' if listed['jobs'] else 'no jobs yet'}")
    request = environment.get("REQUEST")
    return 0 if not request else _train(service, Path(request), sleep, poll_interval)


class Service:
    """Client of a service. token: an identity token; None on this machine."""

    def __init__(self, url: str, token: str | None):
        self._url, self.token = url, token

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request and return the answer's JSON.

        Raises Refused for a status other than 2xx, and if there is no answer.
        """
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self._url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace").strip()
            hint = "; `callers` in terraform/variables.tf lists who may call it" if error.code in (401, 403) else ""
            raise Refused(f"{method} {path} answers {error.code}: {text}{hint}", exit_code=1) from error
        except (OSError, ValueError) as error:
            raise Refused(f"{method} {path} has no answer: {error}", exit_code=1) from error


def _token(url: str, environment: Mapping[str, str]) -> str | None:
    """Return GEMTUNE_ID_TOKEN, or gcloud's token, or None on this machine."""
    token = environment.get("GEMTUNE_ID_TOKEN")
    if token:
        return token
    if urlsplit(url).hostname in ("127.0.0.1", "localhost"):
        return None
    need("gcloud")
    return read("gcloud", "auth", "print-identity-token")


def _check_private(url: str) -> None:
    """Raise Refused if the API answers requests without a token.

    The service itself does not check tokens; IAM does.
    """
    try:
        Service(url, None).ask("GET", "/health")
    except Refused:
        return
    raise Refused("the API answers without a token: it is public, and must not be", exit_code=1)


def _train(service: Service, request: Path, sleep: Callable[[float], None], poll_interval: float) -> int:
    """Submit a request, follow its job, and return 0 if it completes, else 1."""
    try:
        body = request.read_bytes()
    except OSError as error:
        raise Refused(f"REQUEST: {error}") from error
    job_id = service.ask("POST", "/train", body)["job_id"]
    print(f"job {job_id}")
    state, waited = "", 0.0
    while waited <= JOB_TIMEOUT:
        status = service.ask("GET", f"/jobs/{job_id}/status")
        if status["status"] != state:
            state = status["status"]
            print(f"  {state}" + (f" on {status['machine']}" if state == "training" else ""), flush=True)
        if state in OVER:
            for name in ("error", "adapter_path", "cost_usd"):
                if status.get(name) is not None:
                    print(f"  {name}: {status[name]}")
            return 0 if state == "completed" else 1
        sleep(poll_interval)
        waited += poll_interval
    raise Refused(f"job {job_id} is still {state}", exit_code=1)
