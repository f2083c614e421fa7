"""The Hub's API as it answers and refuses, and who gets to see the token."""

from __future__ import annotations

import json
import re
import runpy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import (
    AccessDeniedError,
    CacheModelsError,
    HubError,
    HubUnreachableError,
    IntegrityError,
    NotOnHubError,
    UsageError,
)
from modelcache.core.types import ListedFile, Revision
from modelcache.pipeline.pins import read_lock
from modelcache.sources.hub_api import Hub, HubLimits
from modelcache.sources.hub_responses import References, dates_of, references_of
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import CrowdedError, RetryPolicy, TransientError
from tests.conftest import EMBEDDING, RERANKER, SOON, Tool, files_below
from tests.support import tiny
from tests.support.hub import Chunked, DropHeaders, Fault, Flip, Html, Reset, Short, Silent, Slow, StandInHub, Status
from tests.support.hub.wire import Delivery
from tests.support.proxy import Foreign

WEIGHTS = "model.safetensors"
TOKEN = "hf_aVerySecretTokenThatNobodyMaySee"
HASTY = ("--timeout=0.5", "--retries=0")
REVISION, TREE = r"GET hub /api/models/.*/revision/", r"GET hub /api/models/.*/tree/"
SMALL, LARGE, BODY = r"GET hub /.*/resolve/.*/vocab\.txt", r"GET hub /.*/resolve/.*\.safetensors", r"GET cdn "
COMMIT = "c" * 40
ODD_ANSWERS: list[object] = [
    *(None, 7, "x", [], {}, [[]], [None], [{}], {"branches": {}}, {"branches": [None, 7, {"name": 7}]}, {"tags": "x"}),
    *([{"id": COMMIT}], [{"id": COMMIT, "date": 7}], [{"id": COMMIT, "date": "yesterday"}], [{"date": "2024-01-01"}]),
    *(
        [{"id": "x", "date": "2024-01-01"}],
        [{"id": COMMIT, "date": "2024-01-01 x"}],
        [{"id": [], "date": "2024-01-01"}],
    ),
]
LICENCES = [
    ("---\nlicense: mit\n---\n", "mit"),
    ("---\nlicense: [apache-2.0, mit]\n---\n", "apache-2.0"),
    ("---\ntags: [x]\n---\n", ""),
    ("no front matter", ""),
]


def to(url: str, token: str | None = None, *, retries: int = 0, timeout: float = 5.0, **limits: int) -> Hub:
    """Connect as the tool does, without retries and with a short timeout."""
    return Hub(url, token, HttpClient(RetryPolicy(timeout, retries), QuietReporter()), HubLimits(**limits))


@pytest.mark.parametrize("chunked", [False, True])
def test_small_files_share_a_connection(hub: StandInHub, chunked: bool) -> None:
    """Also where a mirror sends them in chunks, whose end comes after the last byte of the file."""
    content = {f"{number}.json": b"{}" * (100 + number) for number in range(8)}
    commit = hub.add("a/b", content)
    if chunked:
        hub.fail(Chunked(64), on="GET hub /a/b/resolve", times=-1)
    asked = to(hub.url)
    for file in asked.listing("a/b", commit):
        if file.path in content:
            assert asked.read("a/b", commit, file) == content[file.path]
    (pools,) = asked._client._pools.values()
    (pool,) = pools.pools._container.values()
    assert pool.num_connections == 1


