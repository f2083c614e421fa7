"""A network that breaks, at every kind of request: it ends right, or it is told, soon and in words.

Each fault happens once, at every request of one `lock` and one `sync`; and for ever, at one request after the other.
"""

from __future__ import annotations

from email.utils import formatdate
from time import time

import pytest

from tests.faults.conftest import Tally
from tests.support.faults.network import FILES, FINE, GROUPS, HASTY, Case, Ground, always, body, lasting, once
from tests.support.hub import (
    Chunked,
    CutHead,
    DropHeaders,
    Ending,
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
    Status,
    WrongLength,
    WrongRange,
)
from tests.support.policy_defaults import patch_policy

pytestmark = pytest.mark.slow

RESET = "connection reset|reset by peer"
LATE = "no answer in time"
CLOSED = f"{RESET}|closed with no answer"
BUSY = {"Retry-After": "0"}
WAITS = {"retries": 0, "timeout": HASTY}
TIMES_OUT = [
    always("silent server", Silent(), LATE, timeout=HASTY),
    always("silent in the headers", CutHead(60, Ending.HOLD), LATE, **WAITS),
    body("silent after the headers", Stall(0), LATE, **WAITS),
    body("stalled body", Stall(30), LATE, **WAITS),
    body(
        "content length garbage, held open",
        Headers((("Content-Length", "x"),), Ending.HOLD),
        LATE,
        file=FINE,
        part=FINE,
        **WAITS,
    ),
]
BREAKS = [
    always("reset before the status line", Reset(None), RESET),
    always("reset in the headers", CutHead(60, Ending.RESET), RESET),
    body("reset in the body", Reset(30), f"{RESET}|cut short"),
    # The last piece of a segment is whole before the reset: its connection may be taken for a good one, twice.
    Case("reset after 70,000 bytes", Reset(70_000), json=None, file=None, way=None, retries=4),
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
OTHER_SIZE = "does not have the size"
LIES = [
    always("a web page with status 200", Html(), PAGE, fatal=("json",)),
    # A file that is asked for as a whole has the size that its answer says; of a part the range says it.
    body("content length too large", WrongLength(5), "cut short", part=FINE, file=OTHER_SIZE, wrong=("file",)),
    body("content length too small", WrongLength(-5), "cut short|JSON", file=OTHER_SIZE, wrong=("file",)),
    body("content length negative", Headers((("Content-Length", "-5"),)), FINE),
    always("content length twice", Headers((("Content-Length", "5"), ("Content-Length", "7"))), "unmatching values"),
    body("no content length", DropHeaders(("Content-Length",)), FINE),
    Case("a longer body than asked for", Longer(1000), json="JSON", file=OTHER_SIZE, wrong=("file",)),
    Case("other ETags", Headers((("ETag", '"x"'), ("X-Linked-Etag", '"y"'), ("X-Linked-Size", "7")))),
    Case("content range garbage", Headers((("Content-Range", "bytes x-y/z"),)), part="offered"),
    Case(
        "content range of another size",
        Headers((("Content-Range", "bytes 0-1/99"),)),
        part=OTHER_SIZE,
        wrong=("part",),
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
SLOW = "too slow: less than 64 KiB in"
CRAWLS = {"retries": 0, "timeout": 2 * HASTY}  # and a window as long, so that a late byte is not taken for silence
ENDLESS = [
    body("body in a trickle", Slow(20), SLOW, **CRAWLS),
    always("headers in a trickle", SlowHead(20), SLOW, **CRAWLS),
    always("interim answers without end", Raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02), SLOW, **CRAWLS),
    body("trailers without end", Chunked(1000, b"0\r\n", b"X: y\r\n" * 10), SLOW, file=FINE, part=FINE, **CRAWLS),
    always("headers without end", Raw(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.001), "100 headers"),
]
REFUSALS = [
    always(
        name,
        Status(code, {"X-Error-Code": error} if error else {}),
        told,
        part=part,
        fatal=("json", "file", "way", *(("part",) if error else ())),
    )
    # With a reason it is a refusal, whoever says it; without one an address may have aged, and the Hub gives another.
    for name, code, error, told, part in (
        ("a file that is gone", 404, "EntryNotFound", "has no file", "has no file"),
        ("a commit that is gone", 404, "RevisionNotFound", "there is no such revision", "there is no such revision"),
        ("a repository that is gone", 404, "RepoNotFound", "is not on", "is not on"),
        ("a page that is gone", 404, "", "is not on|does not list files", "status 404"),
        ("a repository that is gated", 403, "GatedRepo", "is gated and cannot be read with the token", "is gated and"),
        ("a token that has expired", 401, "", "does not accept the token", "status 401"),
        ("a token that may not", 403, "", "refuses", "status 403"),
        ("a repository taken down", 451, "", "refuses", "status 451"),
    )
]
KINDS = {
    "a server silent, or stalled": TIMES_OUT,
    "a connection reset, or closed": BREAKS,
    "status codes, and how long to wait": STATUSES,
    "answers that lie": LIES,
    "redirects that lead nowhere": REDIRECTS,
    "answers slow, or without end": ENDLESS,
    "gone, gated, or taken down": REFUSALS,
}
CASES = [case for cases in KINDS.values() for case in cases]
ROW_OF = {case.name: row for row, cases in KINDS.items() for case in cases}


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A fault; those without end are given up earlier, for no test is about how late exactly."""
    case: Case = request.param
    if case in ENDLESS:
        patch_policy(monkeypatch, stall_window=1.0)
    return case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name, indirect=True)
def test_a_fault_that_happens_once(ground: Ground, tally: Tally, case: Case) -> None:
    """At every request of one `lock` and one `sync`: all are survived, and every byte is right."""
    tally(ROW_OF[case.name], *once(ground, case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name, indirect=True)
def test_a_fault_that_lasts(ground: Ground, tally: Tally, case: Case) -> None:
    """At one request after the other: told within the bound, nothing published, and the next run goes on."""
    tally(ROW_OF[case.name], lasting(ground, case))
