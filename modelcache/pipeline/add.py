"""Add models to models.toml: compare them with what it lists, then write it and models.lock together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from modelcache.core.errors import ManifestError, StorageError, raise_all
from modelcache.core.kinds import Kind
from modelcache.core.model_arguments import ModelArgument
from modelcache.core.names import refuse_colliding_ids, sanitize_model_id
from modelcache.core.types import LockedModel, Pooling, WantedModel, misfits
from modelcache.formats.lockfile import format_lock, parse_lock
from modelcache.formats.manifest import Manifest, parse_models_and_policy
from modelcache.formats.manifest_tables import with_tables
from modelcache.pipeline.pins import Project, matching_pins
from modelcache.system.atomic_write import exclusive, write_text_atomically
from modelcache.system.files import read_bytes, storage_errors


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the models that are added by one command."""

    kind: Kind | None = None
    """None where it has to be read from the repository."""
    trust_remote_code: bool | None = None
    allow_pickle: bool = False
    pooling: Pooling | None = None
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class Additions:
    """The models of one command, in its order, compared with manifest and lock."""

    models: tuple[WantedModel, ...]
    listed: frozenset[WantedModel]
    """Those that the manifest lists already."""
    detect: frozenset[WantedModel]
    """Those whose kind has to be read from the repository."""
    pins: Mapping[WantedModel, LockedModel]
    """The pins that the lock has already, and that match."""

    @property
    def in_place(self) -> bool:
        """Whether the manifest lists and the lock pins all of them."""
        return not self.unpinned and self.listed.issuperset(self.models)

    @property
    def unpinned(self) -> list[WantedModel]:
        """The models that have to be pinned."""
        return [model for model in self.models if model not in self.pins]


def plan_additions(
    arguments: Sequence[ModelArgument],
    settings: Settings,
    manifest: Sequence[WantedModel],
    locked: Sequence[LockedModel],
    name: str,
) -> Additions:
    """Compare the models of a command line with a manifest, whose file is called `name`, and a lock.

    Raises:
        ManifestError: the manifest lists some of them otherwise; with every difference and its line.
        UsageError: two of them would share one directory.

    """
    by_folder = {_folder(model.id): model for model in manifest}
    by_folder |= {_folder(model.id): model for model in manifest if model.kind is settings.kind}
    models, listed, problems = [], set(), []
    for argument in arguments:
        found = by_folder.get(_folder(argument.id))
        if found is None:
            models.append(_wanted(argument, settings))
            continue
        problems += [f"{name}:{found.line}: {problem}" for problem in _differences(found, argument, settings)]
        models.append(found)
        listed.add(found)
    if problems:
        raise ManifestError(
            "\n".join(problems), hint="Change its table there and run `cache-models lock`, or leave out what differs."
        )
    new = [model for model in models if model not in listed]
    refuse_colliding_ids(model.id for model in new)
    unknown = [] if settings.kind else new
    pins = matching_pins([model for model in models if model not in unknown], locked, None)
    for model in unknown:
        held = [pin for pin in locked if pin.id == model.id and pin.fits(replace(model, kind=pin.kind))]
        pins |= {model: held[0]} if len(held) == 1 else {}
    return Additions(tuple(models), frozenset(listed), frozenset(unknown), pins)


def as_listed(model: WantedModel, pin: LockedModel) -> WantedModel:
    """Return a model as it is written into the manifest: with its kind, and the permissions that its pin needs."""
    return replace(
        model,
        kind=pin.kind,
        trust_remote_code=pin.trust_remote_code,
        allow_pickle=pin.has_pickles,
        include=pin.include,
        exclude=pin.exclude,
    )


def write_additions(project: Project, models: Sequence[WantedModel], pins: Sequence[LockedModel]) -> None:
    """Write new models into the manifest and pins into the lock, both or neither; all that is there already stays.

    Both files are read anew, since another program may have changed them while the Hub was asked. The lock is written
    first: a pin of a model that no manifest lists changes nothing, should this process end in between.

    Raises:
        ManifestError, LockfileError, PolicyError: what is there now does not go with these models.
        StorageError: one of the two cannot be written.

    """
    manifest, lockfile = project.manifest, project.lockfile
    beside = manifest.parent == lockfile.parent
    with exclusive(manifest.parent):
        manifest_bytes, lock_bytes = read_bytes(manifest), read_bytes(lockfile)
        there = Manifest() if manifest_bytes is None else parse_models_and_policy(manifest_bytes, manifest)
        raise_all(there.policy.refusals((), pins))
        listed = there.models
        models = [model for model in models if model not in {replace(one, line=0) for one in listed}]
        if {model.id for model in models} & {model.id for model in listed}:
            raise ManifestError(f"{manifest} has changed meanwhile, and is left as it is", hint="Run this again.")
        text = with_tables(manifest_bytes, manifest, models) if models else None
        locked = () if lock_bytes is None else parse_lock(lock_bytes, lockfile.name)
        names = {(pin.kind, pin.id) for pin in pins}
        kept = [pin for pin in locked if (pin.kind, pin.id) not in names]
        if pins:
            with storage_errors(f"write {lockfile}", place="--manifest" if beside else "--lockfile"):
                write_text_atomically(lockfile, format_lock([*kept, *pins]))
        try:
            if text is not None:
                with storage_errors(f"write {manifest}", place="--manifest"):
                    write_text_atomically(manifest, text)
        except StorageError:
            if pins:
                _restore(project, lock_bytes)
            raise


def _restore(project: Project, lock_bytes: bytes | None) -> None:
    with suppress(OSError):
        if lock_bytes is None:
            project.lockfile.unlink()
        else:
            write_text_atomically(project.lockfile, lock_bytes.decode())


def _wanted(argument: ModelArgument, settings: Settings) -> WantedModel:
    """Return the model of an argument; its kind is any, where it has to be read from the repository."""
    return WantedModel(
        settings.kind or next(iter(Kind)),
        argument.id,
        argument.revision or "main",
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        pooling=settings.pooling,
        normalize=settings.normalize,
    )


def _differences(listed: WantedModel, argument: ModelArgument, settings: Settings) -> Iterator[str]:
    """Yield how the manifest lists a model otherwise than the command line names it; what it leaves open fits."""
    if listed.id != argument.id:
        yield f"{argument.id} would share one directory with {listed.id}, which is listed here"
        return
    pairs: list[tuple[str, object, object]] = []
    if settings.kind:
        pairs.append(("kind", listed.kind, settings.kind))
    if argument.revision is not None:
        pairs += [("path", listed.path, None), ("revision", listed.revision, argument.revision)]
    if None not in (settings.trust_remote_code, listed.trust_remote_code):
        pairs.append(("trust_remote_code", listed.trust_remote_code, settings.trust_remote_code))
    if settings.pooling:
        pairs += [("pooling", listed.pooling, settings.pooling), ("normalize", listed.normalize, settings.normalize)]
    if differing := misfits(pairs):
        yield f"{listed.id} is listed with {', '.join(map(str, differing))}"


def _folder(model_id: str) -> str:
    """Return the name of a model's directory, on a volume that ignores case."""
    return sanitize_model_id(model_id).casefold()
