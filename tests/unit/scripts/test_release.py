"""A release is what its tag says, and its files are built by pinned tools."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from modelcache import __version__
from scripts.release import problems, version
from tests.conftest import PROJECT

GOOD = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-12-01

### Added

- A thing.

## [1.1.0] - 2026-11-01

- An older thing.
"""


def test_a_release_that_fits_has_no_problem() -> None:
    """Tag, version and the newest entry are one."""
    assert problems("v1.2.0", "1.2.0", GOOD) == []


@pytest.mark.parametrize(
    ("tag", "number", "changelog", "reasons"),
    [
        ("v1.3.0", "1.2.0", GOOD, ["v1.2.0 fits"]),
        ("1.2.0", "1.2.0", GOOD, ["v1.2.0 fits"]),
        ("v1.3.0", "1.3.0", GOOD, [r"newest version of CHANGELOG.md is 1.2.0: it has to be \[1.3.0\]"]),
        ("v1.1.0", "1.1.0", GOOD, [r"newest version of CHANGELOG.md is 1.2.0: it has to be \[1.1.0\]"]),
        ("v1.2.0", "1.2.0", GOOD.replace("## [Unreleased]\n", ""), [r"does not begin with one section \[Unreleased\]"]),
        ("v1.2.0", "1.2.0", GOOD + "\n## [Unreleased]\n", [r"does not begin with one section \[Unreleased\]"]),
        (
            "v1.2.0",
            "1.2.0",
            GOOD.replace("sed]\n", "sed]\n\n### Fixed\n\n- More.\n"),
            [r"entries below \[Unreleased\]"],
        ),
        ("v1.2.0", "1.2.0", GOOD.replace(" - 2026-12-01", ""), ["no date"]),
        ("v1.2.0", "1.2.0", GOOD.replace("2026-12-01", "2026-13-01"), ["no date"]),
        ("v1.2.0", "1.2.0", GOOD.replace("2026-12-01", "20261201"), ["no date"]),
        ("v1.2.0", "1.2.0", GOOD.replace("- A thing.", ""), [r"says nothing about \[1.2.0\]"]),
        ("v2", "1.2.0", "", ["v1.2.0 fits", r"begin with one section", "CHANGELOG.md is none"]),
    ],
)
def test_a_release_that_does_not_fit_is_told(tag: str, number: str, changelog: str, reasons: list[str]) -> None:
    """Every reason at once, each in words that say what would fit."""
    found = problems(tag, number, changelog)
    assert len(found) == len(reasons), found
    assert [reason for reason, said in zip(reasons, found, strict=True) if not re.search(reason, said)] == []


def test_the_changelog_of_this_checkout_can_be_released() -> None:
    """It keeps a changelog's form: dated entries in order below [Unreleased], under the headings that the form has."""
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    begin, _, below = changelog.partition("## [Unreleased]\n")
    unreleased, _, rest = below.partition("\n## ")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert "keepachangelog.com" in begin
    assert set(re.findall(r"^### (.*)$", changelog, re.MULTILINE)) <= kinds
    released = f"{begin}## [Unreleased]\n\n## [{__version__}] - 2026-12-31\n{unreleased}\n"
    if f"[{__version__}]" not in rest:
        assert problems(f"v{__version__}", __version__, released + (rest and f"\n## {rest}")) == []
    dates = re.findall(r"^## \[[\d.]+\] - (\S+)$", changelog, re.MULTILINE)
    assert dates == sorted(dates, reverse=True)


def test_the_version_is_read_without_an_import() -> None:
    """The one that the package has."""
    assert version() == __version__


def test_check_ends_with_1_and_reasons() -> None:
    """As the workflow sees it: no traceback."""
    words = [sys.executable, "-m", "scripts.release", "check", "v0.0.1"]
    ran = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: the tag is v0.0.1, and modelcache/__init__.py has the version {__version__}")
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_build_makes_the_same_files_again(tmp_path: Path) -> None:
    """Sdist and wheel by hashed tools, twice with equal bytes; the digests are those that it prints."""
    said = []
    for name in ("one", "two"):
        words = [sys.executable, "-m", "scripts.release", "build", str(tmp_path / name)]
        ran = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        said.append(ran.stdout)
    assert said[0] == said[1]
    shown = {name: digest for digest, name in (line.split("  ") for line in said[0].splitlines())}
    assert shown == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "one").iterdir()}
    with tarfile.open(next(tmp_path.glob("one/*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"cache_models.py", "CHANGELOG.md", "LICENSE", "README.md", "scripts/wheel_layout.py"} <= inside
    assert not [name for name in inside if name.startswith((".github", "tests", "docs"))]
    with zipfile.ZipFile(next(tmp_path.glob("one/*.whl"))) as wheel:
        assert "modelcache/__init__.py" in wheel.namelist()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-serve.lock", "requirements-release.lock"])
def test_every_locked_requirement_has_a_hash(name: str) -> None:
    """Each by its version, and installed with --require-hashes."""
    lines = re.sub(r"\\\n", " ", (PROJECT / name).read_text()).splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted
    assert [line for line in wanted if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