@pytest.fixture
def tiny_repo(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting one model whose repository a test may still change."""
    tiny.tiny_embedding(tmp_path / "embedding")
    hub.add(EMBEDDING, tmp_path / "embedding", licence="mit")
    tool.want(EMBEDDING)
    return tool


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """A token in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


def restrict(hub: StandInHub, tmp_path: Path, *, private: bool = False, gated: bool = False) -> None:
    """Commit the same tree again, behind a door that only another token opens."""
    hub.token = "hf_anotherToken"
    hub.add(EMBEDDING, tmp_path / "embedding", private=private, gated=gated)


# what the API says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/3", "feature/x", "commit"])
def test_a_revision_of_any_form_is_its_commit(hub: StandInHub, revision: str) -> None:
    """Branch, tag, pull request, a branch with a slash, a commit: each is asked for and answered as a commit."""
    first = hub.add("a/b", {"x": b"1"})
    named = first if revision in ("v1", "commit") else hub.add("a/b", {"x": b"2"}, branch=revision)
    hub.tag("a/b", "v1", first)
    assert to(hub.url).revision("a/b", first if revision == "commit" else revision).commit == named


def test_references_and_history_are_names_and_dates(hub: StandInHub) -> None:
    """A pull request is neither a branch nor a tag; a history begins with the commit that is asked for."""
    first, second = hub.add("a/b", {"x": b"1"}), hub.add("a/b", {"x": b"2"})
    hub.add("a/b", {"x": b"3"}, branch="feature/x")
    hub.add("a/b", {"x": b"4"}, branch="refs/pr/1")
    hub.tag("a/b", "v1", first)
    known = to(hub.url).references("a/b")
    assert known == References(frozenset({"main", "feature/x"}), frozenset({"v1"}))
    assert list(to(hub.url).history("a/b", second).items()) == [(second, "2024-01-02"), (first, "2024-01-01")]
    assert to(hub.url).history("a/b", "0" * 40) == {}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_mirror_need_not_know_references_and_history(hub: StandInHub, status: int) -> None:
    """It has the models all the same."""
    hub.add("a/b", {"x": b"1"})
    hub.fail(Status(status), on="/(refs|commits)", times=-1)
    assert to(hub.url).references("a/b") is None
    assert to(hub.url).history("a/b", "main") == {}


def test_a_repository_that_is_gone_is_no_mirror_that_does_not_know(hub: StandInHub) -> None:
    """The Hub says so with a code; and a host behind a redirect is none that could know."""
    with pytest.raises(NotOnHubError):
        to(hub.url).references("a/b")
    assert to(hub.url).history("a/b", "main") == {}
    hub.add("a/b", {"x": b"1"})
    with StandInHub() as other:
        hub.fail(Status(302, {"Location": f"{other.url}/nowhere"}), on="/(refs|commits)", times=-1)
        with pytest.raises(HubUnreachableError):
            to(hub.url).references("a/b")
        with pytest.raises(HubUnreachableError):
            to(hub.url).history("a/b", "main")


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
def test_an_odd_answer_names_nothing(answer: object) -> None:
    """Of any type; a date is ten characters, a commit forty digits."""
    assert dates_of(answer) == {}
    assert references_of(answer) == References(frozenset(), frozenset())


@pytest.mark.parametrize(("card", "licence"), LICENCES)
def test_the_licence_is_the_cards(hub: StandInHub, card: str, licence: str) -> None:
    """One licence, a list, none at all, and no card: never an error."""
    hub.add("a/b", {"README.md": card.encode()})
    assert to(hub.url).revision("a/b", "main").licence == licence


@pytest.mark.parametrize(
    ("told", "licence"),
    [
        ({"tags": ["x", "license:openrail"]}, "openrail"),
        ({"cardData": None, "tags": None}, ""),
        ({"cardData": {"license": []}, "tags": ["license:mit"]}, "mit"),
        ({"cardData": "odd", "tags": [1, None]}, ""),
    ],
)
def test_the_licence_of_an_odd_answer(hub: StandInHub, told: dict[str, object], licence: str) -> None:
    """Where the card says nothing the tags count; odd shapes say nothing."""
    body = json.dumps({"sha": "a" * 40, **told}).encode()
    hub.fail(Status(200, {}, body), on=REVISION)
    assert to(hub.url).revision("a/b", "main") == Revision("a" * 40, licence)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'"x"', b'{"sha": null}', b'{"sha": "main"}', b'{"sha": 7}', b"null"])
def test_an_answer_without_a_commit_is_refused(hub: StandInHub, body: bytes) -> None:
    """What names no commit of 40 hex digits is no answer."""
    hub.fail(Status(200, {}, body), on=REVISION)
    with pytest.raises(HubError, match=r"\ba/b\b.*\bmain\b") as told:
        to(hub.url).revision("a/b", "main")
    assert not told.value.retryable


def test_a_listing_of_several_pages_is_whole() -> None:
    """Every page is followed, directories are left out, LFS files carry their SHA-256 and true size."""
    files = {f"folder {n % 3}/ü{n}.txt": b"x" * n for n in range(17)} | {"model.safetensors": b"weights"}
    with StandInHub(page_size=4) as hub:
        commit = hub.add("a/b", dict(files))
        listed = to(hub.url).listing("a/b", commit)
        assert {file.path: file.size for file in listed} == {path: len(data) for path, data in files.items()}
        assert [file.path for file in listed if file.sha256] == ["model.safetensors"]
        assert len([request for request in hub.requests if "/tree/" in request.path]) == 6


