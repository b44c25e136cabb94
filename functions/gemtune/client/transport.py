"""Sending of calls over HTTP, one at a time or asynchronously."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from gemtune import VERSION_HEADER
from gemtune.client.calls import THIS_MACHINE, Address, Call, LinkedPut, Operation, Pause, Step
from gemtune.client.errors import LinkRefused, NotAnAnswer, Refused, Unreachable
from gemtune.redaction import redact_logs_of

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
TIMEOUT_SECONDS = 60.0
# HTTP statuses of a proxy in front of a service that does not answer.
NO_SERVICE = (502, 503, 504)
# Statuses by which Cloud Run itself says that it has no instance for a request, or that one ended before its answer:
# https://cloud.google.com/run/docs/troubleshooting
NO_INSTANCE = (429, 500)
# HTTP statuses of Cloud Storage after which a request is sent again, and the code in its answer to a refused one.
REPEATED = (408, 429, 500, 502, 503, 504)
STORAGE_CODE = re.compile(r"<Code>(\w{1,100})</Code>")


class Transport:
    """Sends calls one at a time."""

    def __init__(
        self, address: Address, *, sleep: Callable[[float], None] = time.sleep, timeout: float = TIMEOUT_SECONDS
    ):
        self.address = address
        self._sleep = sleep
        self._timeout = timeout
        self._storage_clients: dict[str, httpx2.Client] = {}

    def send(self, call: Call[Any]) -> Any:
        """Send a call and return the JSON of its answer.

        Raises Unreachable, Refused, NotAnAnswer.
        """
        import httpx2

        began = time.monotonic()
        try:
            response = self._client.request(**_arguments(self.address, call))
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.address, error) from error
        log.debug("%s %s: HTTP %d, %.3f s", call.method, response.url, response.status_code, time.monotonic() - began)
        return _decode(self.address, response.status_code, response.headers, response.text)

    def put(self, upload: LinkedPut) -> None:
        """Send an upload by a link. Raises Unreachable, LinkRefused."""
        import httpx2

        try:
            response = self._storage(upload.host).put(upload.url, content=upload.content, headers=dict(upload.headers))
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unreachable(f"could not connect to {upload.host} ({error})") from error
        _check_stored(upload, response.status_code, response.text)

    def run(self, operation: Operation[Answer]) -> Answer:
        """Run an operation and return its result. Raises ClientError."""
        answer, error = None, None
        while True:
            step, end = _advance(operation, answer, error)
            if end is not None:
                result: Answer = end.value
                return result
            answer, error = None, None
            assert step is not None
            try:
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                elif isinstance(step, LinkedPut):
                    self.put(step)
                else:
                    answer = typed(step, self.send(step))
            except BaseException as raised:  # Ctrl-C as well: an operation may have something to tidy up
                error = raised

    def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._storage_clients.values()):
            client.close()

    def _storage(self, host: str) -> httpx2.Client:
        """Return the HTTP client for uploads to a host of links."""
        import httpx2

        if host not in self._storage_clients:
            redact_logs_of("httpx2")
            self._storage_clients[host] = httpx2.Client(timeout=self._timeout, trust_env=not _is_this_machine(host))
        return self._storage_clients[host]

    @cached_property
    def _client(self) -> httpx2.Client:
        """Return the HTTP client, created at the first request."""
        import httpx2

        # Without trust_env, httpx ignores the proxy settings, which must not apply to this machine itself.
        trust_env, verify = not self.address.is_local, self.address.verify
        return httpx2.Client(base_url=self.address.url, timeout=self._timeout, trust_env=trust_env, verify=verify)


class AsyncTransport:
    """Sends calls asynchronously, several at the same time if needed."""

    def __init__(self, address: Address):
        self.address = address
        self._storage_clients: dict[str, httpx2.AsyncClient] = {}

    async def send(self, call: Call[Any]) -> Any:
        """Send a call and return the JSON of its answer.

        Raises Unreachable, Refused, NotAnAnswer.
        """
        import httpx2

        try:
            response = await self._client.request(**_arguments(self.address, call))
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise _unreachable(self.address, error) from error
        return _decode(self.address, response.status_code, response.headers, response.text)

    async def put(self, upload: LinkedPut) -> None:
        """Send an upload by a link. Raises Unreachable, LinkRefused."""
        import httpx2

        client = self._storage(upload.host)
        try:
            response = await client.put(upload.url, content=upload.content, headers=dict(upload.headers))
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unreachable(f"could not connect to {upload.host} ({error})") from error
        _check_stored(upload, response.status_code, response.text)

    async def run(self, operation: Operation[Answer]) -> Answer:
        """Run an operation and return its result. Raises ClientError."""
        answer, error = None, None
        while True:
            # In a thread: an operation reads and hashes files, which would block the event loop.
            step, end = await asyncio.to_thread(_advance, operation, answer, error)
            if end is not None:
                result: Answer = end.value
                return result
            answer, error = None, None
            assert step is not None
            try:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, LinkedPut):
                    await self.put(step)
                else:
                    answer = typed(step, await self.send(step))
            except BaseException as raised:  # Ctrl-C as well: an operation may have something to tidy up
                error = raised

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._storage_clients.values()):
            await client.aclose()

    def _storage(self, host: str) -> httpx2.AsyncClient:
        """Return the HTTP client for uploads to a host of links."""
        import httpx2

        if host not in self._storage_clients:
            redact_logs_of("httpx2")
            is_local = _is_this_machine(host)
            self._storage_clients[host] = httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=not is_local)
        return self._storage_clients[host]

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        """Return the HTTP client, created at the first request."""
        import httpx2

        trust_env, verify = not self.address.is_local, self.address.verify
        return httpx2.AsyncClient(
            base_url=self.address.url, timeout=TIMEOUT_SECONDS, trust_env=trust_env, verify=verify
        )


def _advance(
    operation: Operation[Any], answer: Any, error: BaseException | None
) -> tuple[Step | None, StopIteration | None]:
    """Return the next step of an operation, or its end."""
    try:
        return (operation.send(answer) if error is None else operation.throw(error)), None
    except StopIteration as end:
        return None, end


def typed(call: Call[Answer], answer: Any) -> Any:
    """Return an answer as the model of its call.

    Raises NotAnAnswer if it does not fit, as that of a service of another version may not.
    """
    if call.answer is None or not issubclass(call.answer, BaseModel):
        return answer
    try:
        return call.answer.model_validate(answer)
    except ValidationError as error:
        text = f"this client cannot read the answer to {call.method} {call.path}: {error}"
        raise NotAnAnswer("the service, which may be of another version,", 200, text) from error


def _arguments(address: Address, call: Call[Any]) -> dict[str, Any]:
    """Return the arguments of httpx for a call."""
    headers = dict(call.headers)
    if address.token and address.url.startswith("https://"):
        headers["Authorization"] = f"Bearer {address.token}"
    content = call.content
    if call.json is not None:
        headers["Content-Type"] = "application/json"
        # httpx raises an error for numbers that JSON does not have, such as NaN; the service says what is wrong.
        content = json.dumps(call.json).encode()
    body = {} if content is None else {"content": content}
    timeout = {} if call.timeout is None else {"timeout": call.timeout}
    return {"method": call.method, "url": call.path, "params": dict(call.params), "headers": headers, **body, **timeout}


def _unreachable(address: Address, error: Exception) -> Unreachable:
    return Unreachable(f"could not connect to {address.url} ({error})")


def _decode(address: Address, status: int, headers: Mapping[str, str], text: str) -> Any:
    """Return the JSON of a successful answer.

    Raises Unreachable for the answer of a proxy, Refused for an error of the service, and NotAnAnswer.
    """
    if status in NO_SERVICE or (status in NO_INSTANCE and VERSION_HEADER not in headers):
        raise Unreachable(f"{address.url} answered with HTTP {status}")
    if VERSION_HEADER not in headers:
        raise NotAnAnswer(address.url, status, text)
    try:
        body = json.loads(text)
        if status < 300:
            return body
        error, problems = body["error"], body.get("problems") or ()
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        raise NotAnAnswer(address.url, status, text) from None
    raise Refused(status, code, message, hint=error.get("hint"), problems=tuple(problems), body=text)


def _is_this_machine(host: str) -> bool:
    return any(f"://{host}".startswith(own) for own in THIS_MACHINE)


def _check_stored(upload: LinkedPut, status: int, text: str) -> None:
    """Raise Unreachable or LinkRefused if an upload was not successful.

    https://cloud.google.com/storage/docs/xml-api/reference-status
    """
    if status in REPEATED:
        raise Unreachable(f"{upload.host} answered with HTTP {status}")
    if not 200 <= status < 300:
        code = STORAGE_CODE.search(text)
        raise LinkRefused(upload.host, status, "" if code is None else code[1])
