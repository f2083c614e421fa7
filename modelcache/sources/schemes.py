"""The value of `--from`: another root, or an image in a layout or a registry, named as skopeo names them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.interfaces import PublishedModels, Reporter
from modelcache.core.model_ids import without_user
from modelcache.core.text import escape
from modelcache.image.reference import Reference
from modelcache.system.files import absolute
from modelcache.system.remove_tree import temporary_directory

if TYPE_CHECKING:
    from modelcache.sources.registry_api import RegistryRepository

FORMS = (
    "a root (DIR), an image layout (oci:DIR[:REF]), an archive of one (oci-archive:FILE.tar[:REF]) or an image in a"
    " registry (docker://REGISTRY/REPOSITORY[:TAG|@DIGEST])"
)
"""The sources that are read, for messages."""

_LONGEST_SHOWN = 200
SCHEME = re.compile(r"[a-z][a-z0-9+-]+(?=:)")
"""The word in front of the first colon, as skopeo has it."""


class Scheme(StrEnum):
    """The kinds of sources."""

    ROOT = "root"
    LAYOUT = "oci"
    ARCHIVE = "oci-archive"


REGISTRY = "docker"
"""The scheme of an image in a registry."""


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source on this machine that was named; whether it is there is not known."""

    scheme: Scheme
    path: Path
    """Absolute."""
    ref: str = ""
    """The name of one of several images; empty for the only one."""

    def __str__(self) -> str:
        """Return it as a user may give it."""
        scheme = "" if self.scheme is Scheme.ROOT else f"{self.scheme}:"
        return f"{scheme}{escape(str(self.path))}{':' if self.ref else ''}{escape(self.ref)}"


def parse_source(text: str) -> SourceAddress | Reference:
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
    if found[0] == REGISTRY:
        if not rest.startswith("//"):
            raise ValueError(f"{REGISTRY}: is followed by //, as in {REGISTRY}://ghcr.io/team/models:v1")
        return Reference.parse(text)
    if found[0] not in (Scheme.LAYOUT, Scheme.ARCHIVE):
        shown = escape(without_user(text[:_LONGEST_SHOWN]), _LONGEST_SHOWN)
        raise ValueError(f"{shown} is no path that exists, and {found[0]}: is no scheme that is read; take {FORMS}")
    if not rest:
        raise ValueError(f"{text} names no path; take {FORMS}")
    colons = [index for index, letter in enumerate(rest) if letter == ":"]
    ends = [len(rest), *colons]
    end = next((end for end in ends if _is_there(rest[:end])), colons[0] if colons else len(rest))
    return SourceAddress(Scheme(found[0]), absolute(rest[:end]), rest[end + 1 :])


@contextmanager
def open_source(
    address: SourceAddress | Reference, connect: Callable[[Reference], RegistryRepository], reporter: Reporter
) -> Iterator[PublishedModels]:
    """Yield a source, which is opened when it is first asked; layers that it keeps meanwhile are removed at the end."""
    if isinstance(address, SourceAddress) and address.scheme is Scheme.ROOT:
        from modelcache.sources.other_root import OtherRoot

        yield OtherRoot(address.path)
        return
    from modelcache.sources.oci_image import OciImage
    from modelcache.sources.oci_layout import ImageLayout, LayoutArchive, LayoutDirectory
    from modelcache.sources.registry_image import RegistryImage

    if isinstance(address, SourceAddress):
        name, layout = str(address), LayoutArchive if address.scheme is Scheme.ARCHIVE else LayoutDirectory
        yield OciImage(name, ImageLayout(layout(address.path, name), name), address.ref)
        return
    with ExitStack() as kept:
        folder = partial(kept.enter_context, temporary_directory())
        yield OciImage(f"{REGISTRY}://{address}", RegistryImage(address, partial(connect, address), folder, reporter))


def _is_there(text: str) -> bool:
    return bool(text) and os.path.lexists(os.path.expanduser(text))
