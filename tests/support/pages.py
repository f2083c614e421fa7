"""The fenced blocks of a page of documentation, and the commands in them run as a reader would type them.

A block that no test can run has the mark `<!-- not run: REASON -->` on the line above its fence, and a sentence above
the mark that tells the reader so.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

_MARK = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    section: str
    """The heading above it."""
    line: int
    language: str
    text: str
    not_run: str
    """The reason of the mark above it; empty without a mark."""
    lead: str
    """The paragraph above it, and above the mark."""

    @property
    def commands(self) -> list[str]:
        """The commands of a session, without what they print."""
        return re.findall(r"^\$ (.*)$", self.text, re.MULTILINE)


def pages() -> list[Path]:
    """Return every page that a reader of the repository finds."""
    names = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
    found = [PROJECT / name for name in names if (PROJECT / name).exists()]
    return [*found, *sorted((PROJECT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order, also those without a language and those in a list."""
    found: list[Block] = []
    section, paragraph, inside = "", list[str](), None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r" *```(.*)$", line)
        if inside is not None:
            if fence:
                first, language, text = inside
                mark = next((match[1] for above in paragraph if (match := _MARK.fullmatch(above.strip()))), "")
                lead = " ".join(above for above in paragraph if not _MARK.fullmatch(above.strip()))
                name = page.relative_to(PROJECT).as_posix()
                found.append(Block(name, section, first, language, "".join(text), mark, lead))
                inside, paragraph = None, []
            else:
                inside[2].append(line + "\n")
        elif fence:
            inside = (number, fence[1].strip(), list[str]())
        elif line.startswith("#"):
            section, paragraph = line.lstrip("# "), []
        elif line.strip():
            paragraph = (
                [line]
                if paragraph and paragraph[-1] == "" and not _MARK.fullmatch(line.strip())
                else [
                    *(above for above in paragraph if above),
                    line,
                ]
            )
        else:
            paragraph = [*(above for above in paragraph if above), ""]
    assert inside is None, f"{page}: a fence is not closed"
    return found


def run_session(block: Block, folder: Path, replace: Mapping[str, str], env: Mapping[str, str] | None = None) -> str:
    """Run the commands of a block in one shell; return them with what they print, as the page has it.

    Of `replace` each key is a word of the page, and its value stands for it in this run. The folder of the run is
    `/models` in what is returned, and seconds are N.
    """
    script = 'exec 2>&1; set -euo pipefail; cache-models() { "$PYTHON" "$TOOL" "$@"; }\n'
    for command in block.commands:
        real = command
        for word, value in replace.items():
            real = real.replace(word, value)
        script += f"printf '%s\\n' {shlex.quote('$ ' + command)}\n{real}\n"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **(env or {}), "PYTHON": sys.executable, "TOOL": str(PROJECT / "cache_models.py")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    said = ran.stdout
    for word, value in replace.items():
        said = said.replace(value, word)
    return without_seconds(said.replace(str(folder), "/models"))


def without_seconds(text: str) -> str:
    """Return a text in which every number of seconds at the end of a line is N."""
    return re.sub(r" +\d+\.\d s$", " N s", text, flags=re.MULTILINE)