def test_a_renamed_repository_is_followed(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """307 to the new id, for the API and for files, ends as the id that was asked for."""
    source = tiny.tiny_embedding(tmp_path / "embedding")
    commit = hub.add("neworg/newname", source, licence="mit")
    tool.want("oldorg/oldname")
    moved = {
        "/api/models/{}/revision/main": 1,
        f"/api/models/{{}}/tree/{commit}?recursive=true&expand=false": 1,
        **{f"/{{}}/resolve/{commit}/{path}": -1 for path in files_below(source)},
    }
    for path, times in moved.items():
        hub.fail(
            Status(307, {"Location": path.format("neworg/newname")}),
            on=f"^GET hub {re.escape(path.format('oldorg/oldname'))}$",
            times=times,
        )
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err
    assert files_below(tool.home("oldorg/oldname")).keys() >= {"model.safetensors", "config.json"}
    assert 'id = "oldorg/oldname"' in (tool.folder / "models.lock").read_text()


def test_a_listing_that_goes_on_at_another_host_is_refused(hub: StandInHub) -> None:
    """The next page must be at the Hub's own origin; another one is not asked."""
    commit = hub.add("a/b", {"x": b"1"})
    elsewhere = f'<{hub.cdn_url}/api/models/a/b/tree/{commit}?cursor=x>; rel="next"'
    hub.fail(Status(200, {"Link": elsewhere}, b"[]"), on=TREE)
    with pytest.raises(HubError, match=r"a/b.*127\.0\.0\.1") as told:
        to(hub.url).listing("a/b", commit)
    assert not told.value.retryable
    assert [request for request in hub.requests if request.host == "cdn"] == []


def test_a_listing_without_end_is_refused(hub: StandInHub) -> None:
    """A next page for ever ends with an error, after a bounded number of requests."""
    commit = hub.add("a/b", {"x": b"1"})
    hub.fail(Status(200, {"Link": '<?cursor=again>; rel="next"'}, b"[]"), on=TREE, times=-1)
    with pytest.raises(HubError, match=r"\b12 pages"):
        to(hub.url, pages=12).listing("a/b", commit)
    assert len(hub.requests) == 12


@pytest.mark.parametrize("retry_after", [None, "0"])
def test_a_listing_has_an_end_in_time(hub: StandInHub, retry_after: str | None) -> None:
    """Pages that come slowly, each fast enough by itself, or after a pause that the server asks for: exit 3, soon."""
    commit = hub.add("a/b", {"x": b"1"})
    page = json.dumps([{"type": "directory", "oid": "0" * 40, "size": 0, "path": "x" * 900}] * 60).encode()
    hub.fail(Alternately(Status(200, {"Link": '<?cursor=again>; rel="next"'}, page), retry_after), on=TREE, times=-1)
    connected = to(hub.url, timeout=0.5, retries=2, question=2)
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match="takes too long") as told:
        connected.listing("a/b", commit)
    assert "--timeout" in told.value.hint
    assert 1.0 <= time.monotonic() - began < SOON
    assert len(hub.requests) < 150


@dataclass
class Alternately:
    """A page at a slow pace, and with `retry_after` a status in between that asks for a pause."""

    page: Status
    retry_after: str | None
    count: int = 0

    def bend(self, delivery: Delivery) -> Delivery:
        """Give the one or the other."""
        self.count += 1
        if self.retry_after is not None and self.count % 2:
            return Status(429, {"Retry-After": self.retry_after}).bend(delivery)
        return Slow(500_000).bend(self.page.bend(delivery))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            b"{}",
        ),
        b"7",
        b"[7]",
        b"[{}]",
        b'[{"type": "file", "path": "x"}]',
        b'[{"type": "file", "path": "x", "oid": "a", "size": "big"}]',
        b'[{"type": "file", "path": "x", "oid": "a", "size": 1, "lfs": {"size": 1}}]',
        b'{"error": "x"}',
    ],
)
def test_a_listing_of_another_shape_is_refused(hub: StandInHub, body: bytes) -> None:
    """What is no list of files is a failure of the Hub's (exit 3), never a bug of ours."""
    hub.fail(Status(200, {}, body), on=TREE)
    with pytest.raises(HubError):
        to(hub.url).listing("a/b", "a" * 40)


@pytest.mark.parametrize("size", [-1, -100])
def test_a_listing_with_a_negative_size_is_refused(hub: StandInHub, size: int) -> None:
    """A size below zero is not what the Hub sends."""
    hub.fail(Status(200, {}, json.dumps([{"type": "file", "path": "x", "oid": "a", "size": size}]).encode()), on=TREE)
    with pytest.raises(HubError):
        to(hub.url).listing("a/b", "a" * 40)


def test_a_link_in_the_repository_is_listed_as_what_it_is(hub: StandInHub) -> None:
    """Anything that is neither file nor directory is judged by whoever chooses, and read by nobody."""
    hub.fail(Status(200, {}, b'[{"type": "symlink", "path": "x", "oid": "a", "size": 1}]'), on=TREE)
    (link,) = to(hub.url).listing("a/b", "a" * 40)
    assert (link.path, link.entry, link.plain, link.size) == ("x", "symlink", False, 0)


def test_an_endless_answer_is_not_read_to_its_end(hub: StandInHub) -> None:
    """Where a short answer belongs, a long one is refused before it fills the memory."""
    hub.fail(Status(200, {}, b" " * (8 << 20)), on=REVISION)
    with pytest.raises(HubUnreachableError, match=str(1 << 20)):
        to(hub.url, answer=1 << 20).revision("a/b", "main")


def test_redirects_without_end_are_refused(hub: StandInHub) -> None:
    """A circle of redirects ends with an error after a bounded number of requests."""
    hub.fail(Status(302, {"Location": "/api/models/a/b/revision/main"}), on=REVISION, times=-1)
    with pytest.raises(HubError, match=r"a/b.*main") as told:
        to(hub.url).revision("a/b", "main")
    assert not told.value.retryable
    assert 1 < len(hub.requests) <= 11


