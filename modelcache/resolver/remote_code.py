"""Vendoring the Python code that a model's configurations name. Rules only; no network, no disk.

transformers takes code from the root of a model's directory and from nowhere below it, also for a configuration in a
module's folder (dynamic_module_utils.py, get_cached_module_file), and sentence-transformers asks it for custom
modules in the same way (util/misc.py, import_module_class). So every file is vendored into the root, and a reference to
another repository becomes one to the file there. Code is read here, never run.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from modelcache.core.errors import PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.text import escape, sentence, size_in_words
from modelcache.resolver.code_references import (
    MODULE,
    Reference,
    hint_without_code,
    make_references_local,
    not_in_root,
    references,
)
from modelcache.resolver.reasons import Reasons
from modelcache.resolver.source_code import (
    ParsedCode,
    RelativeImport,
    files_opened_beside,
    literals,
    packages,
    parse,
    relative_imports,
    seen_by_transformers,
)

_LARGEST_FILE = 1 << 20
_MOST_LITERALS = 10_000
_MOST_FILES = 200

# Installed wherever models are loaded: sentence-transformers, and what it and torch require.
_ALWAYS_INSTALLED = """
    torch transformers sentence_transformers numpy huggingface_hub safetensors tokenizers packaging tqdm
    filelock fsspec jinja2 networkx regex scipy sklearn sympy typing_extensions yaml
"""
_RUNTIME = frozenset(_ALWAYS_INSTALLED.split())

_SIBLING = re.compile(rf"\.({MODULE})")


@dataclass(frozen=True, slots=True)
class CodeFile:
    """One file of vendored code, and the repository that it is from; there it has the same path as in the model."""

    path: str
    repository: str
    literals: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Its strings, each of which may be the path of a file that it reads."""


@dataclass(frozen=True, slots=True)
class VendoredCode:
    """The code of a model, and what it needs to run with no network."""

    files: tuple[CodeFile, ...]
    """Sorted by path; all in the root."""
    rewritten: Mapping[str, bytes]
    """The new bytes of the configurations that change, by path."""
    packages: tuple[str, ...]
    """Packages to install beside torch and sentence-transformers, by the names that are imported; sorted."""


@dataclass(slots=True)
class _CodeModule:
    """A module of code that something names, and what is in it once it is read."""

    repository: str
    name: str
    named_by: str
    """A clause: `config.json names modeling_x.Model`."""
    imported: bool = False
    """Whether another module names it, and no configuration does."""
    content: bytes | None = None
    literals: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()
    """Its imports that transformers sees, so that it copies these files."""
    imports: Sequence[RelativeImport] = ()

    @property
    def source(self) -> str:
        return f"{self.name}.py"

    @property
    def place(self) -> str:
        return f"{self.source} of {self.repository}"


def vendor_code(
    repository: str, configs: Mapping[str, bytes], read: Callable[[str, str], bytes | None]
) -> VendoredCode:
    """Find all code that the configurations of a model name; `read` returns a file of a repository, or None.

    Configurations that are not JSON were refused when the files were chosen.

    Raises:
        PolicyError: with every reason for which this code cannot be vendored, each with a hint.

    """
    named = [reference for config in sorted(configs.items()) for reference in references(*config)]
    local = {path: make_references_local(path, content) for path, content in configs.items()}
    search = _CodeSearch(repository, read)
    for reference in named:
        search.add(reference)
    search.follow_imports()
    files = search.files()
    if search.refused:
        hints = [hint_without_code(named), "correct a copy of the repository and name its directory as `path`"]
        raise PolicyError(
            search.refused.message(f"{repository} is not shipped with its code"),
            hint=sentence("; else ".join(filter(None, hints))),
        )
    rewritten = {path: content for path, content in local.items() if content != configs[path]}
    return VendoredCode(files, rewritten, tuple(sorted(search.packages)))


