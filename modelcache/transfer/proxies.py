"""Which proxy requests to a server go through: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, except for NO_PROXY.

The variables are read by urllib, as in most programs written in Python: small letters win over capitals. Addresses and
networks in NO_PROXY are compared by `ipaddress`; its names are read as curl reads them, and its ports as Go does. No
library has all of that under a public name: urllib knows names only, requests networks of IPv4 only, `no-proxy` 0.1 no
ports, and httpx2 refuses the whole list over a name in another script (`xn--`) and passes over `FD00::5` and a dot at
the end.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies

from modelcache.core.errors import SettingError
from modelcache.core.redact import register_secret
from modelcache.transfer.origins import Server


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy, and the variable that names it."""

    scheme: str
    place: str
    """Host and port, without a password."""
    variable: str
    headers: dict[str, str] | None = field(default=None, repr=False, compare=False)
    """Its password, if it has one."""

    @property
    def url(self) -> str:
        """Its address without a password."""
        return f"{self.scheme}://{self.place}"

    @property
    def address_hint(self) -> str:
        """How to mend a missing or wrong password, or an address that cannot be read."""
        return f"Write it into {self.variable}: http://user:password@host:port"

    def bypass_hint(self, host: str) -> str:
        """How to get past a proxy that does not connect to a host."""
        return f"Have {host} allowed there, or set another one in {self.variable}, or none for it with NO_PROXY={host}."


def proxy_for(server: Server) -> Proxy | None:
    """Return the proxy that requests to a server go through.

    Raises:
        SettingError: the variable holds no address of a proxy that can be used.

    """
    known = getproxies()
    kind = next((kind for kind in (server[0], "all") if known.get(kind)), None)
    if kind is None or any(_matches(entry, server) for entry in re.findall(r"[^\s,]+", known.get("no", "").lower())):
        return None
    return _parse(known[kind], _variable_of(kind))


def _matches(entry: str, server: Server) -> bool:
    """Whether one entry of NO_PROXY, in small letters, names a server; an entry of unknown form names none."""
    _, host, port = server
    if entry == "*":
        return True
    if with_port := re.fullmatch(r"(\[.*]|[^:]+):([0-9]{1,5})", entry):
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        name = entry.removeprefix("*.").strip(".")
        return name != "" and f".{host.rstrip('.')}".endswith(f".{name}")
    with suppress(ValueError):
        return address in ip_network(entry.strip("[]"), strict=False)
    return False


def _variable_of(kind: str) -> str:
    names = (f"{kind}_proxy", f"{kind.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), names[1])


def _parse(address: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        host = parts.hostname or ""
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    if parts.scheme.startswith("socks"):
        raise SettingError(
            f"{variable} names a SOCKS proxy ({parts.scheme}://), which this tool does not support",
            hint="Name an HTTP proxy in HTTPS_PROXY, or except the Hub's host in NO_PROXY.",
        )
    proxy = Proxy(parts.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", variable)
    if parts.scheme not in ("http", "https") or not host:  # it is not shown: it may hold a password
        raise SettingError(f"the proxy's address in {variable} cannot be read", hint=proxy.address_hint)
    name, password = (unquote_to_bytes(os.fsencode(text or "")) for text in (parts.username, parts.password))
    if not name:
        return proxy
    login = b64encode(name + b":" + password).decode()
    for secret in (os.fsdecode(password), parts.password or "", login):
        register_secret(secret)
    return Proxy(proxy.scheme, proxy.place, variable, {"Proxy-Authorization": f"Basic {login}"})
