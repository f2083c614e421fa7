"""Real registries: Debian's docker-registry, started for a test, with a login and a certificate where one is wanted."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.containers.engine import unavailable

USER, PASSWORD = "puller", "only-for-tests"
_BCRYPT = "$2b$05$itaRI/aE.EtgahjyNrO7keQZLyrJ/.ksGzeOre.XHhIj3XKjHOph6"
"""Of PASSWORD; the registry takes no other kind of hash."""
_STARTED = 30.0  # seconds
_LOGGED = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.1" ([0-9]{3}) ')


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered."""

    method: str
    path: str
    """With its query."""
    status: int


@dataclass(frozen=True)
class RealRegistry:
    """A registry that is running."""

    address: str
    """HOST:PORT, as a reference of an image begins."""
    folder: Path

    def asked(self, method: str, path: str = "", status: int | None = None) -> list[Asked]:
        """Return the requests of a method, to paths in which a regex is found, that were answered with a status."""
        found = [Asked(verb, where, int(code)) for verb, where, code in _LOGGED.findall(self._log.read_text())]
        return [
            one for one in found if one.method == method and re.search(path, one.path) and status in (None, one.status)
        ]

    def forget(self) -> None:
        """Start the record afresh; the registry appends to it."""
        self._log.write_text("")

    @property
    def _log(self) -> Path:
        return self.folder / "requests"

    @property
    def config_json(self) -> str:
        """The content of docker's config.json with the login."""
        login = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": login}}})


@contextmanager
def real_registry(
    folder: Path, *, host: str = "127.0.0.1", login: bool = False, certificate: Path | None = None
) -> Iterator[RealRegistry]:
    """Run one in a new folder; `certificate` is one of `tests.support.proxy.make_certificate`."""
    program = shutil.which("docker-registry") or unavailable("there is no docker-registry here")
    folder.mkdir()
    with socket.socket() as free:
        free.bind((host, 0))
        port: int = free.getsockname()[1]
    http: dict[str, object] = {"addr": f"{host}:{port}"}
    if certificate:
        http["tls"] = {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}
    config: dict[str, object] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": http,
    }
    if login:
        (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "requests").open("a") as requests, (folder / "log").open("w") as log:
        words = [program, "serve", str(folder / "config.yml")]
        with subprocess.Popen(words, stdout=requests, stderr=log) as process:
            try:
                _wait_for(host, port, process)
                yield RealRegistry(f"{host}:{port}", folder)
            finally:
                process.terminate()


def _wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _STARTED
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r} does not listen at {host}:{port}")
