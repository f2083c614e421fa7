"""Words of strangers: whatever they say, they are understood or refused in the tool's own words, and soon.

FAULTS=all looks for much longer.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.check.golden import format_golden, parse_golden
from modelcache.core.errors import CacheModelsError, HubError, IntegrityError, LockfileError, ManifestError, UsageError
from modelcache.core.plan import Action, plan, space_needed
from modelcache.core.safetensors_header import tensor_names
from modelcache.core.types import LARGEST_FILE, ListedFile, LockedFile, LockedModel
from modelcache.formats.lockfile import format_lock, parse_lock
from modelcache.formats.manifest import parse_manifest, parse_policy
from modelcache.formats.receipt import format_receipt
from modelcache.sources.hub_responses import check_head, files_of, revision_of
from modelcache.sources.responses import link_target
from modelcache.stamp import facts_in_stamp, models_in_place
from modelcache.store.layout import read_receipt
from modelcache.transfer.http_client import HttpResponse
from modelcache.transfer.origins import host_of, is_loopback, origin_of
from modelcache.transfer.partial_file import written_ranges
from modelcache.transfer.retry import TransientError, requested_pause
from tests.conftest import EMBEDDING, Tool
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.fuzz import BUDGET, EXAMPLES, json_values, mutated, soon
from tests.support.published_model import pinned, published

MODEL = pinned()
LOCK = format_lock([MODEL]).encode()
RECEIPT = format_receipt(MODEL)
MANIFEST = b"""# what we want
[[embedding]]
id = "BAAI/bge-m3"
revision = "v1.0"
trust_remote_code = false
pooling = "cls"
normalize = true

[[reranker]]
id = 'BAAI/bge-reranker-base'
allow_pickle = true

[policy]
licences = ["apache-2.0", "mit"]
remote_code = false
pickle = true
"""
GOLDEN = format_golden({}).encode()
TOML = [
    b'"""',
    b"'''",
    b"[[",
    b"]]",
    b"=",
    b"\n",
    b"{",
    b"}",
    b"a.b",
    b"1e999",
    b"nan",
    b"1979-05-27",
    b"\\u0000",
    b"[" * 50,
]
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e400",
    b"true",
    b'"\\ud800"',
    b"9" * 30,
    b"[" * 50,
]
FILE = ListedFile("model.safetensors", 100, "a" * 40, "b" * 64)


def own_words(error: CacheModelsError | TransientError) -> None:
    """A refusal says something, and is no bug."""
    assert str(error)
    assert getattr(error, "exit_code", 3) != 70


@BUDGET
@given(mutated(MANIFEST, TOML))
def test_a_changed_manifest(content: bytes) -> None:
    """Read or refused, each problem with its line."""
    with soon():
        try:
            models = parse_manifest(content.decode(errors="replace").encode(), Path("models.toml"))
            parse_policy(content.decode(errors="replace").encode(), Path("models.toml"))
        except ManifestError as error:
            own_words(error)
            told = error.message
        else:
            told = "models.toml:0:"
            assert all("/" in model.id and ".." not in model.id for model in models)
    assert re.match(r"models\.toml(:\d+:| is not TOML)", told)


@BUDGET
@given(mutated(LOCK, TOML))
def test_a_changed_lock(content: bytes) -> None:
    """Refused, or it pins the same files: the set digest holds them together."""
    with soon():
        try:
            models = parse_lock(content, "models.lock")
        except LockfileError as error:
            own_words(error)
        else:
            assert [model.files for model in models] in ([], [tuple(MODEL.files)])