@pytest.mark.parametrize(
    "location",
    [
        pytest.param(
            "http://[::1/x",
        ),
        pytest.param(
            "http://127.0.0.1:99999/x",
        ),
        "ftp://127.0.0.1/x",
        "http:///x",
        "http://127.0.0.1:1/x",
    ],
)
def test_a_redirect_to_nowhere_is_the_hubs_failure(hub: StandInHub, location: str) -> None:
    """A Location that is no address ends as a failure of the Hub's, not as a bug of ours."""
    hub.fail(Status(302, {"Location": location}), on=REVISION, times=-1)
    with pytest.raises((HubError, TransientError)):
        to(hub.url, TOKEN).revision("a/b", "main")


def test_a_file_is_read_whole_and_asked_for_by_its_commit(hub: StandInHub) -> None:
    """Odd names are quoted, an empty file is a file."""
    files = {"a b/ü %41#?.json": b"{}", "empty": b""}
    commit = hub.add("a/b", dict(files))
    connected = to(hub.url)
    for file in connected.listing("a/b", commit):
        assert connected.read("a/b", commit, file) == files[file.path]


def test_an_answer_about_another_commit_is_not_taken(hub: StandInHub) -> None:
    """X-Repo-Commit must be the commit that was asked for."""
    commit = hub.add("a/b", {"x": b"1"})
    hub.fail(Status(200, {"X-Repo-Commit": "f" * 40}, b"2"), on="GET hub /a/b/resolve", times=-1)
    with pytest.raises(HubError, match="f" * 12):
        to(hub.url).read("a/b", commit, ListedFile("x", 1))


def test_a_file_of_another_size_than_listed_is_refused(hub: StandInHub) -> None:
    """The message names the file, the size expected and the size found."""
    commit = hub.add("a/b", {"x": b"12345"})
    with pytest.raises(IntegrityError, match=r"a/b.* x .*\b4 bytes.*\b5\b"):
        to(hub.url).read("a/b", commit, ListedFile("x", 4))


# what it refuses ------------------------------------------------------------------------------------------------

