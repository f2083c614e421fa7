"""The newest commit of a model, opened as a repository: of a file that has not changed the pin has the SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from modelcache.core.file_types import WEIGHTS, ending_of
from modelcache.core.interfaces import Repository
from modelcache.core.types import ListedFile, LockedFile, LockedModel, Made, Original
from modelcache.resolver.derived import converted_name


class PreviewedRepository:
    """A commit of a repository, beside an older one that is pinned; `then` is the listing of the older one."""

    def __init__(self, repository: Repository, pin: LockedModel, then: Mapping[str, ListedFile]) -> None:
        self.commit, self.licence, self.gated = repository.commit, repository.licence, repository.gated
        self.files = repository.files
        self.part, self.stop = repository.part, repository.stop
        self._repository = repository
        self._then = then
        self._published = {file.path for file in pin.files}
        originals = [pin.original_of(file) for file in pin.files if file.made is not Made.WRITTEN]
        self._pins = {one.path: one for one in originals if (one.repository, one.commit) == (pin.id, pin.commit)}
        self._contents: dict[str, bytes] = {}

    def read(self, file: ListedFile) -> bytes:
        """Return a small file, and remember it for `content_of`."""
        content = self._contents[file.path] = self._repository.read(file)
        return content

    def pin(self, file: ListedFile) -> Original:
        """Return size and SHA-256 of a file: by the older pin, if it has not changed since.

        Weights that lie in git have no SHA-256 in a listing. Of those that have changed it is that of their git hash,
        which is as different from the pinned one.
        """
        known, then = self._pins.get(file.path), self._then.get(file.path)
        if known and then and _same(then, file):
            return Original(known.path, known.size, known.sha256)
        if file.sha256 is None and ending_of(file.path) in WEIGHTS and (then or not known):
            return Original(file.path, file.size, hashlib.sha256(file.blob_id.encode()).hexdigest())
        return self._repository.pin(file)

    def without_left_out(self, model: LockedModel) -> LockedModel:
        """Return a preview without the files that were left out then, as pickles, and have not changed since.

        A preview does not read them. Only a file whose name has no ending is published without a reason of its own.
        """
        return replace(model, files=tuple(file for file in model.files if not self._was_left_out(file.path)))

    def _was_left_out(self, path: str) -> bool:
        now, then = self.files.get(path), self._then.get(path)
        unchanged = now is not None and then is not None and _same(now, then)
        return unchanged and path not in self._published and not ending_of(path)

    def content_of(self, original: Original) -> bytes | None:
        """Return the content of a small file that has been read from here."""
        content = self._contents.get(original.path)
        return content if content is not None and original.matches(content) else None


def previewed_conversion(pin: LockedModel, commit: str, pickle: Original) -> LockedFile:
    """Return the safetensors of a pickle by the pin; of one that has changed, a file with the hash of the pickle.

    That hash stands for the one that only a conversion gives: it is as different from the pinned one.
    """
    del commit
    known = {file.original.sha256: file for file in pin.files if file.made is Made.CONVERTED and file.original}
    same = known.get(pickle.sha256, pickle)
    return LockedFile(converted_name(pickle.path), same.size, same.sha256, Made.CONVERTED, pickle)


def _same(one: ListedFile, other: ListedFile) -> bool:
    return (one.size, one.sha256 or one.blob_id) == (other.size, other.sha256 or other.blob_id)
