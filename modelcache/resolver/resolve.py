"""From a wanted model to a pinned one: which files, which bytes, and the files that no repository has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from modelcache.core.errors import AccessDeniedError, NotOnHubError, PolicyError, raise_all
from modelcache.core.interfaces import ForEach, Repository
from modelcache.core.kinds import Kind
from modelcache.core.names import problem_with_path, refuse_unsafe_paths
from modelcache.core.text import join_names, sentence
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
from modelcache.resolver.code_references import hint_without_code, references
from modelcache.resolver.derived import converted_name, module_files, rewritten
from modelcache.resolver.files import Choice, choose
from modelcache.resolver.files_read_by_code import files_read_by_code
from modelcache.resolver.included import pickles_among, refuse_replaced
from modelcache.resolver.kind_of import kind_of
from modelcache.resolver.left_behind import left_behind
from modelcache.resolver.other_files import choose_other
from modelcache.resolver.pinning import PinFiles, pin_by_listing, pin_files, problem_with_pointer
from modelcache.resolver.remote_code import CodeFile, vendor_code

# Configurations that are read at once, before the files are chosen.
_LARGEST_READ_FIRST = 1 << 16
_READ_FIRST = re.compile(r"([0-9]+_[^/]*/)?[^/]*(?<!\.index)\.json")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pinned model, and how large the repository is that it was chosen from, in bytes."""

    model: LockedModel
    repository_size: int
    notes: tuple[str, ...] = ()
    """Warnings about a model that is shipped all the same; printed once, and written into neither lock nor receipt."""


@dataclass(frozen=True, slots=True)
class ResolveContext:
    """Dependencies of a resolution, built by the caller."""

    open_repository: Callable[[str, str], Repository]
    """Opens a repository of the Hub at a revision."""
    convert: Callable[[str, Original], LockedFile]
    """Converts a pickle into safetensors, for a model of that commit."""
    read_pickle: Callable[[str, Original], None]
    """Refuses a pickle that is shipped as it is, and that holds more than tensors."""
    for_each: ForEach
    """Reads several files at a time."""
    pin_files: PinFiles = pin_files
    """Pins the files that are shipped as they are."""


def resolve(wanted: WantedModel, repository: Repository, context: ResolveContext) -> Resolved:
    """Pin a model.

    Raises:
        HubError: it is not there, not allowed, or the Hub does not answer.
        PolicyError: it is not shipped, with every reason.
        IntegrityError: a file is not what the listing says, also when fetched once more.

    """
    listing = list(repository.files.values())
    if wanted.kind.spec.loads:
        context.for_each(repository.read, _read_first(listing), repository.stop)
    choice = choose(wanted, listing, repository.read) if wanted.kind.spec.loads else choose_other(wanted, listing)
    derived = [*_pooling_files(wanted, repository), *(_converted_index(repository, i) for i in choice.pickle_indexes)]
    vendored = choice.remote_code is RemoteCode.VENDORED
    code = _resolve_code(wanted.id, repository, choice, context) if vendored else _Code()
    derived += code.files
    refuse_replaced(wanted, choice.included, derived)
    changed = {file.path for file in derived}
    unchanged = {file.path: file for file in (*choice.files, *code.files_read) if file.path not in changed}
    copied = _pin_bytes(wanted, repository, choice, unchanged, context)
    files = [*derived, *copied.files]
    refuse_unsafe_paths(wanted.id, (file.path for file in files))
    model = LockedModel(
        kind=wanted.kind,
        id=wanted.id,
        revision=wanted.revision if repository.commit else "main",
        commit=repository.commit,
        files=tuple(sorted(files, key=lambda file: file.path)),
        licence=repository.licence,
        gated=repository.gated,
        remote_code=choice.remote_code,
        packages=code.packages,
        pooling=wanted.pooling,
        normalize=wanted.normalize,
        include=wanted.include,
        exclude=wanted.exclude,
        pickles=copied.pickles,
    )
    notes = [*choice.notes, *code.notes, *copied.notes]
    if wanted.kind.spec.loads:
        notes += left_behind(repository.files, {file.path for file in files}, wanted.include)
    return Resolved(model, sum(file.size for file in listing), tuple(notes))


def preview(wanted: WantedModel, repository: Repository, context: ResolveContext) -> LockedModel:
    """Pin a model without a byte of its weights: their headers, and pickles, are not looked at.

    Raises as `resolve`.
    """
    return resolve(wanted, repository, replace(context, pin_files=pin_by_listing)).model


@dataclass(frozen=True, slots=True)
class _Bytes:
    """The files whose bytes are those of a repository, and those that are converted from them."""

    files: Sequence[LockedFile]
    pickles: tuple[str, ...]
    """Those of them that are pickles."""
    notes: Sequence[str]


def _pin_bytes(
    wanted: WantedModel,
    repository: Repository,
    choice: Choice,
    unchanged: Mapping[str, ListedFile],
    context: ResolveContext,
) -> _Bytes:
    """Pin the files that are shipped as they are, and convert the weights that are pickles."""
    to_pin = {**unchanged, **{file.path: file for file in choice.pickles}}
    pinned = context.pin_files(wanted.id, repository, to_pin.values(), choice.named, context.for_each)
    pickles = pickles_among(wanted, choice.named, pinned.pickles)
    _read_pickles(repository.commit, [pinned.originals[path] for path in pickles], context)
    converted = [context.convert(repository.commit, pinned.originals[file.path]) for file in choice.pickles]
    left_out = sorted(pinned.pickles.intersection(unchanged).difference(pickles))
    notes = [f"left behind, as it is a pickle that no loader opens: {join_names(left_out)}"] if left_out else []
    originals = [pinned.originals[path] for path in unchanged if path not in left_out]
    copies = [LockedFile(original.path, original.size, original.sha256) for original in originals]
    return _Bytes([*converted, *copies], tuple(pickles), notes)