Spoil = Callable[[StandInHub, Path], object]
REFUSALS: list[tuple[str, Spoil, str | None, type[CacheModelsError], str, str]] = [
    (
        "missing, no token",
        lambda hub, _: hub.remove(EMBEDDING),
        None,
        NotOnHubError,
        f"{EMBEDDING} is not on",
        "HF_TOKEN",
    ),
    ("missing, token", lambda hub, _: hub.remove(EMBEDDING), TOKEN, NotOnHubError, f"{EMBEDDING} is not on", "id"),
    (
        "private, no token",
        lambda hub, tmp: restrict(hub, tmp, private=True),
        None,
        NotOnHubError,
        f"{EMBEDDING} is not on",
        "HF_TOKEN",
    ),
    (
        "private, token of somebody else",
        lambda hub, _: hub.fail(Status(404, {"X-Error-Code": "RepoNotFound"}), on="GET hub", times=-1),
        TOKEN,
        NotOnHubError,
        f"{EMBEDDING} is not on",
        "id",
    ),
    (
        "gated, no token",
        lambda hub, tmp: restrict(hub, tmp, gated=True),
        None,
        AccessDeniedError,
        f"{EMBEDDING} is gated",
        "Accept its terms",
    ),
    (
        "gated, token without access",
        lambda hub, _: hub.fail(Status(403, {"X-Error-Code": "GatedRepo"}), on="GET hub /.*/resolve/", times=-1),
        TOKEN,
        AccessDeniedError,
        f"{EMBEDDING} is gated",
        "Accept its terms",
    ),
    (
        "bad token",
        lambda hub, _: hub.fail(Status(401, {"X-Error-Message": "Invalid credentials"}), on="GET hub", times=-1),
        TOKEN,
        AccessDeniedError,
        "does not accept the token",
        "HF_TOKEN",
    ),
    (
        "file vanished",
        lambda hub, _: hub.fail(Status(404, {"X-Error-Code": "EntryNotFound"}), on=SMALL, times=-1),
        None,
        NotOnHubError,
        "vocab.txt",
        "lock --upgrade",
    ),
    (
        "500 for ever",
        lambda hub, _: hub.fail(Status(500, {"Retry-After": "0"}), on="GET hub", times=-1),
        None,
        HubUnreachableError,
        "500",
        "later",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "token", "kind", "words", "hint"),
    [pytest.param(*case[1:], id=case[0]) for case in REFUSALS],
)
def test_each_refusal_has_its_class_its_words_and_a_hint(
    hub: StandInHub,
    tiny_repo: Tool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Spoil,
    token: str | None,
    kind: type[CacheModelsError],
    words: str,
    hint: str,
) -> None:
    """What, where and what to do, exit 3, at `sync` as at `lock`; nothing is published; the class is the cause's."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    spoil(hub, tmp_path)
    for command in ("sync", "lock"):
        ran = tiny_repo(command, "--timeout=0.5")
        assert (ran.exit_code, ran.out) == (3, ""), ran.err
        assert words in ran.err
        assert re.search(rf"^hint: .*{re.escape(hint)}", ran.err, re.MULTILINE), ran.err
        assert "Traceback" not in ran.err
    assert not tiny_repo.home(EMBEDDING).exists()
    assert not (tiny_repo.folder / "models.lock").exists()
    connected = to(hub.url, token)

    def ask() -> None:
        commit = connected.revision(EMBEDDING, "main").commit
        for file in connected.listing(EMBEDDING, commit):
            connected.read(EMBEDDING, commit, file)

    with pytest.raises(kind) as raised:
        ask()
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_repository_without_an_error_code(hub: StandInHub, token: str | None) -> None:
    """The real Hub sends no X-Error-Code with the 401 of a missing repository; the words are the same."""
    hub.fail(DropHeaders(("X-Error-Code",)), on="GET hub", times=-1)
    expected = NotOnHubError
    with pytest.raises(expected, match="no/thing"):
        to(hub.url, token).revision("no/thing", "main")


def test_a_revision_that_is_not_there_is_named(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Exit 3 with the repository, the revision, and `revision` as what to look at."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"))
    tool.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v9"\n')
    ran = tool("sync")
    assert ran.exit_code == 3
    assert re.search(f"^error: {EMBEDDING}.* v9", ran.err, re.MULTILINE)
    assert re.search("^hint: .*`revision`", ran.err, re.MULTILINE)


def test_a_commit_that_is_gone_is_told_at_sync(hub: StandInHub, tiny_repo: Tool) -> None:
    """A pinned commit that the Hub has no more (history rewritten) ends with 3 and names the commit."""
    tiny_repo("lock")
    (model,) = read_lock(tiny_repo.folder / "models.lock") or ()
    hub.remove(EMBEDDING)
    hub.add(EMBEDDING, {"README.md": b"rewritten"})
    ran = tiny_repo("sync")
    assert ran.exit_code == 3
    assert model.commit[:12] in ran.err
    assert "hint: " in ran.err


BEHIND: dict[str, tuple[int, str, str]] = {
    "GatedRepo": (401, f"{EMBEDDING} is gated and cannot be read without a token", "Accept its terms at http"),
    "GatedRepo too": (403, f"{EMBEDDING} is gated and cannot be read without a token", "Accept its terms at http"),
    "RepoNotFound": (401, f"{EMBEDDING} is not on localhost", "Check the id"),
    "RevisionNotFound": (404, f"{EMBEDDING} at .*: there is no such revision", "Check `revision`"),
    "EntryNotFound": (404, f"{EMBEDDING} has no file", "lock --upgrade"),
    "DisabledRepo": (403, f"{EMBEDDING} is disabled on localhost", "may say why"),
}
WAYS = {
    "revision": ("lock", REVISION),
    "listing": ("lock", TREE),
    "small file": ("lock", r"GET hub /.*/resolve/.*/vocab\.txt"),
    "large file": ("sync", LARGE),
}


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", BEHIND)
def test_a_refusal_behind_a_mirror_that_redirects(
    hub: StandInHub, tiny_repo: Tool, secret: str, what: str, way: str, status: int
) -> None:
    """Another host says what the Hub says: at once, in the same words, and with no token seen; 3 in the end."""
    command, on = WAYS[way]
    if command == "sync":
        assert tiny_repo("lock").exit_code == 0
    code, told, hint = BEHIND[what]
    headers = f"X-Error-Code: {what.partition(' ')[0]}\r\nContent-Length: 0\r\nConnection: close"
    head = f"HTTP/1.1 {code} No\r\n{headers}\r\n\r\n"
    with Foreign(head.encode()) as behind:
        hub.fail(Status(status, {"Location": f"http://localhost:{behind.port}/x"}), on=on, times=-1)
        ran = tiny_repo(command, "--retries=3")
        assert len(behind.heard) == 1
        assert secret.encode() not in behind.heard[0]
    assert ran.exit_code == 3, ran.err
    assert re.search(told, ran.err), ran.err
    assert re.search(f"^hint: .*{hint}", ran.err, re.MULTILINE)
    assert "retry" not in ran.err
    if what.startswith("GatedRepo"):
        assert re.search(r"^hint: .*127\.0\.0\.1 .*HF_ENDPOINT", ran.err, re.MULTILINE)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_a_content_network_says_without_a_reason_is_no_refusal(
    hub: StandInHub, tiny_repo: Tool, status: int
) -> None:
    """An address that has aged, for instance: the Hub gives a new one."""
    assert tiny_repo("lock").exit_code == 0
    hub.fail(Status(status), on=BODY)
    ran = tiny_repo("sync")
    assert ran.exit_code == 0, ran.err
    assert ran.err.count("retry") == 1


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_mirror_that_lists_no_files_is_told_as_that(hub: StandInHub, tiny_repo: Tool, status: int) -> None:
    """It knows the revision, so neither the id nor the token is wrong; what would help is named."""
    hub.fail(Status(status), on=TREE, times=-1)
    ran = tiny_repo("lock", "--retries=3")
    assert ran.exit_code == 3
    assert re.search(rf"^error: 127\.0\.0\.1 .*{status} .*/api/models/{EMBEDDING}/tree", ran.err, re.MULTILINE)
    assert re.search("^hint: .*HF_ENDPOINT.*--from", ran.err, re.MULTILINE)
    assert [word for word in ("retry", "Check the id", "HF_TOKEN") if word in ran.err] == []
    assert len(hub.requests) == 2


@pytest.mark.parametrize("status", [400, 403, 410, 451])
def test_any_other_refusal_has_a_hint(hub: StandInHub, tiny_repo: Tool, status: int) -> None:
    """The Hub's own words are passed on, with a hint."""
    hub.fail(Status(status, {"X-Error-Message": "closed by its owner"}), on=REVISION, times=-1)
    ran = tiny_repo("sync")
    assert ran.exit_code == 3
    assert "closed by its owner" in ran.err
    assert "hint: " in ran.err


