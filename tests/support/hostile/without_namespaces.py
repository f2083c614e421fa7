"""Run a program where no namespace can be made, as in `docker build`: the limit of a namespace of users is set to 0."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NEWUSER = 0x10000000


def main() -> None:
    """Enter the namespace as the user that this is, and become the program."""
    maps = {
        "setgroups": "deny",
        "uid_map": f"{os.getuid()} {os.getuid()} 1",
        "gid_map": f"{os.getgid()} {os.getgid()} 1",
    }
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEWUSER):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for name, content in maps.items():
        Path(f"/proc/self/{name}").write_text(content)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
