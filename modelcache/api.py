"""The functions behind `cache_models` as a library: its constants, caching, paths and loading of models."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.plan import Step
from modelcache.core.types import JOBS, LockedModel, RemoteCode, WantedModel
from modelcache.fastpath import default_lockfile, find_manifest
from modelcache.pipeline.pins import read_manifest, read_policy
from modelcache.store.layout import Places
from modelcache.system.files import absolute
from modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger("cache_models")


class _LogReporter:
    """Logs to `cache_models`: a library does not print."""

    def event(self, name: str, text: str, /, **fields: object) -> None:
        _log.info("%s: %s", name, text)

    def expect(self, name: str, size: int, models: int = 0) -> None:
        pass

    def begin(self, step: Step) -> None:
        _log.info("%s: %s begins, %d bytes", step.action, step.model.id, step.model.size)

    def advance(self, count: int, *, found: bool = False) -> None:
        pass

    def end(self, step: Step, seconds: float) -> None:
        _log.info("%s: %s is ready after %.1f s", step.action, step.model.id, seconds)

    def waiting(self, text: str, seconds: float) -> None:
        pass


def cache_models(kind: Kind, ids: Iterable[str], output_dir: Path, *, trust_remote_code: bool | None = None) -> None:
    """Make `output_dir` hold the models; the lock is followed where it names them, and never written.

    Raises:
        CacheModelsError: with `message`, `hint` and `exit_code`.

    """
    # Imported here, so that reading a constant does not import the modules that fetch.
    from modelcache.core.errors import UsageError, raise_all
    from modelcache.core.names import problem_with_id, refuse_colliding_ids
    from modelcache.pipeline.context import RunContext
    from modelcache.pipeline.pins import read_lock
    from modelcache.pipeline.sync import sync
    from modelcache.sources.hub_environment import LazyHub, connect
    from modelcache.system.limits import affordable

    ids = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
    if problems := [problem for model_id in ids if (problem := problem_with_id(model_id, kind))]:
        raise UsageError("; ".join(problems), hint="Use ids as the Hub has them: owner/name.")
    refuse_colliding_ids(ids)
    manifest = _manifest()
    lockfile = os.environ.get("CACHE_MODELS_LOCKFILE") or default_lockfile(str(manifest))
    locked = read_lock(Path(os.path.expanduser(lockfile))) or ()
    pinned = {model.id: model for model in locked if model.kind is kind}
    listed = {model.id: model for model in (read_manifest(manifest) if manifest.exists() else ()) if model.kind is kind}
    gate = read_policy(manifest)
    raise_all(gate.refusals([model for model in listed.values() if model.id in ids], ()))
    wanted = [
        _wanted(kind, model_id, pinned.get(model_id), listed.get(model_id), trust_remote_code) for model_id in ids
    ]
    reporter, jobs = _LogReporter(), affordable(JOBS)
    context = RunContext(
        places=Places.of_collection(kind, absolute(output_dir)),
        reporter=reporter,
        hub=LazyHub(partial(connect, RetryPolicy(), reporter, jobs)),
        manifest_folder=absolute(manifest).parent,
        jobs=jobs,
        gate=gate,
    )
    sync(wanted, locked, context)


def _wanted(
    kind: Kind, model_id: str, pin: LockedModel | None, listed: WantedModel | None, trust: bool | None
) -> WantedModel:
    """Return the model that an id alone stands for: as the lock pins it, else as the manifest lists it, at `main`.

    A model that the manifest takes from a directory is taken from there; its id is never shown to the Hub. The
    permissions are the caller's and the pin's, too, so the result stands for no table (line 0).
    """
    wanted = replace(listed or WantedModel(kind, model_id), line=0)
    if pin is None:
        # The permission of the caller counts where the manifest says nothing.
        asked = trust if wanted.trust_remote_code is None else wanted.trust_remote_code
        return replace(wanted, revision="main", trust_remote_code=asked)
    if pin.remote_code is RemoteCode.OMITTED:
        trust = False  # pinned without code, it needs no permission
    elif pin.remote_code is RemoteCode.VENDORED and trust is None:
        trust = True  # the permission was given when it was pinned
    return replace(
        wanted,
        revision=pin.revision,
        trust_remote_code=trust,
        allow_pickle=True,
        pooling=pin.pooling,
        normalize=pin.normalize,
        include=pin.include,
        exclude=pin.exclude,
    )


def listed_models(kind: str) -> list[str]:
    """Return the ids of one kind that the manifest lists; none where there is no manifest."""
    manifest = _manifest()
    return [model.id for model in read_manifest(manifest) if model.kind == kind] if manifest.exists() else []


def _manifest() -> Path:
    return Path(find_manifest(os.environ)[0])


def root() -> Path:
    """Return the root that programs read from: CACHE_MODELS_ROOT, else the current directory."""
    return absolute(os.environ.get("CACHE_MODELS_ROOT") or ".")


def collection(kind: str) -> Path:
    """Return the directory of the models of one kind."""
    return Places.below(root()).collections[Kind(kind)]


def path_of(model_id: str) -> Path:
    """Return the absolute directory of a cached model; see `cache_models.model_path`."""
    from modelcache.store.lookup import model_path

    return model_path(model_id, Places.below(root()))


def index_id(model_id: str) -> str:
    """Return the identity of an index of a cached model; see `cache_models.index_id`."""
    from modelcache.pipeline.index_id import index_id_by_name

    return index_id_by_name(model_id, Places.below(root()))


@contextmanager
def _install_hint(doing: str) -> Iterator[None]:
    """Add to the error of a library that is not installed how to install it, without a CUDA build of torch."""
    try:
        yield
    except ModuleNotFoundError as error:
        from modelcache.check.pip_packages import missing_library

        error.add_note(missing_library(error.name, doing).hint)
        raise


def load_model(kind: str, model_id: str, options: Mapping[str, object]) -> Any:  # noqa: ANN401  # by the kind
    """Load a cached model with the class of its kind; see the loaders of `cache_models`."""
    from modelcache.store.load import load

    spec = Kind(kind).spec
    with _install_hint(spec.loader):
        import sentence_transformers
    return load(Kind(kind), model_id, root(), getattr(sentence_transformers, spec.model_class), options)
