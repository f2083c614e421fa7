"""References to Python code in configurations: found, judged, and made local. Rules only; nothing is run, no disk.

transformers writes a class as `module.Class`, or as `owner/name--module.Class` when its code lies in another repository
(dynamic_module_utils.py, get_class_from_dynamic_module); sentence-transformers reads the types in modules.json likewise
(util/misc.py, import_module_class).
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelcache.core.errors import PolicyError
from modelcache.core.model_ids import is_id
from modelcache.core.text import escape
from modelcache.resolver.model_modules import PYLATE_DENSE
from modelcache.resolver.reasons import BROKEN

CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "modules.json",
    "router_config.json",
    "wordembedding_config.json",
)
"""The configurations in which code may be named, in any folder of a module."""

# "--" separates a repository from a module, so no module may contain it.
MODULE = r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*"
"""A pattern for names of modules of code."""
# The module of code in a notebook or a program's first file; no repository has such a file.
_MAIN = "__main__"
_REFERENCE = re.compile(rf"(?:(?P<repository>.+?)--)?(?!{_MAIN}\.)(?P<module>{MODULE})\.[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]')


@dataclass(frozen=True, slots=True)
class Reference:
    """One string literal of a configuration that names code; its span includes the quotes."""

    path: str
    value: str
    start: int
    end: int
    is_module: bool
    """Whether it is a class of a module, without which no model can be put together."""

    def describe(self) -> str:
        """Return the reference as a clause: `config.json names modeling_x.Model`."""
        return f"{self.path} names {escape(self.value[:200]) or 'nothing'}"

    def target(self) -> tuple[str, str] | None:
        """Return the repository (empty for the model's own) and the module; None if the reference is malformed."""
        found = _REFERENCE.fullmatch(self.value)
        if found is None or (found["repository"] and not is_id(found["repository"])):
            return None
        return found["repository"] or "", found["module"]

    def problem(self) -> tuple[str, str] | None:
        """Say why no repository can hold this code, with a hint; None where one can."""
        target = self.target()
        if target and target[1] == "sentence_transformers":
            # Without its repository it would look like one of the library's own modules.
            return f"{self.describe()}, which has the name of a library", "ask the owner to rename that file"
        if target:
            return None
        if self.value.rpartition("--")[2].partition(".")[0] == _MAIN:
            return (
                f"{self.describe()}, a class of a notebook or program, which was not saved with the model",
                "ask the owner to put that class into a Python file of the repository, and to name it as one of that",
            )
        return (
            f"{self.describe()}, which the loader cannot find in a repository",
            'tell its owner: a reference has to look like "module.Class", or "owner/name--module.Class" for code of'
            " another repository",
        )

    def problem_in(self, repository: str, files: Container[str]) -> tuple[str, str] | None:
        """As `problem`, and say whether the model's own repository, with these files, lacks the code."""
        target = self.target()
        if target and (target[0] or repository).casefold() == repository.casefold() and f"{target[1]}.py" not in files:
            return self.problem() or not_in_root(self.describe(), repository, f"{target[1]}.py")
        return self.problem()


def not_in_root(named_by: str, repository: str, source: str) -> tuple[str, str]:
    """Say that a file of code is not where the loader looks, with a hint; `named_by` is a clause."""
    return (
        f"{named_by}, and {repository} has no {source} in its root",
        "ask the owner to add the file or to drop the reference; the loader looks nowhere else",
    )


def references(path: str, content: bytes) -> list[Reference]:
    """Return each string of a configuration that names code, in the order of the text.

    Raises:
        PolicyError: the file is not JSON.

    """
    text, name = _text(path, content), PurePosixPath(path).name
    found = []
    for where, start, end in _strings(text):
        is_module = _is_module_type(name, where)
        if "auto_map" in where or is_module:
            reference = Reference(path, json.loads(text[start:end]), start, end, is_module)
            if not (is_module and _is_of_library(name, reference.value)):
                found.append(reference)
    return found


def hint_without_code(named: Iterable[Reference]) -> str:
    """Say how a model is shipped without its code; empty where a module is of that code, and nothing can replace it."""
    if any(reference.is_module for reference in named):
        return ""
    return "if the installed transformers has the class itself, trust_remote_code = false ships the model without it"


def make_references_local(path: str, content: bytes) -> bytes:
    """Rewrite each `owner/name--module.Class` of one configuration to `module.Class`; no other byte changes.

    Raises:
        PolicyError: the file is not JSON.

    """
    text = _text(path, content)
    parts, done = [], 0
    for reference in references(path, content):
        if (target := reference.target()) and target[0]:
            local = reference.value.rpartition("--")[2]
            parts += [text[done : reference.start], f'"{local}"']
            done = reference.end
    return "".join([*parts, text[done:]]).encode()


def _text(path: str, content: bytes) -> str:
    """Return a configuration as the loaders read it: JSON, and UTF-8 without a byte order mark."""
    try:
        text = content.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        raise PolicyError(f"{path} is not JSON", hint=BROKEN) from None
    return text


def _is_module_type(name: str, where: tuple[str | int | None, ...]) -> bool:
    """Tell whether sentence-transformers imports the class that stands here."""
    match name, where:
        case ("modules.json", (int(), "type")):
            return True
        case ("router_config.json" | "config.json", ("types", str())):  # config.json: Routers of old
            return True
        case ("wordembedding_config.json", ("tokenizer_class",)):
            return True
    return False


def _is_of_library(name: str, module_type: str) -> bool:
    """Tell whether sentence-transformers has the class itself; PyLate's it translates in modules.json alone."""
    return module_type.startswith("sentence_transformers.") or (name == "modules.json" and module_type == PYLATE_DENSE)


def _strings(text: str) -> Iterator[tuple[tuple[str | int | None, ...], int, int]]:
    """Yield keys and indices that lead to each string value, and its span; `text` is known to be JSON."""
    where: list[str | int | None] = []  # of each open array the index, of each open object the key, None before it
    for token in _TOKEN.finditer(text):
        match token[0][0]:
            case "{":
                where.append(None)
            case "[":
                where.append(0)
            case "}" | "]":
                where.pop()
            case ",":
                where[-1] = where[-1] + 1 if isinstance(where[-1], int) else None
            case _ if where and where[-1] is None:
                where[-1] = json.loads(token[0])
            case _:
                yield tuple(where), *token.span()
