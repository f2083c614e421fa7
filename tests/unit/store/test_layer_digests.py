"""The noted digests of layers: believed as long as the files have not changed, and never in the way of a push."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.core.kinds import Kind
from modelcache.formats.receipt import format_receipt
from modelcache.image.layers import Layer, plan_layers
from modelcache.store.layer_digests import LayerDigests
from modelcache.store.layout import DIGESTS_NAME
from tests.support.images import flip, pin, published

CONTENT = {"config.json": b"{}", "deep/er/two.json": b"[2]", "model.safetensors": b"\1" * 9000}
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Layer, ...]:
    """Two layers of two published models."""
    models = [pin("acme/a", CONTENT), pin("acme/b", CONTENT, Kind.RERANKER)]
    for model in models:
        published(tmp_path, model, CONTENT)
    return plan_layers(models, "models", format_receipt)


def digests(root: Path) -> LayerDigests:
    """As another run reads them."""
    return LayerDigests(root)


def noted(root: Path, layer: Layer, digest: str = ONE) -> LayerDigests:
    """Note a digest, and return what another run knows."""
    made = digests(root)
    made.note(layer, digest, made.facts(layer))
    return digests(root)


def config_of(root: Path) -> Path:
    """A file of the first layer."""
    return root / "cached_embedding_models" / "acme__a" / "config.json"


def test_a_digest_is_found_again(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """By this run and by the next one, for this layer alone."""
    made = digests(tmp_path)
    assert made.find(layers[0]) is None
    made.note(layers[0], ONE, made.facts(layers[0]))
    for one in (made, digests(tmp_path)):
        assert (one.find(layers[0]), one.find(layers[1])) == (ONE, None)
    made.note(layers[1], TWO, made.facts(layers[1]))
    assert [digests(tmp_path).find(layer) for layer in layers] == [ONE, TWO]
    made.forget(layers[0])
    for one in (made, digests(tmp_path)):
        assert [one.find(layer) for layer in layers] == [None, TWO]


def test_facts_are_of_the_files_of_models(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """By path within the root: size, mtime, inode, ctime. Receipts and views are computed, so they have none."""
    home = "cached_embedding_models/acme__a"
    facts = digests(tmp_path).facts(layers[0])
    assert set(facts) == {f"{home}/{path}" for path in CONTENT}
    status = config_of(tmp_path).stat()
    assert facts[f"{home}/config.json"] == [2, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
    config_of(tmp_path).unlink()
    assert set(digests(tmp_path).facts(layers[0])) == {f"{home}/{path}" for path in CONTENT if path != "config.json"}


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))


def _grow(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"[] ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"[]")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _remove(path: Path) -> None:
    path.unlink()


def _lead_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


CHANGES = {"mtime": _touch, "size": _grow, "replaced": _replace, "gone": _remove, "a link": _lead_elsewhere}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_ends_it(tmp_path: Path, layers: tuple[Layer, ...], change: Callable[[Path], None]) -> None:
    """For the layer of that file."""
    noted(tmp_path, layers[1], TWO)
    made = noted(tmp_path, layers[0])
    change(config_of(tmp_path))
    assert [made.find(layer) for layer in layers] == [None, TWO]


def test_the_rule_is_that_of_the_stamp(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """The ctime alone is no change, as after a chown; nor is a byte that was changed behind size and mtime."""
    made = noted(tmp_path, layers[0])
    before = config_of(tmp_path).stat().st_ctime_ns
    while config_of(tmp_path).stat().st_ctime_ns == before:
        config_of(tmp_path).chmod(0o644)
    assert made.find(layers[0]) == ONE
    flip(config_of(tmp_path))
    assert made.find(layers[0]) == ONE


def test_a_file_that_changes_while_it_is_read_is_not_believed(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """Its facts are those from before."""
    made = digests(tmp_path)
    facts = made.facts(layers[0])
    _touch(config_of(tmp_path))
    made.note(layers[0], ONE, facts)
    assert made.find(layers[0]) is None


def test_a_layer_of_other_pins_is_another_one(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """Also where a receipt alone differs, or the prefix does."""
    made = noted(tmp_path, layers[0])
    for model, prefix in ((pin("acme/a", CONTENT, commit="d" * 40), "models"), (pin("acme/a", CONTENT), "srv")):
        (other,) = plan_layers([model], prefix, format_receipt)
        assert made.find(other) is None


def test_repositories_are_remembered(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """The last one first, each once, and eight at most; none of a layer that is not noted."""
    made = digests(tmp_path)
    made.note_repository(layers[0], "ghcr.io/a/b")
    assert (made.repositories(layers[0]), (tmp_path / DIGESTS_NAME).exists()) == ((), False)
    made.note(layers[0], ONE, made.facts(layers[0]))
    names = [f"ghcr.io/a/{number}" for number in range(9)]
    for name in (*names, names[4], names[4]):
        made.note_repository(layers[0], name)
    for one in (made, digests(tmp_path)):
        assert list(one.repositories(layers[0])) == [names[4], names[8], names[7], *names[6:4:-1], *names[3:0:-1]]
        assert one.find(layers[0]) == ONE


def test_the_same_repository_again_writes_nothing(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """A push of what is there leaves the file as it is."""
    noted(tmp_path, layers[0]).note_repository(layers[0], "ghcr.io/a/b")
    before = (tmp_path / DIGESTS_NAME).stat().st_ino
    digests(tmp_path).note_repository(layers[0], "ghcr.io/a/b")
    assert (tmp_path / DIGESTS_NAME).stat().st_ino == before


def test_the_oldest_go_first(tmp_path: Path, layers: tuple[Layer, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that changes for years keeps so many."""
    monkeypatch.setattr("modelcache.store.layer_digests._MOST_LAYERS", 2)
    made = digests(tmp_path)
    others = [plan_layers([pin("acme/a", CONTENT, commit=digit * 40)], "models", format_receipt)[0] for digit in "ab"]
    for layer in (layers[0], *others):
        made.note(layer, ONE, made.facts(layer))
    assert [digests(tmp_path).find(layer) for layer in (layers[0], *others)] == [None, ONE, ONE]


