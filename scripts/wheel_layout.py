"""A build hook of hatchling: in a wheel `cache_models.py` is the package `cache_models` with `py.typed`.

Type checkers read the types of an installed package only if it has that file, and a single module cannot have one
(PEP 561). An editable installation keeps the module, or its copy would not follow the edits.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelLayout(BuildHookInterface[Any]):
    """Adds three files to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files; hatchling calls this before it builds."""
        if version != "standard":
            return
        build_data["force_include"][f"{self.root}/cache_models.py"] = "cache_models/__init__.py"
        # hatchling takes a forced file away from its own place, so these two are copies.
        self._copies = tempfile.TemporaryDirectory()
        for name in ("__main__.py", "py.typed"):
            copy = shutil.copy(f"{self.root}/modelcache/{name}", self._copies.name)
            build_data["force_include"][copy] = f"cache_models/{name}"
