"""Exceptions of urllib3, http.client and ssl as errors of this tool, each with a short reason.

A certificate that is not trusted and a proxy that refuses are final. Any other failure is transient.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import HTTPError, ProxyError

from modelcache.core.errors import CacheModelsError, HubError, HubUnreachableError, ProxyRefusedError
from modelcache.core.text import escape, one_line, size_in_words
from modelcache.system.limits import limit_met
from modelcache.transfer.origins import host_and_port, host_of, origin_of
from modelcache.transfer.proxies import Proxy
from modelcache.transfer.retry import RUN_AGAIN, CrawlError, ShortageError, SilentError, TransientError, is_retryable
from modelcache.transfer.stall_guard import TooSlowError

_REASONS: dict[type[BaseException], str] = {
    http.client.RemoteDisconnected: "the connection was closed with no answer",
    TimeoutError: "no answer in time",
    urllib3.exceptions.TimeoutError: "no answer in time",
    ConnectionResetError: "connection reset",
    ConnectionRefusedError: "connection refused",
}


@contextmanager
def translate_errors(url: str, proxy: Proxy | None = None) -> Iterator[None]:
    """Turn exceptions of urllib3 into errors of this tool.

    Raises:
        TransientError: another try may succeed.
        HubError: no other try will.

    """
    host = host_of(url)
    try:
        yield
    except CacheModelsError:
        raise
    except (HTTPError, OSError) as error:
        if limit := limit_met(error):
            raise ShortageError(f"{host}: {limit.message}", hint=limit.hint) from error
        if isinstance(error, ProxyError) and proxy:
            _raise_if_untrusted(f"the proxy {proxy.place} before {host}", error)
            answered = _raise_if_refused(host, proxy, error)
            fault = f"the proxy {proxy.place} " + ("does not reach it" if answered else "does not answer")
            raise TransientError(f"{host}: {fault}: {_reason(error)}") from error
        _raise_if_untrusted(host, error)
        cause = _root_cause(error)
        unreachable = isinstance(cause, (socket.gaierror, ConnectionRefusedError))
        kind = CrawlError if isinstance(cause, TooSlowError) else TransientError
        if isinstance(cause, (TimeoutError, urllib3.exceptions.TimeoutError)):
            kind = SilentError
        raise kind(f"{host}: {_reason(error)}", hint=RUN_AGAIN if unreachable else "") from error


def _raise_if_refused(host: str, proxy: Proxy, error: ProxyError) -> bool:
    """Raise for a proxy that will not connect to a host; return whether it answered that it cannot do so now.

    http.client has the status in the text of its exception only.
    """
    answer = re.match(r"Tunnel connection failed: ([0-9]{3})(.*)", str(error.original_error), re.DOTALL)
    if answer is None or answer[1][0] != "4" or is_retryable(int(answer[1])):
        return answer is not None
    if answer[1] in ("401", "407"):  # tinyproxy answers 401 to a wrong password
        raise proxy_password_error(proxy) from error
    raise ProxyRefusedError(
        f"the proxy {proxy.place} refuses to connect to {host}: {escape(answer[1] + answer[2])}",
        hint=proxy.bypass_hint(host),
    ) from error


def proxy_password_error(proxy: Proxy) -> HubError:
    """Return the error for a proxy that asks for a password, or for another one."""
    return HubUnreachableError(f"the proxy {proxy.place} asks for a password", hint=proxy.address_hint)


@dataclass(frozen=True, slots=True)
class Advice:
    """The hints for a server of a certain kind that has not answered at all."""

    ways_around: str = "A proxy may be named in {proxy}."
    """A sentence; `{proxy}` is the variable that names a proxy."""
    without_tls: str = "write http://"
    """How to reach a server that speaks no TLS; completes "If that port speaks no TLS, …"."""
    with_tls: str = "write https://"
    """How to reach one that does; completes "If that port speaks TLS, …"."""

    def hint(self, url: str, proxy: Proxy | None, error: TransientError) -> str:
        """Return what to do after this error."""
        scheme, host, _ = origin_of(url)
        if proxy:
            return f"Check the proxy {proxy.place}. {proxy.bypass_hint(host)}"
        other = ""
        if scheme == "https" and "TLS failed" in error.reason:
            other = f" If that port speaks no TLS, {self.without_tls}."
        elif scheme == "http" and isinstance(
            _root_cause(error), (http.client.RemoteDisconnected, ConnectionResetError)
        ):
            other = f" If that port speaks TLS, {self.with_tls}."
        ways_around = self.ways_around.format(proxy=f"{scheme.upper()}_PROXY")
        return f"Check that {host_and_port(url)} can be reached from here. {ways_around}{other}"


def _raise_if_untrusted(server: str, error: BaseException) -> None:
    """Raise for a certificate that is not trusted; any other failure of TLS is a broken line."""
    if isinstance(cause := _root_cause(error), ssl.SSLCertVerificationError):
        raise HubUnreachableError(
            f"{server}: the connection is not secure: {cause.verify_message}",
            hint="For a private certificate authority set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to its certificates.",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the root cause of a chain of exceptions, in a few words."""
    error = _root_cause(error)
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    match error:
        case socket.gaierror():
            return f"its name cannot be looked up: {error.strerror}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS failed: {reason.lower().replace('_', ' ')}"
        case urllib3.exceptions.IncompleteRead():
            whole = error.partial + (error.expected or 0)
            return f"cut short after {size_in_words(error.partial)} of {size_in_words(whole)}"
        case http.client.BadStatusLine():
            return f"its answer is not HTTP: {one_line(str(error).strip(), 100)}"
    return one_line(str(error).strip(), 200) or type(error).__name__


def _root_cause(error: BaseException) -> BaseException:
    """Return the first exception of a chain; urllib3 keeps the one before as a cause, an attribute or an argument."""
    kept = [getattr(error, "original_error", None), *error.args]
    inner = error.__cause__ or next((value for value in kept if isinstance(value, BaseException)), None)
    return error if inner is None else _root_cause(inner)
