"""The main job: make the root hold what is pinned, each model whole, whoever else is at it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modelcache.core.errors import (
    CacheModelsError,
    HubUnreachableError,
    IntegrityError,
    OccupiedError,
    StorageError,
    raise_all,
)
from modelcache.core.interfaces import Reporter
from modelcache.core.kinds import Kind
from modelcache.core.plan import Action, Step, plan
from modelcache.core.text import escape
from modelcache.core.types import LockedModel, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.convert_pickles import Known
from modelcache.pipeline.derive import prepare
from modelcache.pipeline.file_locations import locations_of
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.project import held_pins, pins_of_root
from modelcache.stamp import Facts
from modelcache.store.inspect import difference_of, facts_below, foreign_files, verify
from modelcache.store.leases import Lease, Leases, Progress, Waiting
from modelcache.store.publish import publish, put_back, refuse_linked_state, repair, seal
from modelcache.store.receipts import read_receipt
from modelcache.store.space import clear_debris, refuse_too_little_space
from modelcache.system.files import discard, retry_if_replaced, storage_errors, walk
from modelcache.system.threads import Pool
from modelcache.transfer.download import download, originals_of

_SMALL = 16 << 20
_TOGETHER = 4
_LOOKS = 5
_BETWEEN_LOOKS = 0.1
_ONE_LOCK = "Give each lock a root of its own."
_FOR_ALL = (HubUnreachableError, StorageError)


@dataclass(frozen=True, slots=True)
class Synced:
    """What a run found and did; `pins` are in the manifest's order."""

    pins: Mapping[WantedModel, LockedModel]
    steps: Sequence[Step]
    pinned: Collection[WantedModel]
    """Those that no lock and no receipt had pinned before."""
    facts: Mapping[Path, Facts]
    """Of each model directory as it was looked at, or published: what the stamp may vouch for."""


def sync(
    wanted: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    context: RunContext,
    *,
    dry_run: bool = False,
) -> Synced:
    """Make the places hold every wanted model; return what was done.

    Raises:
        CacheModelsError: of every model that failed. The others are in place, unless the Hub or the volume failed
            for all.

    """
    if not dry_run:
        refuse_linked_state(context.places.collections.values())
        for model in wanted:
            with suppress(OSError):  # a volume that is read-only has nothing half done
                put_back(context.places.home(model.kind, model.id))
    held = held_pins(wanted, locked, None if context.other_root else context.places)
    pins = pin(wanted, held, locked, context)
    facts: dict[Path, Facts] = {}
    steps = [look(model, context, facts) for model in pins.values()]
    if not dry_run:
        refuse_too_little_space(steps, context.places)
        carry_out(steps, {model: wanted for wanted, model in pins.items()}, context, facts)
        refuse_replaced(steps, context, facts)
    return Synced(pins, steps, pins.keys() - held.keys(), facts)


def refuse_replaced(steps: Sequence[Step], context: RunContext, facts: dict[Path, Facts]) -> None:
    """Look again at what was kept while other models came: a run with another lock may have replaced it.

    Raises:
        IntegrityError: naming what is no longer there as pinned.

    """
    kept = [step.model for step in steps if step.action is Action.KEEP]
    if len(kept) < len(steps) and (lost := [model.id for model in kept if not stays(model, context, facts)]):
        raise IntegrityError(f"{', '.join(lost)}: replaced or removed by another run meanwhile", hint=_ONE_LOCK)


def stays(model: LockedModel, context: RunContext, facts: dict[Path, Facts]) -> bool:
    """Whether a model is in place; where no locks hold, a run with the same lock may just be swapping it."""
    for _ in range(_LOOKS):
        if look(model, context, facts).action is Action.KEEP:
            return True
        facts.pop(context.places.home(model.kind, model.id), None)
        time.sleep(_BETWEEN_LOOKS)
    return False


