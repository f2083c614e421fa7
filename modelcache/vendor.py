"""The Python code that a model names, brought into the model's own directory. Rules only; no network, no disk.

transformers takes code from the root of a model's directory and from nowhere below it, also for a configuration in a
module's folder (dynamic_module_utils.py, get_cached_module_file), and sentence-transformers asks it for custom
modules in the same way (util/misc.py, import_module_class). So every file ends in the root, and a reference to
another repository becomes one to the file beside the weights. Code is read here, never run.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO

from modelcache.errors import PolicyError
from modelcache.layout import problem_with_path
from modelcache.references import MODULE, Reference, localise, references
from modelcache.text import shown

_LARGEST_FILE = 1 << 20
_MOST_FILES = 200

# What a machine that loads models has anyway: sentence-transformers, and what it and torch require.
_ALWAYS_THERE = """
    torch transformers sentence_transformers numpy huggingface_hub safetensors tokenizers packaging tqdm
    filelock fsspec jinja2 networkx regex scipy sklearn sympy typing_extensions yaml
"""
_RUNTIME = frozenset(_ALWAYS_THERE.split())

_SIBLING = re.compile(rf"\.({MODULE})")
# The two patterns of transformers' get_relative_imports: they see into docstrings and not behind a semicolon.
_IMPORTS = (
    re.compile(r"^\s*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE),
)
_AVAILABLE = re.compile(r"is_\w+_available")


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One file of code in the finished model: its name there, and the repository and name it has elsewhere."""

    path: str
    repository: str
    source: str


@dataclass(frozen=True, slots=True)
class Vendored:
    """What a model needs to run its code with no network."""

    code: tuple[CodeFile, ...]
    """Sorted by path; all in the root."""
    rewritten: Mapping[str, bytes]
    """The configurations that change, by path, with their new bytes."""
    packages: tuple[str, ...]
    """What has to be installed to load it, beyond the standard library, torch and sentence-transformers; sorted."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file of code, and who asks for it."""

    repository: str
    module: str
    who: str
    imported: bool = False
    """Whether another file asks for it, and no configuration does."""

    @property
    def source(self) -> str:
        return f"{self.module}.py"


def vendor(repository: str, configs: Mapping[str, bytes], read: Callable[[str, str], bytes | None]) -> Vendored:
    """Find all code that the configurations of a model name; `read` gives a file of a repository, or None.

    Raises:
        PolicyError: with every reason for which this code cannot be brought along, and the way out.

    """
    gathering = _Gathering(repository, read)
    rewritten = {}
    for path, content in sorted(configs.items()):
        try:
            named = references(path, content)
        except PolicyError as error:
            gathering.refuse(error.message, error.hint)
            continue
        for reference in named:
            gathering.want(reference)
        if (new := localise(path, content)) != content:
            rewritten[path] = new
    gathering.follow()
    code = gathering.code()
    if gathering.refused:
        raise PolicyError(
            f"{repository} is not shipped with its code:\n  " + "\n  ".join(gathering.refused),
            hint="If transformers has the class itself, trust_remote_code = false ships the model without the code;"
            " else correct a copy of the repository and name its directory as `path`.",
        )
    return Vendored(code, rewritten, tuple(sorted(gathering.packages - _RUNTIME - sys.stdlib_module_names)))


