"""Where a root keeps its models: a collection for each kind, a directory for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.kinds import Kind
from modelcache.core.names import sanitize_model_id


@dataclass(frozen=True, slots=True)
class Places:
    """The collections of a root, by kind."""

    collections: Mapping[Kind, Path]

    @classmethod
    def below(cls, root: Path) -> Places:
        """Return the places below a root: one collection a kind."""
        return cls({kind: root / kind.spec.collection for kind in Kind})

    def home(self, kind: Kind, model_id: str) -> Path:
        """Return the directory of one model."""
        return self.collections[kind] / sanitize_model_id(model_id)
