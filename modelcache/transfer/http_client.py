"""The one door to the network: requests with a time limit, pools for each proxy, certificates, and pauses.

Every request of this tool goes through here, the Hub's API included, so that all of them are bounded alike
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

urllib3 costs what http.client costs, and brings what we would have to write on top of it: pools, proxies with
passwords, tunnels, one tree of exceptions. httpx2 comes with huggingface_hub but takes twice the processor time.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
from modelcache.transfer.proxies import Proxies, Proxy
from modelcache.transfer.retry import (
    TRY_AGAIN,
    BusyError,
    CrowdedError,
    NoContactError,
    RetryPolicy,
    RetryState,
    TransientError,
)
from modelcache.transfer.stall_guard import with_stall_guard
from modelcache.transfer.transport_errors import as_transient, password_wanted, ways_around

T = TypeVar("T")

_NOT_WORTH_A_CONNECTION = 1 << 16
_NOT_WORTH_A_FAILURE = 0.05
_MOST_PIECES = 256
_NEVER_AGAIN = {501, 505}
_TOO_MANY = {429, 503}


class HttpResponse:
    """One response, its body still on the wire."""

    def __init__(
        self,
        url: str,
        response: urllib3.BaseHTTPResponse,
        proxy: Proxy | None,
        longest_read: float,
        came: Callable[[], None],
    ) -> None:
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.proxy = proxy if origin_of(url)[0] == "http" else None
        """The proxy that may have answered instead of the server; inside a tunnel none can."""
        self._response = response
        self._longest_read = longest_read
        self._came = came

    def chunks(self, size: int, limit: int) -> Iterator[list[bytes]]:
        """Yield at most `limit` bytes of the body, `size` at a time, each as the pieces in which they came.

        Of a line that is slow or breaks, also fewer at a time. A list is emptied when the next one is asked for.
        """
        pieces: list[bytes] = []
        length, began = 0, time.monotonic()
        try:
            with as_transient(self.url):
                while limit:
                    pieces.append(self._response.read1(min(size - length, limit), decode_content=False))
                    if not (came := len(pieces[-1])):
                        pieces.pop()
                        break
                    self._came()
                    length, limit = length + came, limit - came
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


class HttpClient:
    """Sends requests, `jobs` at the same time. Redirects are not followed: who may see a token the caller decides."""

    def __init__(
        self, policy: RetryPolicy, reporter: Reporter, *, jobs: int = JOBS, ca_bundle: Path | None = None
    ) -> None:
        self.policy = policy
        self._turns = FairSemaphore(jobs)
        self._reporter = reporter
        self._ca_bundle = ca_bundle
        self._proxies = Proxies()
        self._pools: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._contacts: dict[Server, FirstContact] = {}
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}
        self._jobs = jobs
        self._limits: dict[str, HostLimit] = {}

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[HttpResponse]:
        """Send one GET, once, when it is its turn; whoever reads an answer must not ask for another one meanwhile.

        Raises:
            TransientError: no answer in time, a broken connection, or a status that says "again later".
            HubUnreachableError: the server has not answered in this run, or its certificate is not trusted.
            HubError: the proxy refuses us; again later does not help.

        """
        limit, contact = self._limit_of(host_of(url)), self._contact_with(url)
        proxy = self._proxy_before(url, headers)
        with ExitStack() as sent:

            def ask() -> urllib3.BaseHTTPResponse:
                with ExitStack() as turn:
                    for one in (limit.turn(), self._turns, limit.sending()):
                        turn.enter_context(one)
                    self._wait_for(host_of(url))
                    try:
                        response = self._response(url, headers, proxy)
                    except TransientError as error:
                        if contact.made and limit.refused(in_words=False):
                            raise CrowdedError(error.reason) from error
                        raise
                    sent.push(turn.pop_all())
                return response

            response = contact.call(ask)
            self._refuse_busy(url, response, limit)
            with _read(response, limit):
                yield HttpResponse(url, response, proxy, self.policy.longest_read, self._came)

    def _response(self, url: str, headers: Mapping[str, str], proxy: Proxy | None) -> urllib3.BaseHTTPResponse:
        """Send a request, and return its answer with the body still to come.

        Raises:
            NoContactError: the server, or the proxy before it, said nothing at all.

        """
        try:
            with as_transient(url, proxy):
                response = self._pool(url, proxy).request(
                    "GET",
                    url,
                    headers={"User-Agent": "cache-models", "Accept-Encoding": "identity", **headers},
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=Timeout(connect=self.policy.timeout, read=self.policy.timeout),
                )
        except TransientError as error:
            late = (one for one in chain_of(error) if isinstance(one, ConnectTimeoutError))
            hung = any(not isinstance(one, NewConnectionError) for one in late)  # which urllib3 makes one of the others
            if type(error) is TransientError or hung:
                raise NoContactError(error.reason, hint=ways_around(url, proxy, error), hung=hung) from error
            raise
        if response.status == 407 and proxy:
            response.close()
            raise password_wanted(proxy)
        return response

    def _refuse_busy(self, url: str, response: urllib3.BaseHTTPResponse, limit: HostLimit) -> None:
        """Raise for a status that says "again later", or "again when others are done"."""
        if response.status not in TRY_AGAIN and (response.status < 500 or response.status in _NEVER_AGAIN):
            return
        response.close()
        pause = self._asked_pause(url, response.headers)
        reason = f"{host_of(url)}: status {response.status}"
        if response.status in _TOO_MANY and limit.refused(in_words=True):
            raise CrowdedError(reason)
        raise TransientError(reason, pause=pause)

    def _came(self) -> None:
        for contact in tuple(self._contacts.values()):
            contact.others_progress()

    def with_retries(self, what: str, attempt: Callable[[], T], stopped: threading.Event | None = None) -> T:
        """Return what `attempt` returns, trying again as often as --retries allows; `stopped` ends its pauses."""
        retry_state = RetryState(what, self.policy, self._reporter, stopped or threading.Event())
        while True:
            try:
                return attempt()
            except TransientError as error:
                retry_state.failed(error)

    def _limit_of(self, host: str) -> HostLimit:
        with self._lock:
            return self._limits.setdefault(host, HostLimit(self._jobs))

    def _contact_with(self, url: str) -> FirstContact:
        with self._lock:
            return self._contacts.setdefault(origin_of(url), FirstContact(self.policy, self._reporter))

    def _proxy_before(self, url: str, headers: Mapping[str, str]) -> Proxy | None:
        server = origin_of(url)
        if server[0] == "http" and "Authorization" in headers:
            return None  # an unencrypted secret is for this machine only, so no proxy may carry it
        return self._proxies.before(server)

    def _pool(self, url: str, proxy: Proxy | None) -> urllib3.PoolManager:
        scheme = origin_of(url)[0]
        with self._lock:
            if (scheme, proxy) not in self._pools:
                self._pools[scheme, proxy] = self._make_pool(scheme, proxy)
            return self._pools[scheme, proxy]

    def _tls(self, *schemes: str) -> ssl.SSLContext | None:
        """Return what TLS needs where one of the schemes does; reading the certificates takes 40 ms."""
        if "https" not in schemes:
            return None
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

    def _make_pool(self, scheme: str, proxy: Proxy | None) -> urllib3.PoolManager:
        pool: urllib3.PoolManager
        if proxy is None:
            pool = urllib3.PoolManager(num_pools=8, maxsize=16, ssl_context=self._tls(scheme))
        else:
            tls, login = self._tls(scheme, proxy.scheme), proxy.headers
            pool = urllib3.ProxyManager(proxy.url, num_pools=8, maxsize=16, ssl_context=tls, proxy_headers=login)
        return with_stall_guard(pool, self.policy.stall_window)

    def _asked_pause(self, url: str, headers: Mapping[str, str]) -> float | None:
        """Read how long the server wants to be left alone, and leave it alone with every request."""
        pause = _retry_after(headers)
        if pause is None:
            pause = _rate_limit(headers)
        if pause is not None:
            self._not_before[host_of(url)] = max(self._not_before.get(host_of(url), 0), time.monotonic() + pause)
        return pause

    def _wait_for(self, host: str) -> None:
        pause = self._not_before.get(host, 0.0) - time.monotonic()
        if pause > _NOT_WORTH_A_FAILURE:
            raise BusyError(f"{host}: asks to be left alone", pause=pause)
        if pause > 0:
            time.sleep(pause)


@contextmanager
def _read(response: urllib3.BaseHTTPResponse, limit: HostLimit) -> Iterator[None]:
    """Have a body read, and give its connection back, or close it where too much is left."""
    try:
        with limit.answering():
            yield
        if response.length_remaining is not None and response.length_remaining <= _NOT_WORTH_A_CONNECTION:
            response.drain_conn()
        elif response.chunked:
            with suppress(HTTPError, OSError):  # whether there is more: its end sets the connection free
                response.read1(1)
    finally:
        response.close()  # a connection whose body was read to its end has gone back to the pool before


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header; a date is compared with the server's own clock, if it tells it."""
    after = headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]+", after):
        return float(after[:9])
    if (until := _date(after)) is None:
        return None
    seconds = (until - (_date(headers.get("Date", "")) or datetime.now(UTC))).total_seconds()
    return seconds if seconds > 0 else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _rate_limit(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the Hub counts anew, if nothing is left (huggingface.co/docs/hub/rate-limits)."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    try:
        limit = parse_ratelimit_headers(headers)
        return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None
    except (ValueError, OverflowError):  # numbers of thousands of digits
        return None
