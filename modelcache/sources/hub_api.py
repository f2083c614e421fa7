"""The Hub: its API, its redirects, its refusals, and to whom the token is shown.

Endpoints and headers as huggingface_hub 2.4 uses them (hf_api.py `model_info`, `list_repo_tree`;
file_download.py `get_hf_file_metadata`). The token goes to the endpoint's own origin and nowhere else.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Generic, TypeVar
from urllib.parse import quote, urljoin

from modelcache.core.errors import (
    AccessDeniedError,
    CacheModelsError,
    HubError,
    HubUnreachableError,
    IntegrityError,
    NotOnHubError,
    UsageError,
)
from modelcache.core.text import escape
from modelcache.core.types import ListedFile, Original
from modelcache.sources.hub_listing import licence_of, listed
from modelcache.transfer.http_client import HttpClient, HttpResponse
from modelcache.transfer.origins import host_of, is_loopback, origin_of
from modelcache.transfer.retry import BusyError, CrowdedError, NoRangesError, TransientError

T = TypeVar("T")

_CHUNK = 1 << 19
_MOST_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NEXT_PAGE = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
# Another try is of no use after these, whether the Hub itself or a mirror passes them on.
_FINAL = {"GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound", "DisabledRepo"}
_DISABLED = "Access to this resource is disabled."
_NO_ROUTE = {404, 405, 501}
_BETWEEN = "A proxy or a login page may stand between; check HF_ENDPOINT and HTTPS_PROXY."
_BROKEN = "Check HF_ENDPOINT, and the mirror or proxy behind it; trying again hardly helps."


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
class _Way:
    """Where the bytes of one file are, once somebody has asked the Hub."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str | None = None
    failure: TransientError | None = None
    """The last one of those who asked."""
    streams: int = 0
    """How many requests are at it."""


@dataclass(frozen=True, slots=True)
class _Told(Generic[T]):
    """What an answer of the API says, its headers, and how many bytes it took."""

    value: T
    headers: Mapping[str, str]
    size: int


