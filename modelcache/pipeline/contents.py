"""The contents of a model's configurations, wherever they are at hand: in the root, in the Hub's cache, on the Hub.

The bytes are compared with the pin, so it does not matter where they are from. A configuration that cannot be had is
no error: then it counts as changed as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from modelcache.core.errors import HubError, IntegrityError, PolicyError
from modelcache.core.types import ListedFile, LockedFile, LockedModel, Made, Original
from modelcache.pipeline.context import RunContext
from modelcache.resolver.derived import small_file
from modelcache.resolver.inputs import Read
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.store.pinned_content import pinned_content

AtHand = Callable[[Original], bytes | None]

_CONFIG = "config.json"


class Contents:
    """Reads configurations for one run; once the Hub does not answer, it is not asked again."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._unreachable = threading.Event()

    def of(self, model: LockedModel, at_hand: AtHand = lambda original: None) -> Read:
        """Return the function that reads the files of a model as they are published.

        `at_hand` returns a file of its repository that was read before.
        """
        return partial(self._read, model, at_hand)

    def _read(self, model: LockedModel, at_hand: AtHand, file: LockedFile) -> bytes | None:
        home = self._context.places.home(model.kind, model.id)
        if (content := pinned_content(file, [home / file.path])) is not None or file.made is Made.CONVERTED:
            return content
        source = next((one for one in model.files if one.path == _CONFIG), None) if file.made is Made.WRITTEN else file
        if source is None:
            return None
        needed = model.original_of(source)
        original = at_hand(needed) or self._read_original(model, needed)
        if original is None or file.made is None:
            return original
        with suppress(PolicyError):
            content = small_file(model, file, original)
        return content if content is not None and file.matches(content) else None

    def _read_original(self, model: LockedModel, original: Original) -> bytes | None:
        """Return a file as its repository or its directory has it."""
        content = pinned_content(original, self._places_of(model, original))
        if content is not None or not original.commit or self._unreachable.is_set():
            return content
        listed = ListedFile(original.path, original.size)
        try:
            content = self._context.hub().read(original.repository, original.commit, listed)
        except (HubError, IntegrityError) as error:
            if error.shared:
                self._unreachable.set()
            return None
        return content if original.matches(content) else None

    def _places_of(self, model: LockedModel, original: Original) -> Iterator[Path]:
        if original.commit:
            yield from in_hf_cache(original.repository, "", original.path, original.commit)
        elif directory := self._context.directory_of(model.kind, model.id):
            yield directory / original.path