def _link(path: Path) -> None:
    path.symlink_to("/dev/full")


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "cut short": b'{"version": 1, "layers": {"',
    "no JSON": b"\xff\x00",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "a number": b"7",
    "another version": b'{"version": 2, "layers": {}}',
    "no layers": b'{"version": 1}',
    "layers that are none": b'{"version": 1, "layers": [1]}',
    "long": b" " * (20 << 20),
}


ODD: dict[str, tuple[str, object]] = {
    "an endless number": ("facts", {"config.json": [1e999]}),
    "digits in a list": ("digest", ["a"] * 64),
    "half of a character": ("repositories", ["ghcr.io/\ud800"]),
    "a path that leads out": ("repositories", ["ghcr.io/../../x?a=b"]),
}


@pytest.mark.parametrize(("key", "value"), ODD.values(), ids=ODD)
def test_an_odd_value_is_not_believed(tmp_path: Path, layers: tuple[Layer, ...], key: str, value: object) -> None:
    """Whoever has written it: it would become a part of a request."""
    noted(tmp_path, layers[0]).note_repository(layers[0], "ghcr.io/a/b")
    document = json.loads((tmp_path / DIGESTS_NAME).read_bytes())
    for table in document["layers"].values():
        table[key] = value
    (tmp_path / DIGESTS_NAME).write_text(json.dumps(document))
    made = digests(tmp_path)
    assert (made.find(layers[0]), made.repositories(layers[0])) == (None, ())


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_holds_nothing(tmp_path: Path, layers: tuple[Layer, ...], content: bytes) -> None:
    """It is no error, and is written anew."""
    (tmp_path / DIGESTS_NAME).write_bytes(content)
    assert digests(tmp_path).find(layers[0]) is None
    assert noted(tmp_path, layers[0]).find(layers[0]) == ONE


