"""The command line, its twins in the environment, its help, and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import modelcache
from modelcache.api import root
from modelcache.cli.commands import sync
from modelcache.cli.options import CommonOptions
from modelcache.cli.parser import COMMANDS, load_command, parse
from modelcache.core.errors import UsageError
from modelcache.fastpath import VARIABLES, is_quiet_start, unknown_variables
from modelcache.image.descriptors import Platform
from modelcache.image.reference import Reference
from modelcache.sources.schemes import Scheme, SourceAddress
from tests.conftest import PROJECT, Tool

COMMON = {
    "--manifest": "manifest",
    "--lockfile": "lockfile",
    "--root": "root",
    "--locked": "locked",
    "--dry-run": "dry_run",
    "--jobs": "jobs",
    "--timeout": "timeout",
    "--retries": "retries",
    "--log-format": "log_format",
    "--quiet": "quiet",
}
PLACES_AND_WORDS = {"--manifest", "--root", "--log-format", "--quiet"}
LOCK = PLACES_AND_WORDS | {"--lockfile"}
OPTIONS = {
    "sync": {*COMMON, "--from", "--insecure", "--no-stamp", "ID"},
    "add": {*COMMON, "--kind", "--trust-remote-code", "--allow-pickle", "--pooling", "--normalize", "ID"},
    "lock": {*COMMON, "--upgrade", "--check", "--diff", "--format"},
    "outdated": (set(COMMON) - {"--dry-run"}) | {"--json", "ID"},
    "verify": LOCK | {"--locked", "--quick", "ID"},
    "check": LOCK | {"--locked", "--dry-run", "--record", "--unconfined", "ID"},
    "status": LOCK | {"--json", "ID"},
    "report": LOCK | {"--locked", "--format", "ID"},
    "path": PLACES_AND_WORDS | {"ID"},
    "prune": LOCK | {"--dry-run"},
    "export": LOCK | {"--locked", "--only", "--platform", "--prefix", "TARGET"},
    "push": (set(COMMON) - {"--dry-run"}) | {"--base", "--only", "--platform", "--prefix", "--insecure", "REF"},
    "completion": PLACES_AND_WORDS | {"SHELL"},
}
REQUIRED = {
    "add": ["a/b"],
    "path": ["a/b"],
    "export": ["image/"],
    "push": ["localhost:5000/a/b:v1"],
    "completion": ["zsh"],
}
ALL = {flag for flags in OPTIONS.values() for flag in flags if flag.startswith("--")}
VALUES: list[tuple[str, str, Any]] = [
    ("--manifest", "x/m.toml", Path("x/m.toml").absolute()),
    ("--lockfile", "x/m.lock", Path("x/m.lock").absolute()),
    ("--root", "/somewhere", Path("/somewhere")),
    ("--locked", "", True),
    ("--dry-run", "", True),
    ("--jobs", "3", 3),
    ("--timeout", "2.5", 2.5),
    ("--retries", "0", 0),
    ("--log-format", "json", "json"),
    ("--quiet", "", True),
]
BAD = [
    ("--jobs", "0"),
    ("--jobs", "-1"),
    ("--jobs", "many"),
    ("--jobs", "1.5"),
    ("--timeout", "0"),
    ("--timeout", "-2"),
    ("--timeout", "nan"),
    ("--timeout", "inf"),
    ("--timeout", "soon"),
    ("--timeout", "86400"),
    ("--retries", "-1"),
    ("--retries", "x"),
    ("--log-format", "xml"),
]


def refused(words: Sequence[str], environ: Mapping[str, str]) -> UsageError:
    """Return the error of a command line that cannot be understood."""
    with pytest.raises(UsageError) as caught:
        parse(words, environ)
    return caught.value


def value_of(found: CommonOptions, name: str) -> Any:
    """Return an option; it is an error if the command has none of that name."""
    return getattr(found, name)


def variable(option: str) -> str:
    """Return the twin of an option in the environment."""
    return "CACHE_MODELS_" + option[2:].upper().replace("-", "_")


def test_nothing_said_is_a_plain_sync(tmp_path: Path) -> None:
    """No command is sync, and every default is what the design says."""
    with chdir(tmp_path):
        (tmp_path / "models.toml").touch()
        assert parse([], {}) == sync.Options(
            command="sync", manifest=tmp_path / "models.toml", lockfile=tmp_path / "models.lock", root=tmp_path
        )


def test_an_installed_command_takes_no_manifest_but_the_one_that_is_here(tmp_path: Path) -> None:
    """Somebody's empty directory never gets the models of others."""
    with chdir(tmp_path):
        found = parse([], {})
        assert (found.manifest, value_of(found, "lockfile")) == (tmp_path / "models.toml", tmp_path / "models.lock")
        assert (found.manifest_note, value_of(found, "may_write_lock")) == ("", True)


