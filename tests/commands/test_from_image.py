"""`sync --from oci:` and `oci-archive:`: an image is copied from as another root is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.core.kinds import Kind
from modelcache.core.types import RemoteCode
from modelcache.image.reference import Reference
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.schemes import open_source, parse_source
from modelcache.transfer.partial_file import written_ranges
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.baked import Pinned, bake
from tests.support.hub import StandInHub
from tests.support.oci_images import REF, Entry, Layout, archive, entries_of

COLLECTIONS = ("cached_embedding_models", "cached_reranker_models")
WINDOWS = {"os": "windows", "architecture": "amd64"}
TRUST = "trust_remote_code = "
ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}


@pytest.fixture
def baked(pair: Tool, hub: StandInHub, tmp_path: Path) -> Path:
    """A root with both models; the tool has their lock and no models, and there is no Hub any more."""
    root = tmp_path / "baked"
    assert pair("sync", "--root", str(root)).exit_code == 0
    hub.close()
    return root


@pytest.fixture
def layout(baked: Path, tmp_path: Path) -> Layout:
    """An image of them, not written yet."""
    return Layout.of_root(baked, tmp_path / "image")


def source_of(layout: Layout, way: str) -> str:
    """Write an image; return its name for `--from`."""
    folder = layout.write()
    return f"oci:{folder}" if way == "oci" else f"oci-archive:{archive(folder, folder.with_suffix('.tar'))}"


def source_of_baked(tmp_path: Path, way: str) -> str:
    """Return the name of the root `baked`, or of an image of it."""
    root = tmp_path / "baked"
    return str(root) if way == "root" else source_of(Layout.of_root(root, tmp_path / "image"), way)


def published(root: Path) -> dict[str, bytes]:
    """Every file of the models in a root."""
    return {f"{name}/{path}": data for name in COLLECTIONS for path, data in files_below(root / name).items()}


@pytest.mark.parametrize("locked", [["--locked"], [], None], ids=["--locked", "lock", "no lock"])
@pytest.mark.parametrize("way", ["oci", "oci-archive"])
def test_an_image_is_copied_from(pair: Tool, baked: Path, layout: Layout, way: str, locked: list[str] | None) -> None:
    """Same bytes as from the root, with no Hub. Without a lock the receipts are the pin, and give the same lock."""
    lock = pair.folder / "models.lock"
    pinned = lock.read_bytes()
    if locked is None:
        lock.unlink()
    source = source_of(layout, way)
    ran = pair("sync", "--from", source, *(locked or ()))
    assert (ran.exit_code, ran.err.splitlines()[-1].endswith("2 copied.")) == (0, True), ran.err
    assert f"  from     {source} instead of the Hub\n" in ran.err
    assert published(pair.folder) == published(baked)
    assert lock.read_bytes() == pinned
    assert (pair.folder / "hub" / "models--tinyorg--embedding" / "refs" / "main").is_file()
    shutil.rmtree(layout.folder)
    layout.folder.with_suffix(".tar").unlink(missing_ok=True)
    for left in (".cache-models.stamp", "models.lock"):
        ran = pair("sync", "--from", source)
        assert ran.err.splitlines()[-1] == f"2 models ready in {pair.folder}: unchanged."
        (pair.folder / left).unlink()
    assert pair("sync", "--from", source).exit_code == 0
    assert pair("verify").exit_code == 0


def test_a_prefix_is_any_directory_and_the_root_of_the_image_is_one(pair: Tool, baked: Path, tmp_path: Path) -> None:
    """As `COPY` to another place makes it."""
    for number, prefix in enumerate(("", "opt/ml/models")):
        layout = Layout.of_root(baked, tmp_path / f"image{number}", prefix)
        root = tmp_path / f"root{number}"
        assert pair("sync", "--from", f"oci:{layout.write()}", "--root", str(root)).exit_code == 0
        assert published(root) == published(baked)


def test_one_layer_may_hold_several_models(pair: Tool, baked: Path, tmp_path: Path) -> None:
    """As of a `COPY`, or where an image would have too many layers; without a lock, too."""
    layout = Layout(tmp_path / "image")
    layout.add([entry for entries in entries_of(baked) for entry in entries])
    (pair.folder / "models.lock").unlink()
    assert pair("sync", "--from", source_of(layout, "oci-archive")).exit_code == 0
    assert published(pair.folder) == published(baked)


def test_a_dry_run_says_what_would_be_copied(pair: Tool, layout: Layout) -> None:
    """The same plan as from a directory, and nothing is written."""
    before = sorted(pair.folder.rglob("*"))
    ran = pair("sync", "--dry-run", "--from", source_of(layout, "oci"))
    assert (ran.exit_code, ran.err.count("  copy ")) == (0, 2)
    assert sorted(pair.folder.rglob("*")) == before


def test_only_the_models_that_are_not_in_place_are_taken(pair: Tool, baked: Path, layout: Layout) -> None:
    """An image of one model is enough where the other is there; the one that it lacks is named."""
    layout.layers = [layer for layer in layout.layers if b"reranker" in layout.blob(layer).read_bytes()]
    source = source_of(layout, "oci")
    ran = pair("sync", "--from", source)
    assert (ran.exit_code, ran.err.splitlines()[0]) == (2, f"error: {source} does not hold {EMBEDDING}")
    assert not pair.home(RERANKER, "reranker").exists()
    assert pair("sync", EMBEDDING, "--from", str(baked)).exit_code == 0
    assert pair("sync", "--from", source).err.splitlines()[-1].endswith(": 1 copied, 1 unchanged.")


def test_a_variable_names_an_image(pair: Tool, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE_MODELS_FROM takes what --from takes, and is refused with its own name."""
    monkeypatch.setenv("CACHE_MODELS_FROM", source_of(layout, "oci-archive"))
    assert pair("sync").err.endswith(" 2 copied.\n")
    monkeypatch.setenv("CACHE_MODELS_FROM", "docker-archive:models.tar")
    ran = pair("sync")
    assert ran.exit_code == 2
    assert (
        "CACHE_MODELS_FROM: docker-archive:models.tar is no path that exists, and docker-archive: is no scheme "
        in ran.err
    )


