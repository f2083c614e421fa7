"""A Hub that lies: whatever it says, nothing is written outside the root, and memory, time and words are bounded."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.conftest import EMBEDDING, Tool
from tests.faults.conftest import Tally
from tests.support.faults.bounds import EVIL, Outside, assert_bounded, assert_told, run_bounded
from tests.support.hub import StandInHub, Status
from tests.support.hub.answers import Answer
from tests.support.hub.content import Content
from tests.support.hub.wire import Delivery

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
SMALL_MEMORY = 128 << 20
"""Bytes that one listing may take, with the interpreter."""
REVISION, TREE = "GET hub /api/models/.*/revision/", "GET hub /api/models/.*/tree/"


def entry(path: object = "config.json", **rest: object) -> dict[str, Any]:
    """A file as the Hub lists it."""
    return {"type": "file", "oid": "0" * 40, "size": 1, "path": path, **rest}


def listing(hub: StandInHub) -> list[dict[str, Any]]:
    """Return what the Hub lists of the small model."""
    with urllib.request.urlopen(f"{hub.url}/api/models/{EMBEDDING}/tree/main?recursive=true") as answer:
        page: list[dict[str, Any]] = json.load(answer)
    return page


def assert_nothing_came(tool: Tool) -> None:
    """Check that there is no model, and nothing but the manifest."""
    assert [path.name for path in tool.folder.iterdir()] == ["models.toml"]


# listings -------------------------------------------------------------------------------------------------------

# Each would be shipped: it lies beside config.json, or where modules.json has a module.
NAMES: dict[str, tuple[list[str], str]] = {
    "absolute": (["/x"], "leaves the model's directory"),
    "backslashes": (["a\\..\\..\\x"], "characters or a name"),
    "NUL": (["config.json\0.txt"], "characters or a name"),
    "escape sequences": (["\x1b]0;x\x07\x1b[2J"], "characters or a name"),
    "lines of their own": ([f"x\n{EVIL}"], "characters or a name"),
    "a surrogate": (["\udcff"], "characters or a name"),
    "a device": (["aux.json"], "characters or a name"),
    "300 characters": (["x" * 300], "is too long"),
    "a million characters": (["x" * 1_000_000], "not what the Hub sends"),
    "nothing": ([""], "leaves the model's directory"),
    "equal": (["x", "x"], "lists a file twice"),
    "equal but for case": (["Vocab.txt"], "are one name"),
    "equal but for composition": (["caf\u00e9", "cafe\u0301"], "are one name"),
    "a file and a directory": (["1_Pooling"], "also a file"),
}
BESIDE = {
    "leave the directory": ["../x", "../../../config.json", "a/../../x", "1_Pooling/../../config.json"],
    "are absolute": ["/etc/cron.d/x", "/1_Pooling/config.json", "C:/x"],
    "have odd characters": ["runs/12:30.log", "runs/\x1b]0;x\x07.log", "runs/a\0b", "runs/\udcff", f"x/x\n{EVIL}"],
    "are nested deeply": ["a/" * 200 + "x", "a/" * 17 + "config.json"],
    "have empty parts": ["a//x", "./config.json", "1_Pooling//config.json", "1_Pooling/./x"],
    "are ours": [".cache-models.json", ".cache-models/x.lease", ".Cache-Models/y"],
    "are one": ["runs/A.log", "runs/a.log", "runs/caf\u00e9", "runs/cafe\u0301", "RUNS/a.log/y"],
    "are links": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_with_a_name_that_is_not_safe(
    hub: StandInHub, one: Tool, outside: Outside, tally: Tally, name: str
) -> None:
    """Refused with what, where and why, by `lock` and by `sync`; nothing is written at all."""
    paths, reason = NAMES[name]
    page = [*listing(hub), *map(entry, paths)]
    hub.fail(Status(200, JSON, json.dumps(page).encode()), on=TREE, times=-1)
    for command in ("lock", "sync"):
        ran = one(command)
        assert_told(ran)
        assert ran.exit_code in (3, 5), ran.err
        assert reason in ran.err
        assert EMBEDDING in ran.err
        assert_nothing_came(one)
    tally("hostile listings and repositories", 2)


@pytest.mark.parametrize("what", BESIDE)
def test_names_beside_the_model_that_are_not_safe(
    hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str
) -> None:
    """What is not shipped is not judged: it is asked for nowhere, and written nowhere."""
    links = [entry("runs/latest", type="symlink"), entry("third_party", type="submodule")]
    page = [*listing(hub), *map(entry, BESIDE[what]), *(links if what == "are links" else [])]
    expected = {item["path"] for item in page[: len(listing(hub))] if item["type"] == "file"}
    hub.fail(Status(200, JSON, json.dumps(page).encode()), on=TREE, times=-1)
    for command in ("lock", "sync", "verify"):
        ran = one(command)
        assert ran.exit_code == 0, ran.err
    home = one.home(EMBEDDING)
    there = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert there - {".cache-models.json"} <= expected
    tally("hostile listings and repositories", 2)


ENTRIES: dict[str, tuple[object, str]] = {
    "is no list": ({"error": "x"}, "not what the Hub sends"),
    "has entries that are none": ([1, None, []], "not what the Hub sends"),
    "has a symlink": ([entry(type="symlink")], "only plain files"),
    "has a submodule": ([entry("1_Pooling", type="submodule")], "only plain files"),
    "has something else": ([entry(type=f"commit\n{EVIL}")], "only plain files"),
    "has a path that is no text": ([entry(["x"] * 9999)], "not what the Hub sends"),
    "has a negative size": ([entry(size=-1)], "not what the Hub sends"),
    "has a size of 2^63": ([entry(size=1 << 63)], "not what the Hub sends"),
    "has a size that is no whole number": ([entry(size=1.5)], "not what the Hub sends"),
    "has a size that is true": ([entry(size=True)], "not what the Hub sends"),
    "has a hash that is a path": ([entry(oid="../../../../etc/passwd")], "not what the Hub sends"),
    "has an LFS hash that is a path": ([entry(lfs={"oid": "../" * 20 + "x", "size": 1})], "not what the Hub sends"),
    "has LFS that is a list": ([entry(lfs=["x"])], "not what the Hub sends"),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_listing_that_is_none(hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str) -> None:
    """An entry of a shape that the Hub never sends ends with exit 3 or 5, and nothing is written."""
    page, reason = ENTRIES[what]
    if reason == "only plain files" and isinstance(page, list):
        page += [one for one in listing(hub) if not one["path"].startswith(page[0]["path"])]
    hub.fail(Status(200, JSON, json.dumps(page).encode()), on=TREE, times=-1)
    ran = one("sync")
    assert_told(ran)
    assert ran.exit_code in (3, 5), ran.err
    assert reason in ran.err
    assert_nothing_came(one)
    tally("hostile listings and repositories")


LISTS = b"[" + b"[]," * 12_000_000 + b"[]]"
HUGE: dict[str, tuple[str, bytes, str]] = {
    "36 MB of empty lists": (TREE, LISTS, "where a short answer belongs"),
    "nested a million deep": (TREE, b"[" * 1_000_000, "sent JSON that is broken"),
    "a number of a million digits": (TREE, b"9" * 1_000_000, "sent JSON that is broken"),
    "2 MB of empty objects": (TREE, b"[" + b"{}," * 690_000 + b"{}]", "not what the Hub sends"),
    "2 MB of objects in objects": (TREE, b"[" + b'{"a":{}},' * 230_000 + b"{}]", "not what the Hub sends"),
    "2 MB of lists with one list": (TREE, b"[" + b"[[]]," * 400_000 + b"[]]", "not what the Hub sends"),
    "an entry of 2 MB of lists": (
        TREE,
        b'[{"type": "file", "path": [' + b"[]," * 690_000 + b"[]]}]",
        "not what the Hub",
    ),
    "2 MB of lists, with one wide letter": (
        TREE,
        '["\U0001f600",'.encode() + b"[]," * 690_000 + b"[]]",
        "not what the",
    ),
    "5,000 files below 100 directories": (
        TREE,
        json.dumps([entry(f"{n}/" + "a/" * 100 + "x") for n in range(5_000)]).encode(),
        "it holds no model",
    ),
    "a revision of 36 MB": (REVISION, b'{"sha": "' + b"0" * 40 + b'", "siblings": ' + LISTS + b"}", "short answer"),
}


@pytest.mark.parametrize("what", HUGE)
def test_an_answer_that_is_huge(hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str) -> None:
    """What is too large or too deep is told in a few words, in the memory of an init container."""
    on, body, reason = HUGE[what]
    hub.fail(Status(200, JSON, body), on=on, times=-1)
    ran = run_bounded(one.folder, "lock")
    assert_bounded(ran)
    assert ran.peak < SMALL_MEMORY
    assert ran.exit_code in (3, 5)
    assert reason in ran.err
    assert_nothing_came(one)
    tally("hostile listings and repositories")


@dataclass
class Pages:
    """A listing that goes on and on."""

    pages: Iterator[list[dict[str, Any]]]
    sent: int = 0
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def bend(self, delivery: Delivery) -> Delivery:
        """Give the next page, with a link to one more."""
        with self.one_at_a_time:
            self.sent += 1
            link = {**JSON, "Link": f'</api/models/{EMBEDDING}/tree/{"0" * 40}?cursor={self.sent}>; rel="next"'}
            return replace(delivery, answer=Answer(200, link, Content(json.dumps(next(self.pages)).encode())))


def spelled() -> Iterator[str]:
    """Spell one name of 200 letters in ever other ways."""
    for letters in itertools.product("aA", repeat=200):
        yield "".join(letters)


WITHOUT_END: dict[str, tuple[Iterator[list[dict[str, Any]]], str]] = {
    "of empty pages": (itertools.repeat([]), "has no end"),
    "of one page": (itertools.repeat([entry()]), "has no end"),
    "of 5,000 files a page": (
        ([entry(f"{n}-{m}") for m in range(5_000)] for n in itertools.count()),
        "lists more than",
    ),
    "of 16 directories a file": (
        ([entry(f"{n}-{m}/" + "a/" * 14 + "x") for m in range(5_000)] for n in itertools.count()),
        "lists more than",
    ),
    "of one name in every case": (
        (list(map(entry, itertools.islice(names, 5_000))) for names in itertools.repeat(spelled())),
        "lists more than",
    ),
    "of directories": (([entry("x" * 999, type="directory")] * 1_500 for _ in itertools.count()), "more than 8.4 MB"),
    "of long names": (([entry(f"{n}-{m}-" + "x" * 900) for m in range(1_500)] for n in itertools.count()), "more than"),
    "of wide names": (
        ([entry(f"{n}-{m}-" + "\U0001f600x" * 100) for m in range(900)] for n in itertools.count()),
        "more",
    ),
    "of names of 1 MB": (([entry(f"{n}" + "x" * 1_000_000)] for n in itertools.count()), "not what the Hub sends"),
}


@pytest.mark.parametrize("what", WITHOUT_END)
def test_a_listing_without_end(hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str) -> None:
    """Given up after a bounded number of pages and of files."""
    pages, reason = WITHOUT_END[what]
    fault = Pages(pages)
    hub.fail(fault, on=TREE, times=-1)
    ran = run_bounded(one.folder, "lock")
    assert_bounded(ran)
    assert ran.peak < SMALL_MEMORY
    assert ran.exit_code == 3
    assert reason in ran.err
    assert fault.sent <= 200
    assert_nothing_came(one)
    tally("hostile listings and repositories")


def deep(count: int, part: str) -> Iterator[str]:
    """Name files, each below 14 directories of its own."""
    for number in range(count):
        yield "/".join(f"{number:x}-{level:x}{part}" for level in range(15))


LONGEST: dict[str, tuple[Iterable[str], int, int]] = {
    "below directories of one name": ((f"{n:05}/" + "a/" * 14 + "x" for n in range(19_900)), 5_000, 0),
    "equal but for case": (itertools.islice(spelled(), 5_000), 5_000, 5),
    "in one directory": ((f"{n:05}" + "x" * 200 for n in range(19_900)), 2_000, 3),
    "below directories of their own": (deep(19_000, "xxxxxxxx"), 2_000, 0),
    "below directories of long names": (deep(8_000, "x" * 45), 1_000, 0),
    "in letters that take four bytes": (deep(9_000, "x" * 8 + "\U0001f600"), 1_000, 0),
}


@pytest.mark.parametrize("what", LONGEST)
def test_a_listing_as_long_as_may_be(hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str) -> None:
    """A model is found in the longest listing that is read through, in bounded time and memory; or it is refused."""
    for files, a_page, code in (LONGEST[what],):
        entries = [*listing(hub), *map(entry, files)]
        chunks = (entries[at : at + a_page] for at in range(0, len(entries), a_page))
        hub.fail(Last(chunks), on=TREE, times=-1)
        ran = run_bounded(one.folder, "lock")
        assert_bounded(ran)
        assert ran.peak < SMALL_MEMORY
        assert ran.exit_code == code, ran.err
        hub._log._armed.clear()
        tally("hostile listings and repositories")


FOUR = ("2 MB of objects in objects", "2 MB of lists with one list", "2 MB of lists, with one wide letter")


@pytest.mark.parametrize("what", FOUR)
def test_several_listings_are_not_parsed_at_the_same_time(
    hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str
) -> None:
    """Of four models, each of which would fill the memory; what was parsed of the first does not stay, either."""
    on, body, reason = HUGE[what]
    names = [f"many/{number}" for number in range(4)]
    for name in names:
        hub.add(name, {"config.json": b"{}"})
    one.want(*names)
    hub.fail(Status(200, JSON, body), on=on, times=-1)
    ran = run_bounded(one.folder, "lock")
    assert_bounded(ran)
    assert ran.peak < SMALL_MEMORY
    assert ran.exit_code == 3
    assert ran.err.count(reason) == 4
    tally("hostile listings and repositories")


class Last(Pages):
    """A listing whose last page says so."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Give the next page; none ends it."""
        try:
            return super().bend(delivery)
        except StopIteration:
            return replace(delivery, answer=Answer(200, JSON, Content(b"[]")))


