"""Rules for webhook URLs: only public hosts over HTTPS, to prevent SSRF."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from gemtune.errors import Problem

# Public according to the IANA registry, but used inside clouds: protocol assignments, where some clouds serve their
# metadata, and the host address of Azure.
CLOUD_INTERNAL = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("168.63.129.16/32"))
# Domains that are resolved only inside a private network.
PRIVATE_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")


def problem_of(url: str, *, to_loopback: bool) -> Problem | None:
    """Return why a webhook must not go to a URL, or None.

    The host's name is not resolved here: `pinned_http.post` checks the addresses. With `to_loopback`, this machine is
    allowed, over plain HTTP too.
    """
    loc = ("notify", "webhook_url")
    hint = "use https://your-host/path with a host on the public internet"
    parts = _parts(url)
    host = "" if parts is None else parts.hostname or ""
    if parts is None or not _is_host(host):
        return Problem(loc, "this is not a valid URL", "bad_webhook_url", hint)
    if parts.username is not None or parts.password is not None:
        message, remove = "a URL must not contain a user name or password", "remove everything before the @"
        return Problem(loc, message, "secret_in_the_open", remove)
    if is_loopback(host):
        if to_loopback and parts.scheme in ("http", "https"):
            return None
        hint = "on your own machine, start the service with GEMTUNE_WEBHOOKS_TO_LOOPBACK=yes"
        return Problem(loc, "the host of the URL is this machine", "bad_webhook_url", hint)
    if parts.scheme != "https":
        message = f"the scheme must be https, not {parts.scheme or 'empty'}"
        return Problem(loc, message, "bad_webhook_url", hint)
    if host.endswith(PRIVATE_DOMAINS) or not _may_be_public(host):
        return Problem(loc, "the host of the URL is inside a private network", "bad_webhook_url", hint)
    return None


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    False for private, loopback, link-local (cloud metadata), multicast and reserved addresses, and for IPv6 addresses
    that embed such an IPv4 address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64_target(ip)
        if embedded is not None:
            ip = embedded
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    cloud_internal = any(ip in network for network in CLOUD_INTERNAL)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or site_local or cloud_internal)


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nat64_target(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address embedded in a NAT64 address, or None.

    The first prefix is the well-known one (RFC 6052), the second is part of the range for local use (RFC 8215).
    """
    for prefix in ("64:ff9b::/96", "64:ff9b:1::/96"):
        if ip in ipaddress.ip_network(prefix):
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def _parts(url: str) -> SplitResult | None:
    """Split a URL, or return None if it is malformed."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is invalid
    except ValueError:
        return None
    return parts


def _is_host(host: str) -> bool:
    """Return whether a host is a well-formed DNS name or IP address.

    A short form of an address, such as `127.1`, is neither.
    """
    if ":" in host:
        return True
    labels = host.split(".")
    if not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels):
        return False
    return not labels[-1].isdigit() or _is_address(host)


def _is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _may_be_public(host: str) -> bool:
    """Return whether a host is a public address, or a name that may have one."""
    try:
        return is_public(host)
    except ValueError:  # a name: one without a dot is resolved inside a network only
        return "." in host