class Hub:
    """One endpoint and the token for it."""

    def __init__(self, endpoint: str, token: str | None, client: HttpClient, limits: HubLimits = HubLimits()) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.client = client
        self._limits = limits
        self._token = token
        self._origin = origin_of(self.endpoint)
        self._ways: dict[tuple[str, str, str], _Way] = {}
        self._lock = threading.Lock()
        self._one_answer = threading.Lock()
        if token and not (token.isascii() and token.isprintable()):
            raise UsageError("the token holds characters that no token has", hint="Check HF_TOKEN.")
        if token and self._origin[0] != "https" and not is_loopback(self.endpoint):
            raise UsageError(
                f"the token would go over plain http to {host_of(self.endpoint)}",
                hint="Use an https endpoint in HF_ENDPOINT, or unset HF_TOKEN.",
            )

    def commit_of(self, repo: str, revision: str) -> tuple[str, str]:
        """Ask what a branch, tag or commit of a repository is now; return the commit and the licence.

        Raises:
            HubError: not found, not allowed, or no usable answer.

        """
        url = f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}"
        commit, licence = self._asked(
            "revision", url, repo, f"revision {revision}", _commit_and_licence, self._deadline()
        ).value
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise HubError(f"{self.endpoint} names no commit for {repo} at {revision}", hint=_BROKEN)
        return commit, licence

    def listing(self, repo: str, commit: str) -> tuple[ListedFile, ...]:
        """List every file of a commit. Pages, files, bytes and time are bounded in all.

        Raises:
            HubError: not found, not allowed, no usable answer, or a listing without end.

        """
        url: str | None = f"{self.endpoint}/api/models/{repo}/tree/{commit}?recursive=true&expand=false"
        files: list[ListedFile] = []
        limits, size, until, take = self._limits, 0, self._deadline(), partial(_listed, repo)
        for _ in range(limits.pages):
            if url is None:
                return tuple(files)
            page = self._asked("listing", url, repo, f"commit {commit[:12]}", take, until)
            files += page.value
            size += page.size
            if len(files) > limits.files:
                raise HubError(
                    f"{repo} lists more than {limits.files} files", hint="Check the id: no model has so many files."
                )
            if size > limits.listing:
                raise HubError(f"{repo}: the listing takes more than {limits.listing} bytes", hint="That is no model.")
            following = _NEXT_PAGE.search(page.headers.get("Link", ""))
            url = _joined(url, following[1], f"{repo}, listing") if following else None
            if url and origin_of(url) != self._origin:
                raise HubError(f"{repo}: the listing goes on at another host, {host_of(url)}", hint=_BROKEN)
        raise HubError(f"{repo}: the listing has no end (more than {limits.pages} pages)", hint=_BROKEN)

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
        with self._answer(repo, commit, file, start, end) as answer:
            try:
                _check(answer, repo, commit, file, start, end)
            except NoRangesError:
                raise
            except (TransientError, IntegrityError):
                self._way_to((repo, commit, file.path)).url = None  # it leads to what is not the file
                raise
            yield _window(answer, end - start)

    def read(self, repo: str, commit: str, file: ListedFile, stopped: threading.Event | None = None) -> bytes:
        """Return a small file whole; `stopped` ends the pauses between its tries.

        Raises:
            HubError, IntegrityError: as `open`.

        """

        def attempt() -> bytes:
            with self.open(repo, commit, file, 0, file.size) as chunks:
                return b"".join(chain.from_iterable(chunks))

        return self.client.with_retries(f"{repo}: {file.path}", attempt, stopped)

    def read_part(
        self, repo: str, commit: str, file: ListedFile, start: int, end: int, stopped: threading.Event | None = None
    ) -> bytes:
        """Return the bytes of a file from `start` up to, not including, `end`, which should be few.

        A server that sends whole files only is asked for the file from its beginning, and left at `end`.

        Raises:
            HubError, IntegrityError: as `open`.

        """

        def attempt() -> bytes:
            try:
                with self.open(repo, commit, file, start, end) as chunks:
                    return b"".join(chain.from_iterable(chunks))
            except NoRangesError:
                return self._beginning(repo, commit, file, end)[start:]

        return self.client.with_retries(f"{repo}: {file.path}", attempt, stopped)

    def _beginning(self, repo: str, commit: str, file: ListedFile, end: int) -> bytes:
        """Ask for a file as a whole, and stop reading at `end`."""
        pieces: list[bytes] = []
        with self.open(repo, commit, file, 0, file.size) as chunks:
            for more in chunks:
                pieces += more
                if sum(map(len, pieces)) >= end:
                    break
        return b"".join(pieces)[:end]

    @contextmanager
    def _answer(
        self, repo: str, commit: str, file: Original | ListedFile, start: int, end: int
    ) -> Iterator[HttpResponse]:
        # A whole file is asked for as a browser does: so it comes also from where ranges are not known.
        wanted = {"Range": f"bytes={start}-{end - 1}"} if (start, end) != (0, file.size) else {}
        what = f"{file.path} at {commit[:12]}"
        way = self._way_to((repo, commit, file.path))
        failure = way.failure
        with ExitStack() as opened:
            with way.lock:  # the first to come finds the way for the others
                known = way.url
                if known is None:
                    if way.failure is not None and way.failure is not failure:
                        raise copy(way.failure)  # which is theirs, too: nobody waits in line to meet the same
                    url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
                    try:
                        answer = opened.enter_context(self._follow(url, wanted, repo, what))
                    except TransientError as error:
                        way.failure = error
                        raise
                    way.url = answer.url
                elif way.streams and origin_of(known) == self._origin:
                    raise CrowdedError(f"{host_of(known)}: is sending {file.path} already")
                self._count_stream(way, 1)
            try:
                if known is not None:
                    try:
                        answer = opened.enter_context(self._follow(known, wanted, repo, what))
                    except (BusyError, CrowdedError):
                        raise
                    except (TransientError, HubError):
                        way.url = None  # a signed address ages; the Hub gives a new one
                        raise
                yield answer
            finally:
                self._count_stream(way, -1)

    def _count_stream(self, way: _Way, change: int) -> None:
        with self._lock:  # not the way's own, which is held by a request that may wait for this one's turn
            way.streams += change

    @contextmanager
    def _follow(self, url: str, headers: Mapping[str, str], repo: str, what: str) -> Iterator[HttpResponse]:
        for _ in range(_MOST_REDIRECTS):
            with self.client.get(url, {**headers, **self._authorization(url)}) as answer:
                if answer.status in (200, 206, 416):
                    yield answer
                    return
                if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                    self._refuse(answer, repo, what)
                before, url = url, _joined(url, answer.headers["Location"], f"{repo}, {what}")
                if origin_of(before)[0] == "https" and origin_of(url)[0] != "https":
                    raise HubError(f"{host_of(before)} redirects {repo}, {what} to plain http", hint=_BROKEN)
        raise HubError(f"{host_of(url)} redirects {repo}, {what} without end", hint=_BROKEN)

    def _way_to(self, file: tuple[str, str, str]) -> _Way:
        with self._lock:
            return self._ways.setdefault(file, _Way())

    def _deadline(self) -> float:
        return time.monotonic() + self._limits.question * self.client.policy.timeout

    def _asked(self, name: str, url: str, repo: str, what: str, use: Callable[[object], T], until: float) -> _Told[T]:
        """Ask the API for something that people know by `name`, and return what `use` takes from its JSON.

        One answer is parsed at a time, by whichever of many threads, and none is held while another one is parsed.
        """

        def attempt() -> _Told[T]:
            with self._follow(url, {}, repo, what) as answer:  # a renamed repository is redirected
                host, kind = host_of(answer.url), _kind_of(answer)
                if answer.status != 200:
                    raise TransientError(f"{host}: status {answer.status}")
                body = _short_body(answer, repo, self._limits.answer, until)
            with self._one_answer:
                return _Told(_taken(use, body, host, kind), answer.headers, len(body))

        return self.client.with_retries(f"{repo}: {name}", attempt)

    def _authorization(self, url: str) -> dict[str, str]:
        if self._token and origin_of(url) == self._origin:
            return {"Authorization": f"Bearer {self._token}"}
        return {}

    def _refuse(self, answer: HttpResponse, repo: str, what: str) -> None:
        """Raise what a status other than 200 means (huggingface_hub/utils/_http.py `hf_raise_for_status`)."""
        code, status, host = answer.headers.get("X-Error-Code", ""), answer.status, host_of(answer.url)
        elsewhere = origin_of(answer.url) != self._origin
        if status < 400 or (elsewhere and code not in _FINAL):
            through = f", through the proxy {answer.proxy.place}" if answer.proxy else ""
            hint = answer.proxy.way_past(host) if answer.proxy else ""
            raise TransientError(f"{host}: status {status}{through}", hint=hint)
        token = self._token and not elsewhere
        # A mirror may send us on to the Hub, which is never shown the token.
        away = f" {host_of(self.endpoint)} leads there, and the token is for HF_ENDPOINT only." if elsewhere else ""
        if code == "GatedRepo":
            raise AccessDeniedError(
                f"{repo} is gated and cannot be read {'with this token' if token else 'without a token'}",
                hint=f"Accept its terms at {_site_of(answer)}/{repo}, then set HF_TOKEN.{away}",
            )
        if code == "DisabledRepo" or answer.headers.get("X-Error-Message") == _DISABLED:
            raise NotOnHubError(f"{repo} is disabled on {host}", hint=f"{_site_of(answer)}/{repo} may say why.")
        if code == "RevisionNotFound":
            revision = what.rpartition(" ")[2]
            raise NotOnHubError(
                f"{repo} at {revision}: there is no such revision",
                hint="Check `revision`, or pin a commit that exists.",
            )
        if code == "EntryNotFound":
            raise NotOnHubError(f"{repo} has no file {what}", hint="Run `python cache_models.py lock --upgrade`.")
        if status == 401 and token and not answer.proxy:
            raise AccessDeniedError(f"{host} does not accept the token", hint="Check HF_TOKEN; it may have expired.")
        if answer.proxy and not code and status != 404:
            raise HubError(
                f"the proxy {answer.proxy.place}, or {host} behind it, refuses {repo}, {what}: status {status}",
                hint=answer.proxy.way_past(host) if status != 401 else answer.proxy.how_to_write_it,
            )
        if not code and status in _NO_ROUTE and what.startswith("commit "):
            raise HubError(
                f"{host} does not list files: status {status} for /api/models/{repo}/tree, and it knows the revision",
                hint="Set HF_ENDPOINT to a mirror with the Hub's whole API, or take the models from a root: --from.",
            )
        if code == "RepoNotFound" or status in (401, 404):
            private = f" If it is private, HF_TOKEN must belong to an account that may read it.{away}"
            raise NotOnHubError(f"{repo} is not on {host}", hint=f"Check the id.{private}")
        told = escape(answer.headers.get("X-Error-Message", f"status {status}"))
        if status == 403:
            hint = "Check what HF_TOKEN may read." if self._token else "If it is private or gated, set HF_TOKEN."
            raise AccessDeniedError(f"{host} refuses {repo}, {what}: {told}", hint=hint)
        hint = f"See {self.endpoint}/{repo}; trying again does not help."
        raise HubError(f"{host} gives no {repo}, {what}: {told}", hint=hint)


