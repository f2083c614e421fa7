"""The images as a user builds and runs them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.containers.conftest import CODE, EMBEDDING, RERANKER, Images
from tests.containers.engine import Docker

HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
STARTED = 120.0


@contextmanager
def running(docker: Docker, *words: str) -> Iterator[str]:
    """Run a container in the background; remove it at the end."""
    name = docker("run", "--detach", *words).stdout.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def wait_until_healthy(docker: Docker, name: str) -> None:
    """Wait for the image's own health check."""
    until = time.monotonic() + STARTED
    while (state := json.loads(docker("inspect", name).stdout)[0]["State"])["Health"]["Status"] != "healthy":
        assert state["Running"], docker("logs", name).stderr
        assert time.monotonic() < until, docker("logs", name).stderr
        time.sleep(0.2)


ASK = """
import json, sys, urllib.request
def ask(path, body):
    request = urllib.request.Request("http://127.0.0.1:8080" + path, json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request))
print(json.dumps([
    len(ask("/v1/embeddings", {"model": sys.argv[1], "input": "rain"})["data"][0]["embedding"]),
    len(ask("/v1/embeddings", {"model": sys.argv[2], "input": ["rain", "sun"]})["data"]),
    len(ask("/v1/rerank", {"model": sys.argv[3], "query": "rain", "documents": ["wet", "dry"]})["results"]),
]))
"""


def test_the_runtime_answers_with_no_network_at_all(docker: Docker, images: Images) -> None:
    """`docker build .` and run: embeddings, code, reranks, as nobody, with nothing to write to but /tmp."""
    with running(docker, "--network", "none", *HARDENED, images.runtime) as name:
        wait_until_healthy(docker, name)
        said = docker("exec", name, "python", "-c", ASK, EMBEDDING, CODE, RERANKER).stdout
        assert json.loads(said) == [32, 2, 2]
        began = time.monotonic()
        docker("stop", name)
        assert time.monotonic() - began < 5
        assert json.loads(docker("inspect", name).stdout)[0]["State"]["ExitCode"] == 0
