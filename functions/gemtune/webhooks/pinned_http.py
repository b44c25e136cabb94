"""One POST to a host that a stranger named: only to a public address, and to the very one that was looked at.

The connection is made here and given to http.client, because no client of a higher level connects to a given address
under the name's certificate and ends after a given time whatever the other side does.
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

# Seconds for the connection to one address, and for all of it, however slowly the answer's bytes come.
CONNECT, TOTAL = 5.0, 20.0


def post(url: str, body: bytes, headers: Mapping[str, str], *, to_loopback: bool) -> int:
    """The status of the answer; its body is not read, and a redirect is an answer like any other.

    The name is resolved here and the connection made to that address, so that a second look-up cannot lead elsewhere.
    Raises AddressNotAllowed, and OSError or http.client.HTTPException when there is no answer.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    addresses = _resolved(host, port, loopback=to_loopback and is_loopback(host))
    deadline = time.monotonic() + TOTAL
    connected = _connected(addresses, port, deadline)
    try:
        if secure:  # the certificate is the name's, not the address's; a handshake ends by itself at the timeout
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host)
        with _cut_at(deadline, connected):
            connection = http.client.HTTPConnection(host, port)
            connection.sock = connected
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            sent = {**headers, "Host": parts.netloc, "Connection": "close"}
            connection.request("POST", target, body=body, headers=sent)
            return connection.getresponse().status
    finally:
        connected.close()


def _resolved(host: str, port: int, *, loopback: bool) -> Sequence[str]:
    """The addresses of a host. One that has an address inside a network, beside whatever others, is refused."""
    try:
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:  # a label that is empty or too long
        raise AddressNotAllowed(host) from None
    for address in addresses:
        if not (is_public(address) or (loopback and is_loopback(address))):
            raise AddressNotAllowed(host)
    return addresses


def _connected(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that takes one: a host may have some that cannot be reached from here."""
    failure: OSError | None = None
    for address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            connected = socket.create_connection((address, port), min(CONNECT, left))
        except OSError as error:
            failure = error
            continue
        connected.settimeout(max(0.1, deadline - time.monotonic()))
        return connected
    raise failure or OSError("the host has no address")


@contextmanager
def _cut_at(deadline: float, connected: socket.socket) -> Iterator[None]:
    """A socket's own timeout begins anew with each byte, so that whoever drips them is never out of time."""

    def cut() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