def test_a_script_in_a_checkout_takes_the_manifest_beside_it_and_says_so(tmp_path: Path) -> None:
    """`docker run` in any directory finds the list that came with the tool; a lock is not written there."""
    checkout = tmp_path / "tool"
    checkout.mkdir()
    (checkout / "models.toml").touch()
    with chdir(tmp_path):
        found = parse([], {}, str(checkout))
        assert (found.manifest, value_of(found, "lockfile")) == (checkout / "models.toml", checkout / "models.lock")
        assert str(checkout / "models.toml") in found.manifest_note
        assert not value_of(found, "may_write_lock")
        assert value_of(parse(["--lockfile", "here.lock"], {}, str(checkout)), "may_write_lock")
        named = parse(["--manifest", str(checkout / "models.toml")], {}, str(checkout))
        assert (named.manifest_note, value_of(named, "may_write_lock")) == ("", True)
        Path("models.toml").touch()
        here = parse([], {}, str(checkout))
        assert (here.manifest, here.manifest_note) == (tmp_path / "models.toml", "")
    with chdir(checkout):
        assert value_of(parse([], {}, str(checkout)), "may_write_lock")


def test_a_manifest_is_never_written_beside_the_tool(tmp_path: Path) -> None:
    """Where other commands take the one of a checkout, `add` writes another in the current directory."""
    checkout = tmp_path / "tool"
    checkout.mkdir()
    (checkout / "models.toml").touch()
    with chdir(tmp_path):
        found = parse(["add", "a/b"], {}, str(checkout))
        assert (found.manifest, value_of(found, "lockfile")) == (tmp_path / "models.toml", tmp_path / "models.lock")
        assert (found.manifest_note, value_of(found, "may_write_lock")) == ("", True)
        named = parse(["add", "a/b"], {"CACHE_MODELS_MANIFEST": "x/m.toml"}, str(checkout))
        assert named.manifest == tmp_path / "x/m.toml"


def test_a_manifest_that_a_variable_names_is_told(tmp_path: Path) -> None:
    """Whoever wonders which models are fetched finds the file in the output."""
    with chdir(tmp_path):
        Path("models.toml").touch()
        found = parse([], {"CACHE_MODELS_MANIFEST": "x/m.toml"}, str(PROJECT))
        assert (found.manifest, value_of(found, "lockfile")) == (tmp_path / "x/m.toml", tmp_path / "x/m.lock")
        assert "CACHE_MODELS_MANIFEST" in found.manifest_note
        assert value_of(found, "may_write_lock")
        assert parse(["--manifest", "y.toml"], {"CACHE_MODELS_MANIFEST": "x/m.toml"}).manifest_note == ""


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [(command, *one) for command in COMMANDS for one in VALUES if one[0] in OPTIONS[command]],
)
def test_every_common_option(command: str, option: str, value: str, expected: Any) -> None:
    """Each goes before and after the command, with `=` or a space, and is read from the environment."""
    ids = REQUIRED.get(command, [])
    said = [option, value] if value else [option]
    joined = [f"{option}={value}"] if value else [option]
    lines: list[tuple[list[str], dict[str, str]]] = [
        ([command, *ids, *said], {}),
        ([*said, command, *ids], {}),
        ([*joined, command, *ids], {}),
        ([command, *ids], {variable(option): value or "1"}),
    ]
    for words, environ in lines:
        found = parse(words, environ)
        assert getattr(found, COMMON[option]) == expected, words
        assert found.command == command


