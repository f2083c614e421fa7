"""models.lock and the receipts: equal models give equal bytes, and nothing damaged is believed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.check.golden import parse_golden
from modelcache.core.errors import LockfileError, UsageError
from modelcache.core.file_types import OTHER_WEIGHTS
from modelcache.core.kinds import Kind
from modelcache.core.names import problem_with_path
from modelcache.core.types import LockedFile, LockedModel, Made, Original, Pooling, RemoteCode, set_digest
from modelcache.formats.lockfile import format_lock, parse_lock
from modelcache.formats.receipt import format_receipt
from modelcache.pipeline.pins import read_lock
from modelcache.store.layout import read_receipt
from tests.conftest import EMBEDDING, PROJECT, Tool
from tests.support.hub import StandInHub

FILES = (
    LockedFile("1_Pooling/config.json", 190, "1" * 64),
    LockedFile("config.json", 612, "2" * 64),
    LockedFile("model.safetensors", 90_868_376, "3" * 64),
)
HUB = LockedModel(Kind.EMBEDDING, "a/b", "v1", "c" * 40, FILES, "apache-2.0")
OTHER = LockedModel(Kind.RERANKER, "a/b", "main", "d" * 40, FILES[1:], "", RemoteCode.OMITTED)
MINE = LockedModel(Kind.EMBEDDING, "me/mine", "main", "", FILES[:2])
CHANGED = LockedModel(
    Kind.EMBEDDING,
    "b/changed",
    "main",
    "e" * 40,
    (
        LockedFile("config.json", 500, "4" * 64, Made.REWRITTEN, Original("config.json", 612, "2" * 64)),
        LockedFile(
            "model.safetensors", 90_000, "5" * 64, Made.CONVERTED, Original("pytorch_model.bin", 91_000, "6" * 64)
        ),
        LockedFile("modeling_x.py", 40, "7" * 64, None, Original("modeling_x.py", 40, "7" * 64, "c/code", "f" * 40)),
        LockedFile("modules.json", 300, "8" * 64, Made.WRITTEN),
    ),
    remote_code=RemoteCode.VENDORED,
    packages=("einops",),
    pooling=Pooling.MEAN,
    normalize=True,
    gated=True,
)
LOCK = format_lock([HUB, OTHER, MINE])
CHANGED_LOCK = format_lock([CHANGED])

WAYS: tuple[Callable[[str, int, str], tuple[Made | None, Original | None]], ...] = (
    lambda path, size, sha256: (None, None),
    lambda path, size, sha256: (None, Original(path, size, sha256, "c/code", "f" * 40)),
    lambda path, size, sha256: (Made.WRITTEN, None),
    lambda path, size, sha256: (Made.REWRITTEN, Original(path, 2 * size % 1000, sha256)),
    lambda path, size, sha256: (Made.CONVERTED, Original("pytorch_model.bin", 7, "9" * 64)),
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.sampled_from(
    ['it\'s "quoted".json', "日本/é.json", "a\u2028b", "a\x85b", "'''", '"""', "#", "{}", "x = 1", "👍.txt"]
)


def as_one_model(entries: dict[str, tuple[int, str, int]]) -> tuple[LockedFile, ...]:
    """Return the entries as files that can lie in one directory, some of them changed on the way."""
    taken: set[str] = set()
    files = []
    for path, (size, sha256, way) in entries.items():
        names = {path.casefold(), *(part.casefold() for part in path.split("/"))}
        weights = PurePosixPath(path.lower()).suffix in OTHER_WEIGHTS
        code = path.endswith(".py")  # only a model with vendored code may hold it, which is a test of its own
        if problem_with_path(path) is None and not weights and not code and not names & taken:
            taken |= names
            files.append(LockedFile(path, size, sha256, *WAYS[way](path, size, sha256)))
    return tuple(sorted(files, key=lambda file: file.path)) or FILES


