"""The shape of the package: who may import whom, who prints, who exits, who reaches the network.

Everything is read from the sources; nothing is executed but one import in a fresh process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "modelcache"

# From top to bottom; a module imports only from layers below its own, so neighbours do not know each other.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the ways in", ("cli", "library")),
    ("the commands", ("commands",)),
    ("one of them, by itself", ("proof",)),
    ("the story; what is there already", ("sync", "ondisk")),
    ("a process of its own", ("examine",)),
    ("loading", ("load",)),
    ("speaking, rows, pins, options", ("report", "status", "pin", "options")),
    ("words; pinning what has to be converted", ("words", "conversion")),
    ("where files may be had", ("supply",)),
    ("steps put together", ("environment", "glance", "space", "tools")),
    ("steps", ("hub", "resolve", "plan", "fetch", "prepare", "verify", "publish", "check", "lease", "quiet")),
    (
        "what steps are made of",
        (
            "choose",
            "weight_tracing",
            "isolation",
            "kept",
            "lanes",
            "listing",
            "part",
            "read_by_code",
            "recipes",
            "repository",
            "unpickle",
            "verdict",
            "wire",
        ),
    ),
    (
        "files of ours, and of others",
        (
            "answer",
            "inference",
            "kind_of",
            "manifest",
            "lockfile",
            "golden",
            "loaded",
            "receipt",
            "damage",
            "config_files",
            "pooling",
            "transport_errors",
            "missing_files",
            "vendor",
            "pickle_machine",
        ),
    ),
    (
        "what these hold",
        (
            "contact",
            "host_limit",
            "model_modules",
            "pip_packages",
            "pinned",
            "probes",
            "proxies",
            "references",
            "sandbox",
            "source_code",
            "torch_values",
        ),
    ),
    (
        "formats, names, the disk, patience",
        (
            "digests",
            "disk",
            "git_lfs",
            "landlock",
            "layout",
            "new_root",
            "origins",
            "pace",
            "prctl",
            "privileges",
            "ranges",
            "reasons",
            "safetensors_header",
            "seccomp",
            "scratch",
            "stamp",
            "torch_zip",
            "toml",
            "tries",
            "turns",
            "weights",
        ),
    ),
    ("the limits of the machine", ("limits",)),
    ("what goes wrong", ("errors", "refusal")),
    ("threads; system calls", ("threads", "linux")),
    (
        "vocabulary, text, memory, trees",
        (
            "confinement",
            "hidden",
            "libraries",
            "memory",
            "model_ids",
            "records",
            "text",
            "trees",
        ),
    ),
)
LEVEL = {module: -number for number, (_, modules) in enumerate(LAYERS) for module in modules}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
SOURCES = {f"modelcache/{name}.py": PACKAGE / f"{name}.py" for name in MODULES} | {
    "cache_models.py": PROJECT / "cache_models.py"
}

HEAVY = {"torch", "sentence_transformers", "transformers", "tokenizers", "safetensors", "numpy"}
# What loads models runs in a process that `check` starts.
LOADING = {"modelcache/examine.py", "modelcache/loaded.py", "modelcache/weight_tracing.py", "modelcache/inference.py"}
# Of these families only one member is known outside.
FAMILIES = (
    ({"unpickle"}, {"unpickle", "refusal", "torch_zip", "torch_values", "pickle_machine"}),
    (
        {"examine"},
        {
            "examine",
            "inference",
            "weight_tracing",
            "isolation",
            "loaded",
            "weights",
            "sandbox",
            "seccomp",
            "landlock",
            "new_root",
            "privileges",
        },
    ),
)
NETWORK = {"urllib3", "http", "socket", "requests", "httpx", "httpx2", "aiohttp"}
# `wire` sends requests; pace, origins and transport_errors serve it, and sandbox closes sockets.
DOORS = {
    "modelcache/wire.py",
    "modelcache/pace.py",
    "modelcache/origins.py",
    "modelcache/transport_errors.py",
    "modelcache/sandbox.py",
}
KNOW_THE_HUB = {"modelcache/environment.py", "modelcache/wire.py", "modelcache/hub.py", "modelcache/examine.py"}
# cache_models speaks only when not even cli can be imported.
PRINT = {
    "modelcache/cli.py",
    "modelcache/commands.py",
    "modelcache/report.py",
    "modelcache/quiet.py",
    "cache_models.py",
}
EXIT = {"modelcache/cli.py", "modelcache/examine.py", "modelcache/isolation.py", "cache_models.py"}


def tree_of(source: str) -> ast.Module:
    """Parse one source file."""
    return ast.parse(SOURCES[source].read_text())


def imports(source: str) -> Iterator[str]:
    """Yield what a source imports by its full name, also inside functions and for type checkers only."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}:{node.lineno} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(source: str) -> set[str]:
    """Return the modules of the package that a source imports."""
    parts = [name.split(".") for name in imports(source)]
    return {words[1] for words in parts if words[0] == "modelcache" and len(words) > 1 and words[1] in LEVEL}


