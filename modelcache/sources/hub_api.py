"""The Hub: its API, its redirects, and which servers see the token.

Endpoints and headers as huggingface_hub 2.4 uses them (hf_api.py `model_info`, `list_repo_tree`;
file_download.py `get_hf_file_metadata`). The token goes to the endpoint's own origin and nowhere else.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar
from urllib.parse import quote

from modelcache.core.errors import HubError, IntegrityError, NoRouteError, NotOnHubError, SettingError
from modelcache.core.text import size_in_words
from modelcache.core.types import ListedFile, Original, Revision
from modelcache.sources.hub_refusals import BRANCHES, HISTORY, Refusal, error_of
from modelcache.sources.hub_responses import (
    BROKEN,
    References,
    check_head,
    dates_of,
    files_of,
    parse_json,
    references_of,
    revision_of,
)
from modelcache.sources.responses import body_of, is_redirect, link_target, read_short
from modelcache.transfer.byte_ranges import Range
from modelcache.transfer.http_client import HttpClient, HttpResponse
from modelcache.transfer.origins import host_of, is_loopback, origin_of
from modelcache.transfer.retry import BusyError, CrowdedError, NoRangesError, TransientError
from modelcache.transfer.transport_errors import Advice

T = TypeVar("T")

HUB_ADVICE = Advice(
    "Ways around it: a mirror in HF_ENDPOINT, a proxy in {proxy}, or `cache-models sync --from` a root or an image that"
    " has the models."
)
_MOST_REDIRECTS = 10
_NEXT_PAGE = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')


@dataclass(frozen=True, slots=True)
class HubLimits:
    """How long an answer of the API may be, and how long it may take.

    The Hub lists 1,000 files a page, in some 300 bytes each. Python may make thirty bytes of each byte of JSON.
    """

    files: int = 20_000
    pages: int = 200
    answer: int = 2 << 20
    """Bytes of one page, or of any other answer."""
    listing: int = 8 << 20
    """Bytes of all pages."""
    question: float = 180.0
    """Timeouts in all, with pauses and retries: half an hour by default, since rate limits are waited for."""


@dataclass
class _FileAddress:
    """Where the bytes of one file are, once the Hub has been asked."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str | None = None
    failure: TransientError | None = None
    """Of the last request to the Hub for it."""
    streams: int = 0
    """How many requests are reading from it."""


