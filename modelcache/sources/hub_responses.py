"""Check a response of the Hub, the head of a file or JSON, field by field: it may come from a mirror or a login page.

Hashes and names become paths later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from modelcache.core.errors import CacheModelsError, HubError, HubUnreachableError, IntegrityError
from modelcache.core.model_ids import is_id
from modelcache.core.names import plain_licence
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_FILE, ListedFile, Original, Revision
from modelcache.sources.responses import CONTENT_RANGE
from modelcache.transfer.http_client import HttpResponse
from modelcache.transfer.origins import host_of
from modelcache.transfer.retry import NoRangesError, TransientError

T = TypeVar("T")

_COMMIT = re.compile("[0-9a-f]{40}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T|$)")
_LONGEST_PATH = 4096  # characters; no file system has a longer one
BROKEN = "Check HF_ENDPOINT, and the mirror or proxy behind it; trying again hardly helps."
_BETWEEN = "A proxy or a login page may stand between; check HF_ENDPOINT and HTTPS_PROXY."


def check_head(
    response: HttpResponse, repo: str, commit: str, file: Original | ListedFile, start: int, end: int
) -> None:
    """Check that the body begins with the bytes asked for, of a file of the listed size; raises as `Hub.open`."""
    host, content_type = host_of(response.url), _content_type(response)
    if response.status != 416 and content_type == "text/html" and not file.path.endswith((".html", ".htm")):
        raise TransientError(f"{host} answered with text/html instead of the file", hint=_BETWEEN)
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise TransientError(f"{host} sent the file as {coding}, and was asked not to", hint=_BETWEEN)
    other = response.headers.get("X-Repo-Commit")
    if other and other != commit:
        named = f", {other[:12]}" if _COMMIT.fullmatch(other) else ""
        raise TransientError(f"{file.path}: the answer is about another commit{named}")
    content_range = response.headers.get("Content-Range")
    if response.status == 416 and (size := re.fullmatch(r"bytes \*/([0-9]{1,18})", content_range or "")):
        _check_size(repo, file, int(size[1]))
    if response.status == 200:  # the range was not honoured, or there was none
        length = response.headers.get("Content-Length", "")
        if re.fullmatch(r"[0-9]{1,18}", length):
            _check_size(repo, file, int(length))
        if start:
            raise NoRangesError(f"{host}: sends whole files only")
        return
    if response.status == 206 and content_range is None:
        raise NoRangesError(f"{host}: answers with a part of {file.path}, and does not say which")
    offered = CONTENT_RANGE.fullmatch(content_range or "")
    if offered and offered[3] != "*":  # RFC 9110, 14.4: the size may be unknown
        _check_size(repo, file, int(offered[3]))
    if offered is None or (int(offered[1]), int(offered[2])) != (start, end - 1):
        got = f"offered {escape(content_range)}" if content_range else f"and status {response.status} names no range"
        raise TransientError(f"{file.path}: asked for bytes {start}-{end - 1}, {got}")


def _check_size(repo: str, file: Original | ListedFile, size: int) -> None:
    if size != file.size:
        raise IntegrityError(
            f"{repo}: {file.path} does not have the size it is listed with: expected {file.size} bytes, found {size}",
            hint="Pin it anew with `cache-models lock --upgrade`; if that does not help, tell its owner.",
        )


def parse_json(response: HttpResponse, body: bytes, convert: Callable[[object], T]) -> T:
    """Return what `convert` makes of the JSON in a body; an error keeps no reference to that JSON."""
    try:
        return convert(_parsed(response, body))
    except (CacheModelsError, TransientError) as error:
        error.__context__ = None  # its frames, and those of the error itself, would hold the JSON
        raise error.with_traceback(None) from None


def _parsed(response: HttpResponse, body: bytes) -> object:
    host, content_type = host_of(response.url), _content_type(response)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        if content_type in ("", "application/json"):
            raise TransientError(f"{host}: sent JSON that is broken or cut short", hint=BROKEN) from None
        raise HubUnreachableError(f"{host} answered with {content_type} instead of JSON", hint=_BETWEEN) from None


def revision_of(answer: object) -> Revision:
    """Return the revision that an answer describes."""
    if not isinstance(answer, dict):
        return Revision("")
    card, tags = answer.get("cardData"), answer.get("tags")
    licence = card.get("license") if isinstance(card, dict) else None
    if isinstance(licence, list):
        licence = licence[0] if licence else None
    texts = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    tagged = next((text.removeprefix("license:") for text in texts if text.startswith("license:")), "")
    commit, name = answer.get("sha"), answer.get("id")
    return Revision(
        commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else "",
        plain_licence(licence) or plain_licence(tagged),
        answer.get("gated") in ("auto", "manual", True),
        name if isinstance(name, str) and is_id(name) else "",
    )


@dataclass(frozen=True, slots=True)
class References:
    """The names of the branches and of the tags of a repository."""

    branches: frozenset[str]
    tags: frozenset[str]


def references_of(answer: object) -> References:
    """Return the names in an answer about the references of a repository."""

    def names(key: str) -> frozenset[str]:
        rows = answer.get(key) if isinstance(answer, dict) else None
        found = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return frozenset(name for name in found if isinstance(name, str))

    return References(names("branches"), names("tags"))


def dates_of(answer: object) -> dict[str, str]:
    """Return the dates (`2026-11-30`) of the commits in an answer about a history, by commit, newest first."""
    found = {}
    for row in answer if isinstance(answer, list) else ():
        commit, date = (row.get("id"), row.get("date")) if isinstance(row, dict) else (None, None)
        if isinstance(commit, str) and isinstance(date, str) and _COMMIT.fullmatch(commit) and _DATE.match(date):
            found[commit] = date[:10]
    return found


def files_of(repo: str, page: object) -> list[ListedFile]:
    """Return the files of one page of a listing.

    Raises:
        HubError: a field is not as the Hub sends it.

    """
    files: list[ListedFile] = []
    try:
        if not isinstance(page, list):
            raise TypeError
        for entry in page:
            if entry["type"] == "directory":
                continue
            path = entry["path"]
            if type(path) is not str or type(entry["type"]) is not str or len(path) > _LONGEST_PATH:
                raise ValueError
            if entry["type"] != "file":
                files.append(ListedFile(path, 0, entry=escape(entry["type"], 20)))  # refused if it were to be published
                continue
            lfs = entry.get("lfs") or {}
            size, blob_id, sha256 = lfs.get("size", entry["size"]), entry["oid"], lfs.get("oid")
            if type(size) is not int or not 0 <= size <= LARGEST_FILE:
                raise ValueError
            if not _COMMIT.fullmatch(blob_id) or (lfs and not re.fullmatch(r"[0-9a-f]{64}", str(sha256))):
                raise ValueError
            files.append(ListedFile(path, size, blob_id, sha256))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise HubError(f"{repo}: the listing is not what the Hub sends", hint="Check HF_ENDPOINT.") from None
    return files


def _content_type(response: HttpResponse) -> str:
    """Return the type of a body, or its encoding if it has one; empty if the response does not say."""
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        return coding
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
