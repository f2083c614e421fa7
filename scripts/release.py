"""The steps of a release that .github/workflows/release.yml runs, so that they can be run and tested anywhere.

    python -m scripts.release check v1.2.3    do the tag, the version and CHANGELOG.md say the same?
    python -m scripts.release build dist      sdist and wheel, made by the tools of requirements-release.lock

Knows nothing of GitHub and uploads nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def problems(tag: str, version: str, changelog: str) -> list[str]:
    """What keeps this tag from being released, one sentence each."""
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, and modelcache/__init__.py has the version {version}: v{version} fits")
    entries = re.findall(r"^## \[?([^]\s]+)\]?(.*)\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE)
    unreleased = [text for name, _, text in entries if name == "Unreleased"]
    if len(unreleased) != 1 or entries[0][0] != "Unreleased":
        found.append("CHANGELOG.md does not begin with one section [Unreleased]")
    elif re.search(r"^- ", unreleased[0], re.MULTILINE):
        found.append(f"CHANGELOG.md has entries below [Unreleased]: they belong to [{version}]")
    released = [(name, rest, text) for name, rest, text in entries if name != "Unreleased"]
    if not released or released[0][0] != version:
        newest = released[0][0] if released else "none"
        found.append(f"the newest version of CHANGELOG.md is {newest}: it has to be [{version}]")
    else:
        _, rest, text = released[0]
        if not _is_date(rest.removeprefix(" - ")):
            found.append(f"CHANGELOG.md has no date for [{version}]: `## [{version}] - YYYY-MM-DD`")
        if not re.search(r"^- ", text, re.MULTILINE):
            found.append(f"CHANGELOG.md says nothing about [{version}]")
    return found


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def version() -> str:
    """The version of this checkout, without an import of it."""
    text = (PROJECT / "modelcache/__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        sys.exit("modelcache/__init__.py has no __version__")
    return found[1]


def check(tag: str) -> None:
    """End with 1 and the reasons if this checkout is not the release that the tag names."""
    found = problems(tag, version(), (PROJECT / "CHANGELOG.md").read_text())
    if found:
        sys.exit("\n".join(f"error: {problem}" for problem in found))
    print(f"{tag} is the version {version()}, and CHANGELOG.md has it")


def build(folder: Path) -> None:
    """Make sdist and wheel in an environment of pinned tools, and print their SHA-256."""
    with tempfile.TemporaryDirectory() as temporary:
        python = f"{temporary}/bin/python"
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--require-hashes"]
        commands = [
            [sys.executable, "-m", "venv", "--without-pip", temporary],
            [*pip, "--requirement", f"{PROJECT}/requirements-release.lock"],
            [python, "-m", "build", "--no-isolation", "--outdir", str(folder), str(PROJECT)],
        ]
        for command in commands:
            subprocess.run(command, check=True, stdout=sys.stderr)
    for name in (f"cache_models-{version()}.tar.gz", f"cache_models-{version()}-py3-none-any.whl"):
        print(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}")


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m scripts.release", description=(__doc__ or "").partition("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("check", help="compare tag, version and CHANGELOG.md").add_argument("tag")
    steps.add_parser("build", help="make sdist and wheel").add_argument("folder", type=Path)
    words = parser.parse_args()
    if words.step == "check":
        check(words.tag)
    else:
        build(words.folder)


if __name__ == "__main__":
    main()
