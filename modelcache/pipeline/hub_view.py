"""Replace a model together with its Hub view, as `store.hub_view` explains, and write the view of one in place."""

from __future__ import annotations

from contextlib import suppress

from modelcache.core.errors import NoLinksError, OccupiedError, StorageError
from modelcache.core.hub_view import view_folder
from modelcache.core.types import LockedModel
from modelcache.pipeline.context import RunContext
from modelcache.store.hub_view import hold_view, remove_view, wait_for_readers, write_view
from modelcache.store.inspect_view import inspect_view
from modelcache.store.layout import read_receipt

_LEFT_OUT = (NoLinksError, OccupiedError)


def restore_held(model: LockedModel, context: RunContext) -> None:
    """Before a fetch, which may take long or fail: give the version that is there its view back.

    A run that was killed while it replaced that version has left the view held.
    """
    hub, before = context.places.hub, read_receipt(context.places.home(model.kind, model.id))
    if hub is not None and before is not None and (found := inspect_view(hub, before)).there and found.difference:
        with suppress(*_LEFT_OUT):
            write_view(hub, before)


def hold(model: LockedModel, context: RunContext) -> bool:
    """Hold the view of a model before another version is published; where no program knows its id, nothing is held.

    Return whether a program may have read files of the version before.

    Raises:
        OccupiedError: the view cannot be held, and its links would lead to the files of the new version.

    """
    hub = context.places.hub
    readable = False
    if hub is not None and (hub / view_folder(model.id)).exists():
        try:
            readable = hold_view(hub, model)
        except _LEFT_OUT:  # reported when the view is written
            if inspect_view(hub, model).there:
                raise
    return readable and read_receipt(context.places.home(model.kind, model.id)) != model


def show(model: LockedModel, context: RunContext, *, readers_may_mix: bool) -> bool:
    """Write the view of a model that has been published; return whether it has one now."""
    hub = context.places.hub
    if hub is None:
        return False
    if readers_may_mix:
        wait_for_readers(readable=True)
    try:
        write_view(hub, model)
    except _LEFT_OUT as error:
        report_left_out(error, model, context)
        return False
    return True


def restore(model: LockedModel, context: RunContext) -> None:
    """After a failure: the version that is there has its view again; where none is, no view is left."""
    hub = context.places.hub
    with suppress(OSError, StorageError):  # the failure itself is reported
        before = read_receipt(context.places.home(model.kind, model.id))
        if hub is not None and before is None:
            remove_view(hub, model.id)
        else:
            restore_held(model, context)


def link(model: LockedModel, context: RunContext) -> bool:
    """Write the view of a model that is in place; return whether it has one now."""
    hub = context.places.hub
    if hub is None:
        return False
    try:
        wait_for_readers(readable=hold_view(hub, model))
        write_view(hub, model)
    except _LEFT_OUT as error:
        report_left_out(error, model, context)
        return False
    context.reporter.event("link", f"{model.id}: Hub view written", model=model.id)
    return True


def report_left_out(error: StorageError, model: LockedModel, context: RunContext) -> None:
    """Report why a model has no view; it is in place all the same."""
    text = f"{model.id} has no Hub view, so programs find it by its path alone: {error.message}"
    context.reporter.event("note", f"{text}. {error.hint}" if error.hint else text, model=model.id)
