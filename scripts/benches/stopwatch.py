"""Run one command and tell, as JSON, what it took: `python -I -S stopwatch.py FOLDER COMMAND…`.

A process of its own, because it has to be small and idle: what the kernel tells of a child's memory includes its
parent's up to the exec, and a parent that serves a Hub at the same time would time its own threads, too.
"""

import json
import os
import select
import sys
import time

_EVERY = 100  # milliseconds between two looks at the folder


def main() -> None:
    """Tell of one command; stdout is the report's, so the command's own goes nowhere."""
    folder, *command = sys.argv[1:]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nowhere, 1)])
    ended = select.poll()
    ended.register(os.pidfd_open(child), select.POLLIN)
    disk = 0
    while not ended.poll(_EVERY if folder else None):
        disk = max(disk, allocated(folder))
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    report = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
        "written": used.ru_oublock * 512,
        "disk": max(disk, allocated(folder)) if folder else 0,
    }
    print(json.dumps(report))


def allocated(folder: str) -> int:
    """Return the disk space below a folder; a file with several names counts once."""
    seen: dict[int, int] = {}
    waiting = [folder]
    for path in waiting:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    seen[found.st_ino] = found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue
    return sum(seen.values())


if __name__ == "__main__":
    main()
