"""`export`: the published models as one OCI image, in a layout, an archive or stdout."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import IntegrityError
from modelcache.core.kinds import Kind
from modelcache.core.names import PUBLISHED_MTIME
from modelcache.core.types import LockedFile, LockedModel
from modelcache.formats.lockfile import format_lock
from modelcache.image.descriptors import Platform
from modelcache.image.documents import ImageDocuments, image_documents
from modelcache.image.layers import Layer
from modelcache.pipeline.export import ImageTarget, export
from modelcache.pipeline.pins import Project, read_lock
from modelcache.store.hub_view import write_view
from modelcache.store.image_archive import open_archive
from modelcache.store.layer_copy import Copy, LayerCopy
from modelcache.store.publish import finalize_model, publish
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Ran, Tool, files_below
from tests.support import tiny
from tests.support.faults.bounds import run_bounded
from tests.support.faults.volumes import mounted
from tests.support.hub import StandInHub
from tests.support.images import (
    Seen,
    assert_only_its_image,
    blob,
    document,
    flip,
    manifests,
    pin,
    published,
    seen,
    unpacked,
    untarred,
)

CODE, OTHER, HOUSE = "acme/code", "urchade/gliner", "acme/house"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\n")
WEIGHTS = "model.safetensors"


@pytest.fixture
def full(tool: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """A root with models of several kinds: with large weights, vendored code, no commit, never loaded."""
    big = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add(EMBEDDING, {**big, WEIGHTS: tiny.safetensors_of(big[WEIGHTS], 17 << 20)}, licence="mit")
    hub.add(RERANKER, files_below(tiny.tiny_reranker(tmp_path / "reranker")), branch="v1", licence="apache-2.0")
    config = {**json.loads(big["config.json"]), "auto_map": {"AutoModel": f"{CODE}--modeling_tiny.TinyModel"}}
    hub.add("tinyorg/coded", {**big, "config.json": json.dumps(config).encode()})
    hub.add(CODE, {"modeling_tiny.py": b"import torch\n\n\nclass TinyModel(torch.nn.Module):\n    pass\n"})
    hub.add(OTHER, {"LICENSE": b"MIT", "empty": b"", "data/table.parquet": b"PAR1", "x" * 130 + ".bin": b"1"})
    tiny.tiny_embedding(tool.folder / "house")
    (tool.folder / "models.toml").write_text(
        f"""
