"""A real nginx before the stand-in Hub: mirrors that allow few connections, caches that fetch whole files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import unavailable

_CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log notice;
events {{ worker_connections 256; }}
http {{
  log_format short "$status $request_uri";
  access_log {folder}/access.log short;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=hub:1m use_temp_path=off;
  limit_conn_zone $server_addr zone=all:1m;
  server {{ listen 127.0.0.1:{port}; {locations} }}
}}
"""


class Nginx:
    """One that is running, with what it has logged."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder

    def statuses(self) -> list[str]:
        """Return the status of each answer."""
        return [line.split()[0] for line in (self._folder / "access.log").read_text().splitlines()]


@contextmanager
def nginx(folder: Path, locations: str) -> Iterator[Nginx]:
    """Run one with these locations; without nginx such a test is skipped, and fails in CI."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or unavailable("there is no nginx")
    folder.mkdir()
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, locations=locations))
    with subprocess.Popen([program, "-c", config, "-p", folder], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield Nginx(f"http://127.0.0.1:{port}", folder)
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program listens.

    Raises:
        TimeoutError: it does not, or has ended.

    """
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r} does not listen at {port}")