def pin(
    wanted: Sequence[WantedModel],
    held: Mapping[WantedModel, LockedModel],
    locked: Sequence[LockedModel] | None,
    context: RunContext,
) -> dict[WantedModel, LockedModel]:
    """Return the pin of each wanted model; only for what has none is the Hub asked."""
    pins = dict(held)
    unpinned = [model for model in wanted if model not in pins]
    if unpinned and context.other_root:
        pins |= pins_of_root(unpinned, context.other_root)
    elif unpinned:
        known = Known(locked or (), receipts=locked is None)
        pins |= {model: resolved.model for model, resolved in resolve_all(unpinned, context, known).items()}
    return {model: pins[model] for model in wanted}


def look(model: LockedModel, context: RunContext, facts: dict[Path, Facts]) -> Step:
    """Decide what is to be done about one model, and note the facts that this look was about."""
    home = context.places.home(model.kind, model.id)

    def once() -> Step:
        before = facts_below(home) if home.is_dir() else {}
        difference = difference_of(home, model, context.stamped(home))
        if difference is not None:
            return plan(model, difference.reason, reusable(home, difference.wrong))
        facts[home] = before
        return plan(model, None)

    with storage_errors(f"read {home}"):
        return retry_if_replaced(once)


def reusable(home: Path, wrong: Collection[str]) -> set[str]:
    """Return the SHA-256 of the files that a version on disk can lend to the next one."""
    there = read_receipt(home)
    sizes = {path: found.st_size for path, found in walk(home)} if there else {}
    files = there.files if there else ()
    return {file.sha256 for file in files if file.path not in wrong and sizes.get(file.path) == file.size}


