"""Whether a file is a pickle by its first bytes, whatever its name is."""

from __future__ import annotations

import pickletools

from modelcache.core.file_types import ending_of

HEAD = 4096
"""Bytes in which a pickle shows itself."""

_ARCHIVES = frozenset({".zip", ".npz", ".keras", ".tar"})
_NUMPY_HEADER = 128
_CALLS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"})


def begins_as_pickle(path: str, head: bytes) -> bool:
    """Whether a file is a pickle by its first bytes, up to `HEAD`, or a container of one that torch.load opens.

    torch.save writes a zip file, and wrote a tar file long ago. A pickle of protocol 0 or 1 begins with any letter;
    such a one is recognised if it ends within these bytes, and names something to call.
    """
    if head.startswith(b"\x93NUMPY"):
        return b"'|O'" in head[:_NUMPY_HEADER]  # an array of objects
    if ending_of(path) not in _ARCHIVES and (head.startswith(b"PK\x03\x04") or head[257:262] == b"ustar"):
        return True
    return (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or _is_old_pickle(head)


def _is_old_pickle(head: bytes) -> bool:
    calls = False
    try:
        for opcode, _, _ in pickletools.genops(head):
            calls = calls or opcode.name in _CALLS
    except Exception:  # noqa: BLE001  # of a file that is no pickle, its bytes decide what is raised
        return False
    return calls
