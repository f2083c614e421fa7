"""From what is wanted to what is pinned: which files, which bytes, and how those come about that no repository has."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from modelcache.core import git_lfs
from modelcache.core.errors import AccessDeniedError, NotOnHubError, PolicyError
from modelcache.core.interfaces import ForEach, Repository
from modelcache.core.names import problem_with_path, refuse_unsafe_paths
from modelcache.core.safetensors_header import DamagedHeaderError, header_size, tensors_of
from modelcache.core.text import first_lines
from modelcache.core.types import (
    LARGEST_TEXT,
    ListedFile,
    LockedFile,
    LockedModel,
    Made,
    Original,
    RemoteCode,
    WantedModel,
)
from modelcache.resolver.code_references import references, way_without_code
from modelcache.resolver.derived import converted_index_name, rewritten
from modelcache.resolver.files import Choice, choose
from modelcache.resolver.files_read_by_code import read_by_code
from modelcache.resolver.pooling import module_files
from modelcache.resolver.remote_code import vendor
from modelcache.resolver.weights import SAFE_WEIGHTS

_SMALL = 1 << 16
# Bytes of a weight file that are read first: enough for the header of some 270 tensors.
_HEAD = 1 << 15
_one_header = threading.Lock()  # each takes ten times its size while it is parsed
_CONFIGURATION = re.compile(r"([0-9]+_[^/]*/)?[^/]*(?<!\.index)\.json")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pinned model, and how large the repository is that it was chosen from, in bytes."""

    model: LockedModel
    repository_size: int
    notes: tuple[str, ...] = ()
    """What people should know of it although it is shipped; told once, and written into neither lock nor receipt."""


@dataclass(frozen=True, slots=True)
class Means:
    """What resolving a model takes beside the repository itself."""

    open: Callable[[str, str], Repository]
    """Gives a repository of the Hub at a revision."""
    convert: Callable[[str, Original], LockedFile]
    """Makes safetensors of a pickle, for a model of that commit."""
    for_each: ForEach
    """Reads several files at a time."""


def resolve(wanted: WantedModel, repository: Repository, means: Means) -> Resolved:
    """Pin a model.

    Raises:
        HubError: it is not there, not allowed, or the Hub does not answer.
        PolicyError: it is not shipped, with every reason.
        IntegrityError: a file is not what the listing says, also when fetched once more.

    """
    listing = list(repository.files.values())
    means.for_each(repository.read, _read_first(listing), repository.stop)
    choice = choose(wanted, listing, repository.read)
    made = [*_written(wanted, repository), *(_index(repository, index) for index in choice.pickle_indexes)]
    vendored = _Vendored()
    if choice.remote_code is RemoteCode.VENDORED:
        vendored = _vendored(wanted.id, repository, choice, means)
        made += vendored.made
    changed = {file.path for file in made}
    unchanged = [file for file in (*choice.files, *vendored.read_by_code) if file.path not in changed]
    originals = _pinned(wanted, repository, [*unchanged, *choice.pickles], means.for_each)
    made += [means.convert(repository.commit, originals[pickle.path]) for pickle in choice.pickles]
    plain = [originals[file.path] for file in unchanged]
    files = [*made, *(LockedFile(original.path, original.size, original.sha256) for original in plain)]
    refuse_unsafe_paths(wanted.id, (file.path for file in files))
    model = LockedModel(
        kind=wanted.kind,
        id=wanted.id,
        revision=wanted.revision if repository.commit else "main",
        commit=repository.commit,
        files=tuple(sorted(files, key=lambda file: file.path)),
        licence=repository.licence,
        remote_code=choice.remote_code,
        packages=vendored.packages,
        pooling=wanted.pooling,
        normalize=wanted.normalize,
    )
    return Resolved(model, sum(file.size for file in listing), (*choice.notes, *vendored.notes))


def _pinned(
    wanted: WantedModel, repository: Repository, files: Sequence[ListedFile], for_each: ForEach
) -> dict[str, Original]:
    """Pin files, by their paths, unless one of them is not what its name says.

    Raises:
        PolicyError: with every file that is a git-lfs pointer, or whose header does not fit its size.

    """
    sound = partial(_sound, repository, directory=wanted.path is not None)
    seen = for_each(sound, files, repository.stop)
    if problems := [one for one in seen if isinstance(one, str)]:
        raise PolicyError(f"{wanted.id} is not shipped:\n  " + "\n  ".join(first_lines(problems)))
    return {one.path: one for one in seen if isinstance(one, Original)}