HEX40, HEX64 = (st.text("0123456789abcdef", min_size=size, max_size=size) for size in (40, 64))
FILE_SETS = st.dictionaries(
    NAMES, st.tuples(st.integers(0, 2**50), HEX64, st.integers(0, len(WAYS) - 1)), max_size=6
).map(as_one_model)
MODELS = st.builds(
    LockedModel,
    kind=st.sampled_from(Kind),
    id=st.sampled_from(["a/b", "BAAI/bge-m3", "x_/y.z-0"]),
    revision=st.sampled_from(["main", "refs/pr/1", "v1.0"]),
    commit=HEX40 | st.just(""),
    files=FILE_SETS,
    licence=st.from_regex(r"([A-Za-z0-9.+_-]{1,10})?", fullmatch=True),
    remote_code=st.sampled_from(RemoteCode),
    packages=st.sampled_from([(), ("einops",), ("einops", "timm")]),
    pooling=st.sampled_from([None, *Pooling]),
    normalize=st.booleans(),
    include=st.sampled_from([(), ("onnx/*", "it's x/é*")]),
    exclude=st.sampled_from([(), ("*.h5",)]),
).map(
    lambda model: replace(
        model, revision=model.revision if model.commit else "main", normalize=model.normalize and bool(model.pooling)
    )
)


def test_locking_twice_gives_the_same_bytes() -> None:
    """The lock is a function of the models, and of reading itself back."""
    assert format_lock([HUB, OTHER, MINE]) == LOCK
    assert format_lock(parse_lock(LOCK.encode(), "x")) == LOCK
    assert format_lock(parse_lock(CHANGED_LOCK.encode(), "x")) == CHANGED_LOCK


def test_order_does_not_matter() -> None:
    """Neither that of the manifest nor that of the listing."""
    shuffled = [MINE, replace(OTHER, files=FILES[:0:-1]), replace(HUB, files=FILES[::-1])]
    assert format_lock(shuffled) == LOCK


def test_one_line_a_file() -> None:
    """A diff of the lock shows which files changed."""
    lines = [line.strip() for line in LOCK.splitlines()]
    for file in FILES:
        assert f'{{path = "{file.path}", size = {file.size}, sha256 = "{file.sha256}"}},' in lines
    assert sum("sha256" in line for line in lines) == 3 + 2 + 2
    assert lines[0].startswith("# ")


def test_the_lock_of_a_run_names_no_date_and_nothing_of_this_machine(pair: Tool) -> None:
    """What is committed says what the models are, not where and when they were pinned."""
    pair("lock")
    lock = (pair.folder / "models.lock").read_text()
    assert str(pair.folder) not in lock
    assert "127.0.0.1" not in lock
    assert not re.search(r"\b20\d\d-\d\d", lock)


def test_locking_twice_on_disk_gives_the_same_bytes(pair: Tool) -> None:
    """Also when everything is resolved anew."""
    pair("lock")
    first = (pair.folder / "models.lock").read_bytes()
    (pair.folder / "models.lock").unlink()
    pair("lock")
    assert (pair.folder / "models.lock").read_bytes() == first


@settings(deadline=None)
@given(st.lists(MODELS, max_size=3, unique_by=lambda model: (model.kind, model.id)))
def test_a_lock_is_read_back(models: list[LockedModel]) -> None:
    """Any model that can be pinned survives, whatever its files are called."""
    text = format_lock(models)
    assert parse_lock(text.encode(), "x") == tuple(sorted(models, key=lambda model: (model.kind, model.id)))
    assert format_lock(reversed(models)) == text


