"""Run one command and print its cost as JSON: `python -I -S stopwatch.py FOLDER COMMAND…`.

This is a process of its own, because it has to be small and idle: the kernel's figure for a child's memory includes
the memory of its parent up to the exec, and a parent that also serves a Hub would measure its own threads.
"""

import json
import os
import select
import sys
import time

_EVERY = 100  # milliseconds between two measurements of the folder


def main() -> None:
    """Measure one command; stdout is for the report, so the output of the command is discarded."""
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
