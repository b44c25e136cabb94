"""Asks a deployed service whether it works: health, its document, its jobs; and with a request, one job to its end."""

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
# Seconds between looks at a job, how long it may take, and how long one answer may take (a cold start's).
LOOK, PATIENCE, TIMEOUT = 3.0, 4 * 3600.0, 60.0


def run(environment: Mapping[str, str], *, sleep: Callable[[float], None] = time.sleep, look: float = LOOK) -> int:
    """Returns 0 when everything is as it should be. Raises Refused, saying what is not."""
    url = (environment.get("GEMTUNE_URL") or "").rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise Refused("set GEMTUNE_URL to the service's address: terraform -chdir=terraform output -raw api_url")
    service = Service(url, _token(url, environment))
    if service.token is not None:
        _check_private(url)
    health = service.ask("GET", "/health")
    if health != {"status": "healthy", "service": "training"}:
        raise Refused(f"/health says {health}", exit_code=1)
    paths = service.ask("GET", "/openapi.json").get("paths", {})
    if "/train" not in paths:
        raise Refused("/openapi.json knows no /train", exit_code=1)
    listed = service.ask("GET", "/jobs?limit=1")
    print(f"{url} is healthy, knows {len(paths)} paths, and lists {'jobs' if listed['jobs'] else 'no jobs yet'}")
    request = environment.get("REQUEST")
    return 0 if not request else _train(service, Path(request), sleep, look)


class Service:
    def __init__(self, url: str, token: str | None):
        self._url, self.token = url, token

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of an answer. Raises Refused for anything but 2xx."""
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self._url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode(errors="replace").strip()
            hint = "; may you call it? see callers in terraform/variables.tf" if error.code in (401, 403) else ""
            raise Refused(f"{method} {path} answers {error.code}: {said}{hint}", exit_code=1) from error
        except (OSError, ValueError) as error:
            raise Refused(f"{method} {path} has no answer: {error}", exit_code=1) from error


def _token(url: str, environment: Mapping[str, str]) -> str | None:
    """GEMTUNE_ID_TOKEN, or gcloud's; none for a service of this machine."""
    given = environment.get("GEMTUNE_ID_TOKEN")
    if given:
        return given
    if urlsplit(url).hostname in ("127.0.0.1", "localhost"):
        return None
    need("gcloud")
    return read("gcloud", "auth", "print-identity-token")


def _check_private(url: str) -> None:
    """Raises Refused when the API answers somebody without a token: the service trusts that IAM has checked it."""
    try:
        Service(url, None).ask("GET", "/health")
    except Refused:
        return
    raise Refused("the API answers without a token: it is public, and should not be", exit_code=1)


def _train(service: Service, request: Path, sleep: Callable[[float], None], look: float) -> int:
    """Submit a request and follow its job to the end."""
    try:
        body = request.read_bytes()
    except OSError as error:
        raise Refused(f"REQUEST: {error}") from error
    job_id = service.ask("POST", "/train", body)["job_id"]
    print(f"job {job_id}")
    seen, waited = "", 0.0
    while waited <= PATIENCE:
        status = service.ask("GET", f"/jobs/{job_id}/status")
        if status["status"] != seen:
            seen = status["status"]
            print(f"  {seen}" + (f" on {status['machine']}" if seen == "training" else ""), flush=True)
        if seen in OVER:
            for name in ("error", "adapter_path", "cost_usd"):
                if status.get(name) is not None:
                    print(f"  {name}: {status[name]}")
            return 0 if seen == "completed" else 1
        sleep(look)
        waited += look
    raise Refused(f"job {job_id} is still {seen}", exit_code=1)
