"""Debian's own tinyproxy and squid between the tool and the stand-in Hub: proxies as companies run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import unavailable
from tests.support.nginx import free_port, wait_for

LOGIN = "user:s3cret"

_TINYPROXY = """
Port {port}
Listen 127.0.0.1
Allow 127.0.0.1
Timeout 60
MaxClients 50
LogFile "{folder}/requests"
LogLevel Connect
PidFile "{folder}/pid"
"""
_SQUID = """
http_port 127.0.0.1:{port}
visible_hostname proxy.test
pid_filename {folder}/pid
cache_log {folder}/cache.log
logformat asked %>rm %>ru
access_log stdio:{folder}/requests logformat=asked
error_directory {root}/share/squid/errors/templates
mime_table {root}/share/squid/mime.conf
icon_directory {root}/share/squid/icons
unlinkd_program {root}/lib/squid/unlinkd
cache deny all
pinger_enable off
netdb_filename none
shutdown_lifetime 1 second
"""
_RULES: dict[str, dict[str, str]] = {
    "tinyproxy": {
        "allows": "",
        "refuses": 'Filter "{folder}/filter"\nFilterDefaultDeny Yes\n',
        "wants a password": "BasicAuth user s3cret\n",
    },
    "squid": {
        "allows": "http_access allow all\n",
        "refuses": "http_access deny all\n",
        "wants a password": "auth_param basic program {root}/lib/squid/basic_ncsa_auth {folder}/passwords\n"
        "acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n",
    },
}
NAMES = tuple(_RULES)
_LOGGED = {"tinyproxy": r"Request \(file descriptor [0-9]+\): (GET|CONNECT) ", "squid": "^(GET|CONNECT) "}


class RealProxy:
    """One that is running, with what it has been asked."""

    def __init__(self, port: int, folder: Path, logged: str) -> None:
        self.place = f"127.0.0.1:{port}"
        self._folder = folder
        self._logged = logged

    def url(self, login: str = "") -> str:
        """Its address, with a login if there is one."""
        return f"http://{login}{'@' if login else ''}{self.place}"

    def asked(self) -> list[str]:
        """Return the method of each request that it has logged."""
        log = self._folder / "requests"
        text = log.read_text() if log.exists() else ""
        return re.findall(self._logged, text, re.MULTILINE)

    def comes_to_be_asked(self, method: str) -> bool:
        """Whether it logs such a request; squid does so when a tunnel is closed."""
        end = time.monotonic() + 20
        while method not in self.asked() and time.monotonic() < end:
            time.sleep(0.05)
        return method in self.asked()


@contextmanager
def real_proxy(name: str, rule: str) -> Iterator[RealProxy]:
    """Run one with a rule; without the program such a test is skipped, and fails in CI."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or unavailable(f"there is no {name}")
    program, port = Path(found), free_port()
    with tempfile.TemporaryDirectory(prefix="real-proxy-") as made:  # squid gives up root, and reads none of pytest's
        folder = Path(made)
        folder.chmod(0o777)
        (folder / "filter").write_text("^nothing$\n")
        (folder / "passwords").write_text(f"user:{_hashed('s3cret')}\n")
        config = {"tinyproxy": _TINYPROXY, "squid": _SQUID}[name] + _RULES[name][rule]
        (folder / "config").write_text(config.format(port=port, folder=folder, root=program.parents[1]))
        # Two of one service name would share its memory, and the second might not start.
        words = {"tinyproxy": ["-d", "-c"], "squid": ["-N", "-n", f"squid{port}", "-f"]}[name]
        with subprocess.Popen(
            [program, *words, folder / "config"],
            env=environment_of(program),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_for(port, process)
                yield RealProxy(port, folder, _LOGGED[name])
            finally:
                process.kill()
                for memory in Path("/dev/shm").glob(f"squid{port}-*"):
                    memory.unlink()


def environment_of(program: Path) -> Mapping[str, str]:
    """Have a package that was only unpacked find the libraries that were unpacked beside it."""
    libraries = ":".join(str(path) for path in program.parents[1].glob("lib/*-linux-gnu"))
    return os.environ if program.parents[1] == Path("/usr") else {**os.environ, "LD_LIBRARY_PATH": libraries}


def _hashed(password: str) -> str:
    words = ["openssl", "passwd", "-apr1", password]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
