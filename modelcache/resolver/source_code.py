"""The imports, the packages, the literals and the opened files of Python code. Rules only; it is parsed, never run.

Python follows its grammar; transformers finds relative imports by two patterns (dynamic_module_utils.py,
get_relative_imports), and copies to where it imports from only what these find. Names are spelled with their dots.
"""

from __future__ import annotations

import ast
import re
import warnings
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePosixPath

# transformers' own: they match in docstrings, but neither behind a semicolon nor over a backslash. Here they begin at
# the line itself, which finds the same and does not scan all the empty lines above it.
_PATTERNS = (
    re.compile(r"^[^\S\n]*import\s+\.(\S+)\s*$", re.MULTILINE),
    re.compile(r"^[^\S\n]*from\s+\.(\S+)\s+import", re.MULTILINE),
)
_WRITE_MODES = re.compile(r"[wax][bt]?\+?[bt]?")
_MAYBE_NEVER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try, ast.If, ast.IfExp)
_LONGEST_PATH = 1024
_AVAILABLE = re.compile(r"is_\w+_available")


@dataclass(frozen=True, slots=True)
class ParsedCode:
    """The text of a file of code, with Unix line ends, and its syntax tree."""

    text: str
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class RelativeImport:
    """An import from beside a file, as `.module`."""

    spelled: str
    line: int
    is_call: bool = False
    """Whether it is a call, as `importlib.import_module(".module", __package__)`, which may never be made."""


def parse(content: bytes, *, imported: bool) -> ParsedCode | None:
    """Return a file of code as transformers reads it, UTF-8 whatever it declares; None where it cannot.

    transformers parses each file that a configuration names, and fails at a byte order mark; Python imports the others,
    and takes one. The mark stays in the text, as in that of transformers.
    """
    try:
        text = StringIO(content.decode(), newline=None).read()
        code = StringIO(content.removeprefix(BOM_UTF8).decode(), newline=None).read() if imported else text
        with warnings.catch_warnings(action="ignore"):  # of escape sequences, for the author of the code
            return ParsedCode(text, ast.parse(code))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def seen_by_transformers(text: str) -> frozenset[str]:
    """Return the relative imports that transformers finds: it opens each of these files, and copies no others."""
    return frozenset(f".{name}" for pattern in _PATTERNS for name in pattern.findall(text))


def relative_imports(tree: ast.Module) -> Iterator[RelativeImport]:
    """Yield the relative imports of the syntax tree, but for those under `if TYPE_CHECKING`."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            yield RelativeImport("." * node.level + (node.module or ""), node.lineno)
        elif isinstance(node, ast.Call) and (spelled := _imported_by(node)):
            yield RelativeImport(spelled, node.lineno, is_call=True)
        nodes += ast.iter_child_nodes(node)


def packages(tree: ast.Module, *, at_once: bool = False) -> Iterator[str]:
    """Yield the packages without which transformers refuses a file (its get_imports).

    Imports in a `try` or after `if is_…_available()` are left out, since such code does without them. `at_once` leaves
    out those that may never be executed: in a function, which is called later, and after any `if`.
    """
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _MAYBE_NEVER if at_once else ast.Try):
            continue
        if isinstance(node, ast.If) and _tests_for_a_package(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        nodes += ast.iter_child_nodes(node)


def literals(tree: ast.Module) -> Iterator[str]:
    """Yield the strings of code that may be paths; a value in an f-string is a `*`.

    Docstrings are left out, and strings that are only compared or looked up: names of tasks, backends, settings.
    """
    nodes: list[ast.AST] = [tree]
    while nodes:
        match nodes.pop():
            case ast.Constant(str(text)):
                if 0 < len(text) <= _LONGEST_PATH:
                    yield text
            case ast.JoinedStr(values):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in values)
                nodes += (part.value for part in values if isinstance(part, ast.FormattedValue))
            case ast.Expr(ast.Constant()) | ast.Compare() | ast.MatchValue() | ast.AnnAssign(value=None) | ast.arg():
                continue
            case ast.Subscript(value):
                nodes.append(value)
            case ast.Dict(_, values):
                nodes += values
            case node:
                nodes += ast.iter_child_nodes(node)


def files_opened_beside(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the files that code opens beside itself as soon as it is imported, and the line; only code is copied there.

    Calls in a function, a `try` or an `if` do not count, since they may never be made.
    """
    beside = {"__file__"}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and beside & set(_names_in(statement.value)):
            beside.update(target.id for target in statement.targets if isinstance(target, ast.Name))
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _MAYBE_NEVER):
            continue
        if isinstance(node, ast.Call) and _name_of(node.func) in ("open", "read_text", "read_bytes"):
            texts = [
                one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
            files = [text for text in texts if PurePosixPath(text).suffix not in ("", ".py")]
            if files and beside & set(_names_in(node)) and not any(map(_WRITE_MODES.fullmatch, texts)):
                yield files[-1], node.lineno
        nodes += ast.iter_child_nodes(node)


def _names_in(node: ast.AST) -> Iterator[str]:
    return (one.id for one in ast.walk(node) if isinstance(one, ast.Name))


def _imported_by(call: ast.Call) -> str | None:
    """Return the module that a call imports from beside its file, if its arguments are literals."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    match _name_of(call.func), call.args:
        case "import_module", [ast.Constant(str(spelled)), *rest]:
            package = rest[0] if rest else named.get("package")
            return spelled if spelled.startswith(".") and package and _name_of(package) == "__package__" else None
        case "__import__", [ast.Constant(str(name)), *rest]:
            level = rest[3] if len(rest) > 3 else named.get("level")  # of the parameters after the name
            if isinstance(level, ast.Constant) and isinstance(level.value, int) and level.value > 0:
                return "." * min(level.value, 3) + name
    return None


def _name_of(expression: ast.expr) -> str:
    """Return `c` of `a.b.c`."""
    match expression:
        case ast.Name(name) | ast.Attribute(_, name):
            return name
    return ""


def _tests_for_a_package(test: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and bool(_AVAILABLE.match(node.func.id))
        for node in ast.walk(test)
    )
