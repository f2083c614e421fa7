"""Read the Hub's answers about a repository, and check every field: hashes and names become paths later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelcache.core.errors import HubError
from modelcache.core.names import plain_licence
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_FILE, ListedFile

_LONGEST_PATH = 4096  # characters; no file system has a longer one


def listed(repo: str, page: object) -> Iterator[ListedFile]:
    """Yield the files of one page of a listing.

    Raises:
        HubError: a field is not as the Hub sends it.

    """
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
                yield ListedFile(path, 0, entry=escape(entry["type"], 20))  # refused if it were to be published
                continue
            lfs = entry.get("lfs") or {}
            size, blob_id, sha256 = lfs.get("size", entry["size"]), entry["oid"], lfs.get("oid")
            if type(size) is not int or not 0 <= size <= LARGEST_FILE:
                raise ValueError
            if not re.fullmatch(r"[0-9a-f]{40}", blob_id) or (lfs and not re.fullmatch(r"[0-9a-f]{64}", str(sha256))):
                raise ValueError
            yield ListedFile(path, size, blob_id, sha256)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise HubError(f"{repo}: the listing is not what the Hub sends", hint="Check HF_ENDPOINT.") from None


def licence_of(answer: Mapping[str, Any]) -> str:
    """Return the licence that a model's card or tags name; empty if they name none."""
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    tags = answer.get("tags")
    tagged = (
        [tag[8:] for tag in tags if isinstance(tag, str) and tag.startswith("license:")]
        if isinstance(tags, list)
        else []
    )
    first = licence[0] if isinstance(licence, list) and licence else licence
    return plain_licence(first) or plain_licence("".join(tagged[:1]))