@pytest.mark.parametrize(("option", "value", "expected"), VALUES, ids=[option for option, _, _ in VALUES])
def test_common_options_without_a_command(option: str, value: str, expected: Any) -> None:
    """They belong to the plain sync too."""
    found = parse([option, value] if value else [option], {})
    assert (found.command, getattr(found, COMMON[option])) == ("sync", expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sync", "a/b", "c/d"], {"command": "sync", "ids": ["a/b", "c/d"]}),
        (["a/b"], {"command": "sync", "ids": ["a/b"]}),
        (["--quiet", "a/b"], {"command": "sync", "ids": ["a/b"], "quiet": True}),
        (["sync", "--from", "/m"], {"source": SourceAddress(Scheme.ROOT, Path("/m"))}),
        (["--from=/m"], {"command": "sync", "source": SourceAddress(Scheme.ROOT, Path("/m"))}),
        (["add", "a/b", "c/d@v1"], {"command": "add", "ids": ["a/b", "c/d@v1"], "kind": None, "normalize": None}),
        (["add", "--kind", "reranker", "a/b"], {"ids": ["a/b"], "kind": "reranker", "trust_remote_code": None}),
        (["add", "a/b", "--pooling=cls", "--normalize", "false"], {"pooling": "cls", "normalize": "false"}),
        (["add", "--trust-remote-code=false", "a/b"], {"trust_remote_code": "false", "allow_pickle": False}),
        (["--trust-remote-code", "true", "add", "a/b", "--allow-pickle"], {"ids": ["a/b"], "allow_pickle": True}),
        (["lock"], {"upgrade": None, "check": False}),
        (["lock", "--upgrade"], {"upgrade": []}),
        (["lock", "--upgrade", "a/b", "c/d", "--quiet"], {"upgrade": ["a/b", "c/d"], "quiet": True}),
        (["lock", "--check"], {"check": True}),
        (["verify", "--quick"], {"quick": True}),
        (["status", "--json"], {"json": True}),
        (["path", "a/b"], {"id": "a/b"}),
        (["prune", "--dry-run"], {"command": "prune", "dry_run": True}),
        (["export", "image/"], {"target": "image/", "only": (), "prefix": "models"}),
        (["export", "-", "--only", "a/b", "c/d", "--prefix=x"], {"target": "-", "only": ["a/b", "c/d"], "prefix": "x"}),
        (["export", "--platform", "linux/arm64", "x.tar"], {"platforms": (Platform("linux", "arm64"),)}),
        (["sync", "--from=docker://r.example/a:1"], {"source": Reference("r.example", "a", "1"), "insecure": False}),
        (["--from", "docker://r.example/a", "--insecure"], {"command": "sync", "insecure": True}),
        (["push", "r.example/a:1"], {"target": Reference("r.example", "a", "1"), "base": None, "platforms": ()}),
        (["push", "r.example/a", "--base", "b:2"], {"base": Reference.parse("docker.io/library/b:2")}),
        (["push", "--insecure", "r.example/a", "--only", "a/b"], {"insecure": True, "only": ["a/b"]}),
        (["--root", "/r", "prune"], {"command": "prune", "root": Path("/r")}),
        (["--root", "/a", "--root", "/b"], {"root": Path("/b")}),
        (["--root", "/a", "sync", "--root", "/b"], {"root": Path("/b")}),
        (["--manifest", "x/y.toml"], {"lockfile": Path("x/y.lock").absolute()}),
        (["--manifest", "x.d/y"], {"lockfile": Path("x.d/y.lock").absolute()}),
        (["--manifest", "x.toml", "--lockfile", "z"], {"lockfile": Path("z").absolute()}),
    ],
    ids=" ".join,
)
def test_what_a_command_line_means(words: list[str], expected: dict[str, Any]) -> None:
    """Options of one command, ids, repeated options, and the lock that belongs to a manifest."""
    found = parse(words, {})
    assert {name: getattr(found, name) for name in expected} == expected


def test_directories_are_absolute(tmp_path: Path) -> None:
    """A relative model directory would be taken for a repository id."""
    with chdir(tmp_path):
        found = parse(["--root", "r", "--from", "o"], {})
        assert isinstance(found, sync.Options)
        assert (found.root, found.source) == (tmp_path / "r", SourceAddress(Scheme.ROOT, tmp_path / "o"))
        assert parse([], {"CACHE_MODELS_ROOT": "e"}).root == tmp_path / "e"


