"""Real shells, in which somebody types a line and presses TAB."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import unavailable

_PROMPT = b"READY>"
# After TAB, ^T writes the line as it then is, and empties it; what was offered is written before.
_BASH = r"""
PS1='READY>'
bind 'set completion-query-items 0'; bind 'set page-completions off'
_spy() { _cache_models "$@"; local status=$?; printf 'offered %s\n' "${COMPREPLY[@]}" >> "$SEEN"; return $status; }
[[ $(complete -p cache-models) != 'complete -F _cache_models cache-models' ]] || complete -F _spy cache-models
_note() { printf 'line %s\n' "$READLINE_LINE" >> "$SEEN"; READLINE_LINE=; READLINE_POINT=0; }
bind -x '"\C-t": _note'
"""
_ZSH = r"""
PS1='READY>'
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        local -a hits
        builtin compadd -A hits "$@"
        (( $#hits )) && print -rl -- "offered "$^hits >> $SEEN
    fi
    builtin compadd "$@"
}
LISTMAX=10000
_note() { print -r -- "line $BUFFER" >> $SEEN; BUFFER= }
zle -N _note
bindkey '^T' _note
bindkey '^I' complete-word
"""


def program(name: str) -> Path:
    """Find a shell; without it a test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        unavailable(f"{name} is not installed")
    return Path(found)


def environment(name: str, home: Path) -> Mapping[str, str]:
    """Return the variables of a new user, who has a `cache-models` in `home/bin`.

    A package that was only unpacked (.ci/debian-package) finds its own files by them.
    """
    prefix = program(name).parents[1]
    root = prefix.parent if prefix.name == "usr" else prefix
    values = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    if root == Path("/"):
        return values
    unpacked = {
        "LD_LIBRARY_PATH": "usr/lib/*-linux-gnu",
        "ZSH_MODULES": "usr/lib/*/zsh/*",
        "FPATH": "usr/share/zsh/functions/**/",
        "FISH_FUNCTIONS": "usr/share/fish/functions",
    }
    found = {key: [str(path) for path in root.glob(places) if path.is_dir()] for key, places in unpacked.items()}
    return {**values, **{key: ":".join(paths) for key, paths in found.items() if paths}}


def prepare(name: str, home: Path) -> None:
    """Write the start-up files of a user, which are empty but for the paths of an unpacked shell."""
    (home / ".config/fish").mkdir(parents=True, exist_ok=True)
    (home / ".zshenv").write_text("module_path+=(${(s.:.)ZSH_MODULES})\n")
    (home / ".config/fish/config.fish").write_text("set -a fish_function_path $FISH_FUNCTIONS\n")
    (home / {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}[name]).touch()


def press_tab(name: str, home: Path, lines: Sequence[str], folder: Path, **variables: str) -> list[list[str]]:
    """Type each line in `folder`, press TAB, and return what is offered; one word alone, as the line then has it.

    All lines together are shorter than 4096 bytes, the input that a terminal holds.
    """
    environ = {**environment(name, home), **variables}
    if name == "fish":
        script = "\n".join(f"complete -C {_quoted(line)}; echo ==" for line in lines)
        said = subprocess.run(
            [program(name), "-c", script], cwd=folder, env=environ, check=True, capture_output=True, text=True
        )
        assert said.stderr == ""
        return [
            sorted(row.partition("\t")[0] for row in part.splitlines() if row)
            for part in said.stdout.split("==\n")[:-1]
        ]
    seen = home / "seen"
    seen.write_text("")
    setup = home / "setup"
    setup.write_text(_BASH if name == "bash" else _ZSH)
    _type(
        [str(program(name)), *(["--noprofile"] if name == "bash" else []), "-i"],
        [f" . {setup}\r", *(f"{line}\t\x14" for line in lines), "exit\r"],
        folder,
        {**environ, "SEEN": str(seen)},
    )
    found: list[list[str]] = []
    offered: set[str] = set()
    for row in seen.read_text().splitlines():
        what, _, text = row.partition(" ")
        if what == "offered":
            offered |= {text.strip()} - {""}
            continue
        before = lines[len(found)]
        alone = len(offered) <= 1 and text != before
        word = re.search(r"(?:\\.|[^ \\])*$", before)
        assert word
        found.append([text[word.start() :].strip()] if alone else sorted(offered))
        offered = set()
    assert len(found) == len(lines), seen.read_text()
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _type(words: Sequence[str], keys: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
    """Run a program on a terminal, and type: the first keys at once, the others behind the prompt that these set."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        words, cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        said, left, end = b"", list(keys), time.monotonic() + 60
        os.write(ours, left.pop(0).encode())
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                said += os.read(ours, 4096)
            except OSError:  # the program has ended
                break
            if left and _PROMPT in said:
                os.write(ours, "".join(left).encode())
                left = []
        os.close(ours)
        process.kill()
    assert not left, said
    assert not re.search(rb"_cache[-_]models\S*: ", said), said  # how a shell begins an error in a function