def top_levels(source: str) -> set[str]:
    """Return the top-level packages that a source imports."""
    return {name.partition(".")[0] for name in imports(source)}


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for a chain of names, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_the_package_is_flat_and_every_module_has_its_layer() -> None:
    """A new module must say where it belongs, once."""
    assert not [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    named = [module for _, modules in LAYERS for module in modules]
    assert sorted(named) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    """Steps do not know each other, formats do not know steps, the vocabulary knows nothing."""
    level = LEVEL[module]
    assert sorted(other for other in ours(f"modelcache/{module}.py") if LEVEL[other] >= level) == []


def test_imports_have_no_cycle() -> None:
    """Whatever the table says: following imports never comes back."""
    below = {name: ours(f"modelcache/{name}.py") for name in MODULES}
    while leaves := {name for name, needed in below.items() if not needed & below.keys()}:
        for leaf in leaves:
            del below[leaf]
    assert below == {}


@pytest.mark.parametrize("source", SOURCES)
def test_only_one_module_talks_to_the_network(source: str) -> None:
    """HTTP and sockets are imported by wire, and by cut, which closes them."""
    found = top_levels(source) & NETWORK | {name for name in imports(source) if name == "urllib.request.urlopen"}
    assert source in DOORS or not found


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_hubs_neighbours_know_huggingface_hub(source: str) -> None:
    """Tokens, cache and rate limits come from huggingface_hub by one way."""
    assert source in KNOW_THE_HUB or "huggingface_hub" not in top_levels(source)


@pytest.mark.parametrize("source", SOURCES)
def test_only_what_loads_models_imports_torch(source: str) -> None:
    """Caching loads no model, so it needs no framework."""
    # The two loaders of the public module import what they hand out, when they are called.
    allowed = HEAVY if source in LOADING else {"sentence_transformers"} if source == "cache_models.py" else set()
    assert top_levels(source) & HEAVY <= allowed


@pytest.mark.parametrize(("known", "family"), FAMILIES, ids=["pickles", "loading"])
def test_a_family_is_known_by_one_member(known: set[str], family: set[str]) -> None:
    """Whoever needs what a family does asks the one that speaks for it."""
    outside = {module: ours(f"modelcache/{module}.py") & family for module in MODULES if module not in family}
    assert {module: found for module, found in outside.items() if found - known} == {}


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_command_line_prints(source: str) -> None:
    """Steps speak to a Voice; stdout and stderr belong to the command line, its report and the quiet start."""
    found = [
        f"{source}:{node.lineno}"
        for node in ast.walk(tree_of(source))
        if (isinstance(node, ast.Call) and dotted(node.func) == "print")
        or (isinstance(node, ast.Attribute) and dotted(node) in ("sys.stdout", "sys.stderr"))
    ]
    assert source in PRINT or not found


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_command_line_exits(source: str) -> None:
    """A step raises; cli and cache_models end the process, argparse does it for options, and a fork ends itself."""
    exits = {"sys.exit", "os._exit", "os.abort", "exit", "quit", "SystemExit"}
    found = [
        f"{source}:{node.lineno}"
        for node in ast.walk(tree_of(source))
        if (isinstance(node, ast.Call) and dotted(node.func) in exits)
        or (isinstance(node, ast.Raise) and node.exc is not None and dotted(node.exc) == "SystemExit")
    ]
    assert source in EXIT or not found


def test_importing_cache_models_costs_nothing(tmp_path: Path) -> None:
    """An application that imports it gets no package from elsewhere, no argparse and no TOML."""
    program = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import cache_models
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(PROJECT)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    added = done.stdout.split()
    assert "cache_models" in added
    foreign = {name.partition(".")[0] for name in added} - sys.stdlib_module_names - {"cache_models", "modelcache"}
    assert foreign == set()
    assert not {"torch", "sentence_transformers", "huggingface_hub", "argparse", "tomllib"} & set(added)
