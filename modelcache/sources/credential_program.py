"""Ask a program that keeps logins: a `docker-credential-NAME`, for the login of one registry.

See github.com/docker/docker-credential-helpers, README. A program may be one of a keychain or of a cloud (ECR, GCR).
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

from modelcache.core.text import escape, size_in_words

_LARGEST_ANSWER = 64 << 10
_SECONDS = 30.0
_NOT_FOUND = b"credentials not found in native keychain"
"""The answer of a program that knows no login (docker-credential-helpers, credentials/error.go)."""


class NoAnswerError(Exception):
    """A program gave no answer; the text completes a sentence that begins with its name, and holds no output of it."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


def ask(program: str, server: str) -> dict[str, Any] | None:
    """Return the answer of a program on PATH about a server; None if it knows no login for it.

    OSError if it cannot be started.

    Raises:
        NoAnswerError: it is not there, fails, takes too long, or answers too much or no JSON object.

    """
    path = shutil.which(program)
    if path is None:
        raise NoAnswerError("is not on PATH", "Install it")
    hint = try_it(program, server)
    with subprocess.Popen(  # noqa: S603  # its name is a plain word
        [path, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,  # its children can then be ended with it, but for those that leave the session
    ) as process:
        try:
            answer = _exchange(process, server, hint)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode and answer.strip() == _NOT_FOUND:
        return None
    if process.returncode < 0:
        raise NoAnswerError(f"was ended by signal {-process.returncode}", hint)
    if process.returncode:
        raise NoAnswerError(f"failed (exit {process.returncode})", hint)
    parsed = parse_object(answer)
    if parsed is None:
        raise NoAnswerError("answers with no JSON object", hint)
    return parsed


def _exchange(process: subprocess.Popen[bytes], server: str, hint: str) -> bytes:
    """Send the key of a server to a program, wait for its end, and return its output.

    Raises:
        NoAnswerError: it takes too long, or writes too much; it still runs then.

    """
    assert process.stdin
    assert process.stdout
    deadline = time.monotonic() + _SECONDS
    late = NoAnswerError(f"has not answered within {_SECONDS:g} s", hint)
    with suppress(BrokenPipeError):  # it need not read
        process.stdin.write(server.encode())
    process.stdin.close()
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise late
            part = process.stdout.read(_LARGEST_ANSWER)
            if not part:
                break
            answer += part
            if len(answer) > _LARGEST_ANSWER:
                raise NoAnswerError(f"answers with more than {size_in_words(_LARGEST_ANSWER)}", hint)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise late from None
    return bytes(answer)


def try_it(program: str, server: str) -> str:
    """Return the hint to ask a program by hand, without the full stop."""
    return f"Run `echo {escape(server)} | {program} get` to see why"


def parse_object(content: bytes) -> dict[str, Any] | None:
    """Return a JSON object; None for anything else."""
    with suppress(ValueError, RecursionError):
        parsed = json.loads(content)
        if isinstance(parsed, dict):
            return parsed
    return None
