"""Make a root hold the pinned models, each whole, also while other processes do the same."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from modelcache.core.errors import (
    CacheModelsError,
    HubUnreachableError,
    IntegrityError,
    OccupiedError,
    SourceDirectoryError,
    StorageError,
    raise_all,
)
from modelcache.core.interfaces import Reporter
from modelcache.core.kinds import Kind
from modelcache.core.plan import Action, Step, plan
from modelcache.core.text import part_of
from modelcache.core.types import LockedModel, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.derive import derive_files
from modelcache.pipeline.fetch import as_done, at_hand, fetch
from modelcache.pipeline.hub_view import hold, link, report_left_out, restore, restore_held, show
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.pins import matching_pins, matching_receipts, refuse_lacking_source
from modelcache.stamp import Facts
from modelcache.store.inspect import inspect, refuse_foreign, refuse_incomplete
from modelcache.store.inspect_view import NO_VIEW, inspect_view
from modelcache.store.leases import Lease, LeaseReporter, Leases, LeaseWait
from modelcache.store.publish import finalize_model, publish, recover_publish, refuse_linked_state, restore_old_version
from modelcache.store.space import refuse_too_little_space, remove_leftovers
from modelcache.system.files import discard, retry_if_replaced, storage_errors
from modelcache.system.threads import Pool
from modelcache.transfer.file_locations import originals_of
from modelcache.transfer.staged_bytes import bytes_staged

_SMALL_MODEL = 16 << 20
_BATCH = 4
_TRIES = 5
_BETWEEN_TRIES = 0.1
_ONE_LOCK_HINT = "Runs with different locks may share this root: give each lock a root of its own."
_OF_ALL_MODELS = (HubUnreachableError, StorageError)
_OF_ONE_MODEL = (OccupiedError, SourceDirectoryError)


@dataclass(frozen=True, slots=True)
class Synced:
    """The result of a run; `pins` are in the manifest's order."""

    pins: Mapping[WantedModel, LockedModel]
    steps: Sequence[Step]
    """What was done, or, after a dry run, what would be."""
    pinned: Collection[WantedModel]
    """The models that no lock and no receipt had pinned before."""
    facts: Mapping[Path, Facts]
    """The facts of each model directory as it was inspected or published, for the stamp."""


def sync(
    wanted: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    context: RunContext,
    *,
    dry_run: bool = False,
) -> Synced:
    """Make the places hold every wanted model; return what was done.

    The errors of all models that failed are raised together. The others are in place, unless the Hub or the volume
    failed for all.
    """
    context = context.with_paths(wanted)
    if not dry_run:
        refuse_linked_state(context.places.collections.values())
        for model in wanted:
            with suppress(OSError):  # on a read-only volume nothing is unfinished
                restore_old_version(context.places.home(model.kind, model.id))
    pins, pinned = pin(wanted, locked, context)
    facts: dict[Path, Facts] = {}
    steps = [plan_step(model, context, facts) for model in pins.values()]
    if (source := context.source) is not None:
        needed = [step.model for step in steps if not step.in_place]
        source.expect([model.id for model in needed])
        refuse_lacking_source(source, [model for model in wanted if model not in pins], needed)
        if needed:
            context.reporter.event("from", f"{source.name} instead of the Hub", source=source.name)
    if not dry_run:
        refuse_too_little_space(steps, context.places)
        done = run_steps(steps, context, facts)
        refuse_replaced(steps, context, facts)
        steps = done
    return Synced(pins, steps, pinned, facts)


def pin(
    wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, context: RunContext
) -> tuple[dict[WantedModel, LockedModel], Collection[WantedModel]]:
    """Return the pins of the wanted models, and those of them that are new.

    The Hub is asked only for models that have none. With a source (`--from`) its receipts count before those of this
    root, and a model that neither has stays without a pin.

    Raises:
        PolicyError: the gate forbids some of them, whatever pins them.

    """
    pins = matching_pins(wanted, locked, context.places if context.source is None else None)
    unpinned = [model for model in wanted if model not in pins]
    new: dict[WantedModel, LockedModel] = {}
    if context.source is not None:
        new = matching_receipts(unpinned, context.source)
        pins |= matching_pins([model for model in unpinned if model not in new], None, context.places)
    elif unpinned:
        resolved = resolve_all(unpinned, context, locked, pinned=pins)
        new = {model: resolution.model for model, resolution in resolved.items()}
    pins |= new
    raise_all(context.gate.refusals(wanted, pins.values()))
    return {model: pins[model] for model in wanted if model in pins}, new.keys()


