"""The HTTP client: every request of this tool, with time limits, proxies, certificates, and limits for each host.

The Hub's API goes through it, too, so that all requests are bounded alike
(huggingface_hub 2.4 sends `model_info` and `list_repo_tree` without a timeout and never repeats the former).

Why urllib3. One 1.1 GB file over loopback, four connections in segments of 32 MiB, written to disk and hashed
(2 cores, whole process, two runs each):

    ============  ===========  ===========  =======
    client        wall         processor    memory
    ============  ===========  ===========  =======
    httpx2        2.2 - 3.5 s  3.5 - 6.0 s  32 MiB
    urllib3       1.2 - 1.5 s  1.7 - 2.5 s  32 MiB
    http.client   1.4 s        2.4 s        28 MiB
    ============  ===========  ===========  =======

urllib3 costs as much as http.client, and has pools, proxies with passwords, tunnels and one tree of exceptions. httpx2
comes with huggingface_hub but takes twice the processor time.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.util import Timeout

from modelcache.core.errors import HubUnreachableError
from modelcache.core.interfaces import Reporter
from modelcache.core.types import JOBS
from modelcache.system.limits import chain_of, limit_met
from modelcache.transfer.fair_semaphore import FairSemaphore
from modelcache.transfer.first_contact import FirstContact
from modelcache.transfer.host_limit import HostLimit
from modelcache.transfer.origins import Server, host_of, origin_of
from modelcache.transfer.proxies import Proxy, proxy_for
from modelcache.transfer.retry import (
    BUSY_STATUSES,
    BusyError,
    CrowdedError,
    NoContactError,
    RetryPolicy,
    RetryState,
    TransientError,
    is_retryable,
    requested_pause,
)
from modelcache.transfer.stall_guard import with_stall_guard
from modelcache.transfer.transport_errors import Advice, proxy_password_error, translate_errors

T = TypeVar("T")

_LONGEST_REST = 1 << 16
"""Bytes of a body that are read though not needed, so that the connection can be used again."""
_SHORT_PAUSE = 0.05
"""Seconds that a request waits itself for the end of a pause, instead of failing with a `BusyError`."""
_MOST_PIECES = 256
_TOO_MANY_REQUESTS = 429

Body = bytes | Iterable[bytes | memoryview]
"""The body of a request, whole or in pieces; the header Content-Length has the sum of the pieces."""


class HttpResponse:
    """One response, whose body is yet to be read."""

    def __init__(
        self,
        url: str,
        response: urllib3.BaseHTTPResponse,
        proxy: Proxy | None,
        longest_read: float,
        on_bytes: Callable[[], None],
    ) -> None:
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.proxy = proxy if origin_of(url)[0] == "http" else None
        """The proxy that may have answered instead of the server; inside a tunnel none can."""
        self._response = response
        self._longest_read = longest_read
        self._on_bytes = on_bytes

    def chunks(self, size: int, limit: int) -> Iterator[list[bytes]]:
        """Yield at most `limit` bytes of the body, `size` at a time, as lists of the pieces in which they came.

        A list is shorter if the line is slow or breaks, and is emptied when the next one is asked for.
        """
        pieces: list[bytes] = []
        length, began = 0, time.monotonic()
        try:
            with translate_errors(self.url):
                while limit:
                    pieces.append(self._response.read1(min(size - length, limit), decode_content=False))
                    if not (count := len(pieces[-1])):
                        pieces.pop()
                        break
                    self._on_bytes()
                    length, limit = length + count, limit - count
                    full = length == size or len(pieces) == _MOST_PIECES
                    if full or time.monotonic() - began > self._longest_read:
                        yield pieces
                        pieces.clear()  # or it would be held until the next ones are there
                        length, began = 0, time.monotonic()
        except TransientError:
            if pieces:
                yield pieces
            raise
        if pieces:
            yield pieces


def ca_bundle_of_environment() -> Path | None:
    """Return the certificates of the variables that requests and curl read."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return Path(bundle) if bundle else None


