"""Read models.toml and models.lock, and compare them: which pins match the wanted models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.errors import CacheModelsError, LockfileError, PolicyError, UsageError, raise_all
from modelcache.core.interfaces import PublishedModels
from modelcache.core.policy import Policy
from modelcache.core.types import LockedModel, WantedModel
from modelcache.formats.lockfile import parse_lock
from modelcache.formats.manifest import parse_manifest, parse_policy, select
from modelcache.formats.receipt import parse_receipt
from modelcache.store.layout import Places, read_receipt
from modelcache.system.files import read_bytes, storage_errors

_TRUST, _PICKLE = "trust_remote_code", "allow_pickle"


@dataclass(frozen=True, slots=True)
class Project:
    """The paths of manifest, lock and root, and whether the lock is binding (`--locked`)."""

    manifest: Path
    lockfile: Path
    root: Path
    locked: bool = False

    @property
    def places(self) -> Places:
        """The collections below the root."""
        return Places.below(self.root)

    @property
    def golden(self) -> Path:
        """The recorded numbers (`models.golden.json`), beside the manifest."""
        return self.manifest.with_suffix(".golden.json")


def read_manifest(path: Path) -> tuple[WantedModel, ...]:
    """Read models.toml; see `parse_manifest`."""
    return parse_manifest(read_bytes(path), path)


def read_policy(path: Path) -> Policy:
    """Read the rules of models.toml; see `parse_policy`."""
    return parse_policy(read_bytes(path), path)


def read_lock(path: Path) -> tuple[LockedModel, ...] | None:
    """Read models.lock; None where there is none. See `parse_lock`."""
    content = read_bytes(path)
    return None if content is None else parse_lock(content, path.name)


def matching_pins(
    wanted: Iterable[WantedModel], locked: Sequence[LockedModel] | None, receipts: Places | None
) -> dict[WantedModel, LockedModel]:
    """Return the pins that match wanted models, with no request to the Hub: from the lock, else from the receipts."""
    by_name = {(model.kind, model.id): model for model in locked or ()}
    pins = {}
    for model in wanted:
        pin = by_name.get((model.kind, model.id))
        if pin is None and receipts is not None:
            home = receipts.home(model.kind, model.id)
            with storage_errors(f"read {home}"):
                pin = read_receipt(home)
        if pin is not None and pin.fits(model):
            pins[model] = pin
    return pins


def pins_to_compare(
    project: Project, ids: Sequence[str]
) -> tuple[Sequence[WantedModel], Mapping[WantedModel, LockedModel]]:
    """Return the wanted models, or those of some ids, with their pins: of the lock, else of the receipts.

    Where there is no manifest, the lock alone says what is wanted. A pin that does not fit the manifest is one here.
    """
    locked = read_lock(project.lockfile)
    if project.locked:
        refuse_stale_lock(read_manifest(project.manifest), locked, project.lockfile)
    if locked is not None and not project.manifest.exists():
        as_pinned = {_wanted_as_pinned(pin): pin for pin in locked}
        return select(tuple(as_pinned), ids), as_pinned
    wanted = select(read_manifest(project.manifest), ids)
    pins = matching_pins(wanted, None, project.places)
    by_name = {(pin.kind, pin.id): pin for pin in locked or ()}
    return wanted, pins | {one: by_name[one.kind, one.id] for one in wanted if (one.kind, one.id) in by_name}


def _wanted_as_pinned(pin: LockedModel) -> WantedModel:
    """Return the table of models.toml that a pin was made from, with the permissions that it needs."""
    return WantedModel(
        pin.kind,
        pin.id,
        pin.revision,
        path="" if pin.from_directory else None,
        trust_remote_code=pin.trust_remote_code,
        allow_pickle=pin.has_pickles,
        pooling=pin.pooling,
        normalize=pin.normalize,
        include=pin.include,
        exclude=pin.exclude,
    )


def refuse_stale_lock(wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, lockfile: Path) -> None:
    """Refuse a lock that is not there, or does not pin exactly the models of the manifest; name every difference."""
    hint = "Run `cache-models lock` and commit the result."
    if locked is None:
        raise LockfileError(f"there is no {lockfile}", hint=hint)
    pins = {(pin.kind, pin.id): pin for pin in locked}
    found = [(model, pins.get((model.kind, model.id))) for model in wanted]
    lacking = [f"{model.id} ({model.kind}) is not pinned" for model, pin in found if pin is None]
    lacking += [
        f"{pin.id} ({pin.kind}) is pinned with {', '.join(map(str, misfits))}"
        for model, pin in found
        if pin is not None and (misfits := pin.misfits(model))
    ]
    names = {(model.kind, model.id) for model in wanted}
    unwanted = [f"{m.id} ({m.kind}) is pinned and no longer wanted" for m in locked if (m.kind, m.id) not in names]
    if lacking or unwanted:
        raise LockfileError(
            f"{lockfile.name} does not fit the manifest:\n  " + "\n  ".join(lacking + unwanted), hint=hint
        )


def refuse_unfit_lock(
    wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, gate: Policy, lockfile: Path
) -> None:
    """Refuse a lock that does not fit the manifest, or that pins what the gate forbids; with every reason."""
    errors: list[CacheModelsError] = []
    try:
        refuse_stale_lock(wanted, locked, lockfile)
    except LockfileError as error:
        errors.append(error)
    raise_all([*errors, *gate.refusals(wanted, locked or ())])


def matching_receipts(wanted: Iterable[WantedModel], source: PublishedModels) -> dict[WantedModel, LockedModel]:
    """Return the pins that the receipts of a source have for wanted models, where these match."""
    wanted = list(wanted)
    source.expect([model.id for model in wanted])
    found = {model: parse_receipt(source.receipt(model.kind, model.id)) for model in wanted}
    return {model: pin for model, pin in found.items() if pin is not None and pin.fits(model)}


def refuse_lacking_source(
    source: PublishedModels, unpinned: Sequence[WantedModel], needed: Sequence[LockedModel]
) -> None:
    """Refuse to copy from a source that lacks models; those that are `unpinned` it may have with an unfit receipt."""
    asked = list[WantedModel | LockedModel]([*unpinned, *needed])
    lacking = {model: model.id for model in asked if not source.holds(model.kind, model.id)}
    errors: list[CacheModelsError] = [source.lack_of(list(lacking.values()))] if lacking else []
    raise_all([*errors, *(_unfit(source, model) for model in unpinned if model not in lacking)])


def _unfit(source: PublishedModels, wanted: WantedModel) -> CacheModelsError:
    """Return the error for a model whose receipt in a source is no pin of what is wanted."""
    pin = parse_receipt(source.receipt(wanted.kind, wanted.id))
    if pin is None:
        message = f"{source.name} has no receipt for {wanted.id} that this version can read, so nothing pins its files"
        return UsageError(
            message, hint="Give the models.lock that it was made with: --lockfile (CACHE_MODELS_LOCKFILE)."
        )
    found = pin.misfits(wanted)
    message = f"{source.name} has no receipt that fits the manifest for {wanted.id}: {', '.join(map(str, found))}"
    keys = {misfit.key for misfit in found}
    settings = [f"{_TRUST} = {str(pin.trust_remote_code).lower()}"] if _TRUST in keys else []
    if settings and wanted.trust_remote_code and not pin.trust_remote_code:  # it grants less than the manifest does
        settings = []
    settings += [f"{_PICKLE} = true"] if _PICKLE in keys else []
    if not settings:
        hint = "Change the table of the model in models.toml, or take a source that was made with this manifest."
        return UsageError(message, hint=hint)
    hint = f"A receipt permits nothing; to have the model as it is there, set {' and '.join(settings)} in models.toml."
    return PolicyError(message, hint=hint, settings=settings)