def test_from_without_a_manifest_is_refused(pair: Tool, layout: Layout) -> None:
    """An image does not say which models are wanted."""
    (pair.folder / "models.toml").unlink()
    assert pair("sync", "--from", source_of(layout, "oci")).exit_code == 2


def test_models_on_a_base_image(pair: Tool, baked: Path, layout: Layout) -> None:
    """Layers of a base image below: compressed, in another dialect, or with anything outside of the models."""
    base = [
        Entry("etc/passwd", b"root"),
        Entry("bin/sh", type=tarfile.SYMTYPE, target="/bin/busybox"),
        Entry("bin/ls", type=tarfile.LNKTYPE, target="bin/busybox"),
        Entry("dev/null", type=tarfile.CHRTYPE),
        Entry("srv/hub/link", type=tarfile.SYMTYPE, target="/etc/passwd"),
        Entry("srv/.wh.gone"),
        Entry("srv/cached_embedding_models/old", type=tarfile.SYMTYPE, target="/elsewhere"),
        Entry(".wh..wh..opq"),
        Entry("models/README", b"words"),
    ]
    layout.add(base, place=0)
    layout.add([Entry(f"{'long/' * 40}name", b"x")], dialect=tarfile.GNU_FORMAT, place=0)
    layout.add([Entry("usr/lib/one", b"x")], place=0)
    layout.compress(0)
    layout.add([Entry("app/main.py", b"code"), Entry("models", type=tarfile.DIRTYPE)])
    for layer in layout.layers:
        layer["annotations"] = {"io.github.cache-models.path": "../../etc/passwd", "io.github.cache-models.offset": "7"}
    assert pair("sync", "--from", source_of(layout, "oci")).exit_code == 0
    assert published(pair.folder) == published(baked)


def test_the_layer_on_top_wins(pair: Tool, baked: Path, layout: Layout) -> None:
    """A file that a layer replaces counts no more, whether it was right or is."""
    path = f"models/{COLLECTIONS[0]}/tinyorg__embedding/vocab.txt"
    right = (baked / COLLECTIONS[0] / "tinyorg__embedding" / "vocab.txt").read_bytes()
    layout.add([Entry(path, b"wrong")])
    ran = pair("sync", "--from", source_of(layout, "oci"))
    assert (ran.exit_code, "so copy it again" in ran.err) == (1, True)
    layout.add([Entry(path, right)])
    assert pair("sync", "--from", source_of(layout, "oci")).exit_code == 0


