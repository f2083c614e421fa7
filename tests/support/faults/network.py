"""A model that takes every kind of request to get, and what is done to each of them."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcache.transfer.retry import RetryPolicy
from tests.conftest import EMBEDDING, Ran, Tool, files_below
from tests.support import tiny
from tests.support.hub import Fault, StandInHub
from tests.support.hub.wire import Delivery
from tests.support.policy_defaults import FIRST, patch_limits

TIMEOUT = 1.5
"""Seconds; more than a busy machine keeps anybody waiting, since that is not what these tests are about."""
HASTY = 0.25
"""Seconds, where silence is: it is waited for hundreds of times."""
SEGMENT = 128 << 10
SIZE = 4 * SEGMENT + 50_000
HEADER = 32 << 10
"""Bytes of the large file that are looked at when the model is locked."""
CODE = "otherorg/code"
SMALL, WEIGHTS, MODULE = "vocab.txt", "model.safetensors", "modeling_tiny.py"
NAMES = rf"{EMBEDDING}|{CODE}|127\.0\.0\.1|localhost|\.invalid"
"""One of these tells where it went wrong."""
TOKEN = "hf_thisIsForTheHubAndNobodyElse"
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
    Request("header: redirect", rf"^GET hub /{EMBEDDING}/resolve/[0-9a-f]*/{WEIGHTS}"),
    Request("header: first segment", "^GET cdn ", 0),
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
    return "way" if "redirect" in request.name else "file" if request.segment is None else "part"


GROUPS = ("json", "file", "way", "part")
FILES = ("file", "part")
FINE = ""
"""It costs nothing but time, also when it happens always."""


Told = str | tuple[str, ...] | float | None


@dataclass(frozen=True)
class Case:
    """A fault, and what is told of each kind of answer that has it for ever."""

    name: str
    fault: Fault
    json: str | None = FINE
    file: str | None = FINE
    way: str | None = FINE
    part: str | None = FINE
    """What the error says, as a regular expression; None where the fault can do nothing."""
    wrong: tuple[str, ...] = ()
    """Which of these end with exit 1, since the bytes stay wrong."""
    fatal: tuple[str, ...] = ()
    """Which of these end the run when it happens once."""
    retries: int = 1
    """How often it is met again where it lasts; what takes its time is met once."""
    timeout: float = TIMEOUT

    def told(self, request: Request) -> str | None:
        """What is told when such a request always fails so."""
        found: str | None = getattr(self, group_of(request))
        return found


def always(name: str, fault: Fault, told: str, **rest: Told) -> Case:
    """A fault of which every kind of answer tells the same."""
    told_of: dict[str, Told] = dict.fromkeys(GROUPS, told)
    return Case(name, fault, **{**told_of, **rest})  # type: ignore[arg-type]


def body(name: str, fault: Fault, told: str, **rest: Told) -> Case:
    """A fault of the body; that of a redirect is hardly there, and nobody needs it."""
    return always(name, fault, told, **{"way": FINE, **rest})


@dataclass
class At:
    """A fault for one request, or for those that hold bytes of a segment; it counts how often it happened."""

    fault: Fault
    segment: int | None
    left: int
    happened: int = field(default=0, init=False)

    def concerns(self, delivery: Delivery) -> bool:
        """Whether this is what it is for, as often as it is to happen."""
        found = re.match(r"bytes=(\d+)-(\d+)", delivery.range or f"bytes=0-{SIZE}")
        place = (self.segment or 0) * SEGMENT
        inside = found is not None and int(found[1]) < place + SEGMENT and place <= int(found[2])
        here = self.segment is None or inside
        return bool(self.left) and here


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
        self.hub._log._armed.clear()

    def run(self, *words: str, retries: int = 1, timeout: float = TIMEOUT) -> tuple[Ran, float]:
        """Run the tool; return how it ended and after how many seconds."""
        began = time.monotonic()
        ran = self.tool(*words, f"--timeout={timeout}", f"--retries={retries}")
        took = time.monotonic() - began
        assert ran.exit_code != 70, ran.err
        assert "Traceback" not in ran.err
        assert TOKEN not in ran.out + ran.err
        assert took < bound(retries, timeout) + SLACK, f"it gave up after {took:.1f} s only"
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
        there, locked = self.bytes_there(), (self.tool.folder / "models.lock").exists()
        before = len(self.hub.requests)
        ran, _ = self.run("sync")
        assert ran.exit_code == 0, ran.err
        sent = sum(request.sent for request in self.hub.requests[before:] if request.host == "cdn")
        most = SIZE - there + (0 if locked else HEADER)
        assert sent <= most, f"{there} bytes of {SIZE} were there, and {sent} came"
        self.assert_right()

    def bytes_there(self) -> int:
        """Return how much of the large file lies in staging."""
        from modelcache.transfer.partial_file import written_ranges

        parts = (self.tool.folder / "cached_embedding_models").rglob("*.ranges")
        return max((written_ranges(path.with_suffix(""), SIZE).total() for path in parts), default=0)


@contextmanager
def on_ground(tool: Tool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """Give the ground, little patience and a token; in the end check that only the Hub's own host has seen it."""
    patch_limits(monkeypatch, segment=SEGMENT, first_connections=8)  # all segments at once, as over a slow line
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with StandInHub(page_size=8) as hub:
        hub.token = TOKEN
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield make_ground(hub, tool, folder)
        told = {(request.host, request.authorization) for request in hub.requests}
        assert told <= {("hub", f"Bearer {TOKEN}"), ("hub", None), ("cdn", None)}
        assert TOKEN.encode() not in b"".join(files_below(tool.folder).values())