def _site_of(answer: HttpResponse) -> str:
    scheme, host, port = origin_of(answer.url)
    return f"{scheme}://{host}" if (scheme, port) in (("https", 443), ("http", 80)) else f"{scheme}://{host}:{port}"


def _listed(repo: str, page: object) -> list[ListedFile]:
    return list(listed(repo, page))


def _commit_and_licence(found: object) -> tuple[object, str]:
    return (found.get("sha"), licence_of(found)) if isinstance(found, dict) else (None, "")


def _short_body(answer: HttpResponse, repo: str, most: int, until: float) -> bytes:
    """Return a body that is to be parsed; one that is long, or comes too late, is not read to its end.

    Raises:
        HubUnreachableError: it has more than `most` bytes, or `until` has passed.

    """
    pieces: list[bytes] = []
    host, length = host_of(answer.url), 0
    for more in answer.chunks(_CHUNK, most + 1):
        pieces += more
        length += sum(map(len, more))
        if time.monotonic() > until:
            raise HubUnreachableError(
                f"{repo}: {host} takes too long over its answers",
                hint="Run it again later, or allow more with --timeout.",
            )
    if length > most:
        raise HubUnreachableError(f"{host} sent more than {most} bytes where a short answer belongs", hint=_BROKEN)
    return b"".join(pieces)


