"""The repositories on disk: blobs, manifests, tags, and uploads that are not finished.

Knows files and digests; nothing of HTTP. Everything is read from the folder each time, so a second process may look
at it, too: REPOSITORY/_blobs/HEX, _manifests/HEX with HEX.type beside it, _tags/TAG, _uploads/SESSION.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnknownBlobError(Exception):
    """A manifest refers to something that its repository does not have."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The folder of all repositories."""

    folder: Path

    def blobs(self, repository: str) -> dict[str, Path]:
        """All blobs of a repository, by digest."""
        return {f"sha256:{path.name}": path for path in sorted((self.folder / repository / "_blobs").glob("*"))}

    def manifests(self, repository: str) -> dict[str, Path]:
        """All manifests and indexes of a repository, by digest."""
        found = sorted((self.folder / repository / "_manifests").glob("*"))
        return {f"sha256:{path.name}": path for path in found if not path.suffix}

    def tags(self, repository: str) -> dict[str, str]:
        """The digest of every tag."""
        return {path.name: path.read_text() for path in sorted((self.folder / repository / "_tags").glob("*"))}

    def blob(self, repository: str, digest: str) -> Path | None:
        """The file of a blob."""
        path = self.folder / repository / "_blobs" / _hex(digest)
        return path if path.is_file() else None

    def manifest(self, repository: str, reference: str) -> tuple[str, str, Path] | None:
        """Digest, media type and file of a tag or digest."""
        digest = reference if ":" in reference else self.tags(repository).get(reference, "")
        path = self.folder / repository / "_manifests" / _hex(digest)
        return (digest, path.with_suffix(".type").read_text(), path) if digest and path.is_file() else None

    def put_blob(self, repository: str, source: bytes | Path) -> str:
        """Put a blob there; return its digest."""
        path = self.start(repository)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source, path)
        return self.finish(repository, path)

    def put_manifest(self, repository: str, tag: str | None, data: bytes, media_type: str) -> str:
        """Put a manifest there, and a tag if one is given; return the digest.

        Raise ValueError where the bytes are no manifest, UnknownBlobError where something is not there.
        """
        told = json.loads(data)
        if not isinstance(told, dict):
            raise ValueError("a manifest is a JSON object")
        self._look_for_parts(repository, told)
        digest = hashlib.sha256(data).hexdigest()
        _write(self.folder / repository / "_manifests" / f"{digest}.type", media_type.encode())
        _write(self.folder / repository / "_manifests" / digest, data)
        if tag is not None:
            _write(self.folder / repository / "_tags" / tag, f"sha256:{digest}".encode())
        return f"sha256:{digest}"

    def mount(self, repository: str, source: str, digest: str) -> bool:
        """Take a blob over from another repository; false where that has none."""
        path = self.blob(source, digest)
        if path is None:
            return False
        with contextlib.suppress(FileExistsError):
            (_make(self.folder / repository / "_blobs") / path.name).hardlink_to(path)
        return True

    def start(self, repository: str) -> Path:
        """Open an upload; return its file, named as the session."""
        path = _make(self.folder / repository / "_uploads") / uuid.uuid4().hex
        path.touch()
        return path

    def upload(self, repository: str, session: str) -> Path | None:
        """The file of an upload."""
        path = self.folder / repository / "_uploads" / session
        return path if path.is_file() else None

    def finish(self, repository: str, upload: Path, digest: str | None = None) -> str:
        """Make a blob of an upload; return its digest. Raise ValueError where it is not the one given."""
        with upload.open("rb") as file:
            actual = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if digest not in (None, actual):
            upload.unlink()
            raise ValueError(f"the bytes have the digest {actual}")
        upload.replace(_make(self.folder / repository / "_blobs") / _hex(actual))
        return actual

    def _look_for_parts(self, repository: str, manifest: dict[str, Any]) -> None:
        parts = [*manifest.get("layers", []), *([manifest["config"]] if "config" in manifest else [])]
        missing = [part["digest"] for part in parts if self.blob(repository, part["digest"]) is None]
        below = [part["digest"] for part in manifest.get("manifests", [])]
        missing += [digest for digest in below if self.manifest(repository, digest) is None]
        if missing:
            raise UnknownBlobError(", ".join(missing))


def append(upload: Path, pieces: Iterable[bytes]) -> None:
    """Write the pieces behind what is there, each as it comes."""
    with upload.open("ab") as file:
        for piece in pieces:
            file.write(piece)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(path: Path, data: bytes) -> None:
    whole = _make(path.parent) / f".{uuid.uuid4().hex}.part"
    whole.write_bytes(data)
    os.replace(whole, path)
