"""Run a block of docs/engines.md with the engine that it is for, and tell what the engine answers.

A program that test_engines.py starts with an interpreter that has the engine. It reads an order from stdin and prints a
report; what the engine says goes to stderr. Where it may, it takes the network away first, and makes the root
read-only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.request import Request, urlopen

from tests.support.by_id.child import cut_off
from tests.support.frameworks import PROMPTS, QUERY, TEXTS, Answers, watch_connections

EMBEDDING, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"
PROMPTED = [PROMPTS["document"] + text for text in TEXTS], PROMPTS["query"] + QUERY
_SERVER = "http://127.0.0.1:7997"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def main() -> None:
    """Carry out the order."""
    order = json.load(sys.stdin)
    stdout, sys.stdout = sys.stdout, sys.stderr
    if not os.getuid():
        cut_off(order["root"].encode())
        raise_loopback()
    tried = watch_connections()
    answers = {"infinity": infinity, "txtai": txtai, "fastembed": fastembed}[order["engine"]](order["block"])
    report = {"answers": answers, "tried": [host for host in tried if host != "127.0.0.1"]}
    print(json.dumps(report), file=stdout, flush=True)


def infinity(block: str) -> Answers:
    """Ask infinity's server, which takes no prompts but as words of the texts."""
    with server(block):
        documents, query = PROMPTED
        return {
            "documents": vectors(documents),
            "query": vectors([query])[0],
            "without prompts": vectors([*TEXTS, QUERY]),
            "scores": scores(raw_scores=False),
            "raw": scores(raw_scores=True),
        }


@contextmanager
def server(command: str) -> Iterator[None]:
    """Run a server by the command of a shell, as long as its answers are wanted."""
    with subprocess.Popen(["bash", "-ec", command], stdout=sys.stderr, start_new_session=True) as process:
        try:
            wait_for_health(process)
            yield
        finally:
            # If it does not end by itself, it would outlive the test.
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(20)


def wait_for_health(process: subprocess.Popen[bytes]) -> None:
    """Return when the server has loaded its models."""
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urlopen(f"{_SERVER}/health", timeout=20):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server is not ready, its exit code is {process.poll()}")


def vectors(texts: list[str]) -> list[list[float]]:
    """Return the server's vectors of texts."""
    return [found["embedding"] for found in ask("embeddings", model=EMBEDDING, input=texts)["data"]]


def scores(*, raw_scores: bool) -> list[float]:
    """Return the server's scores, in the order of the texts."""
    found = ask("rerank", model=RERANKER, query=QUERY, documents=TEXTS, raw_scores=raw_scores)["results"]
    return [one["relevance_score"] for one in sorted(found, key=lambda one: int(one["index"]))]


def ask(path: str, **question: object) -> Any:
    """Return what the server answers."""
    request = Request(f"{_SERVER}/{path}", json.dumps(question).encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return json.load(response)


def txtai(block: str) -> Answers:
    """Ask txtai, which always adds a model's prompts itself."""
    made = run(block)
    embeddings, reranker = made["embeddings"], made["reranker"]
    return {
        "documents": plain(embeddings.batchtransform(TEXTS, "data")),
        "query": plain([embeddings.transform(QUERY, "query")])[0],
        "scores": [float(score) for _, score in sorted(reranker(QUERY, TEXTS))],
        "raw": [float(score) for _, score in sorted(reranker(QUERY, TEXTS, multilabel=None))],
    }


def fastembed(block: str) -> Answers:
    """Ask fastembed, which takes no prompts but as words of the texts, and has raw scores only."""
    made = run(block)
    embeddings = made["embeddings"]
    documents, query = PROMPTED
    said: Answers = {
        "documents": plain(embeddings.embed(documents)),
        "query": plain(embeddings.embed([query]))[0],
        "without prompts": plain(embeddings.embed([*TEXTS, QUERY])),
    }
    if "reranker" in made:
        said["raw"] = [float(score) for score in made["reranker"].rerank(QUERY, TEXTS)]
    return said


def run(block: str) -> dict[str, Any]:
    """Run a block of Python, and return what it made."""
    made: dict[str, Any] = {}
    exec(block, made)
    return made


def plain(rows: Any) -> list[list[float]]:
    """Return arrays as lists."""
    return [[float(number) for number in row] for row in rows]


def raise_loopback() -> None:
    """Let a server of this process's network be reached from inside; a new network has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


if __name__ == "__main__":
    main()
