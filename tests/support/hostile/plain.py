"""Load models as an application does, with nothing around them, so that their code does its harm.

A program: it takes directories, loads each in a fork, and prints a row for each as `check` does. The fork has a pipe
that is read, as the one for an answer is. As root, the fork enters namespaces with everything read-only first, so that
there is something to get out of.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Load what the arguments name."""
    import sentence_transformers  # noqa: F401  # here, so that every fork has it

    for folder in sys.argv[1:]:
        name = Path(folder).name.replace("__", "/")
        ending, spoken = in_fork(folder)
        print(f"  {'unproven' if ending else 'failed':<8} {name:<52} embedding  max {ending}", flush=True)
        if spoken:
            print(f"  {'spoken':<8} {name}", flush=True)


def in_fork(folder: str) -> tuple[int, bool]:
    """Return how many tokens the model reads, 0 where it does not load, and whether it wrote into a pipe of ours."""
    scratch = Path(tempfile.mkdtemp())
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(reading)
        try:
            os._exit(load(folder, scratch))
        except Exception as error:  # noqa: BLE001  # whatever a model's code raises
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.close(writing)
    spoken, ended, status = False, 0, 0
    while not ended or select.select([reading], [], [], 0)[0]:
        if select.select([reading], [], [], 0.05)[0]:
            if not os.read(reading, 1 << 20):
                break
            spoken = True
        if not ended:
            ended, status = os.waitpid(child, os.WNOHANG)
    os.close(reading)
    if not ended:
        status = os.waitpid(child, 0)[1]
    with suppress(OSError, RecursionError):  # emptied as most people would
        for left in scratch.iterdir():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    return max(os.waitstatus_to_exitcode(status), 0), spoken


def load(folder: str, scratch: Path) -> int:
    """Load one model; what it prints goes to a file."""
    from sentence_transformers import SentenceTransformer

    if not os.getuid():
        cut_off(scratch.parent)
    os.chdir(scratch)
    tempfile.tempdir = str(scratch)
    said, printed = os.dup(1), os.open("printed", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(printed, number)
    try:
        return int(SentenceTransformer(folder, device="cpu", trust_remote_code=True).max_seq_length or 0)
    finally:
        os.dup2(said, 1)


def cut_off(place: Path) -> None:
    """Take the network away, make all mounts but that of a directory read-only, and leave every privilege."""
    libc = ctypes.CDLL(None)
    libc.unshare(0x40020000)  # CLONE_NEWNET, CLONE_NEWNS
    for where, flags, clear, add, propagation in (
        (b"/", 0x8000, 0, 0, 1 << 18),
        (b"/", 0x8000, 0, 1, 0),
        (bytes(place), 0, 1, 0, 0),
    ):
        libc.syscall(442, -100, where, flags, struct.pack("4Q", add, clear, propagation, 0), 32)  # mount_setattr


if __name__ == "__main__":
    main()