# What editors and git make of a file on Windows.
ON_WINDOWS: dict[str, Callable[[bytes], bytes]] = {
    "as it was": lambda content: content,
    "CR LF": lambda content: content.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda content: BOM_UTF8 + content,
    "both": lambda content: BOM_UTF8 + content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("change", ON_WINDOWS.values(), ids=ON_WINDOWS)
def test_a_lock_survives_windows(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A checkout on Windows changes the ends of the lines, an editor adds a mark; neither changes what they say."""
    (tmp_path / "models.lock").write_bytes(change(LOCK.encode()))
    assert read_lock(tmp_path / "models.lock") == (HUB, MINE, OTHER)


@pytest.mark.parametrize("change", ON_WINDOWS.values(), ids=ON_WINDOWS)
def test_a_project_survives_windows(change: Callable[[bytes], bytes], pair: Tool, hub: StandInHub) -> None:
    """Manifest, lock and golden numbers are read whatever their line ends, and a lock is written without them."""
    pair("sync")
    (pair.folder / "models.golden.json").write_text('{"format": 1, "models": {}}\n')
    plain = (pair.folder / "models.lock").read_bytes()
    for name in ("models.toml", "models.lock", "models.golden.json"):
        (pair.folder / name).write_bytes(change((pair.folder / name).read_bytes()))
    hub.forget()
    parse_golden((pair.folder / "models.golden.json").read_bytes(), "models.golden.json")
    for words in (("lock", "--check"), ("sync", "--locked"), ("verify",), ("status",), ("lock",)):
        ran = pair(*words)
        assert (ran.exit_code, hub.requests) == (0, []), (words, ran.err)
    assert (pair.folder / "models.lock").read_bytes() == plain


def test_git_gives_linux_its_line_ends_everywhere() -> None:
    """Whatever a user's git is told, scripts and hashed files of a checkout end their lines as shells read them."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a checkout")
    told = subprocess.run(["git", "ls-files", "--eol"], cwd=PROJECT, capture_output=True, text=True, check=True)
    rows = [line.partition("\t") for line in told.stdout.splitlines()]
    assert len(rows) > 100
    wrong = [(fact, name) for fact, _, name in rows if "eol=lf" not in fact or "crlf" in fact or "mixed" in fact]
    assert wrong == []


def test_no_lock_is_none(tmp_path: Path) -> None:
    """A missing lock is None, no error."""
    assert read_lock(tmp_path / "models.lock") is None


def edit(before: str, after: str, count: int = 1) -> Callable[[str], str]:
    """Return an editor that replaces text in a lock, and makes sure that it was there."""

    def edited(lock: str) -> str:
        assert before in lock
        return lock.replace(before, after, count)

    return edited


FIRST_MODEL = LOCK[LOCK.index("[[model]]") : LOCK.index("[[model]]", LOCK.index("[[model]]") + 1)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (edit("2" * 64, "4" * 64), "a/b: set_digest does not fit"),
        (edit("2" * 64, "2" * 63), "not 64 hex digits"),
        (edit("2" * 64, "Z" * 64), "not 64 hex digits"),
        (edit('"config.json"', '"konfig.json"'), "a/b: set_digest does not fit"),
        (edit("size = 612", "size = -1"), "not a number of bytes"),
        (edit("size = 612", 'size = "612"'), "not a number of bytes"),
        (edit("size = 612", "size = true"), "not a number of bytes"),
        (edit("size = 612", "size = 612.0"), "not a number of bytes"),
        (edit('"config.json"', '"../config.json"'), "leaves the model's directory"),
        (edit('"config.json"', '"/etc/config.json"'), "leaves the model's directory"),
        (edit('"config.json"', '".cache-models.json"'), "keeps for itself"),
        (edit('"config.json"', '"model.safetensors"'), "one name"),
        (edit('"model.safetensors"', '"pytorch_model.bin"'), "pytorch_model.bin is never published"),
        (edit('"model.safetensors"', '"1_Dense/Model.PT"'), "1_Dense/Model.PT is never published"),
        (edit('"config.json"', '"modeling_x.py"'), "modeling_x.py is code, and remote_code does not say"),
        (edit('path = "config.json", ', ""), "instead of path, size and sha256"),
        (edit('path = "config.json"', "path = 1"), "path must be a string"),
        (edit('licence = "apache', 'license = "apache'), "unknown key 'license'"),
        (edit("lock_version = 1", "lock_version = 2"), "lock_version 2, this tool reads 1"),
        (edit("lock_version = 1\n", ""), "lock_version none, this tool reads 1"),
        (edit("c" * 40, "c" * 39), "not 40 hex digits"),
        (edit("c" * 40, "main"), "not 40 hex digits"),
        (edit('id = "a/b"', 'id = "b"'), "has no owner"),
        (edit('id = "a/b"', 'id = "../b"'), "not a repository id"),
        (edit('id = "a/b"\n', ""), "'id' is missing"),
        (edit('revision = "v1"', 'revision = "a..b"'), "not a branch"),
        (edit('revision = "v1"', "revision = 1"), "revision must be a string"),
        (
            edit('kind = "embedding"', 'kind = "dense"'),
            f"kind must be one of {', '.join(Kind)}, not 'dense'",
        ),
        (
            edit('remote_code = "omitted"', 'remote_code = "run"'),
            "remote_code must be one of none, omitted, vendored, not 'run'",
        ),
        (lambda lock: re.sub(r'set_digest = ".*"\n', "", lock, count=1), "set_digest does not fit"),
        (lambda lock: re.sub(r"files = \[[^]]*\]", "files = []", lock, count=1), "no files"),
        (lambda lock: re.sub(r"files = \[[^]]*\]", "files = 1", lock, count=1), "wrong type"),
        (lambda lock: re.sub(r"files = \[[^]]*\]", "files = ['x']", lock, count=1), "wrong type"),
        (lambda lock: re.sub(r"files = \[[^]]*\]", "", lock, count=1), "'files' is missing"),
        (lambda lock: lock + FIRST_MODEL, "a model is listed twice"),
        (lambda lock: lock.replace("[[model]]", "<<<<<<< HEAD\n[[model]]", 1), "is not TOML"),
        (lambda lock: lock + "=======\n>>>>>>> theirs\n", "is not TOML"),
        (lambda lock: lock[: len(lock) // 2], "is not TOML"),
        (lambda _: "lock_version = 1\nmodel = 1\n", "[[model]] tables are expected"),
        (lambda _: "x = " + "[" * 10_000, "is not TOML"),
        (lambda _: "", "is empty"),
        (lambda _: "model = []", "lock_version none"),
    ],
)
def test_a_damaged_lock_is_refused(damage: Callable[[str], str], told: str, tmp_path: Path) -> None:
    """Whatever was edited, merged or cut: exit 2, what is wrong, and how to write the lock anew."""
    (tmp_path / "models.lock").write_text(damage(LOCK))
    with pytest.raises(LockfileError) as caught:
        read_lock(tmp_path / "models.lock")
    assert told in caught.value.message
    assert "models.lock" in caught.value.message
    assert "cache-models lock" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            edit('made = "rewritten"', 'made = "improved"'),
            "made must be one of rewritten, converted, written, not 'improved'",
        ),
        (edit('made = "rewritten", ', ""), "config.json: `from` does not say what it is copied from"),
        (edit('made = "converted"', 'made = "written"'), "`from` does not say what it is written from"),
        (edit(', from = {path = "config.json", size = 612', ', was = {path = "config.json", size = 612'), "instead of"),
        (edit('from = {path = "config.json", ', "from = {"), "what it is rewritten from"),
        (edit("size = 612", 'size = "612"'), "not a number of bytes"),
        (edit("size = 91000", "size = 91000, mode = 1"), "what it is converted from"),
        (edit('"pytorch_model.bin"', '"../pytorch_model.bin"'), "leaves the model's directory"),
        (edit("6" * 64, "6" * 63), "not 64 hex digits"),
        (edit("f" * 40, "main"), "not 40 hex digits"),
        (edit('"c/code"', '"../code"'), "not a repository id"),
        (edit('made = "written"', 'made = "written", from = {path = "a", size = 1, sha256 = "a"}'), "written from"),
        (edit('["einops"]', '["-r /etc/passwd"]'), "not names that Python imports"),
        (edit('["einops"]', "[1]"), "not names that Python imports"),
        (edit('["einops"]', "1"), "not names that Python imports"),
        (edit('pooling = "mean"', 'pooling = "median"'), "pooling must be one of cls, max, mean, "),
        (edit('pooling = "mean"\n', ""), "normalize is not true or false beside pooling"),
        (edit("normalize = true", "normalize = 1"), "normalize must be true or false"),
    ],
)
def test_a_damaged_word_about_how_a_file_was_made_is_refused(damage: Callable[[str], str], told: str) -> None:
    """What is fetched, run and written follows from these words, so none is guessed."""
    with pytest.raises(LockfileError) as caught:
        parse_lock(damage(CHANGED_LOCK).encode(), "models.lock")
    assert told in caught.value.message


