"""Output of steps on Google Cloud, where Cloud Logging has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemtune.errors import BadPageToken, LogsBusy, NoLogs
from gemtune.jobs.record import Job
from gemtune.jobs.steps import executions_of
from gemtune.ports import LogLine, LogLines
from gemtune.redaction import redact

if TYPE_CHECKING:
    from google.auth.transport.requests import AuthorizedSession

# https://cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list
URL = "https://logging.googleapis.com/v2/entries:list"
SCOPE = "https://www.googleapis.com/auth/logging.read"
TIMEOUT = 20.0
# Entries of one page; the API returns at most 1,000.
MOST_ENTRIES = 1000
# Bytes of text that one call returns, if they are more than one entry; an entry has up to 256 KB.
MOST_BYTES = 256 * 1024
# A position: the time of an entry and its id, which is unique among those of one time.
POSITION = re.compile(r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)\|(?P<entry>[\w.~-]{1,200})")
# Names of executions, as Cloud Run makes them.
EXECUTION = re.compile(r"[a-z0-9-]{1,80}")


class CloudLogs:
    """`ports.Logs` by Cloud Logging's API."""

    def __init__(self, project_id: str):
        self._project_id = project_id

    def executions(self, job: Job) -> Sequence[str]:
        """Return the executions of all attempts, as the record has them."""
        return executions_of(job)

    def read(self, job_id: str, execution: str, *, position: str, limit: int, is_over: bool) -> LogLines:
        """Return entries after a position, which is the time and id of one.

        Raises BadPageToken, NoLogs, LogsBusy.
        """
        conditions = [
            'resource.type="cloud_run_job"',
            f'labels."run.googleapis.com/execution_name"="{_checked(EXECUTION, execution)[0]}"',
        ]
        last = None
        if position:
            last = _checked(POSITION, position)
            conditions.append(f'timestamp>="{last["at"]}"')
        body = {
            "resourceNames": [f"projects/{self._project_id}"],
            "filter": " AND ".join(conditions),
            "orderBy": "timestamp asc",
            "pageSize": MOST_ENTRIES,
        }
        entries = _after(self._list(body), last)[:limit]
        lines = _first_lines(entries)
        end = f"{entries[len(lines) - 1]['timestamp']}|{entries[len(lines) - 1]['insertId']}" if lines else position
        return LogLines(lines, end)

    def _list(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the entries of a page. Raises NoLogs, LogsBusy."""
        from requests import RequestException

        try:
            answer = _session().post(URL, json=body, timeout=TIMEOUT)
        except RequestException as error:  # also after the last repetition
            raise LogsBusy("Cloud Logging does not return entries now", hint="try again in a minute") from error
        if answer.status_code == 403:
            hint = (
                "grant the account of the function `api` the permission logging.logEntries.list, or read them with "
                f"`gcloud logging read '{body['filter']}'`"
            )
            raise NoLogs("the service may not read the logs of its project", hint=hint)
        answer.raise_for_status()
        entries: list[dict[str, Any]] = answer.json().get("entries", [])
        return entries


def _after(entries: list[dict[str, Any]], last: re.Match[str] | None) -> list[dict[str, Any]]:
    """Return the entries that follow the last one of the page before.

    Entries of the same time come in the order of their ids.
    """
    if last is None:
        return entries
    return [entry for entry in entries if entry["timestamp"] != last["at"] or entry["insertId"] > last["entry"]]


def _first_lines(entries: list[dict[str, Any]]) -> list[LogLine]:
    """Return the lines of the first entries.

    They have up to MOST_BYTES together, or are a single one.
    """
    lines: list[LogLine] = []
    left = MOST_BYTES
    for entry in entries:
        line = _line(entry)
        left -= len(line.text.encode(errors="replace"))
        if lines and left < 0:
            break
        lines.append(line)
    return lines


def _line(entry: dict[str, Any]) -> LogLine:
    """Return an entry without tokens: its text, or the message of its object."""
    payload = entry.get("jsonPayload") or {}
    text = entry.get("textPayload") or str(payload.get("message", ""))
    return LogLine(datetime.fromisoformat(entry["timestamp"]), redact(text))


def _checked(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise BadPageToken()
    return match


@lru_cache(maxsize=1)
def _session() -> AuthorizedSession:
    """Return a session with the default credentials.

    A project may read entries 60 times a minute, so an answer of 429 is usual, and the request is repeated.
    """
    import google.auth
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    retries = Retry(total=4, backoff_factor=1, status_forcelist=(429, 500, 502, 503), allowed_methods=("POST",))

    credentials, _ = google.auth.default(scopes=[SCOPE])
    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    session.mount("https://", HTTPAdapter(max_retries=retries))
    return session