class _CodeSearch:
    """A breadth-first search for the files of code, and all that is wrong with them."""

    def __init__(self, repository: str, read: Callable[[str, str], bytes | None]) -> None:
        self.repository = repository
        self.refused = Reasons()
        self.refuse = self.refused.add
        self.packages: set[str] = set()
        self._read = read
        self._spelled = {repository.casefold(): repository}  # the Hub ignores the case of names
        self._queue: list[_CodeModule] = []
        self._modules: dict[tuple[str, str], _CodeModule] = {}

    def add(self, reference: Reference) -> None:
        """Add the module that a configuration names."""
        target = reference.target()
        if problem := reference.problem():
            self.refuse(*problem)
        elif target:
            repository, module = target
            repository = self._spelled.setdefault((repository or self.repository).casefold(), repository)
            self._queue.append(_CodeModule(repository, module, reference.describe()))

    def follow_imports(self) -> None:
        """Read the modules that were added, and those that they import from beside themselves."""
        for module in self._queue:  # grows while it is walked
            key = module.repository, module.name
            if key in self._modules:
                continue
            if len(self._modules) == _MOST_FILES:
                self.refuse(
                    f"it has more than {_MOST_FILES} files of code",
                    "use another repository; so much code should be an installed package",
                )
                return
            self._modules[key] = module
            self._read_module(module)
        for module in self._modules.values():
            if not module.imported:
                self._refuse_unseen_imports(module)

    def files(self) -> tuple[CodeFile, ...]:
        """Return one file for each name; of equal ones that of the model's own repository."""
        by_name: dict[str, list[_CodeModule]] = defaultdict(list)
        for module in sorted(self._modules.values(), key=lambda one: (one.repository != self.repository, one.place)):
            if module.content is not None:
                by_name[module.source.lower()].append(module)
        for same in by_name.values():
            if len({(module.source, module.content) for module in same}) > 1:
                places = " and ".join(module.place for module in same)
                self.refuse(f"{places} differ and would be one file", "ask the owner to rename one of them")
        found = (CodeFile(first.source, first.repository, first.literals) for first, *_ in by_name.values())
        return tuple(sorted(found, key=attrgetter("path")))

    def _refuse_unseen_imports(self, named: _CodeModule) -> None:
        """Refuse imports of modules that transformers would not copy, from the one that a configuration names onwards.

        It copies what its patterns find, in that file and in those found, into a folder of its own.
        """
        repository, copies, left = named.repository, {named.name}, [named.name]
        while left:
            module = self._modules.get((repository, left.pop()))
            found = {spelled[1:] for spelled in module.copied} - copies if module else set()
            copies |= found
            left += found
        for name in sorted(copies):
            module = self._modules.get((repository, name))
            for entry in module.imports if module else ():
                sibling = _SIBLING.fullmatch(entry.spelled)
                if sibling and sibling[1] not in copies and self._has(repository, f"{sibling[1]}.py"):
                    self.refuse(
                        f"{name}.py of {repository} imports {entry.spelled} in line {entry.line} in a form that"
                        f" transformers does not see, so that it leaves {sibling[1]}.py behind",
                        f'ask the owner to write "from {entry.spelled} import …" at the beginning of a line',
                    )

    def _has(self, repository: str, path: str) -> bool:
        return self._read(repository, path) is not None

    def _read_module(self, module: _CodeModule) -> None:
        if problem := problem_with_path(module.source):
            self.refuse(f"{module.named_by}, and {module.place} {problem}", "ask the owner to rename it")
            return
        module.content = content = self._read(module.repository, module.source)
        if content is None:
            self.refuse(*not_in_root(module.named_by, module.repository, module.source))
        elif len(content) > _LARGEST_FILE:
            most = size_in_words(_LARGEST_FILE)
            self.refuse(f"{module.place} takes more than {most}", "ask the owner to split that file")
        elif (parsed := parse(content, imported=module.imported)) is None:
            self.refuse(
                f"{module.place} is not Python in UTF-8",
                "ask the owner to correct it; the loader cannot read it either",
            )
        else:
            self._read_imports(module, parsed)

    def _read_imports(self, module: _CodeModule, code: ParsedCode) -> None:
        """Note the packages and the modules that a file of code imports."""
        self._check_packages(module, code)
        module.literals = frozenset(islice(literals(code.tree), _MOST_LITERALS))
        for name, line in files_opened_beside(code.tree):
            self.refuse(
                f"{module.place} opens {escape(name, 200)} beside itself in line {line}, and"
                " transformers copies only code to where it imports from",
                "ask the owner to open it in the model's directory, which the loader names to the code",
            )
        module.copied = seen_by_transformers(code.text)
        upwards = sorted(relative_imports(code.tree), key=attrgetter("line"), reverse=True)
        module.imports = list({(one.spelled, one.is_call): one for one in upwards}.values())  # of equal ones the first
        # A file that only the patterns see has to be there all the same, because transformers opens it.
        for spelled in sorted(module.copied | {one.spelled for one in module.imports if not one.is_call}):
            clause = f"{module.place} imports {escape(spelled)}"
            if sibling := _SIBLING.fullmatch(spelled):
                self._queue.append(_CodeModule(module.repository, sibling[1], clause, imported=True))
            else:
                self.refuse(
                    f"{clause}, which transformers does not follow",
                    'only "from .module import name" out of the same folder works',
                )

    def _check_packages(self, module: _CodeModule, code: ParsedCode) -> None:
        """Note the packages to install, and refuse those that are modules beside the file.

        Of a file that a configuration names transformers demands every package, of the others Python does.
        """
        found = set(packages(code.tree)) - _RUNTIME - sys.stdlib_module_names
        self.packages |= found
        for name in sorted(found.intersection(packages(code.tree, at_once=module.imported))):
            for beside in (f"{name}.py", f"{name}/__init__.py"):
                if self._has(module.repository, beside):
                    self.refuse(
                        f"{module.place} imports {escape(name)} as an installed package, and"
                        f" {beside} of the repository is none",
                        f'ask the owner to write "from .{name} import …", and to keep {name}.py in the root',
                    )
