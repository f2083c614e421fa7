"""Small file systems of their own: a tmpfs, or an ext4 image on a loop device. They fill up, and fail, for real."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import unavailable

_BLOCK = 4096
_CORRECTED = 1
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, from fs/ext4/ext4.h
_NO_LOG = (2).to_bytes(4, "little")


@dataclass(frozen=True)
class Volume:
    """A mounted file system; `folder` is its top."""

    folder: Path
    image: Path | None = None

    @property
    def free(self) -> int:
        """Bytes that anybody may still write."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def remount(self, options: str) -> None:
        """Mount it otherwise."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))

    def leave(self, size: int) -> None:
        """Let somebody else take all space but so many bytes; what was taken before is given back first."""
        filler = self.folder / "somebody-else"
        filler.unlink(missing_ok=True)
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while (more := (self.free - size) // _BLOCK * _BLOCK) > 0 or size == 0:
                file.write(bytes(min(max(more, 512), 1 << 18)))

    def take_inodes(self) -> None:
        """Let somebody else make small files until there can be no more."""
        folder = self.folder / "crowd"
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            for number in range(os.statvfs(self.folder).f_ffree + 1):
                (folder / str(number)).touch()

    def relieve(self) -> None:
        """Let somebody else remove what was in the way."""
        (self.folder / "somebody-else").unlink(missing_ok=True)
        _run("rm", "-rf", str(self.folder / "crowd"))

    def turn_read_only(self) -> None:
        """Let ext4 find an error: it takes no more writing, as after a bad sector."""
        device = Path(_run("findmnt", "-no", "SOURCE", str(self.folder)).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def go(self) -> None:
        """Let the disk go away under the file system: everything that reaches for it fails."""
        fd = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG)
        os.close(fd)

    def come_back(self) -> None:
        """Mount it again as after a reboot, with its journal replayed."""
        assert self.image
        _run("umount", str(self.folder))
        # Another file: where a process elsewhere has a copy of this mount, the file system would be the broken one.
        again = self.image.with_name("again")
        shutil.copyfile(self.image, again)
        checked = subprocess.run(["fsck.ext4", "-p", str(again)], check=False, capture_output=True, text=True)
        assert checked.returncode <= _CORRECTED, checked.stdout
        _mount(again, self.folder)


@contextmanager
def mounted(kind: str, size: int, inodes: int) -> Iterator[Volume]:
    """Make a file system, `tmpfs` or `ext4`, of so many bytes and inodes, and mount it where any user may look."""
    with tempfile.TemporaryDirectory(prefix="cache-models-volume-") as made:
        top = Path(made) / "disk"
        top.mkdir()
        os.chmod(made, 0o711)
        image = Path(made) / "image" if kind == "ext4" else None
        if image:
            with image.open("wb") as file:
                file.truncate(size)
        try:
            if image:
                _run("mkfs.ext4", "-q", "-m", "0", "-N", str(inodes), str(image))
                _mount(image, top)
            else:
                _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=755", "tmpfs", str(top))
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            unavailable(f"a file system cannot be made or mounted here: {getattr(error, 'stderr', error)}")
        try:
            yield Volume(top, image)
        finally:
            _run("umount", "--lazy", str(top))  # after a failure somebody may still have files open


def _mount(image: Path, top: Path) -> None:
    _run("mount", "-o", "loop,errors=remount-ro", str(image), str(top))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