@pytest.mark.parametrize(("version", "newer"), [(2, True), (0, False)])
def test_a_lock_of_a_newer_version_asks_for_that_version(version: int, newer: bool) -> None:
    """Version control would give the same file again."""
    with pytest.raises(LockfileError) as caught:
        parse_lock(edit("lock_version = 1", f"lock_version = {version}")(LOCK).encode(), "models.lock")
    assert ("newer version of cache-models" in caught.value.hint) is newer


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            edit("size = 612", "size = 612, exec = true"),
            id="an unknown key of a file",
        ),
        pytest.param(
            edit("lock_version = 1", "lock_version = 1\nmodels = []"),
            id="an unknown key of the file",
        ),
        pytest.param(
            lambda lock: lock.replace("[[model]]", "[[modell]]"),
            id="a wrong name of the tables",
        ),
        pytest.param(
            edit("lock_version = 1", "lock_version = true"),
            id="a version that is no number",
        ),
        pytest.param(
            lambda _: "lock_version = 1\nmodel = [1]\n",
            id="a model that is no table",
        ),
        pytest.param(
            lambda _: "lock_version = " + "1" * 5000,
            id="a number without end",
        ),
    ],
)
def test_damage_that_should_be_refused(damage: Callable[[str], str]) -> None:
    """A lock is believed only when everything in it is understood."""
    with pytest.raises(LockfileError):
        parse_lock(damage(LOCK).encode(), "models.lock")