def plan_step(model: LockedModel, context: RunContext, facts: dict[Path, Facts], *, with_view: bool = True) -> Step:
    """Inspect one model and, `with_view`, its Hub view, and decide; note the facts of one that is in place."""
    home, hub = context.places.home(model.kind, model.id), context.places.hub if with_view else None
    with storage_errors(f"read {home}"):
        found = retry_if_replaced(lambda: inspect(home, model, context.stamped(home)))
        view = inspect_view(hub, model) if hub and found.difference is None else NO_VIEW
    if found.difference is None and view.difference is None:
        facts[home] = found.facts | view.facts
    return plan(
        model,
        found.difference,
        found.reusable,
        at_hand=found.difference == "" and at_hand(model, context),
        view=view.difference,
    )


def run_steps(steps: Sequence[Step], context: RunContext, facts: dict[Path, Facts]) -> list[Step]:
    """Fetch and publish the models that are not in place; one that another process is fetching is left for later.

    Return the steps as they were done. The errors of all models that failed are raised together; after one of the Hub
    or the volume no more are begun.
    """
    leases = {kind: Leases(collection) for kind, collection in context.places.collections.items()}
    left = [step for step in steps if step.action is not Action.KEEP]
    done: dict[Step, Step] = {}
    errors: list[CacheModelsError] = []
    lease_wait = LeaseWait(context.reporter)
    while left:
        later: list[Step] = []
        begun = 0
        for batch in batches(left, min(_BATCH, context.jobs)):
            to_do = [*left[begun:], *later]
            context.reporter.expect("all", sum(step.model.size_to_fetch for step in to_do), len(to_do))
            reporter = BatchReporter(context.reporter)
            share = context if len(batch) == 1 else replace(context, reporter=reporter, jobs=context.jobs // len(batch))
            with Pool(len(batch), "model") as pool:
                work = partial(run_step, leases=leases, context=share, facts=facts)
                outcomes = dict(zip(batch, pool.map(work, batch), strict=True))
            for step in batch:
                if step.model in reporter.ended:
                    context.reporter.end(*reporter.ended[step.model])
            done |= {step: outcome for step, outcome in outcomes.items() if isinstance(outcome, Step)}
            begun += len(batch)
            later += [step for step, outcome in outcomes.items() if outcome is None]
            failed = [outcome for outcome in outcomes.values() if isinstance(outcome, CacheModelsError)]
            if any(map(_fails_all, failed)):
                rest = [step.model.id for step in (*later, *left[begun:])]
                raise_all([*errors, *(error.concerning(rest) if _fails_all(error) else error for error in failed)])
            errors += failed
        if later and len(later) == len(left):
            lease_wait.wait(partial(_fetched_by_others, later, leases, context))
        else:
            lease_wait = LeaseWait(context.reporter)
        left = later
    context.reporter.expect("all", 0)
    raise_all(errors)
    for leases_of_kind in leases.values():
        with suppress(OSError):  # a read-only volume keeps its leftovers; the models are in place
            remove_leftovers(leases_of_kind)
    return [done.get(step, step) for step in steps]


def _fetched_by_others(steps: Sequence[Step], leases: Mapping[Kind, Leases], context: RunContext) -> str:
    """Return which models other processes are fetching, and how many bytes of them are there."""
    fetched = to_fetch = 0
    for step in steps:
        name = context.places.home(step.model.kind, step.model.id).name
        there, whole = 0, step.model.size_to_fetch
        with suppress(OSError):  # its staging has just been published
            there, whole = bytes_staged(leases[step.model.kind].stagings_of(name), step.model)
        fetched, to_fetch = fetched + there, to_fetch + whole
    names = ", ".join(step.model.id for step in steps)
    return f"{names}: {part_of(fetched, to_fetch)}" if to_fetch else names


def _fails_all(error: CacheModelsError) -> bool:
    """Whether the next model would fail for the same cause."""
    return isinstance(error, _OF_ALL_MODELS) and not isinstance(error, _OF_ONE_MODEL)


def batches(steps: Sequence[Step], most: int) -> Iterator[Sequence[Step]]:
    """Yield large models one by one, and up to `most` small ones at a time: those take round trips more than bytes."""
    for small, group in groupby(steps, key=lambda step: step.model.size_to_fetch <= _SMALL_MODEL):
        alike, count = list(group), most if small else 1
        for start in range(0, len(alike), count):
            yield alike[start : start + count]


def run_step(
    step: Step, *, leases: Mapping[Kind, Leases], context: RunContext, facts: dict[Path, Facts]
) -> Step | CacheModelsError | None:
    """Publish one model and inspect it; return what was done or its error, None while another process has its lease."""
    model, home = step.model, context.places.home(step.model.kind, step.model.id)
    try:
        with storage_errors(f"cache {model.id} in {home.parent}", shared=f"cache models in {home.parent}"):
            lease = leases[model.kind].take(home.name)
            if lease is None:
                return None
            with lease:
                others = leases[model.kind].other_stagings(home.name, lease)
                done = fetch_and_publish(model, lease, others, context)
        if done is None:
            return None
        unstamped = replace(context, stamped=lambda home: {})  # the stamp knows the version before this one
        if not is_in_place(model, unstamped, facts, with_view=done.hub_view):
            raise IntegrityError(
                f"{model.id} is not as pinned right after it was published: another run has replaced or removed it,"
                " or the volume does not keep what is written",
                hint=_ONE_LOCK_HINT,
            )
    except CacheModelsError as error:
        if step.action is Action.LINK and isinstance(error, StorageError):  # as on a read-only volume
            report_left_out(error, model, context)
            return replace(step, action=Action.KEEP, hub_view=False)
        return error.concerning([model.id])
    return done


def fetch_and_publish(model: LockedModel, lease: Lease, others: Sequence[Path], context: RunContext) -> Step | None:
    """Fetch, verify and publish one model, unless another process has just done so; None when the lease was lost."""
    home = context.places.home(model.kind, model.id)
    recover_publish(home)
    step = plan_step(model, context, {})
    if step.action is Action.LINK:
        return replace(step, hub_view=link(model, context))
    if step.action is Action.KEEP:
        text = f"{model.id} has been published by another process"
        context.reporter.event("keep", text, model=model.id, by_another_process=True)
        return replace(step, action=Action.FOUND)
    retry_if_replaced(lambda: refuse_foreign(home, model))
    context.reporter.begin(step)
    began = time.monotonic()
    try:
        restore_held(model, context)
        tree = fetch(model, lease.staging, others, context, LeaseReporter(context.reporter, lease))
        derive_files(model, tree, originals_of(lease.staging))
        readers_may_mix = hold(model, context)
        finalize_model(tree, model)
        refuse_incomplete(tree, model)
        if lease.lost():
            return None
        publish(tree, home)
        has_view = show(model, context, readers_may_mix=readers_may_mix)
    except Exception as error:
        if not lease.lost():
            restore(model, context)
        elif isinstance(error, (OSError, IntegrityError)):
            return None
        raise
    for path in (*others, lease.staging):
        discard(path)
    done = replace(as_done(step, context), hub_view=has_view)
    context.reporter.end(done, time.monotonic() - began)
    return done


def refuse_replaced(steps: Sequence[Step], context: RunContext, facts: dict[Path, Facts]) -> None:
    """Inspect the kept models again after others were fetched: a run with another lock may have replaced one."""
    kept = [step.model for step in steps if step.action is Action.KEEP]
    if len(kept) < len(steps) and (lost := [model.id for model in kept if not is_in_place(model, context, facts)]):
        raise IntegrityError(f"{', '.join(lost)}: replaced or removed by another run meanwhile", hint=_ONE_LOCK_HINT)


def is_in_place(model: LockedModel, context: RunContext, facts: dict[Path, Facts], *, with_view: bool = True) -> bool:
    """Whether a model is as pinned; several tries, as without locks a run of the same lock may be exchanging it.

    Such a run may hold the Hub view for longer. Then the model counts as in place without facts, so that no stamp is
    written and the next run looks at the view.
    """
    for _ in range(_TRIES):
        step = plan_step(model, context, facts, with_view=with_view)
        if step.action is Action.KEEP:
            return True
        facts.pop(context.places.home(model.kind, model.id), None)
        time.sleep(_BETWEEN_TRIES)
    return step.in_place


class BatchReporter:
    """Buffers completion lines of models fetched concurrently; their bytes count for the whole run alone."""

    def __init__(self, reporter: Reporter) -> None:
        self.event, self.expect, self.waiting = reporter.event, reporter.expect, reporter.waiting
        self.advance = reporter.advance
        self.ended: dict[LockedModel, tuple[Step, float]] = {}

    def begin(self, step: Step) -> None:
        """Do nothing: one bar cannot show several models."""

    def end(self, step: Step, seconds: float) -> None:
        """Remember that a model is published."""
        self.ended[step.model] = step, seconds
