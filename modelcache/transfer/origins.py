"""Scheme, host and port of an address, read by the parser that opens the connection."""

from __future__ import annotations

import ipaddress

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from modelcache.core.errors import HubError

_PORTS = {"http": 80, "https": 443}

Server = tuple[str, str, int]
"""Scheme, host and port."""


def origin_of(url: str) -> Server:
    """Return scheme, host and port.

    A second parser might read another host in the same address, and the token would go to the wrong one.

    Raises:
        HubError: it is no plain http or https address.

    """
    try:
        parts = parse_url(url)
    except (LocationParseError, ValueError):
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host or "\\" in url or parts.auth:
        raise HubError("an address is no plain http address", hint="Check HF_ENDPOINT, and the mirror behind it.")
    return parts.scheme, parts.host, parts.port or _PORTS[parts.scheme]


def host_of(url: str) -> str:
    """Return the host of an address, for messages: the rest may hold a signature."""
    return origin_of(url)[1]


def host_and_port(url: str) -> str:
    """Return the host of an address, with the port if that is another one than the scheme's own."""
    scheme, host, port = origin_of(url)
    return host if port == _PORTS[scheme] else f"{host}:{port}"


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine."""
    host = host_of(url).strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