def test_a_refusal_names_the_repository_whatever_the_file_is_called(hub: StandInHub) -> None:
    """A file called "meet me at noon.json" in a gated repository does not hide which repository is gated."""
    commit = hub.add("a/b", {"meet me at noon.json": b"{}"}, gated=True)
    with pytest.raises(AccessDeniedError, match=r"\ba/b\b"):
        to(hub.url).read("a/b", commit, ListedFile("meet me at noon.json", 2))


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        ("127.0.0.1:1", 2),
        ("ftp://127.0.0.1", 2),
        pytest.param(
            "http://127.0.0.1:99999",
            2,
        ),
        pytest.param(
            "http://[::1",
            2,
        ),
        pytest.param(
            "https://",
            2,
        ),
    ],
)
def test_an_endpoint_that_is_no_address_is_wrong_usage(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch, endpoint: str, code: int
) -> None:
    """HF_ENDPOINT is named, exit 2, no traceback."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    ran = tiny_repo("sync", *HASTY)
    assert (ran.exit_code, "Traceback" in ran.err) == (code, False)
    assert "HF_ENDPOINT" in ran.err


def test_an_endpoint_with_a_path_and_a_slash_works(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slash at the end of HF_ENDPOINT is not doubled."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    assert tiny_repo("sync").exit_code == 0
    assert not [request for request in hub.requests if request.path.startswith("//")]


# who sees the token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_token_means_no_token(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    """`HF_TOKEN=` as compose files write it is no token: no Authorization header at all."""
    monkeypatch.setenv("HF_TOKEN", empty)
    assert tiny_repo("sync").exit_code == 0
    assert {request.authorization for request in hub.requests} == {None}


def test_a_token_opens_private_and_gated_repositories(hub: StandInHub, tool: Tool, tmp_path: Path, secret: str) -> None:
    """With the right token the same commands succeed."""
    hub.token = secret
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"), private=True)
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"), gated=True)
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err


def test_the_token_goes_to_the_hub_and_never_to_the_content_network(
    hub: StandInHub, tiny_repo: Tool, secret: str
) -> None:
    """The redirect to another origin (here another port of one host) is followed without it."""
    assert tiny_repo("sync").exit_code == 0
    seen = {(request.host, request.authorization) for request in hub.requests}
    assert seen == {("hub", f"Bearer {secret}"), ("cdn", None)}


@pytest.mark.parametrize("on", [REVISION, TREE, r"GET hub /.*/resolve/.*/vocab\.txt"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_takes_the_token_elsewhere(hub: StandInHub, on: str, status: int, secret: str) -> None:
    """Whatever kind of redirect, whichever request: another host, name or port is asked without the token."""
    files = {"vocab.txt": b"x"}
    commit = hub.add("a/b", dict(files))
    with StandInHub() as other:
        assert other.add("a/b", dict(files)) == commit
        hub.fail(Status(status, {"Location": f"{other.url}{_path(on, commit)}"}), on=on)
        connected = to(hub.url, secret)
        assert connected.revision("a/b", "main").commit == commit
        (listed,) = connected.listing("a/b", commit)
        assert connected.read("a/b", commit, listed) == b"x"
        assert {request.authorization for request in other.requests} == {None}
    assert {request.authorization for request in hub.requests} == {f"Bearer {secret}"}


def _path(on: str, commit: str) -> str:
    if on == REVISION:
        return "/api/models/a/b/revision/main"
    return f"/api/models/a/b/tree/{commit}" if on == TREE else f"/a/b/resolve/{commit}/vocab.txt"


def test_localhost_and_127_are_two_hosts_to_a_token(hub: StandInHub, secret: str) -> None:
    """The same machine under another name is another origin."""
    port = hub.url.rpartition(":")[2]
    commit = hub.add("a/b", {"x": b"1"})
    hub.fail(Status(302, {"Location": f"http://localhost:{port}/api/models/a/b/revision/main"}), on=REVISION)
    assert to(hub.url, secret).revision("a/b", "main").commit == commit
    assert [request.authorization for request in hub.requests] == [f"Bearer {secret}", None]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(
            "http://{evil}\\@{hub}/x",
        ),
        "http://{evil}\\.{hub}/x",
        "http://{evil}?@{hub}/x",
        "http://{evil}#@{hub}/x",
        "http://{evil}/@{hub}/x",
        "http://{hub}@{evil}/x",
        "//{evil}\\/@{hub}/x",
        "\\\\{evil}/x",
    ],
)
def test_an_address_that_two_parsers_read_differently_gets_no_token(hub: StandInHub, shape: str, secret: str) -> None:
    """Who is asked and who is compared with the endpoint is one host, however the Location is written."""
    with StandInHub() as evil:
        location = shape.format(evil=evil.url.removeprefix("http://"), hub=hub.url.removeprefix("http://"))
        hub.fail(Status(302, {"Location": location}), on=REVISION)
        with pytest.raises((HubError, TransientError, ValueError)):
            to(hub.url, secret).revision("a/b", "main")
        assert [request.authorization for request in evil.requests if request.authorization] == []


@pytest.mark.parametrize("endpoint", ["http://hub.invalid", "http://127.0.0.1.hub.invalid:8080", "http://0x7f.invalid"])
@pytest.mark.parametrize("command", [("sync",), ("lock",), ("lock", "--upgrade")])
def test_a_token_over_plain_http_is_refused(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, secret: str, endpoint: str, command: tuple[str, ...]
) -> None:
    """Anything but loopback must be https for a token: exit 2, at once, with no request and no look-up."""
    tool.want(EMBEDDING)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    began = time.monotonic()
    ran = tool(*command)
    assert ran.exit_code == 2
    assert re.search(r"^hint: .*https.*HF_ENDPOINT.*HF_TOKEN", ran.err, re.MULTILINE)
    assert secret not in ran.err
    assert "retry" not in ran.err
    assert time.monotonic() - began < SOON


def test_without_a_token_plain_http_is_the_users_choice(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in the house without https may be asked when there is no secret; this one is merely not there."""
    tool.want(EMBEDDING)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    ran = tool("sync", *HASTY)
    assert ran.exit_code == 3
    assert "hub.invalid" in ran.err