def _sound(repository: Repository, file: ListedFile, *, directory: bool) -> Original | str:
    """Pin a file, or say why it is not shipped."""
    if file.size <= git_lfs.LARGEST and git_lfs.is_pointer(repository.read(file)):
        return f"{git_lfs.problem(file.path)}: {git_lfs.way_out(directory=directory)}"
    if file.path.endswith(SAFE_WEIGHTS) and (damage := _damage(repository, file)):
        way_out = "copy it anew" if directory else "tell the owner that the file is broken, or use another revision"
        return f"{file.path} is not a sound safetensors file: {damage}: {way_out}"
    return repository.pin(file)


def _damage(repository: Repository, file: ListedFile) -> DamagedHeaderError | None:
    """Say how the header of a weight file does not fit its size; only the first bytes of the file are read.

    No hash of these bytes is known, so a header that looks damaged is read once more.
    """
    damage = None
    for _ in range(2):
        try:
            head = repository.part(file, 0, min(_HEAD, file.size))
            size = header_size(head, file.size, most=LARGEST_TEXT)
            if size > len(head):
                head += repository.part(file, len(head), size)
            with _one_header:
                tensors_of(head[:size], file.size)
        except DamagedHeaderError as error:
            damage = error
        else:
            return None
    return damage


def _read_first(files: Iterable[ListedFile]) -> list[ListedFile]:
    """Return the configurations that choosing asks for one after another, and that have to be read in any case."""
    found, room = [], LARGEST_TEXT
    for file in files:
        small = file.plain and file.sha256 is None and file.size <= min(_SMALL, room)
        if small and _CONFIGURATION.fullmatch(file.path) and not problem_with_path(file.path):
            found.append(file)
            room -= file.size
    return found


def _written(wanted: WantedModel, repository: Repository) -> Iterator[LockedFile]:
    """Yield the files that `pooling` and `normalize` stand for."""
    if wanted.pooling:
        config = repository.files.get("config.json")
        content = repository.read(config) if config else b""
        for path, text in module_files(wanted.pooling, normalize=wanted.normalize, config=content).items():
            yield _made(path, text, Made.WRITTEN)


def _index(repository: Repository, index: ListedFile) -> LockedFile:
    """Return the index of converted shards."""
    content, original = repository.read(index), repository.pin(index)
    return _made(converted_index_name(index.path), rewritten(original, content), Made.REWRITTEN, original)


@dataclass(frozen=True, slots=True)
class _Vendored:
    """What code adds to a model."""

    made: Sequence[LockedFile] = ()
    """The code, and the configurations that change."""
    read_by_code: Sequence[ListedFile] = ()
    packages: tuple[str, ...] = ()
    notes: Sequence[str] = ()


def _vendored(model_id: str, own: Repository, choice: Choice, means: Means) -> _Vendored:
    """Bring in the code that a model names."""
    opened = {model_id: own}
    contents = {file.path: own.read(file) for file in choice.configs}

    def open_repository(name: str) -> Repository:
        if name not in opened:
            opened[name] = means.open(name, "main")
        return opened[name]

    def read(name: str, path: str) -> bytes | None:
        try:
            repository = open_repository(name)
            content = repository.read(repository.files[path]) if path in repository.files else None
        except (NotOnHubError, AccessDeniedError) as error:
            if name == model_id:
                raise
            without = way_without_code(one for path, content in contents.items() for one in references(path, content))
            hint = f"{error.hint} {without[:1].upper()}{without[1:]}.".removesuffix(" .")
            raise type(error)(f"{model_id} names code of {name}: {error.message}", hint=hint) from error
        if content is not None and git_lfs.is_pointer(content):
            hint = git_lfs.way_out(directory=not repository.commit)
            raise PolicyError(f"{model_id}: {git_lfs.problem(path)} ({name})", hint=f"{hint[:1].upper()}{hint[1:]}.")
        return content

    found = vendor(model_id, contents, read)
    made = [_made(path, content, Made.REWRITTEN, own.pin(own.files[path])) for path, content in found.rewritten.items()]
    for code in found.code:
        repository = open_repository(code.repository)
        original = repository.pin(repository.files[code.source])
        elsewhere = replace(original, repository=code.repository, commit=repository.commit)
        place = None if repository is own else elsewhere
        made.append(LockedFile(code.path, original.size, original.sha256, None, place))
    listings = {name: repository.files for name, repository in opened.items()}
    shipped = {file.path for file in choice.files} | {file.path for file in made}
    files, notes = read_by_code(model_id, found.code, listings, shipped)
    return _Vendored(made, files, found.packages, notes)


def _made(path: str, content: bytes, made: Made, original: Original | None = None) -> LockedFile:
    return LockedFile(path, len(content), hashlib.sha256(content).hexdigest(), made, original)
