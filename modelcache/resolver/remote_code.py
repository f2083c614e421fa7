"""The Python code that a model names, brought into the model's own directory. Rules only; no network, no disk.

transformers takes code from the root of a model's directory and from nowhere below it, also for a configuration in a
module's folder (dynamic_module_utils.py, get_cached_module_file), and sentence-transformers asks it for custom
modules in the same way (util/misc.py, import_module_class). So every file ends in the root, and a reference to
another repository becomes one to the file beside the weights. Code is read here, never run.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from modelcache.core.errors import PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.text import escape
from modelcache.resolver.code_references import MODULE, Reference, localise, not_in_root, references, way_without_code
from modelcache.resolver.reasons import Reasons
from modelcache.resolver.source_code import (
    Parsed,
    RelativeImport,
    literals,
    opened_beside,
    packages,
    parse,
    relative_imports,
    seen_by_transformers,
)

_LARGEST_FILE = 1 << 20
_MOST_LITERALS = 10_000
_MOST_FILES = 200

# What a machine that loads models has anyway: sentence-transformers, and what it and torch require.
_ALWAYS_THERE = """
    torch transformers sentence_transformers numpy huggingface_hub safetensors tokenizers packaging tqdm
    filelock fsspec jinja2 networkx regex scipy sklearn sympy typing_extensions yaml
"""
_RUNTIME = frozenset(_ALWAYS_THERE.split())

_SIBLING = re.compile(rf"\.({MODULE})")


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One file of code in the finished model: its name there, and the repository and name it has elsewhere."""

    path: str
    repository: str
    source: str
    literals: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """The strings that it works with, each of which may be the path of a file that it reads."""


@dataclass(frozen=True, slots=True)
class Vendored:
    """What a model needs to run its code with no network."""

    code: tuple[CodeFile, ...]
    """Sorted by path; all in the root."""
    rewritten: Mapping[str, bytes]
    """The configurations that change, by path, with their new bytes."""
    packages: tuple[str, ...]
    """What has to be installed to load it, beyond the standard library, torch and sentence-transformers; sorted."""


_File = tuple[str, str]
"""A file of code: its repository and its module."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file of code, and who asks for it."""

    repository: str
    module: str
    who: str
    imported: bool = False
    """Whether another file asks for it, and no configuration does."""

    @property
    def file(self) -> _File:
        return self.repository, self.module

    @property
    def source(self) -> str:
        return f"{self.module}.py"


def vendor(repository: str, configs: Mapping[str, bytes], read: Callable[[str, str], bytes | None]) -> Vendored:
    """Find all code that the configurations of a model name; `read` gives a file of a repository, or None.

    Raises:
        PolicyError: with every reason for which this code cannot be brought along, and the way out.

    """
    gathering = _Gathering(repository, read)
    named: list[Reference] = []
    rewritten = {}
    for path, content in sorted(configs.items()):
        try:
            named += references(path, content)
        except PolicyError as error:
            gathering.refuse(error.message, error.hint)
            continue
        if (new := localise(path, content)) != content:
            rewritten[path] = new
    for reference in named:
        gathering.want(reference)
    gathering.follow()
    code = gathering.code()
    if gathering.refused:
        ways_out = [way_without_code(named), "correct a copy of the repository and name its directory as `path`"]
        hint = "; else ".join(filter(None, ways_out))
        raise PolicyError(
            gathering.refused.told(f"{repository} is not shipped with its code"),
            hint=f"{hint[0].upper()}{hint[1:]}.",
        )
    return Vendored(code, rewritten, tuple(sorted(gathering.packages - _RUNTIME - sys.stdlib_module_names)))


