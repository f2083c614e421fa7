"""Servers that behave at random: a published model has the pinned bytes, whatever was sent and in whichever order.

Real requests over real HTTP: ranges that are honoured, ignored or misnamed from one request to the next, bodies that
differ from try to try, breaks anywhere, connections that are refused, and the leftovers of dead processes.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import CacheModelsError
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.sync import sync
from modelcache.sources.hub_api import Hub
from modelcache.sources.hub_environment import LazyHub
from modelcache.store.layout import Places
from modelcache.transfer.connections import TransferLimits
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import RetryPolicy
from tests.faults.conftest import Tally
from tests.support.faults.fuzz import BUDGET, EXAMPLES
from tests.support.hub import StandInHub
from tests.support.hub.answers import Answer
from tests.support.hub.content import Content
from tests.support.hub.wire import Delivery, Ending

SEGMENT = 700
ID = "acme/any"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Manner:
    """How one request is answered; offsets are thousandths of what goes out."""

    status: int = 0
    ranges: bool = True
    range_line: str = "true"
    other: int | None = None
    """The byte that is another one; -1 for all of them."""
    stop: int | None = None
    ending: Ending = Ending.CLOSE
    length: bool = True

    def bend(self, delivery: Delivery) -> Delivery:
        """Answer in this manner."""
        if self.status:
            return replace(delivery, answer=Answer(self.status, {"Retry-After": "0"}, Content(b"")))
        true = delivery.answer.content
        data = bytearray(true.source if isinstance(true.source, bytes) else true.source.read_bytes())
        if self.other == -1:
            data = bytearray(byte ^ 0xFF for byte in data)
        elif self.other is not None and data:
            data[self.other * len(data) // 1000] ^= 1
        delivery = replace(delivery, answer=replace(delivery.answer, content=Content(bytes(data))))
        if not self.ranges:
            delivery = replace(delivery, range=None)
        chosen = delivery.span()
        if chosen.content_range and self.range_line == "star":
            delivery = replace(delivery, added=(("Content-Range", f"{chosen.content_range.partition('/')[0]}/*"),))
        elif self.range_line == "none":
            delivery = replace(delivery, dropped=delivery.dropped | {"content-range"})
        if not self.length:
            delivery = replace(delivery, dropped=delivery.dropped | {"content-length"})
        if self.stop is not None:
            delivery = replace(delivery, limit=self.stop * (chosen.stop - chosen.start) // 1000, ending=self.ending)
        return delivery


@dataclass
class Script:
    """Answers each request in the next manner, from the beginning again after the last."""

    manners: Sequence[Manner]
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bend(self, delivery: Delivery) -> Delivery:
        """Take the next manner."""
        with self.lock:
            self.number += 1
            return self.manners[(self.number - 1) % len(self.manners)].bend(delivery)


PLACES = st.integers(0, 999)
MANNERS = st.builds(
    Manner,
    status=st.sampled_from([0] * 9 + [429, 500, 503]),
    ranges=st.sampled_from([True, True, False]),
    range_line=st.sampled_from(["true", "true", "star", "none"]),
    other=st.none() | st.none() | PLACES | st.just(-1),
    stop=st.none() | PLACES,
    ending=st.sampled_from([Ending.CLOSE, Ending.RESET]),
    length=st.sampled_from([True, True, True, False]),
)
# The shape of the trouble that was first seen: the right beginning, a break, and then the whole with other bytes.
BREAKS = st.builds(Manner, ranges=st.booleans(), stop=PLACES, ending=st.sampled_from([Ending.CLOSE, Ending.RESET]))
BEGINS_AGAIN = st.builds(Manner, ranges=st.just(False), other=st.none() | PLACES | st.just(-1))
SCRIPTS = st.lists(MANNERS, min_size=1, max_size=8) | st.tuples(BREAKS, BEGINS_AGAIN).map(
    lambda pair: [pair[0], *[pair[1]] * 12]
)
SIZES = st.sampled_from([0, 1, 300, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2_500, 5_000])


@st.composite
def leftovers(draw: st.DrawFn) -> list[tuple[int, int | None, bytes, bool]]:
    """What a dead process left: of which file, which byte is another one, a journal that may lie, and whether kept."""
    spans = st.tuples(st.integers(0, 5_050), st.integers(0, 5_050)).map(sorted)
    lines = st.lists(spans.map(lambda pair: b"%d %d\n" % (pair[0], pair[1])), max_size=3).map(b"".join)
    journal = st.builds(bytes.__add__, lines, st.sampled_from([b"", b"12", b"x y\n", b"0 " + b"9" * 5_000 + b"\n"]))
    one = st.tuples(st.integers(0, 2), st.none() | PLACES, journal, st.booleans())
    return draw(st.lists(one, max_size=3))


@pytest.fixture(scope="module")
def server() -> Iterator[StandInHub]:
    """One Hub for all examples."""
    with StandInHub() as standin:
        yield standin


def wanted_from(hub: StandInHub, contents: Sequence[bytes]) -> tuple[WantedModel, LockedModel]:
    """Let the Hub have a repository of these large files, and pin it."""
    names = {f"part-{number}.safetensors": content for number, content in enumerate(contents)}
    commit = hub.add(ID, names)
    files = tuple(LockedFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in names.items())
    return WantedModel(Kind.EMBEDDING, ID), LockedModel(Kind.EMBEDDING, ID, "main", commit, files)


def leave(
    home: Path, model: LockedModel, contents: Sequence[bytes], left: list[tuple[int, int | None, bytes, bool]]
) -> None:
    """Put into staging what dead processes left."""
    for number, (index, other, journal, kept) in enumerate(left):
        if index >= len(contents):
            continue
        data = bytearray(contents[index])
        if other is not None and data:
            data[other * len(data) // 1000] ^= 1
        staging = home.parent / ".cache-models" / f"{home.name}~{number:012x}"
        staging.mkdir(parents=True)
        name = model.files[index].sha256
        (staging / (f"{name}.kept" if kept else name)).write_bytes(data)
        (staging / f"{name}.ranges").write_bytes(journal)


def assert_published_is_pinned(home: Path, model: LockedModel, *, ended: bool) -> None:
    """Check that what is published has the pinned bytes, and that a run that ended well has published it."""
    assert home.exists() == ended
    for file in model.files if ended else ():
        assert hashlib.sha256((home / file.path).read_bytes()).hexdigest() == file.sha256


def test_published_implies_the_pinned_sha256(server: StandInHub, tmp_path: Path, tally: Tally) -> None:
    """After a run that ends well, and after the next one with a sound Hub, each byte on disk is the pinned one."""

    @BUDGET
    @given(
        sizes=st.lists(SIZES, min_size=1, max_size=1) | st.lists(SIZES, min_size=1, max_size=3),
        script=SCRIPTS,
        left=leftovers(),
        jobs=st.sampled_from([1, 2, 8]),
        first=st.sampled_from([1, 2, 8]),
    )
    def holds(
        sizes: list[int], script: list[Manner], left: list[tuple[int, int | None, bytes, bool]], jobs: int, first: int
    ) -> None:
        contents = [hashlib.shake_128(b"%d" % number).digest(size) for number, size in enumerate(sizes)]
        wanted, model = wanted_from(server, contents)
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        places = Places.below(root)
        home = places.home(model.kind, model.id)
        leave(home, model, contents, left)
        limits = TransferLimits(segment=SEGMENT, first_connections=first)
        server.fail(Script(script), on="^GET cdn ", times=-1)
        try:
            ended = run(server, places, wanted, model, jobs, limits)
        finally:
            server._log._armed.clear()
        assert_published_is_pinned(home, model, ended=ended)
        assert run(server, places, wanted, model, jobs, limits)
        assert_published_is_pinned(home, model, ended=True)

    holds()
    tally("servers at random: what is published is what is pinned", EXAMPLES)


def run(
    server: StandInHub, places: Places, wanted: WantedModel, model: LockedModel, jobs: int, limits: TransferLimits
) -> bool:
    """Fetch the model; return whether that ended well, and fail for any error that is not one of ours."""
    policy, home = RetryPolicy(timeout=5, retries=4, first_pause=0.0), places.collections[Kind.EMBEDDING]
    hub = Hub(server.url, None, HttpClient(policy, QuietReporter(), jobs=jobs))
    try:
        context = RunContext(
            places, QuietReporter(), LazyHub(lambda: hub), home, jobs=jobs, policy=policy, limits=limits
        )
        sync([wanted], [model], context)
    except CacheModelsError:
        return False
    return True
