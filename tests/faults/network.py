"""A model that takes every kind of request to get, and what is done to each of them."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.records import Patience
from tests import tiny
from tests.conftest import EMBEDDING, Ran, Tool, files_below
from tests.standin import Fault, StandInHub
from tests.standin.wire import Delivery

TIMEOUT = 0.25
WINDOW = 2.0
"""What modelcache.pace has as 6: no test is about the number."""
SEGMENT = 128 << 10
SIZE = 4 * SEGMENT + 50_000
CODE = "otherorg/code"
SMALL, WEIGHTS, MODULE = "vocab.txt", "model.safetensors", "modeling_tiny.py"
SLACK = 10.0
"""Seconds for a busy machine; what is asserted is that nothing takes minutes, not how fast it is."""

MODELLING = b'''"""Code of another repository."""

from transformers import PreTrainedModel


class TinyModel(PreTrainedModel):
    pass
'''


@dataclass(frozen=True)
class Request:
    """One kind of request, by what it asks for; `segment` is a part of the large file."""

    name: str
    on: str
    segment: int | None = None


_API = "^GET hub /api/models"
AT_LOCK = (
    Request("revision", rf"{_API}/{EMBEDDING}/revision/"),
    Request("tree", rf"{_API}/{EMBEDDING}/tree/(?!.*cursor=)"),
    Request("second page", rf"{_API}/{EMBEDDING}/tree/.*cursor="),
    Request("code: revision", rf"{_API}/{CODE}/revision/"),
    Request("code: tree", rf"{_API}/{CODE}/tree/(?!.*cursor=)"),
    Request("code: file", rf"^GET hub /{CODE}/resolve/[0-9a-f]*/{MODULE}"),
    Request("small file", rf"^GET hub /{EMBEDDING}/resolve/[0-9a-f]*/{SMALL}"),
)
AT_SYNC = (
    Request("code: file", rf"^GET hub /{CODE}/resolve/[0-9a-f]*/{MODULE}"),
    Request("small file", rf"^GET hub /{EMBEDDING}/resolve/[0-9a-f]*/{SMALL}"),
    Request("redirect", rf"^GET hub /{EMBEDDING}/resolve/[0-9a-f]*/{WEIGHTS}"),
    Request("first segment", "^GET cdn ", 0),
    Request("middle segment", "^GET cdn ", 2),
    Request("last segment", "^GET cdn ", 4),
)


def group_of(request: Request) -> str:
    """Say what an answer to such a request is: JSON, a small file, the way to a large one, or a part of it."""
    if "revision" in request.name or "tree" in request.name or "page" in request.name:
        return "json"
    return "way" if request.name == "redirect" else "file" if request.segment is None else "part"


@dataclass
class At:
    """A fault for one request, or for one segment of the large file; it counts how often it happened."""

    fault: Fault
    segment: int | None
    left: int
    happened: int = field(default=0, init=False)

    def concerns(self, delivery: Delivery) -> bool:
        """Whether this is what it is for, as often as it is to happen."""
        found = re.match(r"bytes=(\d+)-", delivery.range or "")
        elsewhere = self.segment is not None and (found is None or int(found[1]) // SEGMENT != self.segment)
        return bool(self.left) and not elsewhere


@dataclass
class Either:
    """The first of these faults that concerns the request."""

    ats: list[At]

    def bend(self, delivery: Delivery) -> Delivery:
        """Bend it; what concerns nobody stays as it is."""
        at = next((at for at in self.ats if at.concerns(delivery)), None)
        if at is None:
            return delivery
        at.left -= 1
        at.happened += 1
        return at.fault.bend(delivery)


@dataclass
class Ground:
    """The tool and a Hub that breaks at the requests that it is told."""

    hub: StandInHub
    tool: Tool
    source: dict[str, bytes]

    def arm(self, fault: Fault, requests: Iterable[Request], times: int = -1) -> list[At]:
        """Break each of these requests so often; -1 is always. What happened before is over."""
        self.mend()
        armed = [(request.on, At(fault, request.segment, times)) for request in requests]
        for on in dict.fromkeys(on for on, _ in armed):
            self.hub.fail(Either([at for its, at in armed if its == on]), on=on, times=-1)
        return [at for _, at in armed]

    def mend(self) -> None:
        """Let nothing break any more."""
        self.hub._desk._armed.clear()

    def run(self, *words: str, retries: int = 1) -> tuple[Ran, float]:
        """Run the tool; return how it ended and after how many seconds."""
        began = time.monotonic()
        ran = self.tool(*words, f"--timeout={TIMEOUT}", f"--retries={retries}")
        took = time.monotonic() - began
        assert ran.exit_code != 70, ran.err
        assert "Traceback" not in ran.err
        assert took < bound(retries) + SLACK, f"it gave up after {took:.1f} s only"
        return ran, took

    def forget(self) -> None:
        """Remove whatever was fetched: models, and what `lock` kept."""
        for kind in ("embedding", "reranker"):
            shutil.rmtree(self.tool.folder / f"cached_{kind}_models", ignore_errors=True)

    def assert_right(self) -> None:
        """Check every published byte, and that nothing else lies in the collection."""
        published = files_below(self.tool.home(EMBEDDING))
        del published[".cache-models.json"]
        wanted = {path: data for path, data in self.source.items() if path != ".gitattributes"}
        wrong = {path for path in published.keys() | wanted.keys() if published.get(path) != wanted.get(path)}
        assert not wrong, f"not as in the repository: {wrong}"
        collection = self.tool.folder / "cached_embedding_models"
        left = {path.name for path in collection.iterdir()} - {self.tool.home(EMBEDDING).name}
        assert not left, f"left behind: {left}"

    def assert_nothing_published(self) -> None:
        """Check that what failed left no model."""
        assert not self.tool.home(EMBEDDING).exists()

    def assert_goes_on(self) -> None:
        """Check that with a sound Hub the next run ends right, and asks only for bytes that are not there."""
        self.mend()
        there = self.bytes_there()
        self.hub.forget()
        ran, _ = self.run("sync")
        assert ran.exit_code == 0, ran.err
        sent = sum(request.sent for request in self.hub.requests if request.host == "cdn")
        assert sent <= SIZE - there, f"{there} bytes of {SIZE} were there, and {sent} came"
        self.assert_right()

    def bytes_there(self) -> int:
        """Return how much of the large file lies in staging."""
        from modelcache.part import written_ranges

        parts = (self.tool.folder / "cached_embedding_models").rglob("*.ranges")
        return max((written_ranges(path.with_suffix(""), SIZE).total() for path in parts), default=0)


def make_ground(hub: StandInHub, tool: Tool, folder: Path) -> Ground:
    """Give the Hub a model in pages, with a large file and code of another repository; lock nothing yet."""
    tiny.tiny_embedding(folder)
    weights, config = folder / WEIGHTS, folder / "config.json"
    weights.write_bytes(weights.read_bytes().ljust(SIZE, b"\5"))
    named = {"auto_map": {"AutoModel": f"{CODE}--modeling_tiny.TinyModel"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **named}))
    hub.add(EMBEDDING, folder, licence="mit")
    hub.add(CODE, {MODULE: MODELLING})
    tool.want(EMBEDDING, extra="trust_remote_code = true\n")
    local = config.read_bytes().replace(f"{CODE}--".encode(), b"")
    return Ground(hub, tool, {**files_below(folder), MODULE: MODELLING, "config.json": local})


def hasty(timeout: float, retries: int) -> Patience:
    """The patience asked for, with pauses so short that hundreds of tries take a minute."""
    return Patience(timeout, retries, first_pause=0.02)


def bound(retries: int, *, hops: int = 2, addresses: int = 1) -> float:
    """The longest time in seconds that one request may take to be given up (README, "Patience")."""
    return (retries + 1) * hops * (TIMEOUT * addresses + WINDOW * TIMEOUT) + retries * 8 * 0.02


def hint_of(ran: Ran) -> str:
    """Return what a failed run says about what to do."""
    found: Sequence[str] = re.findall(r"^hint: (.*)$", ran.err, re.MULTILINE)
    return found[-1] if found else ""


def error_of(ran: Ran) -> str:
    """Return what a failed run says is wrong."""
    found: Sequence[str] = re.findall(r"^error: (.*)$", ran.err, re.MULTILINE)
    return found[-1] if found else ""