[[embedding]]
id = "{EMBEDDING}"
[[embedding]]
id = "tinyorg/coded"
trust_remote_code = true
[[embedding]]
id = "{HOUSE}"
path = "house"
[[reranker]]
id = "{RERANKER}"
revision = "v1"
[[other]]
id = "{OTHER}"
"""
    )
    ran = tool("sync", "--no-stamp")
    assert ran.exit_code == 0, ran.err
    hub.forget()
    return tool


@pytest.fixture
def small(tool: Tool) -> Tool:
    """A root with two models and their lock, made without a Hub."""
    made = [pin("acme/a", SMALL), pin("acme/b", SMALL, Kind.RERANKER, revision="v1", commit="d" * 40)]
    for model in made:
        published(tool.folder, model, SMALL)
    (tool.folder / "models.lock").write_text(format_lock(made))
    (tool.folder / "models.toml").write_text(
        '[[embedding]]\nid = "acme/a"\n[[reranker]]\nid = "acme/b"\nrevision = "v1"\n'
    )
    return tool


SMALL = {"config.json": b"{}", "deep/er/two.json": b"[2]", WEIGHTS: b"\1" * 70_000}


def root_of(tool: Tool) -> Seen:
    """The published models and their view."""
    return seen(tool.folder, ["hub", *(kind.spec.collection for kind in Kind)])


def below(found: Seen, prefix: str) -> Seen:
    """The entries below a directory; the directories above it have the one mode and mtime."""
    parts = prefix.split("/")
    above = {"/".join(parts[: n + 1]) for n in range(len(parts))}
    assert {found[path][:3] for path in above} == {("directory", 0o755, PUBLISHED_MTIME * 10**9)}
    assert all(path in above or path.startswith(f"{prefix}/") for path in found)
    return {path.removeprefix(f"{prefix}/"): one for path, one in found.items() if path not in above}


def digest_of(ran: Ran) -> str:
    """The digest that it printed, alone on stdout."""
    assert ran.exit_code == 0, ran.err
    assert DIGEST.fullmatch(ran.out)
    return ran.out.strip()


def image_of(layout: Path) -> str:
    (image,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return str(image["digest"])


def test_the_image_is_the_root(full: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """All kinds of models: bytes, modes, links and times, unpacked by GNU tar; with no request."""
    ran = full("export", "image/")
    layout = full.folder / "image"
    assert digest_of(ran) == image_of(layout)
    assert_only_its_image(layout)
    found = unpacked(layout, tmp_path / "unpacked")
    root = root_of(full)
    assert below(seen(found), "models") == root
    assert [path for path in root if path.endswith("modeling_tiny.py")]
    assert len([path for path in root if path.endswith("/.cache-models.json")]) == 5
    assert hub.requests == []
    size = sum(layer["size"] for layer in manifests(layout)[0]["layers"])
    assert ran.err.splitlines()[-1] == f"5 models in image/: {size / 1e6:.1f} MB in 6 layers."


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_collection(tool: Tool, tmp_path: Path, kind: Kind) -> None:
    model = pin("acme/a", SMALL, kind, commit="" if kind is Kind.SPARSE else "c" * 40)
    published(tool.folder, model, SMALL)
    (tool.folder / "models.lock").write_text(format_lock([model]))
    assert tool("export", "image/").exit_code == 0
    assert below(seen(unpacked(tool.folder / "image", tmp_path / "unpacked")), "models") == root_of(tool)


def test_a_root_made_of_the_image_is_one(small: Tool, tmp_path: Path) -> None:
    """`verify` finds it whole, and `sync` finds nothing to do."""
    small("export", "image/")
    found = unpacked(small.folder / "image", tmp_path / "unpacked")
    assert small("verify", "--root", str(found / "models")).exit_code == 0
    ran = small("sync", "--root", str(found / "models"))
    assert (ran.exit_code, "unchanged" in ran.err) == (0, True)


def test_layout_archive_and_stdout_hold_the_same_image(full: Tool, tmp_path: Path) -> None:
    """The archive has the bytes of `-`, and is the layout with one file more."""
    digest = digest_of(full("export", "image/"))
    assert digest_of(full("export", "image.tar")) == digest
    streamed = tmp_path / "streamed.tar"
    with streamed.open("wb") as file:
        ran = subprocess.run(
            [sys.executable, PROJECT / "cache_models.py", "export", "-"],
            cwd=full.folder,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert "5 models on stdout: " in ran.stderr
    assert streamed.read_bytes() == (full.folder / "image.tar").read_bytes()
    found = untarred(streamed, tmp_path / "unpacked")
    (found / "manifest.json").unlink()
    assert files_below(found) == files_below(full.folder / "image")


def test_fixed_digests(small: Tool) -> None:
    """The same lock, prefix and platforms give the same image on every machine; another one is a decision."""
    known = "sha256:d63e04196ad5a07e1b9d62189b18c59d80a3c811e92e1d681d43dcfcfc886cd4"
    assert digest_of(small("export", "image/")) == known
    assert digest_of(small.run("export", "image.tar", env={"TZ": "Asia/Tokyo", "LC_ALL": "C"})) == known
    layers = manifests(small.folder / "image")[0]["layers"]
    assert [layer["digest"] for layer in layers] == [
        "sha256:c1507b80350e0943347dcab54935b2eeef1647c1b7538e3f4c38c16aa69413ab",
        "sha256:93563904b08cdc22e5f7ad390b5f73989f122a617d6b33ea94102cba12c9785c",
    ]


def test_without_a_lock_the_receipts_are_the_pin(full: Tool) -> None:
    """The image is the same; a model that is not there is an error."""
    digest = digest_of(full("export", "image/"))
    (full.folder / "models.lock").unlink()
    assert digest_of(full("export", "other/")) == digest
    assert not (full.folder / "models.lock").exists()
    ran = full("export", "--locked", "third/")
    assert (ran.exit_code, "there is no" in ran.err) == (2, True)
    shutil.rmtree(full.home(RERANKER, "reranker"))
    ran = full("export", "third/")
    assert (ran.exit_code, f"{RERANKER} is not there" in ran.err) == (1, True)
    assert not (full.folder / "third").exists()


def test_a_lock_that_does_not_fit_is_refused_with_locked(small: Tool) -> None:
    """Else the lock alone says what is in the image."""
    small.want("acme/c")
    ran = small("export", "--locked", "image/")
    assert (ran.exit_code, "acme/c (embedding) is not pinned" in ran.err) == (2, True)
    assert small("export", "image/").exit_code == 0


def test_only_some_models(full: Tool, tmp_path: Path) -> None:
    ran = full("export", "image/", "--only", RERANKER, HOUSE)
    assert ran.exit_code == 0, ran.err
    found = below(seen(unpacked(full.folder / "image", tmp_path / "unpacked")), "models")
    homes = {path.split("/")[1] for path in found if path.startswith("cached_") and "/" in path}
    assert homes == {"tinyorg__reranker", "acme__house"}
    assert {path.split("/")[1] for path in found if path.startswith("hub/")} == {
        "models--tinyorg--reranker",
        "models--acme--house",
    }
    assert found.items() <= root_of(full).items()
    assert digest_of(full("export", "image.tar", "--only", HOUSE, "--only", RERANKER)) == ran.out.strip()
    ran = full("export", "other/", "--only", "tinyorg/rerankr")
    assert (ran.exit_code, "did you mean 'tinyorg/reranker'?" in ran.err) == (2, True)
    assert not (full.folder / "other").exists()


@pytest.mark.parametrize("prefix", ["a", "srv/models", "größe/x"])
def test_another_prefix(small: Tool, tmp_path: Path, prefix: str) -> None:
    digest = digest_of(small("export", "image/"))
    assert digest_of(small("export", "other/", "--prefix", prefix)) != digest
    assert below(seen(unpacked(small.folder / "other", tmp_path / "unpacked")), prefix) == root_of(small)
    layer = manifests(small.folder / "other")[0]["layers"][0]
    assert digest_of(small("export", "image/", "--prefix", prefix)) == image_of(small.folder / "other")
    assert layer["annotations"].keys() == {f"io.github.cache-models.{key}" for key in ("models", "set-digest")}


def test_annotations_lead_to_a_large_file(full: Tool) -> None:
    """Its path and offset, so that a reader can ask for ranges of it."""
    full("export", "image/")
    layers = manifests(full.folder / "image")[0]["layers"]
    keys = [f"io.github.cache-models.{key}" for key in ("models", "offset", "path", "set-digest")]
    large = [layer for layer in layers if sorted(layer["annotations"]) == keys]
    assert len(large) == 1
    notes = large[0]["annotations"]
    path = full.folder / notes[keys[2]].removeprefix("models/")
    content = blob(full.folder / "image", large[0]["digest"])
    weights = path.read_bytes()
    assert content[int(notes[keys[1]]) :][: len(weights)] == weights
    assert notes[keys[0]] == EMBEDDING


def test_platforms(small: Tool) -> None:
    """Two by default; twice the same counts once; the layers are those of all."""
    digest = digest_of(small("export", "image/"))
    for words in (["linux/amd64,linux/arm64"], ["linux/amd64,linux/arm64,linux/amd64"]):
        assert digest_of(small("export", "other/", "--platform", *words)) == digest
    small("export", "other/", "--platform", "linux/arm/v7")
    (manifest,) = manifests(small.folder / "other")
    assert manifest["layers"] == manifests(small.folder / "image")[0]["layers"]
    config = document(small.folder / "other", manifest["config"]["digest"])
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v7")


def test_the_environment_sets_its_options(small: Tool) -> None:
    env = {"CACHE_MODELS_PLATFORM": "linux/arm64", "CACHE_MODELS_PREFIX": "a/b", "CACHE_MODELS_ONLY": "acme/a"}
    digest = digest_of(small.run("export", "image/", env=env))
    words = ["--platform", "linux/arm64", "--prefix", "a/b", "--only", "acme/a"]
    assert digest_of(small("export", "other/", *words)) == digest
    for name, text in {"PLATFORM": "arm64", "ONLY": " "}.items():
        ran = small.run("export", "image/", env={f"CACHE_MODELS_{name}": text})
        assert (ran.exit_code, f"CACHE_MODELS_{name}" in ran.err) == (2, True)


WRONG: dict[str, tuple[list[str], str]] = {
    "no target": ([], "the following arguments are required: TARGET"),
    "no form": (["image"], "'image' is neither a directory nor a name that ends in .tar"),
    "an image of another form": (["image.tar.gz"], "'image.tar.gz' is neither a directory nor"),
    "no name": (["oci:"], "the target has no name"),
    "no name of an archive": (["oci-archive:"], "the target has no name"),
    "nothing": ([""], "the target has no name"),
    "a missing directory": (["nowhere/image.tar"], "there is no directory"),
    "a registry": (
        ["docker://registry.example.com/x/"],
        "is no file or directory, and `cache-models export` writes nothing else",
    ),
    "an archive of Docker": (
        ["docker-archive:image.tar"],
        "is no file or directory, and `cache-models export` writes nothing else",
    ),
    "a REF of a layout": (["oci:image:v1"], "has a REF, but the image is always named latest"),
    "a REF of an archive": (["oci-archive:image.tar:v1"], "has a REF, but the image is always named latest"),
    "an absolute prefix": (["image/", "--prefix", "/models"], "'/models' is not a directory of an image, such as"),
    "a prefix above": (["image/", "--prefix", "../models"], "'../models' is not a directory of an image"),
    "no prefix": (["image/", "--prefix="], "'' is not a directory of an image"),
    "a dot": (["image/", "--prefix", "."], "'.' is not a directory of an image"),
    "a slash at its end": (["image/", "--prefix", "a/"], "'a/' is not a directory of an image"),
    "control characters": (["image/", "--prefix", "a\x1b[2Jb"], r"'a\x1b[2Jb' is not a directory of an image"),
    "a whiteout": (["image/", "--prefix", "srv/.wh.models"], "'srv/.wh.models' is not a directory of an image"),
    "a collection": (
        ["image/", "--prefix", "a/cached_other_models"],
        "has cached_other_models in it, a directory that belongs below the prefix",
    ),
    "in a model": (["cached_embedding_models/acme__a/image.tar"], "image.tar is in a directory that holds the models"),
    "a model": (["cached_embedding_models/acme__a/"], "acme__a is in a directory that holds the models"),
    "beside a model": (["oci:cached_reranker_models/image"], "image is in a directory that holds the models"),
    "in the view": (["hub/image/"], "image is in a directory that holds the models"),
    "no platform": (["image/", "--platform", "amd64"], "'amd64' is not a platform such as linux/amd64"),
    "Windows": (["image/", "--platform", "linux/amd64,windows/amd64"], "'windows/amd64' is not a platform"),
    "no model": (["image/", "--only"], "argument --only: expected at least one argument"),
    "a model and none": (["image/", "--only", "acme/a", "--only"], "argument --only: expected at least one argument"),
    "an unknown model": (["image/", "--only", "acme/x"], "not in models.lock or models.toml: acme/x"),
    "an unknown option": (["image/", "--base", "x"], "--base"),
    "--only eats the target": (["--only", "image/"], "the following arguments are required: TARGET"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_words(small: Tool, words: list[str], told: str) -> None:
    """Exit 2, in words, with nothing made."""
    before = files_below(small.folder)
    ran = small("export", *words)
    assert (ran.exit_code, ran.out) == (2, "")
    assert told in ran.err
    assert "hint: " in ran.err
    assert files_below(small.folder) == before


def test_a_link_to_the_models_is_no_target(small: Tool) -> None:
    (small.folder / "link").symlink_to(small.home("acme/a"))
    before = root_of(small)
    ran = small("export", "link/image.tar")
    assert (ran.exit_code, "is in a directory that holds the models" in ran.err) == (2, True)
    assert root_of(small) == before


@pytest.mark.parametrize(
    "target",
    ["oci:image", "oci:image.tar", "oci-archive:image", "./image/", "deep/er/image/", "./oci:x/", "./dir:x/"],
)
def test_forms_of_a_target(small: Tool, target: str) -> None:
    """As skopeo names them, or by the name alone; missing parents of a directory are made."""
    digest = digest_of(small("export", target))
    path = small.folder / target.removeprefix("oci-archive:").removeprefix("oci:")
    if target.startswith("oci-archive:"):
        path = untarred(path, small.folder / "unpacked")
    assert image_of(path) == digest


def test_a_directory_that_is_there_needs_no_slash(small: Tool) -> None:
    (small.folder / "image").mkdir()
    digest_of(small("export", "image"))
    assert_only_its_image(small.folder / "image")


def test_a_lock_without_models(small: Tool) -> None:
    (small.folder / "models.lock").write_text("lock_version = 1\n")
    ran = small("export", "image/")
    assert (ran.exit_code, "models.lock names no model" in ran.err) == (2, True)
    assert not (small.folder / "image").exists()


def test_no_lock_and_no_manifest(tool: Tool) -> None:
    ran = tool("export", "image/")
    assert (ran.exit_code, "cache-models add ID" in ran.err) == (2, True)


OCCUPIED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a directory of others": (
        "image/",
        tiny.tiny_embedding,
        "holds other files and is no OCI image",
    ),
    "a file": ("image/", lambda path: path.write_text("mine"), "is not a directory"),
    "a directory for an archive": ("image.tar", Path.mkdir, "is not a file"),
    "a pipe": ("image.tar", os.mkfifo, "is not a file"),
}


@pytest.mark.parametrize(("target", "occupy", "told"), OCCUPIED.values(), ids=OCCUPIED)
def test_a_target_of_others_is_refused(small: Tool, target: str, occupy: Callable[[Path], object], told: str) -> None:
    """Exit 4; nothing in it is touched."""
    path = small.folder / target
    occupy(path)
    before = files_below(path) if path.is_dir() else path.lstat()
    ran = small("export", target)
    assert (ran.exit_code, ran.out) == (4, "")
    assert told in ran.err
    assert "hint: Name a" in ran.err
    assert before == (files_below(path) if path.is_dir() else path.lstat())


def test_a_terminal_is_refused(small: Tool) -> None:
    """And a stdout that is closed."""
    command = [sys.executable, str(PROJECT / "cache_models.py"), "export", "-"]
    leader, terminal = pty.openpty()
    ran = subprocess.run(command, cwd=small.folder, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False)
    os.close(terminal)
    os.close(leader)
    assert (ran.returncode, "stdout is a terminal" in ran.stderr) == (2, True)
    shell = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], cwd=small.folder, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (shell.returncode, "stdout is closed" in shell.stderr) == (2, True)


@pytest.mark.parametrize(("to", "told"), [("> /dev/full", "No space left"), ("| head -c 600 | wc -c", "Broken pipe")])
def test_stdout_that_takes_no_more(full: Tool, to: str, told: str) -> None:
    """Exit 4, in words."""
    script = f'("$@"; echo "exit $?" >&2) {to}'
    command = [sys.executable, str(PROJECT / "cache_models.py"), "export", "-"]
    ran = subprocess.run(
        ["sh", "-c", script, "sh", *command], cwd=full.folder, capture_output=True, text=True, check=False
    )
    assert "exit 4" in ran.stderr
    assert f"cannot write to stdout: {told}" in ran.stderr


def test_stdout_that_does_not_block(small: Tool) -> None:
    """A process that shares the pipe may have made it so; the image waits for its reader."""
    digest_of(small("export", "image.tar"))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    run = subprocess.Popen(
        [sys.executable, str(PROJECT / "cache_models.py"), "export", "-"],
        cwd=small.folder,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    with open(reading, "rb") as image:
        streamed = image.read()
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert streamed == (small.folder / "image.tar").read_bytes()


@pytest.mark.parametrize("target", ["image/", "image.tar"])
def test_a_volume_that_is_full_or_read_only(small: Tool, target: str) -> None:
    """Exit 4 before the first byte: needed, free, short by; and the name of what cannot be written."""
    with mounted("tmpfs", 100 << 10, 100) as volume:
        ran = small("export", f"{volume.folder}/{target}")
        assert ran.exit_code == 4
        assert re.search(r"not enough space in .*: needed .* kB, free .* kB, short by at least .* kB", ran.err)
        assert "hint: Free some space, or choose another target." in ran.err
        assert not [path for path in volume.folder.rglob("*") if path.is_file() and path.name != "oci-layout"]
        volume.remount("ro")
        ran = small("export", f"{volume.folder}/new/" if target == "image/" else f"{volume.folder}/{target}")
        assert ran.exit_code == 4
        assert "Read-only file system" in ran.err
        assert "choose another target" in ran.err


def tree_of(folder: Path) -> dict[str, bytes]:
    """The files of a target, also where it is one file."""
    return files_below(folder) if folder.is_dir() else {"": folder.read_bytes()} if folder.exists() else {}


@pytest.mark.parametrize("target", ["image/", "image.tar"])
def test_a_flipped_byte_is_refused(full: Tool, hub: StandInHub, target: str) -> None:
    """In two models, with size and mtime kept: both are named, the older image stays, `sync` mends them."""
    path = full.folder / target
    digest = digest_of(full("export", target, "--only", HOUSE))
    before = tree_of(path)
    for home, name in ((full.home(EMBEDDING), WEIGHTS), (full.home(RERANKER, "reranker"), "config.json")):
        flip(home / name)
    ran = full("export", target)
    assert (ran.exit_code, ran.out) == (1, "")
    for model in (EMBEDDING, RERANKER):
        assert f"error: {model} does not match its pin" in ran.err
    assert ran.err.count("does not match its pin") == 2
    assert "hint: Run `cache-models sync`" in ran.err
    after = tree_of(path)
    assert before.items() <= after.items()
    assert not [name for name in after if "unfinished" in name]
    assert [one.name for one in full.folder.iterdir() if one.name.startswith(".image")] == []
    hub.forget()
    assert full("sync").exit_code == 0
    assert {request.file for request in hub.requests if request.file} == {WEIGHTS, "config.json"}
    assert digest_of(full("export", target)) != digest
    if path.is_dir():
        assert_only_its_image(path)


def test_a_flipped_byte_ends_a_stream_with_nothing(full: Tool) -> None:
    """Every byte has been read before the first is written."""
    flip(full.home(OTHER, "other") / "LICENSE")
    ran = full.run("export", "-")
    assert (ran.exit_code, ran.out) == (1, "")
    assert f"{OTHER} does not match its pin" in ran.err


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "is not there"),
    "a file is missing": (lambda home: (home / "config.json").unlink(), "does not match its pin"),
    "cut": (lambda home: os.truncate(home / "config.json", 1), "does not match its pin"),
    "longer": (lambda home: (home / "config.json").write_bytes(b"{}   "), "does not match its pin"),
    "an extra file": (lambda home: (home / "extra").write_bytes(b""), "does not match its pin"),
    "another receipt": (lambda home: flip(home / ".cache-models.json", 40), "does not match its pin"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_model_that_is_not_as_pinned(small: Tool, damage: Callable[[Path], object], told: str) -> None:
    """It is told before anything is written."""
    damage(small.home("acme/a"))
    ran = small("export", "image/")
    assert (ran.exit_code, ran.out) == (1, "")
    assert f"acme/a {told}" in ran.err
    assert not (small.folder / "image").exists()


def replaced(tool: Tool) -> None:
    """Another version of acme/a, as `sync` publishes it while an image is written."""
    shutil.rmtree(tool.home("acme/a"))
    content = {**SMALL, "config.json": b"{ }"}
    published(tool.folder, pin("acme/a", content, commit="e" * 40), content)


def removed(tool: Tool) -> None:
    shutil.rmtree(tool.home("acme/a"))


@pytest.mark.parametrize(("change", "told"), [(replaced, "does not match its pin"), (removed, "is not there")])
def test_a_model_that_another_process_changes_meanwhile(small: Tool, change: Callable[[Tool], None], told: str) -> None:
    """It is told as such; no file of the new version counts as damaged, so no mtime is taken from it."""
    project = Project(small.folder / "models.toml", small.folder / "models.lock", small.folder)
    models = read_lock(project.lockfile) or ()

    @contextmanager
    def opened(layers: Sequence[Layer]) -> Iterator[ImageTarget]:
        with open_archive(small.folder / "image.tar", layers) as target:
            change(small)
            yield target

    make_documents = partial(image_documents, platforms=[Platform("linux", "amd64")])
    with pytest.raises(IntegrityError, match=f"acme/a {told}"):
        export(models, project, opened, prefix="models", make_documents=make_documents, reporter=QuietReporter())
    assert not (small.folder / "image.tar").exists()
    for path in small.home("acme/a").rglob("*"):
        assert path.stat().st_mtime == PUBLISHED_MTIME


def test_an_existing_layout_is_reused(full: Tool, hub: StandInHub) -> None:
    """After a commit that changes a small file, one layer is new; the older one is removed."""
    assert "reused" not in full("export", "image/").err
    layout = full.folder / "image" / "blobs" / "sha256"
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in layout.iterdir()}
    ran = full("export", "image/")
    assert "6 layers, 6 of them reused." in ran.err
    assert before == {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in layout.iterdir()}
    files = files_below(full.home(EMBEDDING))
    files.pop(".cache-models.json")
    hub.add(EMBEDDING, {**files, "README.md": b"---\nlicense: mit\n---\nBetter.\n"})
    assert full("lock", "--upgrade", EMBEDDING).exit_code == 0
    assert full("sync").exit_code == 0
    ran = full("export", "image/")
    assert "6 layers, 5 of them reused." in ran.err
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in layout.iterdir()}
    assert len(set(after) - set(before)) == len(set(before) - set(after)) == 6  # with five documents
    assert all(after[name] == before[name] for name in set(after) & set(before))
    assert_only_its_image(full.folder / "image")


def test_each_layer_is_an_event(small: Tool) -> None:
    """In JSON, with its digest and bytes."""
    for event in ("layer", "reused"):
        ran = small("export", "image/", "--log-format", "json")
        lines = [json.loads(line) for line in ran.err.splitlines()]
        assert [line["event"] for line in lines] == [event, event, "ready"]
        layers = manifests(small.folder / "image")[0]["layers"]
        assert [(line["digest"], line["bytes"]) for line in lines[:2]] == [
            (layer["digest"].removeprefix("sha256:"), layer["size"]) for layer in layers
        ]
        assert lines[2]["digest"] == image_of(small.folder / "image")
    assert small("export", "image/", "--quiet").err == ""


@pytest.mark.parametrize("target", ["image/", "image.tar"])
def test_two_exports_at_once(full: Tool, target: str) -> None:
    """Into one target: both end well, and one whole image is there."""
    runs = [full.process("export", target) for _ in range(3)]
    ended = [(*run.communicate(timeout=120), run.returncode) for run in runs]
    assert [code for _, _, code in ended] == [0, 0, 0], ended
    assert len({out for out, _, _ in ended}) == 1
    path = full.folder / target
    if path.is_dir():
        assert_only_its_image(path)
    else:
        assert image_of(untarred(path, full.folder / "unpacked")) == ended[0][0].strip()
    assert not [one.name for one in full.folder.iterdir() if one.name.startswith(".image")]


class Crowd:
    """A target that counts how many layers are written at the same time."""

    def __init__(self, layers_at_a_time: int) -> None:
        self.layers_at_a_time = layers_at_a_time
        self._lock = threading.Lock()
        self.now = self.most = 0

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self._lock:
            self.now -= 1
        return copy(layer, lambda content, at: None)

    def finish(self, documents: ImageDocuments) -> None:
        pass


@pytest.mark.parametrize("most", [1, 2, 4])
def test_layers_at_the_same_time(tool: Tool, most: int) -> None:
    """As many as the target allows."""
    models = [pin(f"acme/m{number}", SMALL) for number in range(12)]
    for model in models:
        published(tool.folder, model, SMALL)
    crowd = Crowd(most)
    project = Project(tool.folder / "models.toml", tool.folder / "models.lock", tool.folder)
    make_documents = partial(image_documents, platforms=[Platform("linux", "amd64")])
    reporter = QuietReporter()
    export(models, project, lambda _: nullcontext(crowd), prefix="a", make_documents=make_documents, reporter=reporter)
    assert crowd.most == most


@pytest.mark.parametrize(("processors", "most"), [(1, 1), (2, 1), (6, 2), (256, 2)])
def test_layers_that_a_disk_is_given_at_the_same_time(processors: int, most: int) -> None:
    """Few on a large machine, too, whose memory a container does not have."""
    program = (
        f"import os; os.cpu_count = lambda: {processors}\n"
        "from modelcache.store import image_archive, image_layout\n"
        "for target in (image_layout.LayoutTarget, image_archive.ArchiveTarget, image_archive.StreamTarget):\n"
        "    print(target.layers_at_a_time)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == {str(most)}


GIGABYTE = 1_000_000_000


@pytest.fixture
def heavy(tool: Tool) -> Tool:
    """A root with a model whose weights are a hole of a gigabyte."""
    digest, zeros = hashlib.sha256(), bytes(1 << 20)
    for start in range(0, GIGABYTE, len(zeros)):
        digest.update(zeros[: GIGABYTE - start])
    files = (
        LockedFile(WEIGHTS, GIGABYTE, digest.hexdigest()),
        LockedFile("config.json", 2, hashlib.sha256(b"{}").hexdigest()),
    )
    model = LockedModel(Kind.EMBEDDING, "acme/a", "main", "c" * 40, files)
    tree = tool.home("acme/a").parent / ".cache-models" / "made" / "tree"
    tree.mkdir(parents=True)
    (tree / "config.json").write_bytes(b"{}")
    (tree / WEIGHTS).touch()
    os.truncate(tree / WEIGHTS, GIGABYTE)
    finalize_model(tree, model)
    publish(tree, tool.home("acme/a"))
    write_view(tool.folder / "hub", model)
    (tool.folder / "models.lock").write_text(format_lock([model]))
    return tool


@pytest.mark.slow
@pytest.mark.parametrize("target", ["image/", "image.tar", "-"])
def test_memory_is_flat(heavy: Tool, target: str) -> None:
    """A gigabyte takes what a kilobyte takes."""
    if target == "-":
        code = (
            "import re, sys; from cache_models import main; code = main(['export', '-'])\n"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)\n"
            "sys.exit(code)"
        )
        env: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with open(os.devnull, "wb") as nothing:
            ran = subprocess.run(
                [sys.executable, "-c", code],
                cwd=heavy.folder,
                env=env,
                stdout=nothing,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert ran.returncode == 0, ran.stderr
        peak = int(ran.stderr.splitlines()[-1]) << 10
    else:
        bounded = run_bounded(heavy.folder, "export", target)
        assert bounded.exit_code == 0, bounded.err
        peak = bounded.peak
    assert peak < 48 << 20, f"{peak >> 20} MiB"
