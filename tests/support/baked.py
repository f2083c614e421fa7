"""A root with models of any kind made by hand, as `sync` leaves one: small files, receipts, no Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.core.kinds import Kind
from modelcache.core.names import sanitize_model_id
from modelcache.core.types import LockedFile, LockedModel, Made, Original, RemoteCode
from modelcache.formats.receipt import format_receipt


@dataclass(frozen=True)
class Pinned:
    """A model and its files; `converted` names one that was made from a pickle."""

    kind: Kind = Kind.EMBEDDING
    id: str = "tinyorg/embedding"
    files: Mapping[str, bytes] = field(default_factory=lambda: {"config.json": b"{}", "deep/model.safetensors": b"x"})
    remote_code: RemoteCode = RemoteCode.NONE
    converted: str = ""

    def model(self) -> LockedModel:
        """Its pin."""
        files = []
        for path, content in sorted(self.files.items()):
            sha256 = hashlib.sha256(content).hexdigest()
            pickle = Original("pytorch_model.bin", 9, "9" * 64) if path == self.converted else None
            files.append(LockedFile(path, len(content), sha256, Made.CONVERTED if pickle else None, pickle))
        return LockedModel(self.kind, self.id, "main", "c" * 40, tuple(files), "mit", self.remote_code)


def bake(root: Path, *models: Pinned) -> Path:
    """Write models into a root."""
    for pinned in models:
        home = root / pinned.kind.spec.collection / sanitize_model_id(pinned.id)
        for path, content in (*pinned.files.items(), (".cache-models.json", format_receipt(pinned.model()))):
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(content)
    return root
