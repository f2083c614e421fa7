"""The words of messages and help: each error says what to do, and whatever it says to run exists.

The sources are read, not run: an error that no test provokes is checked, too.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain

import pytest

from modelcache.cli.parser import COMMANDS, load_command, parse
from tests.conftest import PROJECT

SOURCES = {
    path.relative_to(PROJECT).as_posix(): ast.parse(path.read_text())
    for path in sorted([*(PROJECT / "modelcache").rglob("*.py"), PROJECT / "scripts/serve.py"])
}
WIDTH = 80
WITHOUT_HINT = {
    ("modelcache/core/errors.py", "raise_all"): "each of the errors in it has its own hint",
    ("modelcache/formats/manifest.py", "parse_models_and_policy"): "each line of it says what to write instead",
    ("modelcache/resolver/included.py", "pickles_among"): "each reason in it ends with what to do",
    ("modelcache/resolver/other_files.py", "choose_other"): "each reason in it ends with what to do",
    ("modelcache/resolver/pinning.py", "pin_files"): "each reason in it ends with what to do",
    ("modelcache/store/hub_view.py", "_make_links"): "it becomes a note: the model is in place, and loads by its path",
}
"""The functions that raise an error without a hint, and why that is enough."""


def error_classes() -> set[str]:
    """Return the names of all classes of errors that a user can meet."""
    names = {"CacheModelsError"}
    classes = [node for tree in SOURCES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while (
        more := {
            one.name for one in classes if any(isinstance(base, ast.Name) and base.id in names for base in one.bases)
        }
        - names
    ):
        names |= more
    return names


def calls_in(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call within a function, with the name of the innermost one."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inner: dict[ast.Call, str] = {}
    for function in functions:  # outer ones come first
        inner |= {node: function.name for node in ast.walk(function) if isinstance(node, ast.Call)}
    for call, name in inner.items():
        yield name, call


def may_be_empty(hint: ast.expr) -> bool:
    """Whether a hint is an empty string, or one under a condition."""
    if isinstance(hint, ast.IfExp):
        return may_be_empty(hint.body) or may_be_empty(hint.orelse)
    return isinstance(hint, ast.Constant) and not hint.value


def test_each_error_has_a_hint() -> None:
    """What happened is half of a message; the other half is what to do, in `hint` or else in the message itself."""
    names = error_classes()
    assert {"UsageError", "HubUnreachableError", "RefusedBlobError"} <= names
    found, lacking = 0, set()
    for path, tree in SOURCES.items():
        for function, call in calls_in(tree):
            if isinstance(call.func, ast.Name) and call.func.id in names:
                found += 1
                hints = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
                if not hints or may_be_empty(hints[0]):
                    lacking.add((path, function))
    assert found > 150
    assert lacking == set(WITHOUT_HINT)


def texts_in(tree: ast.Module) -> Iterator[str]:
    """Yield each text of a module but its docstrings; a value that is filled in is an ellipsis."""
    expressions = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {node} & (expressions | parts):
            yield node.value


COMMAND_LINES = sorted(
    {span for tree in SOURCES.values() for text in texts_in(tree) for span in re.findall(r"`([a-z-]+ [^`]+)`", text)}
)


def test_a_command_of_a_message_can_be_copied() -> None:
    """It has the program's name: `lock --upgrade` alone is no command of a shell."""
    assert len([line for line in COMMAND_LINES if "cache-models " in line]) > 10
    assert [line for line in COMMAND_LINES if line.split()[0] in COMMANDS] == []


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if "cache-models " in line])
def test_a_command_of_a_message_exists(line: str) -> None:
    """The command is there, and has each option that is named."""
    words = shlex.split(line.partition("cache-models ")[2])
    if words[0] in {"…", "help", "--version"}:
        return
    flags = chain.from_iterable(one.metadata.get("flag", ()) for one in fields(load_command(words[0]).Options))
    assert {word.partition("=")[0] for word in words[1:] if word.startswith("--")} <= set(flags)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line has more than 80 columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    with pytest.raises(SystemExit):
        parse(["help", *[command] * bool(command)], {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > WIDTH // 8
    assert [line for line in lines if len(line) > WIDTH] == []


def helps() -> dict[str, dict[str, str]]:
    """Return the help of each option, by command; a word without a flag stands under its metavar."""
    found: dict[str, dict[str, str]] = {}
    for command in COMMANDS:
        options = [one.metadata for one in fields(load_command(command).Options) if one.metadata]
        names = ["".join(one["flag"]) or one["argument"]["metavar"] for one in options]
        found[command] = {name: one["argument"].get("help", "") for name, one in zip(names, options, strict=True)}
    return found


def test_each_option_has_a_help_text() -> None:
    """A name alone explains nothing."""
    assert [f"{command} {name}" for command, texts in helps().items() for name, text in texts.items() if not text] == []


def test_an_option_has_the_same_help_everywhere() -> None:
    """Else a reader looks for a difference. `--format` has other formats in each command, an ID may be a new model."""
    by_name: dict[str, set[str]] = {}
    for command, texts in helps().items():
        for name, text in texts.items():
            if (command, name) not in {("add", "ID"), ("path", "ID")}:
                by_name.setdefault(name, set()).add(text)
    platforms = by_name.pop("--platform")
    assert (
        len({text.partition(" (")[0] for text in platforms}) == 1
    )  # the default of `push` is that of --base, if given
    assert len(by_name.pop("--format")) > 1
    assert {name: texts for name, texts in by_name.items() if len(texts) > 1} == {}


def test_the_variables_of_a_message_exist() -> None:
    """A message that names CACHE_MODELS_… names one that an option reads."""
    flags = {name for texts in helps().values() for name in texts}
    read = {f"CACHE_MODELS_{flag.removeprefix('--').replace('-', '_').upper()}" for flag in flags}
    named = {
        name
        for tree in SOURCES.values()
        for text in texts_in(tree)
        for name in re.findall(r"\bCACHE_MODELS_[A-Z_]*[A-Z]", text)
    }
    assert len(named) > 4
    assert named <= read