def test_the_manifest_for_linux_is_taken(pair: Tool, layout: Layout) -> None:
    """Not the first one: before it stand one for Windows and an attestation, as BuildKit adds them."""
    right = layout.manifest(platform={"os": "linux", "architecture": "arm64"})
    layout.layers = []
    unknown = {"os": "unknown", "architecture": "unknown"}
    others = [layout.manifest(platform=WINDOWS), layout.manifest(annotations=ATTESTATION, platform=unknown)]
    layout.write(layout.index([*others, right]))
    assert pair("sync", "--from", f"oci:{layout.folder}").exit_code == 0


def test_an_archive_as_docker_save_writes_it(pair: Tool, layout: Layout, tmp_path: Path) -> None:
    """Docker's own media types and its names, of two tags, beside the files that older versions read."""
    for layer in layout.layers:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar"
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    entry = {**layout.manifest(), "mediaType": docker}
    names = [{REF: tag, "io.containerd.image.name": f"docker.io/library/models:{tag}"} for tag in ("1", "latest")]
    folder = layout.write(*({**entry, "annotations": name} for name in names))
    (folder / "manifest.json").write_text(json.dumps([{"RepoTags": ["models:latest"]}]))
    (folder / "repositories").write_text("{}")
    source = f"oci-archive:{archive(folder, tmp_path / 'saved.tar')}"
    for number, ref in enumerate(("", ":models:latest", ":docker.io/library/models:1", ":latest")):
        assert pair("sync", "--from", source + ref, "--root", str(tmp_path / f"root{number}")).exit_code == 0


def test_one_of_several_images_has_to_be_named(pair: Tool, layout: Layout, tmp_path: Path) -> None:
    """By the names of index.json, which the error has."""
    right = {**layout.manifest(), "annotations": {REF: "models-1"}}
    layout.layers = []
    folder = layout.write({**layout.manifest(), "annotations": {REF: "models-2"}}, right)
    ran = pair("sync", "--from", f"oci:{folder}")
    assert (ran.exit_code, ran.err.splitlines()[0]) == (
        2,
        f"error: oci:{folder} holds several images: models-2, models-1",
    )
    assert f"Name one image behind a colon, as in oci:{folder}:models-2." in ran.err
    ran = pair("sync", "--from", f"oci:{folder}:models-3")
    assert (ran.exit_code, "Its images are models-2, models-1." in ran.err) == (2, True)
    ran = pair("sync", "--from", f"oci:{folder}:models-2")
    assert (ran.exit_code, "holds no models" in ran.err) == (2, True)
    assert pair("sync", "--from", f"oci:{folder}:models-1").exit_code == 0


def test_a_compressed_layer_that_is_needed_is_named(pair: Tool, layout: Layout) -> None:
    """As engines push them: exit 2, the layer, and how to write one that is not."""
    layout.compress(0)
    ran = pair("sync", "--from", source_of(layout, "oci"))
    assert ran.exit_code == 2
    assert layout.layers[0]["digest"] in ran.err
    assert "`skopeo copy --all --preserve-digests`" in ran.err
    assert "compression=uncompressed" in ran.err


DIES = """
import os, signal, sys
copy, write, left = os.copy_file_range, os.pwrite, [30_000_000]
def spend(count):
    left[0] -= count
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return count
os.copy_file_range = lambda source, target, count, *at: copy(source, target, spend(min(count, 1 << 20)), *at)
os.pwrite = lambda target, data, at: (spend(len(data)), write(target, data, at))[1]
from cache_models import main
main(sys.argv[1:])
"""


def kill_midway(hub: StandInHub, tool: Tool, tmp_path: Path, way: str) -> tuple[str, Path, int]:
    """End a copy of 60 MB with SIGKILL in the middle; return the source, the partial file and its size in the end."""
    hub.add("tinyorg/big", tiny.big_embedding(tmp_path / "big", 60))
    tool.want("tinyorg/big")
    assert tool("sync", "--root", str(tmp_path / "baked")).exit_code == 0
    hub.close()
    source = source_of_baked(tmp_path, way)
    words = [sys.executable, "-c", DIES, "sync", "--from", source]
    died = subprocess.run(words, cwd=tool.folder, env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=False)
    assert died.returncode == -9
    (journal,) = tool.home("tinyorg/big").parent.glob(".cache-models/*/*.ranges")
    size = (tmp_path / "baked" / COLLECTIONS[0] / "tinyorg__big" / "model.safetensors").stat().st_size
    return source, journal.with_suffix(""), size


