"""One POST to a host that a stranger named: only to a public address, and to the very one that was looked at.

The connection is made here and given to http.client, because no client of a higher level connects to a given address
under the name's certificate and ends after a given time whatever the other side does.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from gemtune.errors import AddressNotAllowed
from gemtune.webhook import is_loopback, is_public

# Seconds until the connection stands, and until the answer is there, however slowly its bytes come.
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
    open_socket = [_connected(addresses, port)]
    alarm = threading.Timer(TOTAL, _cut, [open_socket])
    alarm.daemon = True
    alarm.start()
    try:
        if secure:  # the certificate is the name's, not the address's
            open_socket[0] = ssl.create_default_context().wrap_socket(open_socket[0], server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = open_socket[0]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=body, headers={**headers, "Host": parts.netloc, "Connection": "close"})
        return connection.getresponse().status
    finally:
        alarm.cancel()
        open_socket[0].close()


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


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first address that takes one: a host may have some that cannot be reached from here."""
    failure: OSError | None = None
    for address in addresses:
        try:
            connected = socket.create_connection((address, port), CONNECT)
        except OSError as error:
            failure = error
            continue
        connected.settimeout(TOTAL)
        return connected
    raise failure or OSError("the host has no address")


def _cut(open_socket: list[socket.socket]) -> None:
    with suppress(OSError):
        open_socket[0].shutdown(socket.SHUT_RDWR)
