"""The reference API as a process of its own, and plain HTTP to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT
from tests.support import preloaded

STARTED = 120.0  # seconds; importing torch takes six of a quiet machine's
JSON = {"Content-Type": "application/json"}

# Process 1 of its namespace, a user that no file knows, and no place to write, not even for temporary files; the one
# capability lets it read what the tests' own user may read.
CONTAINER = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"),
    'mount -o remount,bind,ro /; for place in /tmp /var/tmp "$PWD"; do mount --bind "$place" "$place"; '
    'mount -o remount,bind,ro "$place"; done; exec setpriv --reuid 12345 --regid 12345 --clear-groups '
    '--inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"',
    "sh",
)


def container() -> tuple[str, ...]:
    """Return what runs a command as a strict container would; nothing where that is not permitted."""
    tried = subprocess.run([*CONTAINER, "true"], cwd=PROJECT, check=False, capture_output=True)
    return () if tried.returncode else CONTAINER


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def body(self) -> Any:
        """What the content says."""
        return json.loads(self.content)

    @property
    def error(self) -> Any:
        """The error, which has all four fields in each answer that is no success."""
        assert self.body.keys() == {"error"}
        assert self.body["error"].keys() == {"message", "type", "param", "code"}
        return self.body["error"]


class Server:
    """`python -m scripts.serve` over a root; `lines` is what it has said so far."""

    def __init__(self, root: Path, *, before: Iterable[str] = (), env: Mapping[str, str] | None = None) -> None:
        before = tuple(before)
        self.process = preloaded.Popen(  # a fork of one with torch, but where something stands before it
            [*before, sys.executable, "-m", "scripts.serve", "--host", "127.0.0.1", "--port", "0"],
            cwd=PROJECT,
            env={**os.environ, "CACHE_MODELS_ROOT": str(root), **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._listens = threading.Event()
        self.port = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listens.wait(STARTED), self.lines
        number = self.process.pid
        self.pid = int(Path(f"/proc/{number}/task/{number}/children").read_text()) if before else number
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, whatever a test has found."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.match(r"listening on \S+ port (\d+)", line):
                self.port = int(found[1])
                self._listens.set()
        self._listens.set()

    def ask(self, path: str, body: object = None, *, method: str = "", headers: Mapping[str, str] = JSON) -> Answer:
        """Send one request; a body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=STARTED)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, content, dict(headers))
            return answer_on(connection)
        finally:
            connection.close()

    def wait_until_ready(self) -> Server:
        """Return when /readyz says so."""
        until = time.monotonic() + STARTED
        while self.ask("/readyz").status != 200:
            assert time.monotonic() < until, self.lines
            time.sleep(0.05)
        return self

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the process ended with 0."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        assert self.end() == 0, self.lines
        return time.monotonic() - began

    def end(self) -> int:
        """Wait for the end of the process; return its exit code."""
        code = self.process.wait(STARTED)
        self._reader.join()
        return code


def answer_on(connection: http.client.HTTPConnection) -> Answer:
    """Read the answer of a connection whose request was sent."""
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())
