"""The new root directory: paths through links, shared memory, odd mounts, /proc."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.sandboxed import WITH_AND_WITHOUT_NAMESPACES, needs_namespaces, said_by


@WITH_AND_WITHOUT_NAMESPACES
def test_a_path_through_links_leads_to_the_same_place(tmp_path: Path, namespaces: bool) -> None:
    """The root may be a link, or lie behind one, relative or not, as /var/run does."""
    (tmp_path / "real/models/one").mkdir(parents=True)
    (tmp_path / "real/models/one/config.json").write_text("x")
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real/relative").symlink_to("../absolute/models")
    lines = (
        "model = outside / 'absolute/relative/one'\n"
        "said['read'] = asked(lambda: (model / 'config.json').read_text(), model=model)"
    )
    assert said_by(lines, tmp_path, namespaces=namespaces) == {"read": "x"}


@WITH_AND_WITHOUT_NAMESPACES
@pytest.mark.parametrize("place", ["back", "aside"])
def test_a_path_may_lead_through_a_directory_and_back(tmp_path: Path, namespaces: bool, place: str) -> None:
    """`--root ../models` in a directory of which nothing else is shown, or a link with such a target."""
    for folder in ("models/one", "other/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/one/config.json").write_text("x")
    (tmp_path / "aside").symlink_to("other/deep/../../models")
    (tmp_path / "back").symlink_to(tmp_path)
    place = "other/../models" if place == "back" else place
    lines = f"model = outside / {place!r} / 'one'\nsaid['it'] = asked((model / 'config.json').read_text, model=model)"
    assert said_by(lines, tmp_path, namespaces=namespaces) == {"it": "x"}


@WITH_AND_WITHOUT_NAMESPACES
def test_models_may_lie_in_shared_memory(tmp_path: Path, namespaces: bool) -> None:
    """A root there is in memory; other things in /dev/shm are not shown."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        model = Path(folder, "root/one")
        model.mkdir(parents=True)
        (model / "config.json").write_text("x")
        lines = f"model = Path({str(model)!r})\nsaid['it'] = asked((model / 'config.json').read_text, model=model)"
        assert said_by(lines, tmp_path, namespaces=namespaces) == {"it": "x"}


@needs_namespaces
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount something there")
@pytest.mark.parametrize("made", ["mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3", "mkdir -p $SCRATCH"])
def test_a_root_can_be_made_in_odd_surroundings(tmp_path: Path, made: str) -> None:
    """A chroot with few devices; a directory for temporary files within the libraries."""
    start = ["unshare", "--mount", "sh", "-c", f'{made}; exec "$@"', "sh"]
    place = tmp_path / "site-packages/it"
    place.mkdir(parents=True)
    lines = "said['it'] = asked(lambda: (scratch / 'x').write_text('x'))"
    env = {"SCRATCH": str(place / "scratch"), "PYTHONPATH": str(tmp_path / "site-packages")}
    assert said_by(lines, place, namespaces=True, start=start, env=env) == {"it": 1}


@needs_namespaces
@pytest.mark.skipif(os.getuid() != 0, reason="only root can cover something there")
def test_facts_of_the_machine_are_shown_where_proc_cannot_be_mounted(tmp_path: Path) -> None:
    """Parts of it are covered in a container, so the kernel gives out no other one."""
    cover = 'mount --bind /dev/null /proc/cmdline && exec unshare --user --map-root-user --mount "$@"'
    start = ["unshare", "--mount", "sh", "-c", cover, "sh"]
    lines = (
        "names = ('meminfo', 'sys/vm/overcommit_memory', 'self/status', '1')\n"
        "said['there'] = asked(lambda: [name for name in names if Path('/proc', name).exists()])"
    )
    said = said_by(lines, tmp_path, namespaces=True, start=start)
    assert said == {"there": ["meminfo", "sys/vm/overcommit_memory"]}
