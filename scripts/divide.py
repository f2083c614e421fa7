"""Split models.toml and models.lock into one pair per model, each in a folder named after the model's directory.

The image layer of a model is built from its pair alone, so it does not depend on the pins of other models.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from modelcache.core.types import WantedModel
from modelcache.formats.lockfile import format_lock
from modelcache.formats.toml import toml_value
from modelcache.pipeline.pins import read_lock, read_manifest
from modelcache.store.layout import Places

_DEFAULTS = WantedModel.__dataclass_fields__


def main(target: Path) -> None:
    """Write the pairs below `target`."""
    pins = {(model.kind, model.id): model for model in read_lock(Path("models.lock")) or ()}
    for wanted in read_manifest(Path("models.toml")):
        home = Places.below(target).home(wanted.kind, wanted.id)
        folder = target / f"{home.parent.name}.{home.name}"
        folder.mkdir(parents=True)
        (folder / "models.toml").write_text(manifest_of(wanted), encoding="utf-8")
        (folder / "models.lock").write_text(format_lock([pins[wanted.kind, wanted.id]]), encoding="utf-8")


def manifest_of(wanted: WantedModel) -> str:
    """Return a manifest with the same settings for this one model."""
    lines = [f"[[{wanted.kind}]]"]
    for field in fields(wanted):
        value = getattr(wanted, field.name)
        if field.name not in ("kind", "line") and value is not None and value != field.default:
            lines.append(f"{field.name} = {toml_value(value)}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