def test_every_damage_is_told_at_once() -> None:
    """Each wrong model has a line of its own, with its number."""
    lock = LOCK.replace("2" * 64, "4" * 64).replace("c" * 40, "main")
    with pytest.raises(LockfileError) as caught:
        parse_lock(lock.encode(), "models.lock")
    assert [line.split(": ")[1] for line in caught.value.message.splitlines()] == ["model 1", "model 2", "model 3"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b'x = "\xe9"', b"\0"], ids=["UTF-16", "Latin-1", "NUL"])
def test_a_lock_that_is_not_utf8_is_refused(content: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(LockfileError, match=r"models\.lock"):
        parse_lock(content, "models.lock")


def test_a_directory_is_no_lock(tmp_path: Path) -> None:
    """Docker makes one where a mounted file is missing."""
    with pytest.raises(UsageError, match=os.strerror(errno.EISDIR)):
        read_lock(tmp_path)


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_lock_or_a_lockfile_error(content: bytes) -> None:
    """Whatever lies there, it is never a bug of ours."""
    with suppress(LockfileError):
        parse_lock(content, "models.lock")


@settings(deadline=None)
@given(st.integers(0, len(LOCK) - 1), st.characters(codec="utf-8"))
def test_a_changed_character_is_refused_or_harmless(at: int, character: str) -> None:
    """No single edit makes a lock say other bytes for a file."""
    try:
        models = parse_lock((LOCK[:at] + character + LOCK[at + 1 :]).encode(), "models.lock")
    except LockfileError:
        return
    pinned = {(file.path, file.sha256) for model in models for file in model.files}
    assert pinned <= {(file.path, file.sha256) for file in FILES}


@settings(deadline=None)
@given(MODELS)
def test_a_receipt_is_read_back(tmp_path_factory: pytest.TempPathFactory, model: LockedModel) -> None:
    """Any model that can be pinned can be believed from its receipt alone."""
    folder = tmp_path_factory.getbasetemp() / "receipt"
    folder.mkdir(exist_ok=True)
    (folder / ".cache-models.json").write_bytes(format_receipt(model))
    assert read_receipt(folder) == model


def test_equal_models_give_equal_receipts() -> None:
    """Order is not content; another commit, licence or byte is."""
    receipt = format_receipt(HUB)
    assert format_receipt(replace(HUB, files=FILES[::-1])) == receipt
    others = [
        replace(HUB, commit="e" * 40),
        replace(HUB, licence="mit"),
        replace(HUB, gated=True),
        replace(HUB, revision="main"),
        replace(HUB, files=FILES[1:]),
        replace(HUB, kind=Kind.RERANKER),
        replace(HUB, remote_code=RemoteCode.OMITTED),
    ]
    assert len({receipt, *map(format_receipt, others)}) == 1 + len(others)


def test_a_receipt_has_one_line_a_file() -> None:
    """People open it."""
    lines = format_receipt(HUB).decode().splitlines()
    assert sum('"sha256"' in line for line in lines) == len(FILES)
    assert json.loads(format_receipt(HUB))["files"][1]["path"] == "config.json"


RECEIPT = format_receipt(HUB).decode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        RECEIPT.encode()[:-20],
        RECEIPT.replace('"format": 1', '"format": 2').encode(),
        RECEIPT.replace("2" * 64, "4" * 64).encode(),
        RECEIPT.replace('"config.json"', '"../config.json"').encode(),
        RECEIPT.replace('"model.safetensors"', '"pytorch_model.bin"').encode(),
        RECEIPT.replace('"config.json"', '"\\ud800"').encode(),
        RECEIPT.replace('"kind"', '"sort"').encode(),
        RECEIPT.replace('"size": 612', '"size": null').encode(),
        RECEIPT.replace("612", "6" * 5000).encode(),
        b'{"format": 1, "kind": "embedding", "id": "a/b", "files": null}',
        b'{"format": 1, "kind": "embedding", "id": "a/b", "files": {"path": 1}}',
        b'{"format": 1, "kind": [], "id": {}, "files": [[]]}',
    ],
)
def test_a_damaged_receipt_is_none(content: bytes, tmp_path: Path) -> None:
    """A receipt that cannot be believed is no receipt; it is never an error."""
    (tmp_path / ".cache-models.json").write_bytes(content)
    assert read_receipt(tmp_path) is None