@BUDGET
@given(
    mutated(RECEIPT, PIECES)
    | json_values("format", "files", "id", "kind", "path").map(lambda v: json.dumps(v).encode())
)
def test_a_changed_receipt(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """It is none, or it tells the same files."""
    folder = tmp_path_factory.getbasetemp() / f"receipt-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    (folder / ".cache-models.json").write_bytes(content)
    with soon():
        found = read_receipt(folder)
    assert found is None or found.files == tuple(MODEL.files)


@BUDGET
@given(mutated(b"cache-models stamp 4 1 1\nk\n1 2 3 4\ta/b\nend\n", PIECES) | st.binary(max_size=30))
def test_a_changed_stamp(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """It vouches for nothing that is not there."""
    root = tmp_path_factory.getbasetemp() / f"stamp-{os.getpid()}"
    root.mkdir(exist_ok=True)
    (root / ".cache-models.stamp").write_bytes(content)
    facts = facts_in_stamp(str(root))
    assert models_in_place(str(root), b"k") is None or facts == {}


@BUDGET
@given(
    mutated(GOLDEN, PIECES)
    | json_values("format", "models", "kind", "id", "answers", "probe", "versions").map(
        lambda v: json.dumps(v).encode()
    )
)
def test_a_changed_golden_file(content: bytes) -> None:
    """Read or refused."""
    try:
        parse_golden(content, "models.golden.json")
    except UsageError as error:
        own_words(error)


JOURNAL = st.lists(
    st.tuples(st.integers(-5, 200), st.integers(-5, 1 << 70)).map(lambda pair: b"%d %d\n" % pair)
    | st.binary(max_size=9)
)


@BUDGET
@given(JOURNAL, st.integers(0, 120))
def test_a_changed_journal(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], length: int) -> None:
    """It never tells of more than the part has."""
    part = tmp_path_factory.getbasetemp() / f"part-{os.getpid()}"
    part.write_bytes(b"x" * length)
    part.with_name(f"{part.name}.ranges").write_bytes(b"".join(lines))
    assert written_ranges(part, 100).total() <= min(length, 100)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of weights."""
    folder = tiny.tiny_embedding(tmp_path_factory.mktemp("weights") / "model")
    return (folder / "model.safetensors").read_bytes()


@BUDGET
@given(data=st.data())
def test_a_changed_safetensors_header(weights: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Its tensors are named, or it is told to be damaged."""
    size = int.from_bytes(weights[:8], "little") + 8
    content = data.draw(mutated(weights[:size], [*PIECES, b"F32", b'"data_offsets"', b"\xff" * 8])) + weights[size:]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with soon():
        try:
            found = tensor_names(path)
        except IntegrityError as error:
            own_words(error)
        else:
            assert all(math.prod(shape) <= 8 * len(content) for _, shape in found.values())


# what the Hub says -----------------------------------------------------------------------------------------------

ENTRY = {"type": "file", "path": "a", "size": 1, "oid": "a" * 40, "lfs": {"oid": "b" * 64, "size": 2}}
WORDS = ("type", "file", "directory", "symlink", "path", "size", "oid", "lfs", "a" * 40, "b" * 64)
ENTRIES = st.dictionaries(st.sampled_from(WORDS), json_values(*WORDS), max_size=6).map(lambda made: {**ENTRY, **made})


@BUDGET
@given(json_values(*WORDS) | st.lists(ENTRIES | json_values(*WORDS), max_size=4))
def test_a_listing(page: object) -> None:
    """Hashes are hashes and sizes are sizes, or it is refused."""
    try:
        files = files_of("a/b", page)
    except HubError as error:
        own_words(error)
        return
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{40}" if file.plain else "", file.blob_id)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert type(file.size) is int
        assert 0 <= file.size <= LARGEST_FILE


@BUDGET
@given(st.dictionaries(st.sampled_from(["cardData", "tags", "license"]), json_values("license", "license:mit", "mit")))
def test_a_licence(found: Mapping[str, object]) -> None:
    """A short name or none."""
    assert re.fullmatch(r"[A-Za-z0-9.+_-]{0,64}", revision_of(found).licence)


HEADER = st.one_of(
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=12),
    st.builds("bytes {}-{}/{}".format, *[st.integers(-1, 1 << 65) | st.just("*")] * 3),
    st.integers(-5, 10**30).map(str),
    st.sampled_from(
        ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 99999 07:28:00 -9999", '"api";r=0;t=9', '"x";r=0;t=-1']
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Retry-After",
            "Date",
            "RateLimit",
            "Content-Range",
            "Content-Length",
            "Content-Type",
            "X-Repo-Commit",
            "Content-Encoding",
        ]
    ),
    HEADER,
)


@BUDGET
@given(HEADERS)
def test_pauses_that_servers_ask_for(headers: dict[str, str]) -> None:
    """A number of seconds that is not negative, or none."""
    lowered = {name.lower(): value for name, value in headers.items()}
    limits = {name: value for name, value in (headers | lowered).items() if name != "Retry-After"}
    for pause in (requested_pause(headers), requested_pause(limits)):
        assert pause is None or (pause >= 0 and math.isfinite(pause))


