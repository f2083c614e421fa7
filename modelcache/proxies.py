"""Which proxy stands between this machine and a server: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and what NO_PROXY excepts.

The variables are read by urllib, as in most programs written in Python: small letters win over capitals. NO_PROXY is
read by httpx2, which comes with huggingface_hub and takes the forms of Go and of curl since 7.86: names with all that
is below them, `.example.com` and `*.example.com`, addresses and networks of both families, `[::1]`, `host:port`, `*`.
urllib knows names only, requests networks of IPv4 only, `no-proxy` 0.1 no ports. httpx2 has no public name for it, and
takes a tenth of a second to import, so it is asked only where a proxy is set and something is excepted.
"""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies

from modelcache.errors import UsageError
from modelcache.hidden import hide
from modelcache.origins import Server
from modelcache.text import one_line


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy, and where it is written."""

    scheme: str
    place: str
    """Host and port, for messages as well: without a password."""
    variable: str
    headers: dict[str, str] | None = field(default=None, repr=False, compare=False)
    """What opens it."""

    @property
    def url(self) -> str:
        """Its address without a password."""
        return f"{self.scheme}://{self.place}"

    @property
    def how_to_write_it(self) -> str:
        """What to do about a missing or wrong password, or an address that is none."""
        return f"Write it into {self.variable}: http://user:password@host:port"

    def way_past(self, host: str) -> str:
        """What to do about a proxy that does not let a host be reached."""
        return f"Have {host} allowed there, or set another one in {self.variable}, or none for it with NO_PROXY={host}."


class Proxies:
    """What the environment says, asked once about each server."""

    def __init__(self) -> None:
        self._found: dict[Server, Proxy | None] = {}
        self._lock = threading.Lock()

    def before(self, server: Server) -> Proxy | None:
        """Return the proxy that requests to a server go through.

        Raises:
            UsageError: the variable holds no address of a proxy that can be used.

        """
        with self._lock:
            if server not in self._found:
                self._found[server] = _proxy_before(server)
            return self._found[server]


def _proxy_before(server: Server) -> Proxy | None:
    known = getproxies()
    kind = next((kind for kind in (server[0], "all") if known.get(kind)), None)
    if kind is None or (known.get("no") and _excepted(server)):
        return None
    return _read(known[kind], _variable(kind))


def _excepted(server: Server) -> bool:
    """Whether NO_PROXY names a server.

    Raises:
        UsageError: an entry is so odd that httpx2 cannot even pass over it.

    """
    from httpx2 import URL, InvalidURL
    from httpx2._utils import URLPattern, get_environment_proxies

    _, host, port = server
    try:
        # Of no scheme, since httpx2 drops the port that belongs to one, and NO_PROXY=host:443 would never be met.
        asked = URL(scheme="all", host=host.strip("[]"), port=port)
        found = get_environment_proxies()  # empty where * excepts all
        return not found or any(not proxy and URLPattern(name).matches(asked) for name, proxy in found.items())
    except (ValueError, InvalidURL) as error:
        hint = "Write names, addresses and networks with commas between them, as .svc,10.0.0.0/8."
        raise UsageError(f"{_variable('no')} cannot be read: {one_line(str(error))}", hint=hint) from error


def _variable(kind: str) -> str:
    names = (f"{kind}_proxy", f"{kind.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), names[1])


def _read(written: str, variable: str) -> Proxy:
    try:
        address = urlsplit(written if "://" in written else f"http://{written}")
        port = address.port or {"https": 443}.get(address.scheme, 80)
        host = address.hostname or ""
    except ValueError:
        address, host, port = urlsplit(""), "", 0
    if address.scheme.startswith("socks"):
        raise UsageError(
            f"{variable} names a SOCKS proxy ({address.scheme}://), and none is spoken here",
            hint="Name an HTTP proxy in HTTPS_PROXY, or except the Hub's host in NO_PROXY.",
        )
    proxy = Proxy(address.scheme, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", variable)
    if address.scheme not in ("http", "https") or not host:  # it is not shown: it may hold a password
        raise UsageError(f"the proxy's address in {variable} cannot be read", hint=proxy.how_to_write_it)
    name, password = (unquote_to_bytes(os.fsencode(part or "")) for part in (address.username, address.password))
    if not name:
        return proxy
    login = b64encode(name + b":" + password).decode()
    for secret in (os.fsdecode(password), address.password or "", login):
        hide(secret)
    return Proxy(proxy.scheme, proxy.place, variable, {"Proxy-Authorization": f"Basic {login}"})
