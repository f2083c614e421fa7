"""Attack a check, or a plain load, with hostile models, and tell what harm was done: `python -m tests.support.hostile`.

The arguments are `check` or `plain`, an empty home, and the names of doors (all of them where none is named). It runs
as the user who is to be attacked; HF_TOKEN in its environment is that user's. stdout gets one object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.hostile.doors import DOORS, Door
from tests.support.hostile.models import broken, hostile
from tests.support.hostile.outside import MARK, Outside, Run, on_a_terminal
from tests.support.models.remote_code import remote_code_embedding
from tests.support.tiny import tiny_embedding

PROJECT = Path(__file__).parents[3]


def prepare(outside: Outside, doors: Sequence[Door]) -> list[str]:
    """Publish the models, in their order; return their directories."""
    made = {"acme/first": "first"}
    remote_code_embedding(outside.home / "models" / "first")
    for door in doors:
        hostile(outside.home / "models" / door.name, door.payload or door.name, door.told(outside))
        made[door.id] = door.name
        if door.name == "speaks_for_the_next":
            broken(outside.home / "models" / "broken")
            made[f"{door.id}-broken"] = "broken"
    tiny_embedding(outside.home / "models" / "last")
    made["zeta/last"] = "last"
    tables = (
        f'[[embedding]]\nid = "{name}"\npath = "models/{path}"\ntrust_remote_code = true\n'
        for name, path in made.items()
    )
    (outside.home / "models.toml").write_text("\n".join(tables))
    command = [sys.executable, str(PROJECT / "cache_models.py"), "sync", "--root", "root"]
    ran = subprocess.run(
        command, cwd=outside.home, env=environment(outside), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [str(outside.folder(name)) for name in made]


def environment(outside: Outside) -> dict[str, str]:
    """What a shell hands on."""
    temporary = str(outside.temporary)
    return {**os.environ, "HOME": str(outside.home), "HF_HOME": f"{temporary}/hf", "TMPDIR": temporary}


def attack(way: str, home: Path, doors: Sequence[Door]) -> tuple[Run, dict[str, bool]]:
    """Let all the models try at once; return how that ended, and the harm of each."""
    outside = Outside(home)
    folders = prepare(outside, doors)
    ways = {
        "check": [sys.executable, str(PROJECT / "cache_models.py"), "check", "--root", "root"],
        "plain": [sys.executable, str(Path(__file__).with_name("plain.py")), *folders],
    }
    where = {"check": home, "plain": outside.temporary}
    try:
        run = on_a_terminal(ways[way], where[way], environment(outside), outside.temporary)
        return run, {door.name: door.harm(outside, run, door) for door in doors}
    finally:
        outside.close()


def main() -> None:
    """Attack once."""
    assert MARK in os.environ["HF_TOKEN"]
    way, home, *names = sys.argv[1:]
    run, harm = attack(way, Path(home), [door for door in DOORS if not names or door.name in names])
    tried = [door.name for door in DOORS if run.tried(door.id)]
    told = {"harm": harm, "tried": tried, "exit_code": run.exit_code, "spoiled": run.spoiled, "text": run.text}
    print(json.dumps({**told, "rows": run.rows, "memory": run.memory, "most": run.most}))


if __name__ == "__main__":
    main()