class HttpClient:
    """Sends requests, `jobs` at the same time. The caller follows redirects: it knows which host may see a token."""

    def __init__(
        self,
        policy: RetryPolicy,
        reporter: Reporter,
        *,
        jobs: int = JOBS,
        ca_bundle: Path | None = None,
        advice: Advice | None = None,
    ) -> None:
        self.policy = policy
        self._advice = advice or Advice()
        self._semaphore = FairSemaphore(jobs)
        self._reporter = reporter
        self._ca_bundle = ca_bundle
        self._proxy_for = cache(proxy_for)
        self._jobs = jobs
        self._pools: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._contacts: dict[Server, FirstContact] = {}
        self._limits: dict[str, HostLimit] = {}
        self._lock = threading.Lock()

    @contextmanager
    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None, *, patience: float = 1.0
    ) -> Iterator[HttpResponse]:
        """Send one request, once, when it is its turn. A thread that reads a response must not send another request.

        `patience` is how many timeouts the server may be silent before it answers.

        Raises:
            TransientError: no answer in time, a broken connection, or a status that may change.
            HubUnreachableError: the server has not answered in this run, or its certificate is not trusted.
            HubError: the proxy refuses the request, and will the next time.

        """
        scheme, host, _ = server = origin_of(url)
        with self._lock:
            limit = self._limits.setdefault(host, HostLimit(self._jobs))
            contact = self._contacts.setdefault(server, FirstContact(self.policy, self._reporter))
        # An unencrypted secret is for this machine only, so no proxy may carry it.
        proxy = None if scheme == "http" and "Authorization" in headers else self._proxy_for(server)
        with ExitStack() as sent:

            def send() -> urllib3.BaseHTTPResponse:
                with ExitStack() as turn:
                    for context in (limit.turn(), self._semaphore, limit.sending()):
                        turn.enter_context(context)
                    if (pause := limit.pause) > _SHORT_PAUSE:
                        raise BusyError(f"{host}: asked for a pause", pause=pause)
                    time.sleep(pause)
                    try:
                        response = self._request(method, url, headers, body, proxy, patience)
                    except TransientError as error:
                        if contact.made and limit.refused(by_status=False):
                            raise CrowdedError(error.reason) from error
                        raise
                    sent.push(turn.pop_all())
                return response

            response = contact.call(send)
            self._raise_for_status(url, response, limit)
            with _reading(response, limit):
                yield HttpResponse(url, response, proxy, self.policy.longest_read, self._note_progress)

    def get(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[HttpResponse]:
        """Send one GET; see `send`."""
        return self.send("GET", url, headers)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        proxy: Proxy | None,
        patience: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and return the response before its body is read.

        Raises:
            NoContactError: the server, or the proxy before it, did not answer at all.

        """
        try:
            with translate_errors(url, proxy):
                response = self._pool(origin_of(url)[0], proxy).request(
                    method,
                    url,
                    body=body,  # type: ignore[arg-type]  # a socket takes any buffer
                    headers={"User-Agent": "cache-models", "Accept-Encoding": "identity", **headers},
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=Timeout(connect=self.policy.timeout, read=patience * self.policy.timeout),
                )
        except TransientError as error:
            late = (cause for cause in chain_of(error) if isinstance(cause, ConnectTimeoutError))
            hung = any(not isinstance(cause, NewConnectionError) for cause in late)  # a subclass, in urllib3
            if type(error) is TransientError or hung:
                raise NoContactError(error.reason, hint=self._advice.hint(url, proxy, error), hung=hung) from error
            raise
        if response.status == 407 and proxy:
            response.close()
            raise proxy_password_error(proxy)
        return response

    def _raise_for_status(self, url: str, response: urllib3.BaseHTTPResponse, limit: HostLimit) -> None:
        """Raise for a status that a later try, or a try after other requests have ended, can avoid."""
        if not is_retryable(response.status):
            return
        response.close()
        if (pause := requested_pause(response.headers)) is not None:
            limit.hold_back(pause)
        words = " (too many requests)" if response.status == _TOO_MANY_REQUESTS else ""
        reason = f"{host_of(url)}: status {response.status}{words}"
        if response.status in BUSY_STATUSES and limit.refused(by_status=True):
            raise CrowdedError(reason)
        raise TransientError(reason, pause=pause)

    def _note_progress(self) -> None:
        for contact in tuple(self._contacts.values()):
            contact.others_progress()

    def with_retries(self, what: str, attempt: Callable[[], T], stopped: threading.Event | None = None) -> T:
        """Return the result of `attempt`, with as many retries as the policy allows; `stopped` ends their pauses."""
        retry_state = RetryState(what, self.policy, self._reporter, stopped or threading.Event())
        while True:
            try:
                return attempt()
            except TransientError as error:
                retry_state.failed(error)

    def _pool(self, scheme: str, proxy: Proxy | None) -> urllib3.PoolManager:
        with self._lock:
            if (scheme, proxy) not in self._pools:
                tls = self._tls_context() if "https" in (scheme, proxy and proxy.scheme) else None
                create: Callable[..., urllib3.PoolManager] = urllib3.PoolManager
                if proxy:
                    create = partial(urllib3.ProxyManager, proxy.url, proxy_headers=proxy.headers)
                pool = create(num_pools=8, maxsize=16, ssl_context=tls)
                self._pools[scheme, proxy] = with_stall_guard(pool, self.policy.stall_window)
            return self._pools[scheme, proxy]

    def _tls_context(self) -> ssl.SSLContext:
        """Return a context with the certificates, which take 40 ms to read."""
        context = ssl.create_default_context()  # SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's own business
        if self._ca_bundle is not None:
            try:
                is_folder = self._ca_bundle.is_dir()
                context.load_verify_locations(**{"capath" if is_folder else "cafile": str(self._ca_bundle)})
            except OSError as error:
                if limit := limit_met(error, f"read {self._ca_bundle}"):
                    raise limit from error
                raise HubUnreachableError(
                    f"the certificates in {self._ca_bundle} cannot be read: {error}",
                    hint="Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.",
                ) from error
        return context


@contextmanager
def _reading(response: urllib3.BaseHTTPResponse, limit: HostLimit) -> Iterator[None]:
    """Count a response as being read; then keep its connection, or close it if too much of the body is left."""
    try:
        with limit.answering():
            yield
        if response.length_remaining is not None and response.length_remaining <= _LONGEST_REST:
            response.drain_conn()
        elif response.chunked:
            with suppress(HTTPError, OSError):  # reading the end of the last chunk sets the connection free
                response.read1(1)
    finally:
        response.close()  # if the body was read to its end, the connection is in the pool already
