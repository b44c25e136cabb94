"""Destinations of webhooks: which URLs one may be sent to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from gemtune.errors import Problem

# Global by the registry, and yet a cloud's own: protocol assignments, where some keep their metadata, and Azure's host.
SPECIAL = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("168.63.129.16/32"))
# Names that mean something inside a network only.
INSIDE = (".localhost", ".local", ".internal", ".home.arpa")


def problem_of(url: str, *, to_loopback: bool) -> Problem | None:
    """What is wrong with a URL, as far as it can be seen without asking who its host is."""
    loc = ("notify", "webhook_url")
    hint = "use https://your-host/path of a host that the internet knows"
    parts = _parts(url)
    host = "" if parts is None else parts.hostname or ""
    if parts is None or not _is_host(host):
        return Problem(loc, "this is no URL", "bad_webhook_url", hint)
    if parts.username is not None or parts.password is not None:
        return Problem(loc, "a URL is no place for a password", "secret_in_the_open", "leave out what is before the @")
    if is_loopback(host):
        if to_loopback and parts.scheme in ("http", "https"):
            return None
        hint = "on your own machine, start the service with GEMTUNE_WEBHOOKS_TO_LOOPBACK=yes"
        return Problem(loc, "its host is this machine", "bad_webhook_url", hint)
    if parts.scheme != "https":
        return Problem(loc, f"{parts.scheme or 'no scheme'} is not https", "bad_webhook_url", hint)
    if host.endswith(INSIDE) or not _may_be_public(host):
        return Problem(loc, "its host is inside a network", "bad_webhook_url", hint)
    return None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's: not private, loopback, link-local (where clouds keep their
    metadata), multicast or reserved, nor a way of writing such a one in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _translated(ip)
        if inner is not None:
            ip = inner
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    special = any(ip in network for network in SPECIAL)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or site_local or special)


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address behind a NAT64 one (RFC 6052, RFC 8215)."""
    for prefix in ("64:ff9b::/96", "64:ff9b:1::/96"):
        if ip in ipaddress.ip_network(prefix):
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def _parts(url: str) -> SplitResult | None:
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is none
    except ValueError:
        return None
    return parts


def _is_host(host: str) -> bool:
    """Whether a name has parts that names have, or is an address in its usual form: `127.1` is neither."""
    if ":" in host:
        return True
    labels = host.split(".")
    if not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels):
        return False
    return not labels[-1].isdigit() or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _may_be_public(host: str) -> bool:
    """A name may be; an address is or is not."""
    try:
        return is_public(host)
    except ValueError:
        return "." in host
