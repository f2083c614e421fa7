"""A layer as it is read: its digest is that of all its bytes, or there is none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelcache.core.errors import LimitError
from modelcache.formats.receipt import format_receipt
from modelcache.image.layers import plan_layers
from modelcache.store import layer_copy
from modelcache.store.layout import Places
from tests.support.images import pin, published

CONTENT = {"config.json": b"{}", "model.safetensors": b"\1" * 9_000_000}


@pytest.mark.parametrize("refused", [0, 1, 5, -9, -2, -1])
def test_a_thread_without_memory_gives_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """Whichever bytes it could not hash: the first, the last, of a header or of a file."""
    model = pin("acme/a", CONTENT)
    published(tmp_path, model, CONTENT)
    (layer,) = plan_layers([model], "models", format_receipt)
    calls, refuse = 0, -1

    class Sha256:
        """That of the library; one of all calls fails."""

        def __init__(self) -> None:
            self._digest = hashlib.sha256()
            self.hexdigest = self._digest.hexdigest

        def update(self, content: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls - 1 == refuse:
                raise MemoryError
            self._digest.update(content)

    monkeypatch.setattr(layer_copy, "hashlib", SimpleNamespace(sha256=Sha256))
    places = Places.below(tmp_path)
    found = layer_copy.copy_layer(layer, places, lambda content, at: None)
    assert not found.changed
    refuse, calls = refused % calls, 0
    with pytest.raises(LimitError, match="cannot hash a layer"):
        layer_copy.copy_layer(layer, places, lambda content, at: None)
