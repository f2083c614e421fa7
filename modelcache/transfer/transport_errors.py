"""The exceptions of urllib3, http.client and ssl, translated into ours, with a reason in a few words.

A certificate that is not trusted and a proxy that refuses are final. Any other failure may have gone at the next try.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from urllib3.exceptions import HTTPError, ProxyError

from modelcache.core.errors import CacheModelsError, HubError, HubUnreachableError
from modelcache.core.text import escape, one_line
from modelcache.system.limits import limit_met
from modelcache.transfer.origins import host_of, origin_of
from modelcache.transfer.proxies import Proxy
from modelcache.transfer.retry import LATER, TRY_AGAIN, CrawlError, ShortageError, SilentError, TransientError
from modelcache.transfer.stall_guard import TooSlowError

_WORDS: dict[type[BaseException], str] = {
    http.client.RemoteDisconnected: "the connection was closed with no answer",
    TimeoutError: "no answer in time",
    urllib3.exceptions.TimeoutError: "no answer in time",
    ConnectionResetError: "connection reset",
    ConnectionRefusedError: "connection refused",
}


@contextmanager
def as_transient(url: str, proxy: Proxy | None = None) -> Iterator[None]:
    """Turn urllib3's exceptions into ours.

    Raises:
        TransientError: another try may go well.
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
            _refuse_bad_certificate(f"the proxy {proxy.place} before {host}", error)
            answered = _refuse_refusal(host, proxy, error)
            words = f"the proxy {proxy.place} " + ("does not reach it" if answered else "does not answer")
            raise TransientError(f"{host}: {words}: {_reason(error)}") from error
        _refuse_bad_certificate(host, error)
        bottom = _bottom(error)
        unreachable = isinstance(bottom, (socket.gaierror, ConnectionRefusedError))
        raise _error_for(bottom)(f"{host}: {_reason(error)}", hint=LATER if unreachable else "") from error


def _refuse_refusal(host: str, proxy: Proxy, error: ProxyError) -> bool:
    """Raise for a proxy that will not connect to a host; return whether it has said that it cannot do so now.

    http.client tells that in words only, without the status.
    """
    told = re.match(r"Tunnel connection failed: ([0-9]{3})(.*)", str(error.original_error), re.DOTALL)
    if told is None or told[1][0] != "4" or int(told[1]) in TRY_AGAIN:
        return told is not None
    if told[1] in ("401", "407"):  # the former is what tinyproxy says of a password that is wrong
        raise password_wanted(proxy) from error
    raise HubError(
        f"the proxy {proxy.place} refuses to connect to {host}: {escape(told[1] + told[2])}", hint=proxy.way_past(host)
    ) from error


def password_wanted(proxy: Proxy) -> HubError:
    """Return the error for a proxy that asks for a password, or for another one."""
    return HubUnreachableError(f"the proxy {proxy.place} asks for a password", hint=proxy.how_to_write_it)


def ways_around(url: str, proxy: Proxy | None, error: TransientError) -> str:
    """Say what to do about a server that has not answered at all."""
    scheme, host, _ = origin_of(url)
    if proxy:
        return f"Check the proxy {proxy.place}. {proxy.way_past(host)}"
    other = ""
    if scheme == "https" and "TLS failed" in error.reason:
        other = " If that port speaks no TLS, write http://."
    elif scheme == "http" and isinstance(_bottom(error), (http.client.RemoteDisconnected, ConnectionResetError)):
        other = " If that port speaks TLS, write https://."
    return (
        f"Check that {host} can be reached from here. Ways around it: a mirror in HF_ENDPOINT, a proxy in "
        f"{scheme.upper()}_PROXY, --from a root that has the models.{other}"
    )


def _error_for(bottom: BaseException) -> type[TransientError]:
    if isinstance(bottom, TooSlowError):
        return CrawlError
    return SilentError if isinstance(bottom, (TimeoutError, urllib3.exceptions.TimeoutError)) else TransientError


def _refuse_bad_certificate(whose: str, error: BaseException) -> None:
    """Raise for a certificate that is not trusted; any other trouble with TLS is a broken line."""
    if isinstance(bottom := _bottom(error), ssl.SSLCertVerificationError):
        raise HubUnreachableError(
            f"{whose}: the connection is not secure: {bottom.verify_message}",
            hint="For a private certificate authority set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to its certificates.",
        ) from error


def _reason(error: BaseException) -> str:
    """Say in a few words what lies at the bottom of a chain of exceptions."""
    error = _bottom(error)
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    match error:
        case socket.gaierror():
            return f"its name cannot be looked up: {error.strerror}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS failed: {reason.lower().replace('_', ' ')}"
        case urllib3.exceptions.IncompleteRead():
            return f"cut short after {error.partial} of {error.partial + (error.expected or 0)} bytes"
        case http.client.BadStatusLine():
            return f"it speaks no HTTP: {one_line(str(error).strip(), 100)}"
    return one_line(str(error).strip(), 200) or type(error).__name__


def _bottom(error: BaseException) -> BaseException:
    """Return what lies at the bottom; urllib3 keeps it as a cause, an attribute or an argument."""
    told = [getattr(error, "original_error", None), *error.args]
    inner = error.__cause__ or next((one for one in told if isinstance(one, BaseException)), None)
    return error if inner is None else _bottom(inner)