def _taken(use: Callable[[object], T], body: bytes, host: str, kind: str) -> T:
    try:
        return use(_parsed(body, host, kind))
    except (CacheModelsError, TransientError) as error:
        error.__context__ = None  # its frames, and those of the error itself, would hold what was parsed
        raise error.with_traceback(None) from None


def _parsed(body: bytes, host: str, kind: str) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        if kind in ("", "application/json"):
            raise TransientError(f"{host}: sent JSON that is broken or cut short", hint=_BROKEN) from None
        raise HubUnreachableError(f"{host} answered with {kind} instead of JSON", hint=_BETWEEN) from None
    return found


def _check(answer: HttpResponse, repo: str, commit: str, file: Original | ListedFile, start: int, end: int) -> None:
    """Check that the answer begins with the bytes asked for, of a file of the listed size."""
    host, kind = host_of(answer.url), _kind_of(answer)
    if answer.status != 416 and kind == "text/html" and not file.path.endswith((".html", ".htm")):
        raise TransientError(f"{host} answered with text/html instead of the file", hint=_BETWEEN)
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise TransientError(f"{host} sent the file as {coding}, and was asked not to", hint=_BETWEEN)
    told_commit = answer.headers.get("X-Repo-Commit")
    if told_commit and told_commit != commit:
        other = f", {told_commit[:12]}" if re.fullmatch(r"[0-9a-f]{40}", told_commit) else ""
        raise TransientError(f"{file.path}: the answer is about another commit{other}")
    if answer.status == 416 and (
        told := re.fullmatch(r"bytes \*/([0-9]{1,18})", answer.headers.get("Content-Range", ""))
    ):
        _check_size(repo, file, int(told[1]))
    if answer.status == 200:  # the range was not honoured, or there was none
        length = answer.headers.get("Content-Length", "")
        if re.fullmatch(r"[0-9]{1,18}", length):
            _check_size(repo, file, int(length))
        if start:
            raise NoRangesError(f"{host}: sends whole files only")
        return
    offered = answer.headers.get("Content-Range")
    if answer.status == 206 and offered is None:
        raise NoRangesError(f"{host}: answers with a part of {file.path}, and does not say which")
    told = _CONTENT_RANGE.fullmatch(offered or "")
    if told and told[3] != "*":  # RFC 9110, 14.4: the size may be unknown
        _check_size(repo, file, int(told[3]))
    if told is None or (int(told[1]), int(told[2])) != (start, end - 1):
        told_range = f"and status {answer.status} names no range" if offered is None else f"offered {escape(offered)}"
        raise TransientError(f"{file.path}: asked for bytes {start}-{end - 1}, {told_range}")


def _check_size(repo: str, file: Original | ListedFile, size: int) -> None:
    if size != file.size:
        raise IntegrityError(
            f"{repo}: {file.path} does not have the size it is listed with: expected {file.size} bytes, found {size}",
            hint="Lock the model again (`lock --upgrade`); if that does not help, tell its owner.",
        )


def _window(answer: HttpResponse, length: int) -> Iterator[list[bytes]]:
    """Yield the first `length` bytes of a body; one that ends early raises."""
    for pieces in answer.chunks(_CHUNK, length):
        length -= sum(map(len, pieces))
        yield pieces
    if length:
        raise TransientError(f"{host_of(answer.url)}: cut short, {length} bytes are missing")


def _kind_of(answer: HttpResponse) -> str:
    """Return what an answer is, as far as that tells whether it is what was asked for; empty if it does not say."""
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        return coding
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _joined(url: str, location: str, what: str) -> str:
    """Return where a redirect, or the link to a next page, leads."""
    try:
        found = urljoin(url, location)
        origin_of(found)
    except (ValueError, HubError) as error:  # it is not shown: it may hold a signature
        raise HubError(f"{host_of(url)} leads {what} to no http address", hint=_BROKEN) from error
    return found
