"""The quiet start reads the command line as `parse` does, or leaves it alone.

Each root, manifest and lock below leaves a stamp that says which of them was looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelcache.cli.commands import sync
from modelcache.cli.options import CommonOptions, ProjectOptions
from modelcache.cli.parser import parse
from modelcache.fastpath import is_quiet_start
from modelcache.stamp import key_of, write_stamp
from tests.conftest import PROJECT, Tool

PLACES = ["one", "two", "with space", "a=b", "-1"]


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of roots, manifests and locks."""
    folder = tmp_path_factory.mktemp("stamped")
    for place in (".", *PLACES):
        (folder / place).mkdir(exist_ok=True)
        for name in ("models", "other"):
            (folder / place / f"{name}.toml").write_text(f"# {place} {name}")
            (folder / place / f"{name}.lock").write_text(f"# lock {place} {name}")
    return folder


def looked_at(words: Sequence[str], environ: Mapping[str, str], folder: Path, meant: CommonOptions) -> bool:
    """Whether the quiet start finds a stamp that lies where `meant` says, and none that lies elsewhere."""
    for place in (".", *PLACES):
        (folder / place / ".cache-models.stamp").unlink(missing_ok=True)
    assert isinstance(meant, ProjectOptions)
    lock = meant.lockfile.read_bytes() if meant.lockfile.exists() else None
    key = key_of(meant.manifest.read_bytes(), lock, locked=meant.locked)
    if not meant.root.is_dir():
        return False
    write_stamp(str(meant.root), key, 1, {})
    found = is_quiet_start(words, environ)
    (meant.root / ".cache-models.stamp").unlink()
    for place in (".", *PLACES):
        if not (folder / place).samefile(meant.root):
            write_stamp(str(folder / place), key, 2, {})
    for name in (".", *PLACES):
        write = key_of((folder / name / "other.toml").read_bytes(), b"no such lock", locked=meant.locked)
        if (folder / name).samefile(meant.root):
            write_stamp(str(meant.root), write, 3, {})
    assert not is_quiet_start(words, environ), "a stamp was believed that is not for this run"
    return found


@pytest.mark.parametrize(
    ("words", "environ", "looks"),
    [
        ([], {}, True),
        (["sync"], {}, True),
        (["--root", "one"], {}, True),
        (["--root=one"], {}, True),
        (["sync", "--root", "with space"], {}, True),
        (["--root", "a=b"], {}, True),
        (["--root=a=b"], {}, True),
        (["--root", "-1"], {}, True),
        (["--root", "one", "--root", "two"], {}, True),
        (["--root=", "--root", "two"], {}, True),
        (["--root", "one/../two"], {}, True),
        (["--root", "./one/"], {}, True),
        (["--manifest", "other.toml"], {}, True),
        (["--manifest", "one/other.toml", "--root", "two"], {}, True),
        (["--manifest=one/models.toml", "--lockfile", "two/models.lock"], {}, True),
        (["--lockfile", "no.lock"], {}, True),
        (["--locked"], {}, True),
        (["--locked", "--quiet", "--root", "one"], {}, True),
        ([], {"CACHE_MODELS_ROOT": "one"}, True),
        ([], {"CACHE_MODELS_ROOT": ""}, True),
        (["--root", "two"], {"CACHE_MODELS_ROOT": "one"}, True),
        (["sync", "--root", "two"], {"CACHE_MODELS_ROOT": "one", "HF_TOKEN": "x"}, True),
        (["--root="], {"CACHE_MODELS_ROOT": "one"}, False),
        (["--dry-run"], {}, False),
        (["--jobs", "2"], {}, False),
        (["--log-format", "json"], {}, False),
        (["--from", "one"], {}, False),
        (["a/b"], {}, False),
        (["--root", "one", "sync"], {}, False),
        (["lock"], {}, False),
        (["verify", "--root", "one"], {}, False),
        ([], {"CACHE_MODELS_LOCKED": "1"}, False),
        ([], {"CACHE_MODELS_LOCKED": ""}, True),
        ([], {"CACHE_MODELS_MANIFEST": "other.toml"}, True),
        ([], {"CACHE_MODELS_MANIFEST": "one/other.toml", "CACHE_MODELS_LOCKFILE": "two/models.lock"}, True),
        (["--manifest=models.toml"], {"CACHE_MODELS_MANIFEST": "one/other.toml"}, True),
        ([], {"CACHE_MODELS_JOB": "3"}, True),
        ([], {"CACHE_MODELS_SERVICE_HOST": "10.0.0.1"}, True),
        ([], {"CACHE_MODELS_QUIET": "0"}, False),
    ],
    ids=str,
)
def test_the_quiet_start_looks_where_parse_says(
    words: list[str], environ: dict[str, str], looks: bool, stamped: Path
) -> None:
    """The two readers of the command line never disagree; what the quick one does not know, it leaves alone."""
    with chdir(stamped):
        assert looked_at(words, environ, stamped, parse(words, environ)) is looks


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ["--root", "lock"],
        ),
        pytest.param(
            ["--root", "status", "--quiet"],
        ),
    ],
    ids=" ".join,
)
def test_a_root_may_be_called_like_a_command(words: list[str]) -> None:
    """A value is not a command; the quiet start already takes it as the root."""
    assert parse(words, {}).root == Path(words[1]).absolute()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--root", "--quiet"]),
        pytest.param(["--root", "--locked", "--quiet"]),
    ],
    ids=" ".join,
)
def test_a_forgotten_value_is_not_quietly_believed(words: list[str], tmp_path: Path) -> None:
    """What parse refuses must not be a quiet success."""
    with chdir(tmp_path):
        Path("models.toml").touch()
        Path(words[1]).mkdir()
        write_stamp(words[1], key_of(b"", None, locked=False), 4, {})
        assert not is_quiet_start(words, {})