def make_ground(hub: StandInHub, tool: Tool, folder: Path) -> Ground:
    """Give the Hub a model in pages, with a large file and code of another repository; lock nothing yet."""
    tiny.tiny_embedding(folder)
    weights, config = folder / WEIGHTS, folder / "config.json"
    weights.write_bytes(tiny.safetensors_of(weights.read_bytes(), SIZE))
    named = {"auto_map": {"AutoModel": f"{CODE}--modeling_tiny.TinyModel"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **named}))
    hub.add(EMBEDDING, folder, licence="mit")
    hub.add(CODE, {MODULE: MODELLING})
    tool.want(EMBEDDING, extra="trust_remote_code = true\n")
    local = config.read_bytes().replace(f"{CODE}--".encode(), b"")
    tool.use_root()  # what `lock` keeps is not asked for again
    return Ground(hub, tool, {**files_below(folder), MODULE: MODELLING, "config.json": local})


def bound(retries: int, timeout: float, *, hops: int = 2, addresses: int = 1) -> float:
    """Return the seconds after which a request is given up at the latest (docs/reliability.md)."""
    connecting, answering = addresses * timeout, RetryPolicy().stall_window * timeout
    return (retries + 1) * hops * (connecting + answering) + retries * 8 * FIRST


def hint_of(ran: Ran) -> str:
    """Return what a failed run says about what to do."""
    found: Sequence[str] = re.findall(r"^hint: (.*)$", ran.err, re.MULTILINE)
    return found[-1] if found else ""


def error_of(ran: Ran) -> str:
    """Return what a failed run says is wrong."""
    found: Sequence[str] = re.findall(r"^error: (.*)$", ran.err, re.MULTILINE)
    return found[-1] if found else ""


def once(ground: Ground, case: Case) -> tuple[int, float]:
    """Let it happen once at every request of one `lock` and one `sync`; return how often, and the longest run."""
    tries, worst = 0, 0.0
    for command, requests in (("lock", AT_LOCK), ("sync", AT_SYNC)):
        ground.forget()
        concerned = [one for one in requests if case.told(one) is not None and group_of(one) not in case.fatal]
        # A file that came wrong is fetched once more; broken at a second segment then, it would be wrong for good.
        concerned = [one for one in concerned if not (one.segment and group_of(one) in case.wrong)]
        armed = ground.arm(case.fault, concerned, times=1)
        ran, took = ground.run(command, retries=6, timeout=case.timeout)
        assert ran.exit_code == 0, ran.err
        assert [at.happened for at in armed] == [1] * len(armed)
        tries, worst = tries + len(armed), max(worst, took)
    ground.assert_right()
    return tries, worst


def lasting(ground: Ground, case: Case) -> int:
    """Let it happen always, at one request after the other; return at how many."""
    tries, lock = 0, ground.tool.folder / "models.lock"
    lock.unlink(missing_ok=True)
    for request in AT_LOCK:
        if case.told(request) is not None:
            tries += 1
            ground.forget()
            suffers(ground, case, request, "lock", [request])
            assert lock.exists() == (case.told(request) == FINE)
            lock.unlink(missing_ok=True)
    ground.mend()
    assert ground.run("lock")[0].exit_code == 0
    ground.forget()
    for number, request in enumerate(AT_SYNC):
        if case.told(request) is not None:
            tries += 1
            if request.segment in (None, 0) or case.told(request) == FINE:
                ground.forget()
            # Segments come side by side: what is left of the file breaks too, or it would be there for the next.
            rest = [one for one in AT_SYNC[number:] if one.segment is not None] if request.segment is not None else []
            suffers(ground, case, request, "sync", rest or [request])
            if case.told(request) == FINE:
                ground.assert_right()
    if case.part == FINE:
        ground.forget()
    ground.assert_goes_on()
    return tries


def suffers(ground: Ground, case: Case, request: Request, command: str, broken: Iterable[Request]) -> None:
    """Run a command while these requests break, and check how it ends."""
    armed, told = ground.arm(case.fault, broken), case.told(request)
    # Where nothing is to be waited out, a busy machine may take its time.
    timeout = max(case.timeout, TIMEOUT) if told == FINE else case.timeout
    ran, _ = ground.run(command, retries=case.retries, timeout=timeout)
    assert sum(at.happened for at in armed), f"nothing broke at {request.name}: {ran.err}"
    if told == FINE:
        assert ran.exit_code == 0, f"{request.name}: {ran.err}"
        return
    if ran.exit_code == 5 and request.name == "header: first segment" and group_of(request) in case.wrong:
        assert f"{WEIGHTS} is not a sound safetensors file" in error_of(ran) + ran.err
        ground.assert_nothing_published()
        return
    assert ran.exit_code == (1 if group_of(request) in case.wrong else 3), f"{request.name}: {ran.err}"
    assert re.search(str(told), error_of(ran)), f"{request.name}: {ran.err}"
    assert re.search(NAMES, error_of(ran)), ran.err
    assert hint_of(ran), ran.err
    ground.assert_nothing_published()