def _read_pickles(commit: str, pickles: Sequence[Original], context: ResolveContext) -> None:
    """Read the pickles that are shipped as they are; refuse all that hold more than tensors together."""
    refused = []
    for pickle in pickles:
        try:
            context.read_pickle(commit, pickle)
        except PolicyError as error:
            refused.append(error)
    raise_all(refused)


def detect_kind(wanted: WantedModel, repository: Repository, for_each: ForEach) -> Kind:
    """Read the kind of a model from its repository; see `kind_of`.

    Raises:
        HubError: the Hub does not answer.
        UnclearKindError: the files do not say it for certain.

    """
    for_each(repository.read, _read_first(list(repository.files.values())), repository.stop)
    return kind_of(wanted, repository.files, repository.read)


def _read_first(files: Iterable[ListedFile]) -> list[ListedFile]:
    """Return the configurations that choosing asks for one after another, and that have to be read in any case."""
    found, room = [], LARGEST_TEXT
    for file in files:
        small = file.plain and file.sha256 is None and file.size <= min(_LARGEST_READ_FIRST, room)
        if small and _READ_FIRST.fullmatch(file.path) and not problem_with_path(file.path):
            found.append(file)
            room -= file.size
    return found


def _pooling_files(wanted: WantedModel, repository: Repository) -> Iterator[LockedFile]:
    """Yield modules.json and the files of its modules, where `pooling` and `normalize` ask for them."""
    if wanted.pooling:
        config = repository.files.get("config.json")
        content = repository.read(config) if config else b""
        for path, text in module_files(wanted.pooling, normalize=wanted.normalize, config=content).items():
            yield _derived_file(path, text, Made.WRITTEN)


def _converted_index(repository: Repository, index: ListedFile) -> LockedFile:
    """Return the index of converted shards."""
    content, original = repository.read(index), repository.pin(index)
    return _derived_file(converted_name(index.path), rewritten(original, content), Made.REWRITTEN, original)


@dataclass(frozen=True, slots=True)
class _Code:
    """The code of a model, pinned, and what belongs to it."""

    files: Sequence[LockedFile] = ()
    """The code, and the configurations that change."""
    files_read: Sequence[ListedFile] = ()
    """Files of the model's own repository that the code seems to read."""
    packages: tuple[str, ...] = ()
    notes: Sequence[str] = ()


def _resolve_code(model_id: str, own: Repository, choice: Choice, context: ResolveContext) -> _Code:
    """Vendor the code that a model's configurations name."""
    configs = {file.path: own.read(file) for file in choice.configs}
    repositories = _CodeRepositories(model_id, configs, context.open_repository, {model_id: own})
    vendored = vendor_code(model_id, configs, repositories.read)
    files = [
        *(
            _derived_file(path, content, Made.REWRITTEN, own.pin(own.files[path]))
            for path, content in vendored.rewritten.items()
        ),
        *(_code_file(file, model_id, repositories.opened[file.repository]) for file in vendored.files),
    ]
    shipped = {file.path for file in choice.files} | {file.path for file in files}
    listings = {name: repository.files for name, repository in repositories.opened.items()}
    read, notes = files_read_by_code(model_id, vendored.files, listings, shipped)
    return _Code(files, read, vendored.packages, notes)


@dataclass(frozen=True, slots=True)
class _CodeRepositories:
    """The repositories in which a model's code lies: its own, and those that its configurations name, at `main`."""

    model_id: str
    configs: Mapping[str, bytes]
    open: Callable[[str, str], Repository]
    opened: dict[str, Repository]

    def read(self, name: str, path: str) -> bytes | None:
        """Return a file of code, or None where the repository has no such file.

        Raises:
            HubError: the repository cannot be had; the hint says how the model is shipped without its code.
            PolicyError: the file is a git-lfs pointer.

        """
        try:
            if name not in self.opened:
                self.opened[name] = self.open(name, "main")
            repository = self.opened[name]
            content = repository.read(repository.files[path]) if path in repository.files else None
        except (NotOnHubError, AccessDeniedError) as error:
            if name == self.model_id or error.shared:
                raise
            named = [reference for config in self.configs.items() for reference in references(*config)]
            hint = f"{error.hint} {sentence(hint_without_code(named))}".rstrip()
            raise type(error)(f"{self.model_id} names code of {name}: {error.message}", hint=hint) from error
        if content and (problem := problem_with_pointer(path, content, directory=not repository.commit)):
            raise PolicyError(f"{self.model_id}: {problem[0]} ({name})", hint=sentence(problem[1]))
        return content


def _code_file(file: CodeFile, model_id: str, repository: Repository) -> LockedFile:
    """Pin a file of code; one of another repository keeps a note of where it is from."""
    original = repository.pin(repository.files[file.path])
    origin = None
    if file.repository != model_id:
        origin = replace(original, repository=file.repository, commit=repository.commit)
    return LockedFile(file.path, original.size, original.sha256, None, origin)


def _derived_file(path: str, content: bytes, made: Made, original: Original | None = None) -> LockedFile:
    return LockedFile(path, len(content), hashlib.sha256(content).hexdigest(), made, original)
