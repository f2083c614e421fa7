"""The value of `--from`: another root, or an image, named as skopeo names them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelcache.core.interfaces import PublishedModels
from modelcache.core.model_ids import without_user
from modelcache.core.text import escape
from modelcache.system.files import absolute

FORMS = "a root (DIR), an image layout (oci:DIR[:REF]) or an archive of one (oci-archive:FILE.tar[:REF])"
"""The sources that are read, for messages."""

_LONGEST_SHOWN = 200
SCHEME = re.compile(r"[a-z][a-z0-9+-]+(?=:)")
"""The word in front of the first colon, as skopeo has it."""


class Scheme(StrEnum):
    """The kinds of sources."""

    ROOT = "root"
    LAYOUT = "oci"
    ARCHIVE = "oci-archive"


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source that was named; whether it is there is not known."""

    scheme: Scheme
    path: Path
    """Absolute."""
    ref: str = ""
    """The name of one of several images; empty for the only one."""

    def __str__(self) -> str:
        """Return it as a user may give it."""
        scheme = "" if self.scheme is Scheme.ROOT else f"{self.scheme}:"
        return f"{scheme}{escape(str(self.path))}{':' if self.ref else ''}{escape(self.ref)}"


def parse_source(text: str) -> SourceAddress:
    """Return the source of a text that is not empty.

    As in skopeo a path ends at its first colon. But a text, or a longer part of one, that is the path of something
    is that path. UsageError as `absolute`.

    Raises:
        ValueError: the text has another scheme; it completes a sentence that names the option.

    """
    found = SCHEME.match(text)
    if found is None or _is_there(text):
        return SourceAddress(Scheme.ROOT, absolute(text))
    rest = text[found.end() + 1 :]
    if found[0] not in (Scheme.LAYOUT, Scheme.ARCHIVE):
        shown = escape(without_user(text[:_LONGEST_SHOWN]), _LONGEST_SHOWN)
        raise ValueError(f"{shown} is no path that exists, and {found[0]}: is no scheme that is read; take {FORMS}")
    if not rest:
        raise ValueError(f"{text} names no path; take {FORMS}")
    colons = [index for index, letter in enumerate(rest) if letter == ":"]
    ends = [len(rest), *colons]
    end = next((end for end in ends if _is_there(rest[:end])), colons[0] if colons else len(rest))
    return SourceAddress(Scheme(found[0]), absolute(rest[:end]), rest[end + 1 :])


def open_source(address: SourceAddress) -> PublishedModels:
    """Return a source; nothing of it is opened yet."""
    if address.scheme is Scheme.ROOT:
        from modelcache.sources.other_root import OtherRoot

        return OtherRoot(address.path)
    from modelcache.sources.oci_image import OciImage
    from modelcache.sources.oci_layout import LayoutArchive, LayoutDirectory

    layout = LayoutArchive if address.scheme is Scheme.ARCHIVE else LayoutDirectory
    return OciImage(str(address), layout(address.path, str(address)), address.ref)


def _is_there(text: str) -> bool:
    return bool(text) and os.path.lexists(os.path.expanduser(text))