class _Gathering:
    """All files of code that were found, breadth first, and all that is wrong with them."""

    def __init__(self, repository: str, read: Callable[[str, str], bytes | None]) -> None:
        self.repository = repository
        self.refused: list[str] = []
        self.packages: set[str] = set()
        self._read = read
        self._spelled = {repository.casefold(): repository}  # to the Hub, names in other letters are the same
        self._queue: list[_Wanted] = []
        self._contents: dict[tuple[str, str], bytes] = {}

    def refuse(self, reason: str, way_out: str) -> None:
        line = f"{reason}: {way_out}"
        if line not in self.refused:
            self.refused.append(line)

    def want(self, reference: Reference) -> None:
        """Note what a configuration names."""
        told, target = reference.told(), reference.target()
        if target is None:
            self.refuse(
                f"{told}, which the loader cannot find in a repository",
                'a reference has to look like "module.Class", or "owner/name--module.Class" for another repository',
            )
        elif target[1] == "sentence_transformers":
            # Without its repository it would look like one of the library's own modules.
            self.refuse(f"{told}, which has the name of a library", "the owner has to rename that file")
        else:
            repository, module = target
            repository = self._spelled.setdefault((repository or self.repository).casefold(), repository)
            self._queue.append(_Wanted(repository, module, told))

    def follow(self) -> None:
        """Read what is wanted, and what that imports from beside itself."""
        seen: set[tuple[str, str]] = set()
        for wanted in self._queue:  # grows while it is walked
            if (wanted.repository, wanted.module) in seen:
                continue
            if len(seen) == _MOST_FILES:
                self.refuse(
                    f"it has more than {_MOST_FILES} files of code", "that is a library; it should be a package"
                )
                return
            seen.add((wanted.repository, wanted.module))
            self._take(wanted)

    def code(self) -> tuple[CodeFile, ...]:
        """Return one file a name; the model's own repository comes first where several have the same bytes."""
        by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for repository, source in sorted(self._contents, key=lambda found: (found[0] != self.repository, found)):
            by_name[source.lower()].append((repository, source))
        for same in by_name.values():
            if len({(source, self._contents[repository, source]) for repository, source in same}) > 1:
                places = " and ".join(f"{source} of {repository}" for repository, source in same)
                self.refuse(f"{places} differ and would be one file", "the owner has to rename one of them")
        found = (CodeFile(source, repository, source) for (repository, source), *_ in by_name.values())
        return tuple(sorted(found, key=lambda file: file.path))

    def _take(self, wanted: _Wanted) -> None:
        place = f"{wanted.source} of {wanted.repository}"
        if problem := problem_with_path(wanted.source):
            self.refuse(f"{wanted.who}, and {place} {problem}", "the owner has to rename it")
            return
        content = self._read(wanted.repository, wanted.source)
        if content is None:
            self.refuse(
                f"{wanted.who}, and {wanted.repository} has no {wanted.source} in its root",
                "the loader looks nowhere else; the owner has to add the file or to drop the reference",
            )
            return
        self._contents[wanted.repository, wanted.source] = content
        if len(content) > _LARGEST_FILE:
            self.refuse(f"{place} has {len(content)} bytes", f"code has at most {_LARGEST_FILE}, or nobody can read it")
        elif (parsed := _parsed(content.removeprefix(BOM_UTF8) if wanted.imported else content)) is None:
            self.refuse(f"{place} is not Python in UTF-8", "the loader cannot read it either; its owner has to mend it")
        else:
            self._look_into(wanted, *parsed)

    def _look_into(self, wanted: _Wanted, text: str, tree: ast.Module) -> None:
        """Note what a file of code imports."""
        self.packages |= set(_packages(tree))
        for spelled in sorted(set(_relative_imports(text, tree))):
            told = f"{wanted.source} of {wanted.repository} imports {shown(spelled)}"
            if sibling := _SIBLING.fullmatch(spelled):
                self._queue.append(_Wanted(wanted.repository, sibling[1], told, imported=True))
            else:
                self.refuse(
                    f"{told}, which transformers does not follow",
                    'only "from .module import name" out of the same folder works',
                )


def _parsed(content: bytes) -> tuple[str, ast.Module] | None:
    """Return a file of code as transformers reads it: UTF-8 whatever it declares, line ends made equal.

    It parses what a configuration names, and chokes on a mark at its beginning; the rest Python reads, mark or not.
    """
    try:
        text = StringIO(content.decode(), newline=None).read()
        with warnings.catch_warnings(action="ignore"):  # an escape that Python dislikes is its author's business
            return text, ast.parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _relative_imports(text: str, tree: ast.Module) -> Iterator[str]:
    """Yield what is imported relatively, with its dots, by transformers' reading and by Python's own.

    What only its patterns see has to be there all the same, because transformers opens it.
    """
    for pattern in _IMPORTS:
        yield from (f".{name}" for name in pattern.findall(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or "")


def _packages(tree: ast.Module) -> Iterator[str]:
    """Yield the packages without which transformers refuses a file (its get_imports).

    That leaves out what is imported in a `try` or after `if is_…_available()`: such code does without.
    """
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _asks_for_a_package(node.test)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        nodes += ast.iter_child_nodes(node)


def _asks_for_a_package(test: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and bool(_AVAILABLE.match(node.func.id))
        for node in ast.walk(test)
    )