def carry_out(
    steps: Sequence[Step], wanted: Mapping[LockedModel, WantedModel], context: RunContext, facts: dict[Path, Facts]
) -> None:
    """Do what is to be done; a model that somebody else is at is left for later.

    Raises:
        CacheModelsError: of every model that failed; after a failure of the Hub or the volume nothing more is tried.

    """
    leases = {kind: Leases(collection) for kind, collection in context.places.collections.items()}
    waiting = [step for step in steps if step.action is not Action.KEEP]
    errors: list[CacheModelsError] = []
    waits = Waiting(context.reporter)
    while waiting:
        later = []
        for group in grouped(waiting, min(_TOGETHER, context.jobs)):
            together = BatchReporter(context.reporter, group)
            among = context if len(group) == 1 else replace(context, reporter=together, jobs=context.jobs // len(group))
            work = partial(tried, wanted=wanted, leases=leases, context=among, facts=facts)
            with Pool(len(group), "model") as pool:
                outcomes = dict(zip(group, pool.map(work, group), strict=True))
            together.flush()
            later += [step for step, outcome in outcomes.items() if outcome is False]
            failed = [outcome for outcome in outcomes.values() if isinstance(outcome, CacheModelsError)]
            errors += failed
            if any(isinstance(error, _FOR_ALL) and not isinstance(error, OccupiedError) for error in failed):
                raise_all(errors)  # the next model would meet the same
        if later and len(later) == len(waiting):
            waits.wait(", ".join(step.model.id for step in later))
        waiting = later
    raise_all(errors)
    for leases_of_kind in leases.values():
        with suppress(OSError):  # a volume that is read-only keeps its debris; the models are in place
            clear_debris(leases_of_kind)


def tried(
    step: Step,
    *,
    wanted: Mapping[LockedModel, WantedModel],
    leases: Mapping[Kind, Leases],
    context: RunContext,
    facts: dict[Path, Facts],
) -> bool | CacheModelsError:
    """Bring one model and look at it; return whether that was done, or why it could not be."""
    try:
        done = attempt(step, wanted[step.model], leases[step.model.kind], context)
        anew = replace(context, stamped=lambda home: {})  # the stamp knows the version before this one
        if done and not stays(step.model, anew, facts):
            told = f"{step.model.id} is not as pinned right after it was published: another run has replaced or removed"
            raise IntegrityError(f"{told} it, or the volume does not keep what is written", hint=_ONE_LOCK)
    except CacheModelsError as error:
        return error
    return done


def grouped(steps: Sequence[Step], most: int) -> Iterator[Sequence[Step]]:
    """Yield large models one by one, small ones up to `most` at a time: what those take is not bytes but waiting."""
    group: list[Step] = []
    for step in steps:
        small = step.model.size_to_fetch <= _SMALL
        if group and (not small or len(group) == most):
            yield group
            group = []
        group.append(step)
        if not small:
            yield group
            group = []
    if group:
        yield group


class BatchReporter:
    """Buffers completion lines of models fetched concurrently; reports none of their bytes."""

    def __init__(self, reporter: Reporter, group: Sequence[Step]) -> None:
        self.event = reporter.event
        self._reporter = reporter
        self._seconds: dict[Step, float | None] = dict.fromkeys(group)

    def begin(self, step: Step) -> None:
        """Say nothing: a bar would belong to one of them."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    def end(self, step: Step, seconds: float) -> None:
        """Remember that it is published."""
        self._seconds[step] = seconds

    def flush(self) -> None:
        """Tell what is published."""
        for step, seconds in self._seconds.items():
            if seconds is not None:
                self._reporter.end(step, seconds)


def attempt(step: Step, wanted: WantedModel, leases: Leases, context: RunContext) -> bool:
    """Bring one model under its lease; False while somebody else has it."""
    home = context.places.home(step.model.kind, step.model.id)
    with storage_errors(f"cache {step.model.id} in {home.parent}"):
        lease = leases.take(home.name)
        if lease is None:
            return False
        with lease:
            return bring(step, wanted, lease, leases.others(home.name, lease), context)


def bring(step: Step, wanted: WantedModel, lease: Lease, others: Sequence[Path], context: RunContext) -> bool:
    """Fetch, verify and publish one model, unless somebody has done it meanwhile; False when the lease was lost."""
    model, home = step.model, context.places.home(step.model.kind, step.model.id)
    repair(home)
    if retry_if_replaced(lambda: difference_of(home, model, context.stamped(home))) is None:
        context.reporter.event("keep", f"{model.id} has been fetched by somebody else", model=model.id)
        return True
    retry_if_replaced(lambda: refuse_foreign(home, model))
    context.reporter.begin(step)
    began = time.monotonic()
    try:
        reporter = Progress(context.reporter, lease)
        tree = download(
            model, lease.staging, locations_of(wanted, home, others, context), jobs=context.jobs, reporter=reporter
        )
        prepare(model, tree, originals_of(lease.staging))
        seal(tree, model)
        refuse_incomplete(tree, model)
        if not lease.held():
            return False
        publish(tree, home)
    except (OSError, IntegrityError):
        if not lease.lost():
            raise
        return False
    for path in (*others, lease.staging):
        discard(path)
    context.reporter.end(step, time.monotonic() - began)
    return True


def refuse_incomplete(tree: Path, model: LockedModel) -> None:
    """Check names and sizes of what is about to be seen; the bytes were hashed where they lie.

    Raises:
        IntegrityError: the tree is anything but the model's plain files and its receipt.

    """
    found = verify(tree, model, quick=True)
    if not found.ok:
        raise IntegrityError(f"{model.id} was not put together as pinned", verification=found, hint="Run it again.")


def refuse_foreign(home: Path, model: LockedModel) -> None:
    """Refuse to replace what this tool did not write: somebody may have no other copy of it.

    Raises:
        OccupiedError: a directory without a receipt that holds more than files of this model, or another model.

    """
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise OccupiedError(f"{home} is not a directory", hint="Move it away or delete it, then run this again.")
    there = read_receipt(home)
    if there is not None and there.id != model.id:
        raise OccupiedError(
            f"{home} holds {there.id}, not {model.id}",
            hint="Cache them under different roots (--root), or move it away.",
        )
    if there is not None or not home.exists():
        return
    found = verify(home, model)
    if foreign := foreign_files(found):
        raise OccupiedError(
            f"{home} was not written by this tool and holds other files ({', '.join(map(escape, foreign[:3]))})",
            hint="Move it away or delete it, then run this again.",
        )