class _Gathering:
    """All files of code that were found, breadth first, and all that is wrong with them."""

    def __init__(self, repository: str, read: Callable[[str, str], bytes | None]) -> None:
        self.repository = repository
        self.refused = Reasons()
        self.refuse = self.refused.add
        self.packages: set[str] = set()
        self._read = read
        self._spelled = {repository.casefold(): repository}  # to the Hub, names in other letters are the same
        self._queue: list[_Wanted] = []
        self._contents: dict[tuple[str, str], bytes] = {}
        self._literals: dict[tuple[str, str], frozenset[str]] = {}
        self._named: list[_File] = []
        self._copied: dict[_File, frozenset[str]] = {}
        self._imported: dict[_File, list[RelativeImport]] = {}

    def want(self, reference: Reference) -> None:
        """Note what a configuration names."""
        told, target = reference.told(), reference.target()
        if problem := reference.problem():
            self.refuse(*problem)
        elif target:
            repository, module = target
            repository = self._spelled.setdefault((repository or self.repository).casefold(), repository)
            self._queue.append(_Wanted(repository, module, told))
            self._named.append(self._queue[-1].file)

    def follow(self) -> None:
        """Read what is wanted, and what that imports from beside itself."""
        seen: set[_File] = set()
        for wanted in self._queue:  # grows while it is walked
            if wanted.file in seen:
                continue
            if len(seen) == _MOST_FILES:
                self.refuse(
                    f"it has more than {_MOST_FILES} files of code", "that is a library; it should be a package"
                )
                return
            seen.add(wanted.file)
            self._take(wanted)
        for file in dict.fromkeys(self._named):
            self._refuse_unseen_imports(file)

    def code(self) -> tuple[CodeFile, ...]:
        """Return one file a name; the model's own repository comes first where several have the same bytes."""
        by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for repository, source in sorted(self._contents, key=lambda found: (found[0] != self.repository, found)):
            by_name[source.lower()].append((repository, source))
        for same in by_name.values():
            if len({(source, self._contents[repository, source]) for repository, source in same}) > 1:
                places = " and ".join(f"{source} of {repository}" for repository, source in same)
                self.refuse(f"{places} differ and would be one file", "ask the owner to rename one of them")
        found = (
            CodeFile(source, repository, source, self._literals.get((repository, source), frozenset()))
            for (repository, source), *_ in by_name.values()
        )
        return tuple(sorted(found, key=lambda file: file.path))

    def _refuse_unseen_imports(self, named: _File) -> None:
        """Refuse what Python imports and transformers would not have copied, beginning at what a configuration names.

        It copies what its patterns find, in that file and in those found, into a folder of its own.
        """
        repository, copies, left = named[0], {named}, [named]
        while left:
            found = {(repository, spelled[1:]) for spelled in self._copied.get(left.pop(), ())} - copies
            copies |= found
            left += found
        for _, module in sorted(copies):
            for one in self._imported.get((repository, module), ()):
                sibling = _SIBLING.fullmatch(one.spelled)
                if sibling and (repository, sibling[1]) not in copies and self._has(repository, f"{sibling[1]}.py"):
                    self.refuse(
                        f"{module}.py of {repository} imports {one.spelled} in line {one.line} in a form that"
                        f" transformers does not see, so that it leaves {sibling[1]}.py behind",
                        f'ask the owner to write "from {one.spelled} import …" at the beginning of a line',
                    )

    def _has(self, repository: str, path: str) -> bool:
        return self._read(repository, path) is not None

    def _take(self, wanted: _Wanted) -> None:
        place = f"{wanted.source} of {wanted.repository}"
        if problem := problem_with_path(wanted.source):
            self.refuse(f"{wanted.who}, and {place} {problem}", "ask the owner to rename it")
            return
        content = self._read(wanted.repository, wanted.source)
        if content is None:
            self.refuse(*not_in_root(wanted.who, wanted.repository, wanted.source))
            return
        self._contents[wanted.repository, wanted.source] = content
        if len(content) > _LARGEST_FILE:
            self.refuse(f"{place} has {len(content)} bytes", f"code has at most {_LARGEST_FILE}, or nobody can read it")
        elif (parsed := parse(content, imported=wanted.imported)) is None:
            self.refuse(f"{place} is not Python in UTF-8", "ask the owner to mend it; the loader cannot read it either")
        else:
            self._look_into(wanted, parsed)

    def _look_into(self, wanted: _Wanted, code: Parsed) -> None:
        """Note what a file of code imports."""
        self._look_for_packages(wanted, code)
        self._literals[wanted.repository, wanted.source] = frozenset(islice(literals(code.tree), _MOST_LITERALS))
        for name, line in opened_beside(code.tree):
            self.refuse(
                f"{wanted.source} of {wanted.repository} opens {escape(name, 200)} beside itself in line {line}, and"
                " transformers copies only code to where it imports from",
                "ask the owner to open it in the model's directory, which the loader names to the code",
            )
        copied = seen_by_transformers(code.text)
        upwards = sorted(relative_imports(code.tree), key=attrgetter("line"), reverse=True)
        imported = list({(one.spelled, one.is_call): one for one in upwards}.values())  # of equal ones the first
        self._copied[wanted.file], self._imported[wanted.file] = copied, imported
        # A file that only the patterns see has to be there all the same, because transformers opens it.
        for spelled in sorted(copied | {one.spelled for one in imported if not one.is_call}):
            told = f"{wanted.source} of {wanted.repository} imports {escape(spelled)}"
            if sibling := _SIBLING.fullmatch(spelled):
                self._queue.append(_Wanted(wanted.repository, sibling[1], told, imported=True))
            else:
                self.refuse(
                    f"{told}, which transformers does not follow",
                    'only "from .module import name" out of the same folder works',
                )

    def _look_for_packages(self, wanted: _Wanted, code: Parsed) -> None:
        """Note what has to be installed, and refuse what looks like it and lies beside the file.

        Of a file that a configuration names transformers demands every package, of the others Python does.
        """
        found = set(packages(code.tree)) - _RUNTIME - sys.stdlib_module_names
        self.packages |= found
        for name in sorted(found.intersection(packages(code.tree, at_once=wanted.imported))):
            for beside in (f"{name}.py", f"{name}/__init__.py"):
                if self._has(wanted.repository, beside):
                    self.refuse(
                        f"{wanted.source} of {wanted.repository} imports {escape(name)} as an installed package, and"
                        f" {beside} of the repository is none",
                        f'ask the owner to write "from .{name} import …", and to keep {name}.py in the root',
                    )