def test_the_command_line_wins_over_the_environment() -> None:
    """A variable is a default."""
    environ = {"CACHE_MODELS_ROOT": "/env", "CACHE_MODELS_JOBS": "2", "CACHE_MODELS_LOG_FORMAT": "json"}
    found = parse(["sync", "--root", "/said", "--jobs=5"], environ)
    assert isinstance(found, sync.Options)
    assert (found.root, found.jobs, found.log_format) == (Path("/said"), 5, "json")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_another_command_is_refused_with_its_name(command: str) -> None:
    """On the command line it is a mistake; a variable may be set for all commands."""
    ids = REQUIRED.get(command, [])
    for option in sorted(ALL - OPTIONS[command]):
        owner = next(other for other in COMMANDS if option in OPTIONS[other])
        error = refused([command, *ids, option], {})
        assert (option in error.message, owner in error.message, command in error.hint) == (True, True, True)
        assert parse([command, *ids], {variable(option): "1"}) == parse([command, *ids], {})


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["synk"], "sync"),
        (["statu", "--json"], "status"),
        (["verfy", "a/b", "--quick"], "verify"),
        (["chek"], "check"),
        (["--root", "x", "prunes"], "prune"),
        (["help", "lok"], "lock"),
        (["lock", "--upgrad"], "--upgrade"),
        (["lock", "--upgrad=a/b"], "--upgrade"),
        (["status", "--jason"], "--json"),
        (["sync", "--form", "/x"], "--from"),
        (["--lockd"], "--locked"),
        (["--hel"], "--help"),
        (["--verison"], "--version"),
        (["hlep"], "help"),
        (["version"], "--version"),
        (["upgrade"], "lock --upgrade"),
        (["ad", "a/b"], "add"),
        (["add", "a/b", "--trust-remote"], "--trust-remote-code"),
    ],
    ids=" ".join,
)
def test_a_misspelt_word_is_told_with_the_one_that_is_meant(words: list[str], meant: str) -> None:
    """Commands and options; a wrong option comes with the usage of its command."""
    error = refused(words, {})
    assert f"did you mean {meant!r}?" in error.message
    assert "cache-models" in error.hint


@pytest.mark.parametrize(
    "words",
    [
        "status --nothing",
        "--jobs 0",
        "add",
        "add a/b --kind dense",
        "path",
        "path a/b c/d",
        "lock a/b",
        "prune --json",
        "sync --retries",
    ],
)
def test_a_wrong_argument_shows_the_usage_of_its_command_in_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own options and no others, nor a colour, which argparse gives the usage since Python 3.14."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    hint = refused(words.split(), {}).hint
    command = words.split(maxsplit=1)[0] if words.split(maxsplit=1)[0] in COMMANDS else "sync"
    assert f"cache-models {command} " in hint
    assert hint.isprintable()
    own = {one for one in OPTIONS[command] if one not in ("ID", *COMMON)}
    assert set(re.findall(r"--[a-z-]+", hint)) == own | {"--help"}


@pytest.mark.parametrize(
    "words", ["sync --nope", "--force", "--sync", "lock -q", "list", "download", "lock -x", "tidy", "--nothing"]
)
def test_a_word_that_is_near_to_none_gets_no_suggestion(words: str) -> None:
    """Two dashes in common are no likeness; `prune`, offered for any word, would remove models."""
    assert "did you mean" not in refused(words.split(), {}).message


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("lcok --log-format json", "json"),
        ("--log-format=json --nope", "json"),
        ("--log-format json --log-format", "json"),
        ("lcok", "json"),
        ("--log-format text lcok", "text"),
    ],
)
def test_an_error_of_the_command_line_has_the_log_format_that_it_asks_for(words: str, asked: str, tool: Tool) -> None:
    """A program that reads events gets one for its own mistake, too; an option counts more than its variable."""
    ran = tool.run(*words.split(), env={"CACHE_MODELS_LOG_FORMAT": "json"})
    assert ran.exit_code == 2
    if asked == "json":
        event = json.loads(ran.err)
        assert (event["event"], event["exit_code"], event["retryable"]) == ("error", 2, False)
    else:
        assert ran.err.startswith("error: ")


def test_a_word_that_is_neither_command_nor_id_is_refused() -> None:
    """Without a command it would be taken for the id of a model."""
    error = refused(["all-MiniLM-L6-v2"], {})
    assert not [command for command in COMMANDS if command not in error.hint]
    found = parse(["sync", "all-MiniLM-L6-v2"], {})
    assert isinstance(found, sync.Options)
    assert found.ids == ["all-MiniLM-L6-v2"]


def test_ids_and_options_may_alternate() -> None:
    """`sync a/b --quiet c/d` means both ids."""
    found = parse(["sync", "a/b", "--quiet", "c/d"], {})
    assert isinstance(found, sync.Options)
    assert (found.ids, found.quiet) == (["a/b", "c/d"], True)