@pytest.mark.parametrize("key", ["digest", "facts", "repositories"])
@pytest.mark.parametrize("value", [None, 7, "x", "../../x", [], {}, {"a": "b"}, {"a": [None]}, "g" * 64, "1" * 63])
def test_an_odd_entry_is_no_digest(tmp_path: Path, layers: tuple[Layer, ...], key: str, value: object) -> None:
    """Another user of the root may have written it: a digest is 64 hex digits, or nothing is believed."""
    noted(tmp_path, layers[0])
    path = tmp_path / DIGESTS_NAME
    document = json.loads(path.read_bytes())
    (entry,) = document["layers"].values()
    entry[key] = value
    path.write_text(json.dumps(document))
    found = digests(tmp_path)
    assert found.find(layers[0]) in ((ONE, None) if key == "repositories" else (None,))
    assert all(isinstance(one, str) for one in found.repositories(layers[0]))


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """It is replaced, and what it leads to is left alone."""
    noted(tmp_path, layers[0])
    target = tmp_path / "elsewhere"
    (tmp_path / DIGESTS_NAME).rename(target)
    (tmp_path / DIGESTS_NAME).symlink_to(target)
    before = target.read_bytes()
    made = digests(tmp_path)
    assert made.find(layers[0]) is None
    made.note(layers[1], TWO, made.facts(layers[1]))
    assert target.read_bytes() == before
    assert not (tmp_path / DIGESTS_NAME).is_symlink()


@pytest.mark.parametrize("name", [DIGESTS_NAME, f"{DIGESTS_NAME}.new"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, _link], ids=["a directory", "a pipe", "a link"])
def test_something_else_in_its_place(
    tmp_path: Path, layers: tuple[Layer, ...], make: Callable[[Path], object], name: str
) -> None:
    """It is replaced, but for a directory; nothing waits, and this run knows in any case."""
    make(tmp_path / name)
    made = digests(tmp_path)
    made.note(layers[0], ONE, made.facts(layers[0]))
    assert made.find(layers[0]) == ONE
    assert digests(tmp_path).find(layers[0]) == (None if make == Path.mkdir else ONE)


def test_a_root_that_cannot_be_written(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """It goes without: this run knows, the next one hashes."""
    gone = LayerDigests(tmp_path / "nowhere")
    gone.note(layers[0], ONE, {})
    assert gone.find(layers[0]) == ONE
    assert not (tmp_path / "nowhere").exists()


def test_the_file_is_small_plain_and_alone(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """Of one version, readable by those who may read the root; no leftover beside it."""
    noted(tmp_path, layers[0])
    path = tmp_path / DIGESTS_NAME
    assert json.loads(path.read_bytes()).keys() == {"version", "layers"}
    assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    assert [one.name for one in tmp_path.glob(".*")] == [DIGESTS_NAME]


def test_all_may_read_it(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """Whatever the umask, as the stamp: another user may push from the same root."""
    before = os.umask(0o077)
    try:
        noted(tmp_path, layers[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / DIGESTS_NAME).stat().st_mode) == 0o644


def test_a_directory_in_its_place_stays(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """The run goes without, and leaves nothing beside it."""
    (tmp_path / DIGESTS_NAME).mkdir()
    assert noted(tmp_path, layers[0]).find(layers[0]) is None
    assert [one.name for one in tmp_path.glob(".*")] == [DIGESTS_NAME]


def test_threads_may_note_at_a_time(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    """Nothing is lost."""
    made = digests(tmp_path)
    many = [plan_layers([pin("acme/a", CONTENT, commit=f"{n:040x}")], "models", format_receipt)[0] for n in range(24)]

    def note(some: list[Layer]) -> None:
        for layer in some:
            made.note(layer, ONE, made.facts(layer))
            made.note_repository(layer, "ghcr.io/a/b")

    threads = [threading.Thread(target=note, args=(many[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = digests(tmp_path)
    assert {found.find(layer) for layer in many} == {ONE}
    assert {tuple(found.repositories(layer)) for layer in many} == {("ghcr.io/a/b",)}