def test_no_receipt_is_none(tmp_path: Path) -> None:
    """Neither a missing one, nor a missing directory, nor a directory in its place."""
    assert read_receipt(tmp_path) is None
    assert read_receipt(tmp_path / "nowhere") is None
    (tmp_path / ".cache-models.json").mkdir()
    assert read_receipt(tmp_path) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {"format": st.just(1) | JSON},
    optional={
        key: JSON | st.sampled_from(["embedding", "a/b", "none"])
        for key in ("kind", "id", "revision", "commit", "licence", "gated", "remote_code", "set_digest", "files")
    },
)


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | ALMOST.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_no_receipt(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Reading a receipt never raises."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / ".cache-models.json").write_bytes(content)
    assert read_receipt(folder) is None


@pytest.mark.skipif(not (shutil.which("xargs") and shutil.which("sha256sum")), reason="no xargs or no sha256sum")
@pytest.mark.parametrize("odd_names", [False, True], ids=["as published", "with odd names"])
def test_a_shell_can_check_the_set_digest(pair: Tool, odd_names: bool) -> None:
    """The command in `set_digest`'s own words prints the digest that lock and receipt hold."""
    pair("sync")
    home = pair.home(EMBEDDING)
    model = read_receipt(home)
    assert model is not None
    files = list(model.files)
    for name in ('it\'s "odd" é.txt', "日本 x.json") if odd_names else ():
        (home / name).write_text(name)
        files.append(LockedFile(name, len(name.encode()), hashlib.sha256(name.encode()).hexdigest()))
    (command,) = (part for part in (set_digest.__doc__ or "").split("`") if part.startswith("find "))
    done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == set_digest(files)
    assert odd_names or set_digest(files) in (pair.folder / "models.lock").read_text()


def test_any_character_is_written_so_that_toml_reads_it() -> None:
    """The lock is written by hand: quotes, control characters and all others come back as they went."""
    name = "".join(map(chr, (*range(1, 0x180), 0x2028, 0xFEFF, 0x1F600)))
    model = LockedModel(Kind.EMBEDDING, "org/model", "main", "1" * 40, (LockedFile(name, 1, "0" * 64),))
    assert tomllib.loads(format_lock([model]))["model"][0]["files"][0]["path"] == name