def test_an_empty_variable_says_nothing() -> None:
    """Compose and charts set variables to nothing where nothing is meant."""
    assert parse([], {variable(option): "" for option in COMMON}) == parse([], {})


@pytest.mark.parametrize(
    ("command", "environ", "expected"),
    [
        ("sync", {"CACHE_MODELS_FROM": "/baked"}, {"source": SourceAddress(Scheme.ROOT, Path("/baked"))}),
        ("add", {"CACHE_MODELS_KIND": "reranker"}, {"kind": "reranker"}),
        ("add", {"CACHE_MODELS_TRUST_REMOTE_CODE": "true"}, {"trust_remote_code": "true"}),
        ("add", {"CACHE_MODELS_ALLOW_PICKLE": "yes"}, {"allow_pickle": True}),
        (
            "add",
            {"CACHE_MODELS_POOLING": "cls", "CACHE_MODELS_NORMALIZE": "false"},
            {"pooling": "cls", "normalize": "false"},
        ),
        ("lock", {"CACHE_MODELS_CHECK": "1"}, {"check": True}),
        ("lock", {"CACHE_MODELS_UPGRADE": "a/b c/d"}, {"upgrade": ["a/b", "c/d"]}),
        ("verify", {"CACHE_MODELS_QUICK": "yes"}, {"quick": True}),
        ("check", {"CACHE_MODELS_RECORD": "1"}, {"record": True}),
        ("status", {"CACHE_MODELS_JSON": "1"}, {"json": True}),
        (
            "export",
            {"CACHE_MODELS_ONLY": "a/b c/d", "CACHE_MODELS_PREFIX": "x/y", "CACHE_MODELS_PLATFORM": "linux/arm64"},
            {"only": ["a/b", "c/d"], "prefix": "x/y", "platforms": (Platform("linux", "arm64"),)},
        ),
        (
            "push",
            {"CACHE_MODELS_BASE": "r.example/b:2", "CACHE_MODELS_INSECURE": "1", "CACHE_MODELS_JOBS": "3"},
            {"base": Reference("r.example", "b", "2"), "insecure": True, "jobs": 3},
        ),
        ("prune", {"CACHE_MODELS_FROM": "/baked", "CACHE_MODELS_RECORD": "1"}, {}),
    ],
)
def test_options_of_a_command_in_the_environment(
    command: str, environ: dict[str, str], expected: dict[str, Any]
) -> None:
    """They say it to their own command, and nothing to the others."""
    words = [command, *REQUIRED.get(command, [])]
    assert parse(words, environ) == replace(parse(words, {}), **expected)


def test_what_is_said_wins_wherever_it_stands() -> None:
    """Before the command, after it, or with no command at all."""
    environ = {"CACHE_MODELS_ROOT": "/env", "CACHE_MODELS_FROM": "/env"}
    for words in (["--root=/said", "sync", "--from=/said"], ["sync", "--root=/said", "--from=/said"]):
        found = parse(words, environ)
        assert isinstance(found, sync.Options)
        assert (found.root, found.source) == (Path("/said"), SourceAddress(Scheme.ROOT, Path("/said")))
    found = parse([], environ)
    assert isinstance(found, sync.Options)
    assert found.source == SourceAddress(Scheme.ROOT, Path("/env"))


PATHS = ("root", "manifest", "lockfile", "from")


