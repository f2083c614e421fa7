"""A confinement in words, and the steps that it names where the kernel lacks some."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.check.confine.confinement import Confinement
from tests.support.sandboxed import needs_namespaces, said_by


def network_of(tmp_path: Path, *start: str, namespaces: bool) -> str:
    """Return how the network is cut for a process in the sandbox, in its own words."""
    lines = "said['it'] = json.loads(run_isolated(lambda held: json.dumps(held.network).encode(), sandbox, None, 30))"
    return str(said_by(lines, tmp_path, namespaces=namespaces, start=start)["it"])


@needs_namespaces
def test_a_machine_without_a_network_is_told(tmp_path: Path) -> None:
    """As with `RUN --network=none`: then there is nothing for the filter to refuse."""
    alone = ("unshare", "--user", "--map-root-user", "--net")
    assert network_of(tmp_path, *alone, namespaces=False).startswith("no network here, and seccomp")
    assert network_of(tmp_path, *alone, namespaces=True) == "a network namespace of its own"


@pytest.mark.parametrize(
    ("confinement", "holds", "told"),
    [
        (Confinement(True, privileges=True), True, "a network namespace of its own; read-only"),
        (
            Confinement(privileges=True, seccomp=True, landlock=True),
            True,
            "seccomp and blocked Python sockets; only the libraries and the model, read-only",
        ),
        (
            Confinement(seccomp=True, no_network=True),
            False,
            "no network here, and seccomp and blocked Python sockets; not restricted",
        ),
        (
            Confinement(landlock=True),
            False,
            "blocked Python sockets; only the libraries and the model, read-only",
        ),
        (
            Confinement(seccomp=True, landlock=True),
            False,
            "seccomp and blocked Python sockets; only the libraries and the model, read-only",
        ),
        (Confinement(), False, "blocked Python sockets; not restricted"),
    ],
)
def test_only_steps_that_hold_are_told(confinement: Confinement, holds: bool, told: str) -> None:
    """Code is confined where it reaches neither the network nor the files."""
    assert (confinement.holds, f"{confinement.network}; {confinement.disk}") == (holds, told)
