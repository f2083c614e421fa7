"""The image of the models, written without an engine, and read back."""

from __future__ import annotations

import shutil
import sys

from scripts.benches.bed import Bed
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import TOOL, Peer, in_turn

_HASH = """
import hashlib, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
"""


def export(bed: Bed) -> Scenario:
    """Write the image of two large models as an archive, compared with cp and with hashing alone."""
    root, models = bed.filled()
    size = sum(model.size for model in models)
    archive, copies = root / "models.tar", root / "copies"
    files = sorted(str(path) for path in root.glob("cached_*_models/*/**/*") if path.is_file())

    def before() -> None:
        archive.unlink(missing_ok=True)
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()

    peers = [
        Peer("cache-models export", [sys.executable, TOOL, "export", "models.tar"], root, before=before, watch=True),
        Peer("cp", ["cp", "-r", *map(str, root.glob("cached_*_models")), str(copies)], root, before=before, watch=True),
        Peer("sha256, one core", [sys.executable, "-c", _HASH, *files], root, before=before),
    ]
    runs = in_turn(peers, bed.rounds)
    before()
    mine = runs["cache-models export"]
    slower = max(runs["cp"], runs["sha256, one core"], key=lambda one: one.seconds)
    return Scenario(
        f"export of {size / 1e9:.1f} GB",
        told(runs, mine),
        [
            Figure("ours / the slower of cp and sha256 on one core", mine.over(slower), 1.3, "<="),
            Figure("peak memory", mine.peak, 48, "<=", "MiB"),
            Figure("written / the set", mine.written / size, 1.01, "<="),
        ],
    )


def read_back(bed: Bed) -> Scenario:
    """Fill a root from that archive, compared with another root as the source."""
    root, models = bed.filled()
    size = sum(model.size for model in models)
    target = bed.folder / "filled"

    def before() -> None:
        shutil.rmtree(target, ignore_errors=True)

    sync = [sys.executable, TOOL, "sync", "--locked", "--root", str(target), "--from"]
    peers = [
        Peer("from oci-archive:", [*sync, "oci-archive:models.tar"], root, before=before, watch=True),
        Peer("from a directory", [*sync, "."], root, before=before, watch=True),
    ]
    in_turn([Peer("export", [sys.executable, TOOL, "export", "models.tar"], root)], 1)
    runs = in_turn(peers, bed.rounds)
    mine = runs["from oci-archive:"]
    return Scenario(
        f"sync --from oci-archive: of {size / 1e9:.1f} GB",
        told(runs, mine),
        [
            Figure("ours / sync --from DIR", mine.over(runs["from a directory"]), 1.1, "<="),
            Figure("peak memory", mine.peak, 48, "<=", "MiB"),
        ],
    )