@pytest.mark.parametrize("token", ["hf_\u200babc", "hf_ünïcode", "hf_smart“quote”"])
def test_a_token_that_no_header_can_carry_is_refused_in_words(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """A token pasted with an invisible character ends with words about HF_TOKEN, not with a bug."""
    monkeypatch.setenv("HF_TOKEN", token)
    ran = tiny_repo("sync", *HASTY)
    assert ran.exit_code in (2, 3)
    assert "HF_TOKEN" in ran.err
    assert token not in ran.err


TROUBLE: list[tuple[Fault, str]] = [
    (Status(401), "GET hub"),
    (Status(403), "GET hub"),
    (Status(404), "GET hub"),
    (Status(429, {"Retry-After": "4000"}), "GET hub"),
    (Status(500), "GET hub"),
    (Html(), "GET hub"),
    (Reset(None), "GET hub"),
    (Silent(), REVISION),
    (Short(3), TREE),
    (Status(302, {"Location": "http://127.0.0.1:1/"}), REVISION),
    (Status(401), LARGE),
    (Status(403), BODY),
    (Flip(40), BODY),
    (Html(), BODY),
    (Status(400, {"X-Error-Message": "no"}), TREE),
]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(("fault", "on"), TROUBLE)
def test_the_token_is_never_told(
    hub: StandInHub, tiny_repo: Tool, secret: str, fault: Fault, on: str, log_format: str
) -> None:
    """No command prints or writes the token, whatever goes wrong; signatures of the content network neither."""
    hub.fail(fault, on=on, times=-1)
    said = ""
    for command in ("lock", "sync", "sync --dry-run", "lock --upgrade", "status --json", "verify", f"path {EMBEDDING}"):
        ran = tiny_repo(*command.split(), f"--log-format={log_format}", *HASTY)
        assert ran.exit_code != 70, ran.err
        said += ran.out + ran.err
    written = b"".join(files_below(tiny_repo.folder).values())
    for hidden in (secret, "Bearer", "Signature="):
        assert hidden not in said
        assert hidden.encode() not in written


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_token_is_not_told_when_all_is_well(hub: StandInHub, tiny_repo: Tool, secret: str, log_format: str) -> None:
    """Neither lock, receipt, stamp nor any line of a good run holds it."""
    said = ""
    for command in ("lock", "sync", "sync", "verify", "verify --quick", "status", f"path {EMBEDDING}", "prune"):
        ran = tiny_repo(*command.split(), f"--log-format={log_format}")
        assert ran.exit_code == 0, ran.err
        said += ran.out + ran.err
    assert hub.requests
    written = b"".join(files_below(tiny_repo.folder).values())
    assert secret not in said
    assert secret.encode() not in written


def test_json_lines_are_objects_when_it_fails_too(hub: StandInHub, tiny_repo: Tool) -> None:
    """With --log-format json each line of stderr is one object, the last one with the exit code."""
    hub.fail(Status(500, {"Retry-After": "0"}), on="GET hub", times=-1)
    ran = tiny_repo("sync", "--log-format=json")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert lines[-1]["exit_code"] == ran.exit_code == 3
    assert lines[0]["event"] == "retry"


OFFLINE: dict[tuple[str | None, str | None], str] = {
    ("1", ""): "HF_HUB_OFFLINE",
    ("", "1"): "TRANSFORMERS_OFFLINE",
    (None, "1"): "TRANSFORMERS_OFFLINE",
    ("1", "1"): "HF_HUB_OFFLINE",
    ("1", "0"): "HF_HUB_OFFLINE",
    ("0", "1"): "",
    ("no", "yes"): "",
    ("", ""): "",
    (None, "false"): "",
    ("2", None): "",
    **{(value, None): "HF_HUB_OFFLINE" for value in ("true", "True", "YES", "yes", "On", "ON", "TRUE")},
    **{(None, value): "TRANSFORMERS_OFFLINE" for value in ("true", "YES", "on")},
}


@pytest.mark.parametrize("words", OFFLINE)
def test_offline_means_no_request(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch, words: tuple[str | None, str | None]
) -> None:
    """With something to fetch it ends with 3 and the variable that forbids it, as huggingface_hub reads the two."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    given = {name: value for name, value in zip(names, words, strict=True) if value is not None}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ran = tiny_repo("sync")
    assert runpy.run_path(constants.__file__)["HF_HUB_OFFLINE"] is bool(OFFLINE[words])
    if not OFFLINE[words]:
        assert ran.exit_code == 0, ran.err
        return
    assert (ran.exit_code, hub.requests) == (3, [])
    assert ran.err.startswith(f"error: {OFFLINE[words]} ")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_no_matter_where_all_is_in_place(
    hub: StandInHub, tiny_repo: Tool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is there needs no request."""
    assert tiny_repo("sync").exit_code == 0
    hub.forget()
    monkeypatch.setenv(name, "1")
    assert tiny_repo("sync").exit_code == 0
    assert hub.requests == []


def test_an_endpoint_that_is_not_wrong_usage_has_no_token_error(hub: StandInHub) -> None:
    """Loopback counts as private under each of its names; nothing else does."""
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9", "https://x.invalid"):
        to(url, TOKEN)
    for url in ("http://10.0.0.1", "http://localhost.invalid", "http://x.invalid"):
        with pytest.raises(UsageError):
            to(url, TOKEN)


class OneAtATime:
    """Refuse all but one request at a time with 503, and send slowly what is not refused."""

    def __init__(self) -> None:
        self.busy_until = 0.0

    def bend(self, delivery: Delivery) -> Delivery:
        """Refuse it, or be busy with it for half a second."""
        if time.monotonic() < self.busy_until:
            return Status(503).bend(delivery)
        self.busy_until = time.monotonic() + 0.5
        span = delivery.span()
        return Slow((span.stop - span.start) * 2).bend(delivery)


def test_requests_for_one_file_never_wait_for_each_other_in_a_circle(hub: StandInHub) -> None:
    """A stream that ends, one that was refused, and one that waits for its turn: all end, however they come."""
    content = bytes(600_000)
    commit = hub.add("a/b", {WEIGHTS: content})
    hub.fail(OneAtATime(), on="GET cdn", times=-1)
    asked = to(hub.url)
    file = next(one for one in asked.listing("a/b", commit) if one.path == WEIGHTS)
    came: list[int] = []

    def read(start: int) -> None:
        while True:
            try:
                with asked.open("a/b", commit, file, start, start + 200_000) as chunks:
                    came.append(sum(len(piece) for pieces in chunks for piece in pieces))
                return
            except TransientError:
                time.sleep(0.05)

    threads = [threading.Thread(target=read, args=(start,), daemon=True) for start in (0, 200_000, 400_000)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(20)
    assert came == [200_000] * 3


def test_an_endpoint_that_sends_the_bytes_is_asked_for_a_file_once_at_a_time(hub: StandInHub) -> None:
    """A second request may be a second fetch from the Hub; it is not sent, and not counted as a failure."""
    commit = hub.add("a/b", {"large.txt": bytes(300_000)})
    asked = to(hub.url)
    file = next(one for one in asked.listing("a/b", commit) if one.path == "large.txt")
    hub.forget()
    with asked.open("a/b", commit, file, 0, 100_000) as chunks:
        assert next(chunks)
        with pytest.raises(CrowdedError), asked.open("a/b", commit, file, 100_000, 300_000):
            pass
    assert len(hub.requests) == 1
    with asked.open("a/b", commit, file, 100_000, 300_000) as chunks:
        assert sum(len(piece) for pieces in chunks for piece in pieces) == 200_000