class Hub:
    """One endpoint and the token for it."""

    def __init__(
        self,
        endpoint: str,
        token: str | None,
        client: HttpClient,
        limits: HubLimits = HubLimits(),
        *,
        token_source: str = "HF_TOKEN",  # noqa: S107  # the name of a variable
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._client = client
        self._limits = limits
        self._token = token
        self._token_source = token_source if token else ""
        self._origin = origin_of(self._endpoint)
        self._addresses: dict[tuple[str, str, str], _FileAddress] = {}
        self._sent: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        if token and not (token.isascii() and token.isprintable()):
            raise SettingError(
                f"the token from {token_source} holds characters that no token has",
                hint="Put nothing but the token there; public models need none.",
            )
        if token and self._origin[0] != "https" and not is_loopback(self._endpoint):
            raise SettingError(
                f"the token would go over plain http to {host_of(self._endpoint)}",
                hint=f"Use an https endpoint in HF_ENDPOINT, or remove the token from {token_source}.",
            )

    def revision(self, repo: str, revision: str) -> Revision:
        """Ask which commit a branch, tag or commit of a repository is now.

        Raises:
            HubError: not found, not allowed, or no usable answer.

        """
        url = f"{self._endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}"
        what, deadline = f"revision {revision}", self._deadline()
        found, _, _ = self._ask_api("revision", url, repo, what, revision_of, deadline)
        if not found.commit:
            cause = f"{self._endpoint} does not answer as the Hub does: it names no commit"
            raise HubError(f"{cause} for {repo} at {revision}", hint=BROKEN, cause=cause)
        return found

    def references(self, repo: str) -> References | None:
        """Ask for the names of the branches and tags of a repository; None from a mirror that does not know them.

        Raises:
            HubError: as `revision`.

        """
        url, deadline = f"{self._endpoint}/api/models/{repo}/refs", self._deadline()
        try:
            return self._ask_api("branches", url, repo, BRANCHES, references_of, deadline)[0]
        except NoRouteError:
            return None

    def history(self, repo: str, commit: str) -> Mapping[str, str]:
        """Ask for the newest commits up to one, at most a page of them; return the date of each, newest first.

        Empty where that commit is not on the Hub, and from a mirror that does not know the history.

        Raises:
            HubError: as `revision`, which is to be asked for first.

        """
        url, deadline = f"{self._endpoint}/api/models/{repo}/commits/{commit}", self._deadline()
        try:
            return self._ask_api("commits", url, repo, HISTORY + commit[:12], dates_of, deadline)[0]
        except (NoRouteError, NotOnHubError):
            return {}

    def listing(self, repo: str, commit: str) -> tuple[ListedFile, ...]:
        """List every file of a commit. Pages, files, bytes and time are bounded in all.

        Raises:
            HubError: not found, not allowed, no usable answer, or a listing without end.

        """
        url: str | None = f"{self._endpoint}/api/models/{repo}/tree/{commit}?recursive=true&expand=false"
        files: list[ListedFile] = []
        what, limits, total, deadline = f"commit {commit[:12]}", self._limits, 0, self._deadline()
        for _ in range(limits.pages):
            if url is None:
                return tuple(files)
            page, headers, size = self._ask_api("listing", url, repo, what, partial(files_of, repo), deadline)
            files += page
            total += size
            if len(files) > limits.files:
                raise HubError(
                    f"{repo} lists more than {limits.files} files", hint="Check the id: no model has so many files."
                )
            if total > limits.listing:
                raise HubError(
                    f"{repo}: the listing takes more than {size_in_words(limits.listing)}",
                    hint="Check the id: no model has such a long listing.",
                )
            following = _NEXT_PAGE.search(headers.get("Link", ""))
            url = link_target(url, following[1], what=f"{repo}, listing", hint=BROKEN) if following else None
            if url and origin_of(url) != self._origin:
                raise HubError(f"{repo}: the listing goes on at another host, {host_of(url)}", hint=BROKEN)
        raise HubError(f"{repo}: the listing has no end (more than {limits.pages} pages)", hint=BROKEN)

    def read(
        self,
        repo: str,
        commit: str,
        file: ListedFile,
        part: Range | None = None,
        stopped: threading.Event | None = None,
    ) -> bytes:
        """Return a small file, or a small part of a file; `stopped` ends the pauses between the tries.

        A server that sends whole files only is asked for the file from its beginning, and left at the end of the part.

        Raises:
            HubError, IntegrityError: as `open`.

        """
        start, end = part or (0, file.size)
        opened = self._open if part else self.open

        def attempt() -> bytes:
            try:
                with opened(repo, commit, file, start, end) as chunks:
                    return b"".join(chain.from_iterable(chunks))
            except NoRangesError:
                if part is None:
                    raise
            pieces: list[bytes] = []
            with self._open(repo, commit, file, 0, file.size) as chunks:
                for more in chunks:
                    pieces += more
                    if sum(map(len, pieces)) >= end:
                        break
            return b"".join(pieces)[start:end]

        return self._client.with_retries(f"{repo}: {file.path}", attempt, stopped)

    @contextmanager
    def open(
        self, repo: str, commit: str, file: Original | ListedFile, start: int, end: int
    ) -> Iterator[Iterator[list[bytes]]]:
        """Ask for the bytes of a file from `start` up to, not including, `end`; give them as they come.

        The Hub itself is asked once a file; where it redirects to, the other ranges are asked for directly. An endpoint
        that sends the bytes itself is a mirror, and often one that fetches them first: it is asked for a file once at
        a time, since a second request may be a second fetch from the Hub.

        Raises:
            TransientError: this try failed; another may not.
            CrowdedError: the endpoint is sending this file already.
            NoRangesError: the server sends the file from its beginning only.
            HubError: not found, not allowed.
            IntegrityError: the file has another size than the listing says.

        """
        with self._open(repo, commit, file, start, end) as chunks:
            self._sent.add((repo, commit, file.path))
            yield chunks

    def has_sent(self, file: Original) -> bool:
        """Whether bytes of a file have come from here; a part that was only looked at (`read`) does not count."""
        return (file.repository, file.commit, file.path) in self._sent

    @contextmanager
    def _open(
        self, repo: str, commit: str, file: Original | ListedFile, start: int, end: int
    ) -> Iterator[Iterator[list[bytes]]]:
        # A whole file is asked for as a browser does: so it comes also from where ranges are not known.
        headers = {"Range": f"bytes={start}-{end - 1}"} if (start, end) != (0, file.size) else {}
        what = f"{file.path} at {commit[:12]}"
        with self._lock:
            address = self._addresses.setdefault((repo, commit, file.path), _FileAddress())
        failure = address.failure
        with ExitStack() as opened:
            with address.lock:  # the first request finds the address for the others
                known = address.url
                if known is None:
                    if address.failure is not None and address.failure is not failure:
                        raise copy(address.failure)  # of a request that this one waited for: it would fail alike
                    url = f"{self._endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
                    try:
                        response = opened.enter_context(self._follow(url, headers, repo, what))
                    except TransientError as error:
                        address.failure = error
                        raise
                    address.url = response.url
                elif address.streams and origin_of(known) == self._origin:
                    raise CrowdedError(f"{host_of(known)} is sending this file already")
                self._count_stream(address, 1)
            try:
                try:
                    if known is not None:
                        response = opened.enter_context(self._follow(known, headers, repo, what))
                    check_head(response, repo, commit, file, start, end)
                except (BusyError, CrowdedError, NoRangesError):
                    raise
                except (TransientError, HubError, IntegrityError):
                    address.url = None  # a signed address ages, or leads to something else; the Hub gives a new one
                    raise
                yield body_of(response, end - start)
            finally:
                self._count_stream(address, -1)

    def _count_stream(self, address: _FileAddress, change: int) -> None:
        with self._lock:  # not the address's own, which is held by a request that may wait for this one to end
            address.streams += change

    def _ask_api(
        self, name: str, url: str, repo: str, what: str, convert: Callable[[object], T], deadline: float
    ) -> tuple[T, Mapping[str, str], int]:
        """Return the converted JSON of the API's answer, its headers, and its bytes; `name` stands in messages.

        One answer is parsed at a time, and none is held while another one is parsed.
        """

        def attempt() -> tuple[T, Mapping[str, str], int]:
            with self._follow(url, {}, repo, what) as response:  # a renamed repository is redirected
                if response.status != 200:
                    raise TransientError(f"{host_of(response.url)}: status {response.status}")
                body = read_short(response, repo, self._limits.answer, deadline, hint=BROKEN)
            with self._parsing:
                return parse_json(response, body, convert), response.headers, len(body)

        return self._client.with_retries(f"{repo}: {name}", attempt)

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.question * self._client.policy.timeout

    @contextmanager
    def _follow(self, url: str, headers: Mapping[str, str], repo: str, what: str) -> Iterator[HttpResponse]:
        """Send a request, follow redirects, and give the response with the body."""
        for _ in range(_MOST_REDIRECTS):
            trusted = origin_of(url) == self._origin
            secret = {"Authorization": f"Bearer {self._token}"} if self._token and trusted else {}
            with self._client.get(url, {**headers, **secret}) as response:
                if response.status in (200, 206, 416):
                    yield response
                    return
                if not is_redirect(response):
                    answer = (response.url, response.status, response.headers, response.proxy)
                    raise error_of(Refusal(repo, what, self._endpoint, self._token_source, *answer))
                url = link_target(url, response.headers["Location"], what=f"{repo}, {what}", hint=BROKEN)
        raise HubError(f"{host_of(url)} redirects {repo}, {what} without end", hint=BROKEN)
