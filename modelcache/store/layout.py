"""Where a root keeps its models: a collection for each kind, a directory for each model, a receipt in each of these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.hub_view import HUB_NAME
from modelcache.core.kinds import Kind
from modelcache.core.names import RECEIPT_NAME, sanitize_model_id
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import parse_receipt
from modelcache.system.files import read_own_if_there

DIGESTS_NAME = ".cache-models.layers"
"""The file in a root with the digests of its layers; see `store.layer_digests`."""


@dataclass(frozen=True, slots=True)
class Places:
    """The collections of a root, by kind, and its Hub view."""

    collections: Mapping[Kind, Path]
    hub: Path | None = None
    """The directory of the Hub view (`store.hub_view`); None where the models are in no root."""

    @classmethod
    def below(cls, root: Path) -> Places:
        """Return the places below a root: one collection a kind."""
        return cls({kind: root / kind.spec.collection for kind in Kind}, root / HUB_NAME)

    @classmethod
    def of_collection(cls, kind: Kind, collection: Path) -> Places:
        """Return the places of one kind; with the Hub view of the root, if this is the collection of one."""
        hub = collection.parent / HUB_NAME if collection.name == kind.spec.collection else None
        return cls({kind: collection}, hub)

    @property
    def exist(self) -> bool:
        """Whether any of the collections exists."""
        return any(map(os.path.isdir, self.collections.values()))

    def home(self, kind: Kind, model_id: str) -> Path:
        """Return the directory of one model."""
        return self.collections[kind] / sanitize_model_id(model_id)


def read_receipt(directory: Path) -> LockedModel | None:
    """Return the version that was published in `directory`; None where there is no receipt, or no valid one.

    OSError if it may be there and cannot be read now; without a lock that must not change the version of a model.
    """
    return parse_receipt(receipt_bytes(directory))


def receipt_bytes(directory: Path) -> bytes:
    """Return the receipt as it was written; empty where none is, see `read_receipt`."""
    return read_own_if_there(directory / RECEIPT_NAME) or b""
