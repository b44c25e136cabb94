"""One POST to a host that a stranger named: only to a public address, and to the very one that was looked at."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3

from gemtune.errors import AddressNotAllowed
from gemtune.webhook import is_loopback, is_public

# Seconds until the connection stands, and until the answer begins.
CONNECT, ANSWER = 5.0, 15.0


def post(url: str, body: bytes, headers: Mapping[str, str], *, to_loopback: bool) -> int:
    """The status of the answer; its body is not read, and a redirect is an answer like any other.

    The name is resolved here and the connection made to that address, so that a second look-up cannot lead elsewhere.
    Raises AddressNotAllowed, and urllib3.exceptions.HTTPError or OSError when there is no answer.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = _resolved(host, port, loopback=to_loopback and is_loopback(host))
    how: dict[str, Any] = {"port": port, "timeout": urllib3.Timeout(connect=CONNECT, read=ANSWER), "retries": False}
    if secure:  # the certificate is the name's, not the address's
        pool: Any = urllib3.HTTPSConnectionPool(address, server_hostname=host, assert_hostname=host, **how)
    else:
        pool = urllib3.HTTPConnectionPool(address, **how)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with pool:
        answer = pool.urlopen(
            "POST",
            target,
            body=body,
            headers={**headers, "Host": parts.netloc},
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )
        answer.close()
        return int(answer.status)


def _resolved(host: str, port: int, *, loopback: bool) -> str:
    """The address of a host. One that has an address inside a network, beside whatever others, is refused."""
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not (is_public(address) or (loopback and is_loopback(address))):
            raise AddressNotAllowed(host)
    return addresses[0]
