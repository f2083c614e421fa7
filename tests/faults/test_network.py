"""A network that breaks, at every kind of request: it ends right, or it is told, soon and in words.

Each fault happens once, at every request of one `lock` and one `sync`; and for ever, at one request after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest

from tests.conftest import EMBEDDING, Tool
from tests.faults.conftest import Tally
from tests.faults.network import (
    AT_LOCK,
    AT_SYNC,
    SEGMENT,
    WINDOW,
    Ground,
    Request,
    error_of,
    group_of,
    hasty,
    hint_of,
    make_ground,
)
from tests.standin import (
    Chunked,
    CutHead,
    DropHeaders,
    Ending,
    Fault,
    FlipFirst,
    Gzip,
    Headers,
    Html,
    Http10,
    IgnoreRange,
    Interim,
    Longer,
    Raw,
    Reset,
    Short,
    Silent,
    Slow,
    SlowHead,
    Stall,
    StandInHub,
    Status,
    WrongLength,
    WrongRange,
)

GROUPS = ("json", "file", "way", "part")
FILES = ("file", "part")
FINE = ""
"""It costs nothing but time, also when it happens always."""


Told = str | tuple[str, ...] | int | None


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


RESET = "connection reset|reset by peer"
LATE = "no answer in time"
CLOSED = "closed connection|Connection aborted|Remote end closed"
BUSY = {"Retry-After": "0"}
TIMES_OUT = [
    always("silent server", Silent(), LATE),
    always("silent in the headers", CutHead(60, Ending.HOLD), LATE, retries=0),
    body("silent after the headers", Stall(0), LATE, retries=0),
    body("stalled body", Stall(30), LATE, retries=0),
    body(
        "content length garbage, held open",
        Headers((("Content-Length", "x"),), Ending.HOLD),
        LATE,
        file=FINE,
        part=FINE,
        retries=0,
    ),
]
BREAKS = [
    always("reset before the status line", Reset(None), RESET),
    always("reset in the headers", CutHead(60, Ending.RESET), RESET),
    body("reset in the body", Reset(30), f"{RESET}|cut short"),
    Case("reset after 70,000 bytes", Reset(70_000), json=None, file=None, way=None),
    always("closed before the status line", Raw(b""), CLOSED),
    always("closed in the headers", CutHead(60), "."),
    body("closed in the body", Short(30), "cut short"),
]
STATUSES = [
    *(always(f"status {code}", Status(code, BUSY), f"status {code}") for code in (408, 425, 429, 500, 502, 503, 504)),
    *(always(f"status {code}", Status(code), f"status {code}") for code in (204, 205, 300, 304, 520, 524, 599)),
    always("status 501", Status(501), "status 501", fatal=("json", "file", "way")),
    always("status 429 without Retry-After", Status(429), "status 429"),
    always("status 503, Retry-After in the past", Status(503, {"Retry-After": formatdate(0, usegmt=True)}), "503"),
    always("status 503, Retry-After negative", Status(503, {"Retry-After": "-5"}), "503"),
    always("status 503, Retry-After garbage", Status(503, {"Retry-After": "soon"}), "503"),
    always(
        "status 429, Retry-After absurd",
        Status(429, {"Retry-After": "9" * 9}),
        "asks to wait 999999999 s",
        fatal=GROUPS,
    ),
    always("status 429, Retry-After of 400 digits", Status(429, {"Retry-After": "9" * 400}), "to wait", fatal=GROUPS),
    always(
        "status 503, Retry-After as a date tomorrow",
        Status(503, {"Retry-After": formatdate(time() + 86400, usegmt=True)}),
        "asks to wait 8[0-9]{4} s",
        fatal=GROUPS,
    ),
    always(
        "status 429, RateLimit over",
        Status(429, {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}),
        "status 429",
    ),
    always(
        "status 429, RateLimit for an hour",
        Status(429, {"RateLimit": '"api";r=0;t=3600', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}),
        "asks to wait 3600 s",
        fatal=GROUPS,
    ),
    always("status 429, RateLimit of 5,000 digits", Status(429, {"RateLimit": f'"api";r=0;t={"9" * 5000}'}), "429"),
    always("status 429, RateLimit of 400 digits", Status(429, {"RateLimit": f'"api";r=0;t={"9" * 400}'}), "429"),
]
PAGE = "answered with text/html"
LIES = [
    always("a web page with status 200", Html(), PAGE, fatal=("json",)),
    body("content length too large", WrongLength(5), "cut short", part=FINE, file=FINE),
    body("content length too small", WrongLength(-5), "cut short|JSON"),
    body("content length negative", Headers((("Content-Length", "-5"),)), FINE),
    always("content length twice", Headers((("Content-Length", "5"), ("Content-Length", "7"))), "unmatching values"),
    body("no content length", DropHeaders(("Content-Length",)), FINE),
    Case("a longer body than asked for", Longer(1000), json="JSON"),
    Case("other ETags", Headers((("ETag", '"x"'), ("X-Linked-Etag", '"y"'), ("X-Linked-Size", "7")))),
    Case("content range garbage", Headers((("Content-Range", "bytes x-y/z"),)), file="offered", part="offered"),
    Case(
        "content range of another size",
        Headers((("Content-Range", "bytes 0-1/99"),)),
        file="does not have the size",
        part="does not have the size",
        wrong=FILES,
    ),
    Case("a part from elsewhere", WrongRange(), json=None, file="offered bytes", way=None, part="offered bytes"),
    Case("range ignored", IgnoreRange()),
    always("status 416", Status(416), "416|offered None"),
    body("a byte changed", FlipFirst(), "other bytes", json="JSON", wrong=FILES),
    body("gzip though identity was asked for", Gzip(), "gzip", fatal=("json",)),
    Case("chunks", Chunked(1000)),
    body("chunks without end", Chunked(1000, b""), "cut short|IncompleteRead", file=FINE, part=FINE),
    body("chunks, then garbage", Chunked(1000, b"zz\r\n"), "cut short|Incomplete|invalid", file=FINE, part=FINE),
    Case("HTTP/1.0", Http10()),
    Case("HTTP/1.0 without a length", Http10(length=False)),
    always("HTTP/2", Raw(b"HTTP/2 200 OK\r\n\r\n"), "."),
    always("no status line", Raw(b"hello\n"), "."),
    Case("interim answer 100", Interim((100,))),
    Case("interim answers 102, 103, 100", Interim((102, 103, 100))),
    Case(
        "another commit",
        Headers((("X-Repo-Commit", "f" * 40),)),
        file="about another commit",
        part="about another commit",
    ),
]
NOWHERE = "leads .*/.*, .* to no http address"
REDIRECTS = [
    always("redirected in a circle", Status(302, {"Location": ""}), "without end", fatal=GROUPS),
    always(
        "redirected to file://",
        Status(302, {"Location": "file:///etc/passwd"}),
        NOWHERE,
        fatal=GROUPS,
    ),
    always(
        "redirected to no address",
        Status(302, {"Location": "http://[::1/x"}),
        NOWHERE,
        fatal=GROUPS,
    ),
    always("redirected to a port that refuses", Status(307, {"Location": "http://127.0.0.1:1/"}), "refused"),
    always("redirected to a name that is not known", Status(302, {"Location": "http://cdn.invalid/x"}), "cdn.invalid"),
    always("redirected nowhere", Status(302), "status 302"),
]
ENDLESS = [
    body("body in a trickle", Slow(20), "too slow", retries=0),
    always("headers in a trickle", SlowHead(20), "too slow", retries=0),
    always("interim answers without end", Raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02), "too slow", retries=0),
    always("headers without end", Raw(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.001), "100 headers"),
    body(
        "trailers without end",
        Chunked(1000, b"0\r\n", b"X: y\r\n" * 10),
        "too slow",
        file=FINE,
        part=FINE,
        retries=0,
    ),
]
CASES = [*TIMES_OUT, *BREAKS, *STATUSES, *LIES, *REDIRECTS, *ENDLESS]


@pytest.fixture
def ground(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A model that takes every kind of request to get, and pauses so short that hundreds of tries take a minute."""
    monkeypatch.setattr("modelcache.fetch.SEGMENT", SEGMENT)
    monkeypatch.setattr("modelcache.commands.Patience", hasty)
    monkeypatch.setattr("modelcache.pace.WINDOW", WINDOW)
    with StandInHub(page_size=8) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield make_ground(hub, tool, tmp_path / "embedding")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_that_happens_once(ground: Ground, tally: Tally, case: Case) -> None:
    """At every request of one `lock` and one `sync`: all are survived, and every byte is right."""
    tries, worst = 0, 0.0
    for command, requests in (("lock", AT_LOCK), ("sync", AT_SYNC)):
        ground.forget()
        concerned = [one for one in requests if case.told(one) is not None and group_of(one) not in case.fatal]
        armed = ground.arm(case.fault, concerned, times=1)
        ran, took = ground.run(command, retries=6)
        assert ran.exit_code == 0, ran.err
        assert [at.happened for at in armed] == [1] * len(armed)
        tries, worst = tries + len(armed), max(worst, took)
    ground.assert_right()
    tally(case.name, tries, worst)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_that_lasts(ground: Ground, tally: Tally, case: Case) -> None:
    """At one request after the other: told within the bound, nothing published, and the next run goes on."""
    tries = 0
    for request in AT_LOCK:
        if case.told(request) is not None:
            tries += 1
            ground.forget()
            suffers(ground, case, request, "lock", [request])
            assert (ground.tool.folder / "models.lock").exists() == (case.told(request) == FINE)
            (ground.tool.folder / "models.lock").unlink(missing_ok=True)
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
    tally(case.name, tries)


def suffers(ground: Ground, case: Case, request: Request, command: str, broken: list[Request]) -> None:
    """Run a command while these requests break, and check how it ends."""
    armed = ground.arm(case.fault, broken)
    ran, _ = ground.run(command, retries=case.retries)
    assert sum(at.happened for at in armed), f"nothing broke at {request.name}"
    told = case.told(request)
    if told == FINE:
        assert ran.exit_code == 0, f"{request.name}: {ran.err}"
        return
    assert ran.exit_code == (1 if group_of(request) in case.wrong else 3), f"{request.name}: {ran.err}"
    assert re.search(str(told), error_of(ran)), f"{request.name}: {ran.err}"
    assert re.search(rf"{EMBEDDING}|otherorg/code|127\.0\.0\.1|cdn\.invalid", error_of(ran)), ran.err
    assert hint_of(ran), ran.err
    ground.assert_nothing_published()
