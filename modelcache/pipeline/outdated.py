"""`outdated`: the newest commit of each pinned model, and how it differs from the pin, without a byte of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.changes import Difference
from modelcache.core.errors import (
    AccessDeniedError,
    CacheModelsError,
    HubUnreachableError,
    NotOnHubError,
    PolicyError,
    raise_all,
)
from modelcache.core.text import one_line
from modelcache.core.types import ListedFile, LockedModel, Revision, WantedModel
from modelcache.core.update import ModelUpdate, UpdateState
from modelcache.pipeline.contents import Contents
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.preview import PreviewedRepository, previewed_conversion
from modelcache.resolver.changes import changes_of_pin, compare
from modelcache.resolver.resolve import ResolveContext, preview
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.sources.hub_repository import HubRepository
from modelcache.system.threads import Pool, map_until_failure, ticking

if TYPE_CHECKING:
    from modelcache.sources.hub_api import Hub

_MODELS_AT_ONCE = 4
_DEFAULT_BRANCH = "main"  # of every repository on the Hub
_COMMIT, _SHORT_COMMIT = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{7,39}")
_REFERENCES, _TAGS = "refs/", "refs/tags/"  # `refs/pr/3` is the branch of a pull request


def find_updates(
    wanted: Sequence[WantedModel], pins: Mapping[WantedModel, LockedModel], context: RunContext
) -> list[ModelUpdate]:
    """Return what is newest of each model, in their order; a few requests a model, several models at a time.

    A repository that is gone, or that the token may not read, is a result and no error.

    Raises:
        HubError: the Hub does not answer, or not as the Hub does.

    """
    contents, unreachable = Contents(context), list[HubUnreachableError]()
    with Pool(context.jobs, "file") as files, Pool(min(_MODELS_AT_ONCE, context.jobs), "model") as models:

        def find(model: WantedModel) -> ModelUpdate | CacheModelsError:
            pin = pins.get(model)
            if pin is None or pin.from_directory:
                state = UpdateState.DIRECTORY if pin else UpdateState.NOT_PINNED
                return ModelUpdate(model.kind, model.id, state)
            if unreachable:  # it will not answer for this model either
                return unreachable[0].concerning([model.id])
            try:
                return _Search(model, pin, context, contents, files).run()
            except CacheModelsError as error:
                if isinstance(error, HubUnreachableError):
                    unreachable.append(error)
                return error.concerning([model.id])

        with ticking(partial(context.reporter.waiting, "asking the Hub")):
            found = list(models.map(find, wanted))
    raise_all([result for result in found if isinstance(result, CacheModelsError)])
    return [result for result in found if isinstance(result, ModelUpdate)]


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for the newest commit of one model."""

    wanted: WantedModel
    pin: LockedModel
    context: RunContext
    contents: Contents
    files: Executor
    """Reads several files at a time."""

    def run(self) -> ModelUpdate:
        """Ask for the newest commit, and compare it with the pin."""
        pin, hub = self.pin, self.context.hub()
        update = ModelUpdate(pin.kind, pin.id, UpdateState.CURRENT, pin.commit)
        try:
            branch = self._branch(hub)
            found = hub.revision(pin.id, branch)
        except NotOnHubError as error:
            return replace(update, state=UpdateState.GONE, reason=one_line(error.message))
        except AccessDeniedError as error:
            return _denied(update, error)
        renamed = found.name if found.name != pin.id else ""
        update = replace(update, branch=branch, newest=found.commit, renamed=renamed)
        try:
            dates = self._dates(hub, found.commit)
            update = replace(update, date=dates.get(pin.commit, ""), newest_date=dates.get(found.commit, ""))
            return self._compared(update, hub, found)
        except AccessDeniedError as error:
            return _denied(update, error)
        except (NotOnHubError, PolicyError) as error:  # the repository that its code is from may be gone
            return replace(update, state=UpdateState.REFUSED, reason=one_line(error.message))

    def _branch(self, hub: Hub) -> str:
        """Return the branch of the pin's revision; the default branch for a tag or a commit.

        A mirror may not know the names of branches; then the revision itself is asked for, as `lock --upgrade` does,
        and so is one that is neither, since it may be a branch that is gone.
        """
        revision = self.pin.revision
        if revision == _DEFAULT_BRANCH or _COMMIT.fullmatch(revision):
            return _DEFAULT_BRANCH
        if revision.startswith(_REFERENCES):
            return _DEFAULT_BRANCH if revision.startswith(_TAGS) else revision
        known = hub.references(self.pin.id)
        if known is None or revision in known.branches:
            return revision
        is_fixed = revision in known.tags or _SHORT_COMMIT.fullmatch(revision)
        return _DEFAULT_BRANCH if is_fixed else revision

    def _dates(self, hub: Hub, newest: str) -> dict[str, str]:
        """Return the dates of both commits, where the Hub, or a mirror of it, has them."""
        dates: dict[str, str] = {}
        for commit in (newest, self.pin.commit):
            if commit not in dates:
                dates |= hub.history(self.pin.id, commit)
        return dates

    def _compared(self, update: ModelUpdate, hub: Hub, found: Revision) -> ModelUpdate:
        """Return the update with what it changes."""
        pin = self.pin
        if found.commit == pin.commit and not self._code_has_moved(hub):
            changes = changes_of_pin(pin, replace(pin, gated=found.gated))
            return replace(update, difference=Difference(tuple(changes)))
        try:
            then = {file.path: file for file in hub.listing(pin.id, pin.commit)}
        except NotOnHubError:
            then, update = {}, replace(update, commit_is_gone=True)
        newest = PreviewedRepository(self._open(pin.id, found, hub), pin, then)

        def open_repository(name: str, revision: str) -> HubRepository:
            return self._open(name, hub.revision(name, revision), hub)

        for_each = partial(map_until_failure, self.files)
        context = ResolveContext(open_repository, partial(previewed_conversion, pin), lambda *_: None, for_each)
        new = preview(replace(self.wanted, revision=pin.revision), newest, context)
        new = newest.without_left_out(new)
        raise_all(self.context.gate.refusals([self.wanted], [new]))
        difference = compare(pin, new, self.contents.of(pin), self.contents.of(new, newest.content_of))
        is_same = found.commit == pin.commit and difference.is_empty  # the commit of its code brings nothing for it
        return replace(update, state=UpdateState.CURRENT if is_same else UpdateState.OUTDATED, difference=difference)

    def _code_has_moved(self, hub: Hub) -> bool:
        """Whether a repository that only the code of the model is from has another commit now."""
        originals = [file.original for file in self.pin.files if file.original and file.original.repository]
        others = {original.repository: original.commit for original in originals}
        return any(hub.revision(name, _DEFAULT_BRANCH).commit != commit for name, commit in others.items())

    def _open(self, name: str, found: Revision, hub: Hub) -> HubRepository:
        """Open a repository of which files may be in the root or in the Hugging Face cache; nothing is kept."""
        home = self.context.places.home(self.pin.kind, self.pin.id)

        def in_root(file: ListedFile) -> Iterable[Path]:
            return [home / file.path]

        def in_cache(file: ListedFile) -> Iterable[Path]:
            return in_hf_cache(name, file.sha256 or file.blob_id)

        return HubRepository(name, found, hub, in_root, in_cache, lambda sha256, content: None)


def _denied(update: ModelUpdate, error: AccessDeniedError) -> ModelUpdate:
    """Return the update of a model that the token may not read; no model is read with a token that is refused."""
    if error.shared:
        raise error
    return replace(update, state=UpdateState.DENIED, reason=one_line(error.message))
