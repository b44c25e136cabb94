"""POST to a user's URL, pinned to an address that was checked to be public.

This module opens the socket itself and passes it to `http.client`. No higher-level client can connect to a given
address, verify the certificate of the host name, and stop at a total time limit whatever the other side does.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from gemtune.errors import AddressNotAllowed
from gemtune.webhooks.destinations import is_loopback, is_public

# Time limits in seconds: for connecting to one address, and for the whole request.
CONNECT, TOTAL = 5.0, 20.0


def post(url: str, body: bytes, headers: Mapping[str, str], *, to_loopback: bool) -> int:
    """POST a body and return the response's status code.

    The response's body is not read, and redirects are not followed. The host name is resolved once and the connection
    goes to a checked address, so that a second lookup cannot lead to another one (DNS rebinding).

    Raises AddressNotAllowed, and OSError or http.client.HTTPException if there is no response.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    addresses = _resolve(host, port, loopback=to_loopback and is_loopback(host))
    deadline = time.monotonic() + TOTAL
    sock = _connect(addresses, port, deadline)
    try:
        if secure:  # the certificate belongs to the name, not to the address; the socket's timeout limits the handshake
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        with _close_at(deadline, sock):
            connection = http.client.HTTPConnection(host, port)
            connection.sock = sock
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            all_headers = {**headers, "Host": parts.netloc, "Connection": "close"}
            connection.request("POST", target, body=body, headers=all_headers)
            return connection.getresponse().status
    finally:
        sock.close()


def _resolve(host: str, port: int, *, loopback: bool) -> Sequence[str]:
    """Return a host's addresses.

    Raises AddressNotAllowed if any of them is not public, unless `loopback` allows it.
    """
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:  # a label of the name is empty or too long
        raise AddressNotAllowed(host) from None
    for address in addresses:
        if not (is_public(address) or (loopback and is_loopback(address))):
            raise AddressNotAllowed(host)
    return addresses


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """Connect to the first address that accepts a connection.

    Some of a host's addresses may be unreachable. Raises OSError if all of them are.
    """
    failure: OSError | None = None
    for address in addresses:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        try:
            sock = socket.create_connection((address, port), min(CONNECT, remaining))
        except OSError as error:
            failure = error
            continue
        sock.settimeout(max(0.1, deadline - time.monotonic()))
        return sock
    raise failure or OSError("the host has no address")


@contextmanager
def _close_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Shut a socket down at `deadline` unless the block ends first.

    A socket's own timeout restarts with each byte, so a receiver that sends single bytes slowly would never exceed it.
    """

    def shut_down() -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(max(0.0, deadline - time.monotonic()), shut_down)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
