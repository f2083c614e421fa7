"""The layouts of one kind in a root of their own, and what its loader gives of them from the Hub and from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import models
from tests.support.by_id.applications import Load, sync
from tests.support.by_id.outputs import Answers, application, variables
from tests.support.hub import StandInHub
from tests.support.models.layouts import Layout

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class CachedLayouts:
    """A root with all layouts of one kind; its Hub is gone."""

    root: Path
    layouts: Sequence[Layout]
    online: Mapping[str, np.ndarray]
    """By name, what the loader gave while there was a Hub: queries first, then documents."""

    def by_path(self) -> dict[str, np.ndarray]:
        """Ask the directories the same."""
        found = models.outputs([(layout.kind, layout.home(self.root)) for layout in self.layouts])
        return dict(zip(self.online, found, strict=True))

    def by_id(self, lines: Sequence[tuple[str, str]]) -> tuple[list[Load], Answers]:
        """Run lines of an application with the id of every layout, and the other ones with its directory."""
        loads = [Load(by_id, layout.id, by_path) for layout in self.layouts for by_id, by_path in lines]
        return loads, application(
            self.root, loads, settings={**variables(self.root), "CACHE_MODELS_ROOT": str(self.root)}
        )


def cache(folder: Path, layouts: Sequence[Layout]) -> CachedLayouts:
    """Publish these layouts on a Hub, ask the loader for their numbers from there, and let the tool cache them."""
    with StandInHub() as hub:
        for layout in layouts:
            hub.add(layout.id, layout.make(folder / layout.make.__name__))
        online = models.online(hub.url, [(layout.kind, layout.id) for layout in layouts])
        root = sync(hub, folder / "root", [layout.table for layout in layouts])
    names = [layout.make.__name__ for layout in layouts]
    return CachedLayouts(root, layouts, dict(zip(names, online, strict=True)))