class _Told(HttpResponse):
    """An answer without a body."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.url, self.status, self.headers = "https://hub.invalid/x", status, headers


@BUDGET
@given(st.sampled_from([200, 206, 416]), HEADERS, st.integers(0, 50), st.integers(50, 100))
def test_headers_of_a_part(status: int, headers: Mapping[str, str], start: int, end: int) -> None:
    """Only what says that it is the part asked for, of a file of that size, is taken for it."""
    told = _Told(status, headers)
    try:
        check_head(told, "a/b", "c" * 40, FILE, start, end)
    except (TransientError, IntegrityError) as error:
        own_words(error)
    else:
        right = headers.get("Content-Range") == f"bytes {start}-{end - 1}/100"
        assert right or (status == 200 and start == 0)


ADDRESS = st.lists(
    st.sampled_from(
        ["http://", "https:", "//", "/", "\\", "@", ":", "#", "?", "127.0.0.1", "localhost", "[::1]", "hub.invalid"]
    )
    | st.sampled_from([":80", ":99999", "%00", "\n", " ", "ß", "..", "user:pw"])
    | st.text(max_size=3),
    max_size=8,
).map("".join)


@BUDGET
@given(ADDRESS)
def test_where_a_redirect_leads(location: str) -> None:
    """From https to an https address whose host is the one that would be asked, or nowhere."""
    try:
        found = link_target("https://hub.invalid/a/b", location, what="a/b", hint="Check it.")
    except HubError as error:
        own_words(error)
        return
    scheme, host, _ = origin_of(found)
    assert scheme == "https"
    assert host_of(found) == host
    assert is_loopback(found) in (True, False)


# the plan --------------------------------------------------------------------------------------------------------

CONTENTS = st.sampled_from("0123456789abcdef").map(lambda digit: digit * 64)
MODELS = st.dictionaries(st.text("abc", min_size=1, max_size=3), CONTENTS, min_size=1, max_size=6).map(
    lambda files: LockedModel(
        MODEL.kind,
        "a/b",
        "main",
        "c" * 40,
        tuple(LockedFile(path, int(sha[0], 16) * 100, sha) for path, sha in files.items()),
    )
)


@BUDGET
@given(MODELS, st.none() | st.just("") | st.text(min_size=1, max_size=5), st.sets(CONTENTS))
def test_a_plan(model: LockedModel, reason: str | None, reusable: set[str]) -> None:
    """What is in place is kept and costs nothing; else each content that is not there is written once."""
    step = plan(model, reason, reusable)
    action = Action.KEEP if reason is None else Action.REPLACE if reason else Action.FETCH
    assert (step.action, step.model, step.reason) == (action, model, reason or "")
    lacking = {file.sha256: file.size for file in model.files if file.sha256 not in reusable}
    assert step.size == (0 if reason is None else sum(lacking.values()))
    assert space_needed([step], 4096) >= step.size


# the whole tool --------------------------------------------------------------------------------------------------

COMMANDS = (
    "status",
    "verify",
    "verify --quick",
    "lock --check",
    "sync --locked",
    "prune",
    f"path {EMBEDDING}",
    f"add {EMBEDDING}",
    "add other/model",
    "export image/",
)
SPOILED = {
    "models.toml": mutated(MANIFEST, TOML) | st.binary(max_size=40),
    "models.lock": mutated(LOCK, TOML) | st.binary(max_size=40),
    "cached_embedding_models/tinyorg__embedding/.cache-models.json": mutated(RECEIPT, PIECES) | st.binary(max_size=40),
    ".cache-models.stamp": mutated(b'{"key": "", "models": 1, "facts": {"x": [1]}}', PIECES),
}


def test_no_document_makes_the_tool_fall_over(tool: Tool, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command over spoiled documents ends in its own words, with an exit code of the table; nothing is asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    published(tool.folder)

    @BUDGET
    @given(st.sampled_from(sorted(SPOILED)), st.data(), st.sampled_from(COMMANDS))
    def ends_well(name: str, data: st.DataObject, command: str) -> None:
        tool.want(EMBEDDING)
        (tool.folder / "models.lock").write_bytes(LOCK)
        home = tool.home(EMBEDDING)
        if not home.exists():
            published(tool.folder)
        (home / ".cache-models.json").write_bytes(RECEIPT)
        (tool.folder / name).write_bytes(data.draw(SPOILED[name]))
        with soon():
            ran = tool(*command.split())
        assert ran.exit_code in (0, 1, 2, 3, 4), ran.err
        assert "Traceback" not in ran.err

    ends_well()
    tally("spoiled documents", EXAMPLES)


# found by these, and mended --------------------------------------------------------------------------------------


def test_a_manifest_of_nothing_but_unknown_keys_is_told_soon() -> None:
    """Each was looked for in the whole text: 400 kB took an hour."""
    keys = "\n".join(f"x{number} = 1" for number in range(40_000))
    for text in (keys, f'[[embedding]]\nid = "a/b"\n{keys}'):
        with soon(), pytest.raises(ManifestError, match=r"^models\.toml:\d+: .*'x0'"):
            parse_manifest(text.encode(), Path("models.toml"))


LONG_KEY = ".".join("a" * 50_000)


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG_KEY} = 1",
        f"x = {{{LONG_KEY} = 1}}",
        "[" + ".".join(['"a"'] * 50_000) + "]",
        f'x = {{y = """a"""", {LONG_KEY} = 1, z = "b"}}',
        f"x = {{y = '''\\''''', {LONG_KEY} = 1, z = 'b'}}",
        f"# '''\n{LONG_KEY} = 1 # '''",
        f'x = "\\\\" # "\n{LONG_KEY} = "',
    ],
    ids=["key", "within a line", "table", "after a long string", "after a literal one", "after a comment", "escape"],
)
def test_a_key_of_many_parts_is_refused_soon(text: str) -> None:
    """Parsing takes the square of them: 100 kB took a minute, and a lock may have 4 MB."""
    with soon(), pytest.raises(ManifestError, match="parts"):
        parse_manifest(text.encode(), Path("models.toml"))
    with soon(), pytest.raises(LockfileError, match="parts"):
        parse_lock(text.encode(), "models.lock")


def test_names_with_dots_are_no_keys_of_many_parts() -> None:
    """What stands in quotes may have as many as it likes."""
    content = {f"a, [b{'.c' * 60}": b"x", f"{{x.{'y.' * 60}z": b"x"}
    assert parse_lock(format_lock([pinned(content)]).encode(), "models.lock") == (pinned(content),)