def refuse_to_connect(image: Reference) -> RegistryRepository:
    """Fail: no registry is needed."""
    raise AssertionError(image)


@pytest.mark.parametrize("way", ["root", "oci", "oci-archive"])
def test_a_killed_copy_goes_on_where_it_stopped(
    hub: StandInHub, tool: Tool, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 the source is asked for exactly the bytes that the first run had not copied."""
    source, part, size = kill_midway(hub, tool, tmp_path, way)
    written = written_ranges(part, size).total()
    assert 20_000_000 < written < size - (1 << 20)
    with open_source(parse_source(source), refuse_to_connect, QuietReporter()) as found:
        weights = found.file(Kind.EMBEDDING, "tinyorg/big", "model.safetensors")
    assert weights is not None
    copied, copy, read = list[int](), os.copy_file_range, os.pread

    def count(source: int, done: int, position: int) -> None:
        where = os.readlink(f"/proc/self/fd/{source}")
        if where == str(weights.path) and weights.start <= position < weights.start + size:
            copied.append(done)

    def copied_by_kernel(source: int, target: int, most: int, start: int, at: int | None = None) -> int:
        done = copy(source, target, most, start, at)
        count(source, done, start)
        return done

    def copied_by_hand(source: int, most: int, position: int) -> bytes:
        data = read(source, most, position)
        count(source, len(data), position)
        return data

    monkeypatch.setattr(os, "copy_file_range", copied_by_kernel)
    monkeypatch.setattr(os, "pread", copied_by_hand)
    assert tool("sync", "--from", source).exit_code == 0
    assert sum(copied) == size - written
    assert published(tool.folder) == published(tmp_path / "baked")


@pytest.mark.parametrize("way", ["root", "oci", "oci-archive"])
def test_a_wrong_byte_of_a_killed_copy_costs_a_whole_one(hub: StandInHub, tool: Tool, tmp_path: Path, way: str) -> None:
    """Never a failure, and never a wrong model: the copy begins anew without the bytes of the dead process."""
    source, part, _ = kill_midway(hub, tool, tmp_path, way)
    with part.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    assert tool("sync", "--from", source).exit_code == 0
    assert published(tool.folder) == published(tmp_path / "baked")


def test_two_processes_share_the_work(pair: Tool, baked: Path, layout: Layout) -> None:
    """On one volume, from one image: both end well, and each model is copied once."""
    source = source_of(layout, "oci-archive")
    processes = [pair.process("sync", "--from", source, "--log-format=json") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    events = [json.loads(line) for _, err in ends for line in err.splitlines()]
    assert sum(event["copied"] for event in events if event["event"] == "ready") == 2
    assert published(pair.folder) == published(baked)


def want_all(tool: Tool, tables: Mapping[str, str]) -> None:
    """Write a manifest with a table a kind."""
    tool.want(extra="\n".join(f'[[{kind}]]\nid = "tinyorg/{kind}"\n{keys}' for kind, keys in tables.items()))


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_every_kind(hub: StandInHub, tool: Tool, tmp_path: Path, locked: bool) -> None:
    """Each kind has a collection of its own."""
    bake(tmp_path / "baked", *(Pinned(kind, f"tinyorg/{kind}") for kind in Kind))
    want_all(tool, dict.fromkeys(Kind, ""))
    source = source_of(Layout.of_root(tmp_path / "baked", tmp_path / "image"), "oci")
    ran = tool("sync", "--from", source)
    assert (ran.exit_code, ran.err.splitlines()[-1].endswith(" 5 copied.")) == (0, True), ran.err
    if not locked:
        (tool.folder / "models.lock").unlink()
    ran = tool("sync", "--from", source, "--root", str(tmp_path / "other"))
    assert ran.exit_code == 0
    assert files_below(tmp_path / "other" / "cached_other_models") == files_below(
        tmp_path / "baked" / "cached_other_models"
    )


GRANTS = {
    "code": (
        Pinned(files={"config.json": b"{}", "code.py": b"x = 1"}, remote_code=RemoteCode.VENDORED),
        TRUST + "true",
    ),
    "no code": (Pinned(remote_code=RemoteCode.OMITTED), TRUST + "false"),
    "a converted pickle": (Pinned(converted="config.json"), "allow_pickle = true"),
    "both": (
        Pinned(converted="config.json", remote_code=RemoteCode.VENDORED),
        TRUST + "true\nallow_pickle = true",
    ),
}


@pytest.mark.parametrize("way", ["root", "oci"])
@pytest.mark.parametrize("name", GRANTS)
def test_a_receipt_permits_nothing(hub: StandInHub, tool: Tool, tmp_path: Path, name: str, way: str) -> None:
    """Without the keys of the manifest it is exit 5, and names them; from a root and from an image."""
    pinned, keys = GRANTS[name]
    bake(tmp_path / "baked", pinned)
    source = source_of_baked(tmp_path, way)
    want_all(tool, {"embedding": ""})
    ran = tool("sync", "--from", source)
    assert ran.exit_code == 5
    assert ran.err.startswith(f"error: {source} has no receipt that fits the manifest for tinyorg/embedding: ")
    assert keys.replace("\n", " and ") in ran.err
    assert not tool.home("tinyorg/embedding").exists()
    assert not (tool.folder / "models.lock").exists()
    want_all(tool, {"embedding": keys})
    assert tool("sync", "--from", source).exit_code == 0


@pytest.mark.parametrize("way", ["root", "oci"])
def test_a_derived_file_that_is_lacking_is_named(hub: StandInHub, tool: Tool, tmp_path: Path, way: str) -> None:
    """By its own path and digest, which the lock has: no source has the pickle that it is made from."""
    pinned = Pinned(converted="deep/model.safetensors")
    root = bake(tmp_path / "baked", pinned)
    (root / COLLECTIONS[0] / "tinyorg__embedding" / pinned.converted).write_bytes(b"y")
    want_all(tool, {"embedding": "allow_pickle = true"})
    ran = tool("sync", "--from", source_of_baked(tmp_path, way))
    sha256 = hashlib.sha256(b"x").hexdigest()
    assert (ran.exit_code, f"has no {pinned.converted} with sha256 {sha256[:12]}" in ran.err) == (1, True), ran.err


@pytest.mark.parametrize("way", ["root", "oci"])
def test_a_receipt_of_other_settings_is_named_with_them(hub: StandInHub, tool: Tool, tmp_path: Path, way: str) -> None:
    """Exit 2: nothing is refused, but another model is wanted; less code than is permitted counts so, too."""
    bake(tmp_path / "baked", Pinned(remote_code=RemoteCode.OMITTED))
    source = source_of_baked(tmp_path, way)
    for keys, words in (
        (TRUST + 'false\nrevision = "v2"', "revision main instead of v2"),
        (TRUST + "true", "trust_remote_code false instead of true"),
    ):
        want_all(tool, {"embedding": keys})
        ran = tool("sync", "--from", source)
        assert (ran.exit_code, words in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "no receipt for tinyorg/embedding that this version can read"),
        (b" " * (5 << 20), "no receipt for tinyorg/embedding that this version can read"),
        (b"", "no receipt for tinyorg/embedding that this version can read"),
        (None, "id tinyorg/other instead of tinyorg/embedding"),
    ],
    ids=["nonsense", "long", "empty", "of another model"],
)
@pytest.mark.parametrize("way", ["root", "oci"])
def test_a_receipt_that_is_none(
    hub: StandInHub, tool: Tool, tmp_path: Path, way: str, content: bytes | None, words: str
) -> None:
    """Without a lock it would be the pin: exit 2."""
    bake(tmp_path / "baked", Pinned(id="tinyorg/other"))
    home = tmp_path / "baked" / COLLECTIONS[0] / "tinyorg__embedding"
    home.with_name("tinyorg__other").rename(home)
    if content is not None:
        (home / ".cache-models.json").write_bytes(content)
    source = source_of_baked(tmp_path, way)
    want_all(tool, {"embedding": ""})
    ran = tool("sync", "--from", source)
    assert (ran.exit_code, words in ran.err) == (2, True), ran.err