# files of a model -----------------------------------------------------------------------------------------------

LISTS_INSIDE = b'{"x": ' + LISTS[:30_000_000] + b"[]]}"
FILES: dict[str, tuple[dict[str, bytes], str]] = {
    "tokenizer_config.json of 30 MB": ({"tokenizer_config.json": LISTS_INSIDE}, "tokenizer_config.json"),
    "config.json of 4 MB": ({"config.json": b'{"x": ' + LISTS[: 3 * 1_300_000] + b"[]]}"}, ""),
    "config.json nested a million deep": ({"config.json": b"[" * 1_000_000}, "is not JSON"),
    "config.json of 100,000 references": (
        {"config.json": json.dumps({"auto_map": {f"A{n}": f"m{n}.C" for n in range(100_000)}}).encode()},
        "has no m0.py in its root",
    ),
    "modules.json of 20,000 modules": (
        {
            "modules.json": json.dumps(
                [{"path": f"{n}", "type": "sentence_transformers.models.Pooling"} for n in range(20_000)]
            ).encode()
        },
        "more than 256 modules",
    ),
    "modules.json that leaves": (
        {
            "modules.json": json.dumps(
                [{"path": "../../../../etc", "type": "sentence_transformers.models.Transformer"}]
            ).encode()
        },
        "",
    ),
    "an index that leaves": (
        {
            "model.safetensors": b"",
            "model.safetensors.index.json": json.dumps({"weight_map": {"x": "../../../../etc/passwd"}}).encode(),
        },
        "",
    ),
    "weights that leave": (
        {"config.json": b'{"transformers_weights": "../../../etc/passwd"}'},
        "names ../../../etc/passwd",
    ),
    "200 configurations of 1 MB": (
        {
            "modules.json": json.dumps(
                [{"path": f"{n}", "type": "sentence_transformers.models.Pooling"} for n in range(200)]
            ).encode(),
            **{f"{n}/config.json": b'{"x": ' + LISTS[: 3 * 350_000] + b"[]]}" for n in range(200)},
        },
        "and the configurations before it have more than",
    ),
    "1,000 configurations of 64 KB": ({f"c{n}.json": b"[" + b" " * 65_000 + b"]" for n in range(1_000)}, ""),
    "12 words of 9 MB": ({f"words{n}.txt": b"word\n" * 1_800_000 for n in range(12)}, ""),
    "an index of 50,000 shards": (
        {
            "model.safetensors.index.json": json.dumps(
                {"weight_map": {f"{n}": f"{n}.safetensors" for n in range(50_000)}}
            ).encode()
        },
        "",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_repository_whose_files_lie(
    hub: StandInHub, one: Tool, outside: Outside, tally: Tally, what: str, model: Mapping[str, bytes]
) -> None:
    """Whatever its configurations say: it is refused in few words, or only its own files are shipped."""
    files, reason = FILES[what]
    changed = {**model, **files}
    if "model.safetensors.index.json" in files:
        del changed["model.safetensors"]
    hub.add(EMBEDDING, changed)
    ran = run_bounded(one.folder, "sync")
    assert_bounded(ran)
    assert ran.exit_code in (0, 5), ran.err
    assert reason in ran.err
    shutil.rmtree(one.folder / "cached_embedding_models", ignore_errors=True)
    tally("hostile listings and repositories")