OPTION_WORDS = st.lists(
    st.tuples(st.sampled_from(["--root"]), st.sampled_from([*PLACES, ".", "nowhere", ""]))
    | st.tuples(
        st.sampled_from(["--manifest"]), st.sampled_from(["models.toml", "one/other.toml", "two/models.toml", ""])
    )
    | st.tuples(st.sampled_from(["--lockfile"]), st.sampled_from(["no.lock", "one/models.lock", ""]))
    | st.tuples(st.sampled_from(["--locked", "--quiet", "--dry-run", "--jobs=2"]), st.none()),
    max_size=5,
)


@settings(deadline=None)
@given(
    OPTION_WORDS,
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.sampled_from([[], ["sync"]]),
    st.sampled_from(
        [
            {},
            {"CACHE_MODELS_ROOT": "one"},
            {"CACHE_MODELS_ROOT": ""},
            {"CACHE_MODELS_MANIFEST": "one/other.toml"},
            {"CACHE_MODELS_LOCKFILE": "two/models.lock"},
            {"CACHE_MODELS_JOBS": "1"},
        ]
    ),
)
def test_the_two_readers_agree(
    stamped: Path,
    options: list[tuple[str, str | None]],
    joined: list[bool],
    command: list[str],
    environ: dict[str, str],
) -> None:
    """Wherever the quiet start looks, it looks where parse would."""
    words = list(command)
    for (name, value), one in zip(options, joined, strict=False):
        if value is None:
            words.append(name)
        else:
            words += [f"{name}={value}"] if one else [name, value]
    with chdir(stamped):
        meant = parse(words, environ)
        assert isinstance(meant, sync.Options)
        assume(meant.root.is_dir())
        found = looked_at(words, environ, stamped, meant)
        known = not meant.dry_run and "--jobs=2" not in words and "CACHE_MODELS_JOBS" not in environ
        assert found <= known
        if known and "" not in dict(options).values():
            assert found


def test_the_quiet_line_is_the_line_of_the_long_way(pair: Tool) -> None:
    """Whichever way a second start takes, it says the same."""
    pair("sync")
    quick = pair.run("sync")
    slow = pair.run("sync", "--jobs", "2")
    assert (quick.exit_code, quick.out, quick.err) == (slow.exit_code, slow.out, slow.err)
    assert pair.run("sync", "--quiet").err == ""


def test_the_quiet_line_names_the_root_that_was_asked_for(pair: Tool) -> None:
    """One volume is /models in the init container and /shared in the server."""
    root = pair.folder.parent / "volume"
    pair("sync", "--root", str(root))
    moved = root.rename(root.with_name("moved"))
    assert pair.run("sync", "--root", str(moved)).err == f"2 models ready in {moved}: unchanged.\n"


def test_a_quiet_start_imports_nothing_heavy(pair: Tool) -> None:
    """Milliseconds: no argparse, no TOML, no pathlib, nothing from outside the standard library."""
    pair("sync")
    program = "import sys; import cache_models; code = cache_models.main(['sync']); print(code, *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=pair.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    code, *modules = done.stdout.split()
    assert code == "0"
    assert {name for name in modules if name.startswith("modelcache")} == {
        "modelcache",
        "modelcache.fastpath",
        "modelcache.stamp",
    }
    assert not {"argparse", "tomllib", "pathlib", "dataclasses", "typing", "huggingface_hub"} & set(modules)
