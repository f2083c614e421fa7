"""A Docker engine with the store of older versions, beside the one that the other tests take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.containers.engine import Docker, unavailable

_STARTED = 60.0  # seconds


@contextmanager
def older_store() -> Iterator[Docker]:
    """Start an engine whose graph driver overlay2 keeps the images, and not containerd: it reads `manifest.json`.

    It has a network namespace of its own, because dockerd changes bridges and rules of the one in which it runs: told
    to have no bridge, it removes docker0, which belongs to the other engine.
    """
    beside = Path(shutil.which("docker") or unavailable("there is no docker here")).resolve().parents[1] / "sbin"
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:{beside}")
    unshare = shutil.which("unshare")
    if not program or not unshare or os.geteuid():
        unavailable("no dockerd can be started here")
    with tempfile.TemporaryDirectory(prefix="older-") as made:  # the path of a socket has to be short
        folder = Path(made)
        address = f"unix://{folder}/socket"
        settings = {
            "data-root": str(folder / "data"),
            "exec-root": str(folder / "exec"),
            "pidfile": str(folder / "pid"),
            "hosts": [address],
            "storage-driver": "overlay2",
            "containerd-namespace": "older",  # a containerd of the machine's own serves both engines
            "containerd-plugins-namespace": "older-plugins",
            "features": {"containerd-snapshotter": False},
            "bridge": "none",
            "userland-proxy": False,
            **dict.fromkeys(("iptables", "ip6tables", "ip-forward"), False),
        }
        (folder / "daemon.json").write_text(json.dumps(settings))
        with (folder / "log").open("w") as log:
            words = [unshare, "--net", program, "--config-file", str(folder / "daemon.json")]
            with subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True) as process:
                try:
                    docker = Docker("", {"DOCKER_HOST": address})
                    _wait_for(docker, process, folder / "log")
                    yield docker
                finally:
                    process.terminate()


def _wait_for(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTED
    while docker("version", check=False).returncode:
        if process.poll() is not None or time.monotonic() > until:
            unavailable(f"a second engine does not start here: {log.read_text()[-1000:]}")
        time.sleep(0.1)
