"""Which pin holds for each wanted model: the lock's, the receipt's, or one that the Hub is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelcache.disk import storage_errors
from modelcache.environment import in_hf_cache
from modelcache.errors import CacheModelsError, LockfileError, UsageError, raise_all
from modelcache.hub import Hub
from modelcache.layout import Places
from modelcache.receipt import read_receipt
from modelcache.records import Kind, ListedFile, LockedModel, Voice, WantedModel
from modelcache.resolve import Kept, Resolved, resolve, resolve_directory
from modelcache.stamp import Facts


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with."""

    places: Places
    voice: Voice
    connect: Callable[[], Hub]
    """Called when the first question to the Hub arises, and only then."""
    manifest_folder: Path
    """What a relative `path` in the manifest is relative to."""
    stamped: Callable[[Path], Facts] = lambda home: {}
    """What the stamp knows of a model's directory, by path within it."""
    jobs: int = 8
    keeps: bool = True
    """Whether small files that are fetched to be hashed are kept for later; not for --dry-run."""
    origin: Places | None = None
    """Another root to copy from instead of the Hub (`--from`)."""

    def source_of(self, wanted: WantedModel) -> Path:
        """Return the directory that a model with a `path` comes from."""
        try:
            return self.manifest_folder / Path(wanted.path or "").expanduser()
        except RuntimeError as error:
            raise UsageError(f"{wanted.id}: {wanted.path} is nobody's home") from error


def held_pins(
    wanted: Iterable[WantedModel], locked: Sequence[LockedModel] | None, receipts: Places | None
) -> dict[WantedModel, LockedModel]:
    """Return the pins that hold with no question to the Hub: the lock's first, then what the receipts say."""
    by_name = {(model.kind, model.id): model for model in locked or ()}
    pins = {}
    for model in wanted:
        pin = by_name.get((model.kind, model.id))
        if pin is None and receipts is not None:
            pin = read_receipt(receipts.home(model.kind, model.id))
        if pin is not None and pin.answers(model):
            pins[model] = pin
    return pins


def resolve_all(wanted: Sequence[WantedModel], tools: Tools) -> dict[WantedModel, Resolved]:
    """Pin models anew, several at a time.

    Raises:
        CacheModelsError: of every model that could not be pinned.

    """
    hub = tools.connect() if any(model.path is None for model in wanted) else None

    def one(model: WantedModel) -> Resolved:
        if hub is None or model.path is not None:
            with storage_errors(f"read {tools.source_of(model)}"):
                return resolve_directory(model, tools.source_of(model))
        home = tools.places.home(model.kind, model.id)

        def near(file: ListedFile) -> Iterable[Path]:
            return [home / file.path, *in_hf_cache(model.id, file)]

        return resolve(model, hub, near=near, keep=Kept(home).keep if tools.keeps else _forget, jobs=tools.jobs)

    resolved, errors = {}, []
    with ThreadPoolExecutor(4, thread_name_prefix="model") as pool:
        for model, future in [(model, pool.submit(one, model)) for model in wanted]:
            try:
                resolved[model] = future.result()
            except CacheModelsError as error:
                errors.append(error)
    raise_all(errors)
    return resolved


def _forget(sha256: str, content: bytes) -> None:
    """Keep nothing."""


def refuse_stale_lock(wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, name: str) -> None:
    """Check that the lock is there and says what the manifest asks for, no more and no less.

    Raises:
        LockfileError: with every difference.

    """
    hint = "Run `python cache_models.py lock` and commit the result."
    if locked is None:
        raise LockfileError(f"there is no {name}", hint=hint)
    pins = held_pins(wanted, locked, None)
    lacking = [f"{model.id} ({model.kind}) is not pinned as models.toml asks" for model in wanted if model not in pins]
    names = {(model.kind, model.id) for model in wanted}
    surplus = [f"{m.id} ({m.kind}) is pinned and no longer wanted" for m in locked if (m.kind, m.id) not in names]
    if lacking or surplus:
        raise LockfileError(f"{name} does not fit the manifest:\n  " + "\n  ".join(lacking + surplus), hint=hint)


def pins_of_origin(wanted: Sequence[WantedModel], origin: Places) -> dict[WantedModel, LockedModel]:
    """Take the pins from the receipts of another root.

    Raises:
        UsageError: naming the models that it does not have.

    """
    pins = held_pins(wanted, None, origin)
    if lacking := [model.id for model in wanted if model not in pins]:
        where = origin.collections[Kind.EMBEDDING].parent
        raise UsageError(
            f"not in {where}: {', '.join(lacking)}",
            hint="--from takes a root that holds the wanted models, each with its receipt.",
        )
    return pins
