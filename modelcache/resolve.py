"""From what is wanted to what is pinned: which files, which bytes, and how those come about that no repository has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from modelcache.choose import choose
from modelcache.errors import NotOnHubError
from modelcache.layout import refuse_unsafe_paths
from modelcache.recipes import converted_index_name, rewritten, written
from modelcache.records import ListedFile, LockedFile, LockedModel, Made, Original, RemoteCode, WantedModel
from modelcache.vendor import vendor


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pinned model, and how large the repository is that it was chosen from, in bytes."""

    model: LockedModel
    repository_size: int


class Repository(Protocol):
    """Where files are read that a model is made of."""

    commit: str
    """40 hex digits; empty for a directory."""
    licence: str
    listing: Sequence[ListedFile]

    def read(self, file: ListedFile) -> bytes:
        """Return a small file, asked for once."""

    def pin(self, file: ListedFile) -> Original:
        """Say which bytes a file has."""


@dataclass(frozen=True, slots=True)
class Means:
    """What resolving a model takes beside the repository itself."""

    open: Callable[[str, str], Repository]
    """Gives a repository of the Hub at a revision."""
    convert: Callable[[str, Original], LockedFile]
    """Makes safetensors of a pickle, for a model of that commit."""
    jobs: int = 8


def resolve(wanted: WantedModel, repository: Repository, means: Means) -> Resolved:
    """Pin a model.

    Raises:
        HubError: it is not there, not allowed, or the Hub does not answer.
        PolicyError: it is not shipped, with every reason.
        IntegrityError: a file is not what the listing says, also when fetched once more.

    """
    choice = choose(wanted, repository.listing, repository.read)
    model = LockedModel(
        kind=wanted.kind,
        id=wanted.id,
        revision=wanted.revision if repository.commit else "main",
        commit=repository.commit,
        files=(),
        licence=repository.licence,
        remote_code=choice.remote_code,
        pooling=wanted.pooling,
        normalize=wanted.normalize,
    )
    by_path = {file.path: file for file in repository.listing}
    made: list[LockedFile] = []
    packages: tuple[str, ...] = ()
    if wanted.pooling:
        contents = written(model, repository.read(by_path["config.json"]) if "config.json" in by_path else b"")
        made += [_locked(path, content, Made.WRITTEN) for path, content in contents.items()]
    if choice.remote_code is RemoteCode.VENDORED:
        code, packages = _vendored(wanted.id, repository, by_path, choice.configs, means)
        made += code
    for index in choice.pickle_indexes:
        content = repository.read(index)
        original = repository.pin(index)
        made.append(_locked(converted_index_name(index.path), rewritten(original, content), Made.REWRITTEN, original))
    changed = {file.path for file in made}
    with ThreadPoolExecutor(means.jobs, thread_name_prefix="resolve") as pool:
        originals = list(pool.map(repository.pin, [file for file in choice.files if file.path not in changed]))
    made += [means.convert(repository.commit, repository.pin(pickle)) for pickle in choice.pickles]
    files = [*made, *(LockedFile(original.path, original.size, original.sha256) for original in originals)]
    refuse_unsafe_paths(wanted.id, (file.path for file in files))
    files.sort(key=lambda file: file.path)
    pinned = replace(model, files=tuple(files), packages=packages)
    return Resolved(pinned, sum(file.size for file in repository.listing))


def _vendored(
    model_id: str, own: Repository, by_path: Mapping[str, ListedFile], configs: Sequence[ListedFile], means: Means
) -> tuple[list[LockedFile], tuple[str, ...]]:
    """Return the files of code, the configurations that change, and the packages that the code imports."""
    opened: dict[str, tuple[Repository, Mapping[str, ListedFile]]] = {model_id: (own, by_path)}

    def find(name: str) -> tuple[Repository, Mapping[str, ListedFile]]:
        if name not in opened:
            try:
                other = means.open(name, "main")
            except NotOnHubError as error:
                raise NotOnHubError(
                    f"{model_id} names code of {name}: {error.message}",
                    hint="If transformers has the class itself, trust_remote_code = false ships the model without it.",
                ) from error
            opened[name] = other, {file.path: file for file in other.listing}
        return opened[name]

    def read(name: str, path: str) -> bytes | None:
        repository, files = find(name)
        return repository.read(files[path]) if path in files else None

    found = vendor(model_id, {file.path: own.read(file) for file in configs}, read)
    made = []
    for path, content in found.rewritten.items():
        made.append(_locked(path, content, Made.REWRITTEN, own.pin(by_path[path])))
    for code in found.code:
        repository, files = find(code.repository)
        original = repository.pin(files[code.source])
        if repository is not own:
            original = replace(original, repository=code.repository, commit=repository.commit)
        made.append(
            LockedFile(code.path, original.size, original.sha256, None, original if repository is not own else None)
        )
    return made, found.packages


def _locked(path: str, content: bytes, made: Made, original: Original | None = None) -> LockedFile:
    return LockedFile(path, len(content), hashlib.sha256(content).hexdigest(), made, original)