@pytest.mark.parametrize("place", ["words", "environment"])
def test_a_tilde_is_the_home_in_every_path(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves it in `--root=~/models` and in an env file, and a directory called `~` is a trap."""
    monkeypatch.setenv("HOME", "/the/home")
    if place == "words":
        found = parse([f"--{name}=~/{name}" for name in PATHS], {})
    else:
        found = parse([], {f"CACHE_MODELS_{name.upper()}": f"~/{name}" for name in PATHS})
    assert isinstance(found, sync.Options)
    assert isinstance(found.source, SourceAddress)
    assert [found.root, found.manifest, found.lockfile, found.source.path] == [Path("/the/home", one) for one in PATHS]


def test_a_quiet_start_finds_a_root_in_the_home(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads a tilde as the other starts do, and so does a program."""
    monkeypatch.setenv("HOME", str(pair.folder / "home"))
    assert pair("--root=~/models").exit_code == 0
    assert (pair.folder / "home" / "models" / "cached_embedding_models").is_dir()
    assert not (pair.folder / "~").exists()
    assert is_quiet_start(["--root=~/models"], {})
    assert is_quiet_start([], {"CACHE_MODELS_ROOT": "~/models"})
    monkeypatch.setenv("CACHE_MODELS_ROOT", "~/models")
    assert root() == pair.folder / "home" / "models"


def test_every_option_has_its_variable_in_the_list_that_the_quiet_start_has() -> None:
    """Another CACHE_MODELS_… variable is named in a warning."""
    assert {f"CACHE_MODELS_{name}" for name in VARIABLES} == {variable(option) for option in ALL}
    assert unknown_variables({variable(option): "1" for option in ALL} | {"HOME": "/", "CACHE_MODEL_ROOT": "x"}) == {}


def test_an_unknown_variable_is_named_in_a_warning() -> None:
    """With the one that is meant, where one is near."""
    environ = {
        "CACHE_MODELS_JOB": "1",
        "CACHE_MODELS_COLOUR": "1",
        "CACHE_MODELS_LOGFORMAT": "",
        "CACHE_MODELS_FOO": "1",
    }
    told = unknown_variables(environ)
    assert list(told) == sorted(environ)
    assert "CACHE_MODELS_JOBS" in told["CACHE_MODELS_JOB"]
    assert "CACHE_MODELS_LOG_FORMAT" in told["CACHE_MODELS_LOGFORMAT"]
    assert "did you mean" not in told["CACHE_MODELS_COLOUR"] + told["CACHE_MODELS_FOO"]
    assert parse([], environ) == parse([], {})


def test_variables_that_kubernetes_sets_for_a_service_are_left_alone() -> None:
    """Pods get them where a service is called cache-models, or cache-models-api."""
    environ = {
        "CACHE_MODELS_SERVICE_HOST": "10.0.0.1",
        "CACHE_MODELS_SERVICE_PORT": "80",
        "CACHE_MODELS_SERVICE_PORT_HTTP": "80",
        "CACHE_MODELS_PORT": "tcp://10.0.0.1:80",
        "CACHE_MODELS_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CACHE_MODELS_PORT_80_TCP_ADDR": "10.0.0.1",
        "CACHE_MODELS_API_SERVICE_HOST": "10.0.0.2",
        "CACHE_MODELS_API_PORT_8080_TCP_PROTO": "tcp",
    }
    assert unknown_variables(environ) == {}
    assert parse([], environ) == parse([], {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("False", False), ("no", False)],
)
def test_a_flag_in_the_environment(value: str, expected: bool) -> None:
    """Yes and no as people write them."""
    assert parse([], {"CACHE_MODELS_QUIET": value}).quiet is expected


@pytest.mark.parametrize(("option", "value"), BAD)
def test_a_bad_value_names_the_option(option: str, value: str) -> None:
    """And the value."""
    line = refused([f"{option}={value}"], {}).message
    assert option in line
    assert value in line


@pytest.mark.parametrize(
    ("word", "bounds"),
    [
        ("--jobs=0", "a whole number of 1 or more"),
        ("--retries=-1", "a whole number of 0 or more"),
        ("--timeout=0", "above 0 and below 86400"),
    ],
)
def test_a_number_out_of_bounds_is_told_with_the_bounds(word: str, bounds: str) -> None:
    """0 is a number of seconds: the message says which are taken."""
    assert bounds in refused([word], {}).message


@pytest.mark.parametrize(("option", "value"), [*BAD, ("--locked", "maybe"), ("--quiet", "2"), ("--dry-run", "x")])
def test_a_bad_variable_names_the_variable(option: str, value: str) -> None:
    """Whoever set it in a chart does not know our options."""
    line = refused([], {variable(option): value}).message
    assert variable(option) in line
    assert value in line


@pytest.mark.parametrize("words", [["--jobs=many"], ["--timeout=soon"], ["--retries=x"]], ids=" ".join)
def test_a_bad_value_is_told_in_plain_words(words: list[str]) -> None:
    """No name out of the source."""
    assert not re.search(r"\b_\w+", refused(words, {}).message)


@pytest.mark.parametrize(
    "words",
    [
        ["--nothing"],
        ["sync", "--upgrade"],
        ["prune", "a/b"],
        ["path"],
        ["path", "a/b", "c/d"],
        ["export"],
        ["export", "image/", "other/"],
        ["export", "image/", "--platform=windows/amd64"],
        ["push"],
        ["push", "r.example/a", "r.example/b"],
        ["push", f"r.example/a@sha256:{'a' * 64}"],
        ["push", "r.example/A"],
        ["push", "r.example/a", "--base=B"],
        ["push", "r.example/a", "--platform=windows/amd64"],
        ["--root"],
        ["sync", "--jobs"],
        ["lock", "verify"],
        ["--locked=1"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_understood(words: list[str]) -> None:
    """Exit 2, with the help of the command as the hint."""
    assert re.search("`cache-models [a-z]+ --help`", refused(words, {}).hint)


def test_a_mistake_on_the_command_line_is_an_error_like_any_other(tool: Tool) -> None:
    """One `error:` line and its hint on stderr, exit 2, nothing on stdout."""
    ran = tool.run("lock", "--upgrad")
    assert (ran.exit_code, ran.out) == (2, "")
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_goes_before_it(command: str) -> None:
    """Those of this command alone, too; only the value of an option is no command."""
    ids = REQUIRED.get(command, [])
    for one in fields(load_command(command).Options):
        for flag in one.metadata.get("flag", ()):
            argument = one.metadata["argument"]
            several = "nargs" in argument
            value = argument.get("choices", ["3"])[:1] if "action" not in argument and not several else []
            if flag == "--platform":
                value = ["linux/arm64"]
            if several and ids:
                continue  # it would take the words that belong to the command
            before, after = parse([flag, *value, command, *ids], {}), parse([command, *ids, flag, *value], {})
            assert before == after
            if value and "choices" not in argument and flag not in {"--jobs", "--timeout", "--retries", "--platform"}:
                assert parse([flag, "lock" if command == "sync" else "sync", command, *ids], {}).command == command


def test_help_is_printed_for_help_itself(tool: Tool) -> None:
    """`help -h` and `help help`, as for git."""
    general = tool.run("help").out
    for words in (["help", "-h"], ["help", "--help"], ["help", "help"], ["-h"]):
        assert (tool.run(*words).exit_code, tool.run(*words).out) == (0, general)
    assert tool.run("help", "-h", "lock").out == tool.run("lock", "--help").out


def test_after_two_dashes_no_word_is_a_command() -> None:
    """Nor an option."""
    found = parse(["--", "lock"], {})
    assert isinstance(found, sync.Options)
    assert found.ids == ["lock"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_no_other(command: str) -> None:
    """A sync pays for no probe, and a check for no download."""
    program = "import sys; from modelcache.cli import main; main.parse(sys.argv[1:], {}); print(*sys.modules)"
    words = [sys.executable, "-c", program, command, *REQUIRED.get(command, [])]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert {name for name in modules if name.startswith("modelcache.cli.commands.")} == {
        f"modelcache.cli.commands.{command}"
    }
    assert ("modelcache.check.golden" in modules) is (command in ("check", "report"))
    assert ("modelcache.transfer.download" in modules) is (command in ("add", "sync", "lock"))


def help_of(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what --help prints."""
    with pytest.raises(SystemExit) as caught:
        parse(words, {})
    assert caught.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [["{}", "--help"], ["{}", "-h"], ["help", "{}"], ["--help", "{}"]], ids=" ".join)
def test_help_of_a_command_shows_its_own_options_only(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All that it reads, and nothing that it ignores; on stdout, exit 0."""
    text = help_of([word.format(command) for word in words], capsys)
    shown = set(
        re.findall(r"^ +(?:-h, )?(--[a-z-]+|ID\b|TARGET\b|REF\b|SHELL\b)", text.partition("\n\n")[2], re.MULTILINE)
    )
    assert shown == OPTIONS[command] | {"--help"}


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["--quiet", "--help"]], ids=" ".join)
def test_help_tells_commands_variables_and_exit_codes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One page is enough to begin, also on a terminal of 80 columns."""
    text = help_of(words, capsys)
    assert not [word for word in (*COMMANDS, "help", "CACHE_MODELS_", "HF_TOKEN", "130/143") if word not in text]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--version"], ["sync", "--version"], ["--version", "lock"]], ids=" ".join)
def test_version_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts and reports of bugs."""
    assert help_of(words, capsys) == f"cache-models {modelcache.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["sync", "--help"]], ids=" ".join)
def test_help_comes_from_a_real_process(words: list[str], tmp_path: Path) -> None:
    """Also where nothing is."""
    done = subprocess.run(
        [sys.executable, str(PROJECT / "cache_models.py"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.startswith("usage: cache-models"), done.stderr) == (True, "")
