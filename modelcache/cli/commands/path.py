"""`path`: the absolute directory of a model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from modelcache.cli import progress
from modelcache.cli.options import CommonOptions, option
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import CacheModelsError
from modelcache.pipeline.pins import read_manifest
from modelcache.store.layout import Places
from modelcache.store.lookup import model_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommonOptions):
    """The options of `path`."""

    id: str = option(metavar="ID", help="the model, as owner/name")


def run(options: Options, reporter: LineReporter) -> None:
    """Print the absolute directory of a model."""
    progress.show(str(model_path(options.id, Places.below(options.root), _listed(options))))


def _listed(options: Options) -> list[str]:
    """Return the ids of the manifest; none where it cannot be read, because a path needs only the root."""
    with suppress(CacheModelsError):
        return [model.id for model in read_manifest(options.manifest)]
    return []
