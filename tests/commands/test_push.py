"""`push`: the image of `export`, sent to a registry from the published models."""

from __future__ import annotations

import json
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcache.core.kinds import Kind
from tests.conftest import Ran, Tool, unavailable
from tests.support.faults.volumes import mounted
from tests.support.hub.server import Server
from tests.support.images import flip, pin, published, seen
from tests.support.pushed import (
    CONTENTS,
    LARGE,
    LAYERS,
    SMALL,
    WEIGHTS,
    A,
    B,
    blobs_sent,
    bytes_sent,
    files_opened,
    lock,
    make_root,
    manifests_below,
    models_in,
    of_models,
    put,
)
from tests.support.registry import Fault, IgnoreMount, StandInRegistry, refusal
from tests.support.registry.faults import Change
from tests.support.registry.site import Ask, Site

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\n")
DIGESTS = ".cache-models.layers"
TEAM = "team/models"


@pytest.fixture
def root(tool: Tool) -> Tool:
    """The tool in a root with two models, of three layers."""
    make_root(tool.folder)
    return tool


def digest_of(ran: Ran) -> str:
    """The digest that it printed, alone on stdout."""
    assert ran.exit_code == 0, ran.err
    assert DIGEST.fullmatch(ran.out)
    return ran.out.strip()


@dataclass
class Replace(Change):
    """Let another process publish other bytes of a model before the request is answered."""

    root: Path
    content: dict[str, bytes]

    def before(self, site: Site, ask: Ask) -> None:
        """Publish it."""
        put(self.root, A, self.content, commit="d" * 40)


def test_the_image_is_that_of_export(root: Tool, registry: StandInRegistry) -> None:
    """The same digest, alone on stdout; under the tag, with all blobs; the root is as it was, but for the digests."""
    exported = digest_of(root("export", "image/"))
    shutil.rmtree(root.folder / "image")
    before = seen(root.folder)
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert digest_of(ran) == exported
    assert registry.tags(TEAM) == {"v1": exported}
    amd, arm = manifests_below(registry, TEAM, exported)
    assert amd["layers"] == arm["layers"]
    size = sum(layer["size"] for layer in amd["layers"])
    said = f"2 models in {registry.address}/{TEAM}:v1: {size / 1e6:.1f} MB in {LAYERS} layers."
    assert ran.err.splitlines()[-1] == said
    after = seen(root.folder)
    assert set(after) - set(before) == {DIGESTS}
    assert {path: after[path] for path in before} == before


def test_a_tag_is_latest_without_one(root: Tool, registry: StandInRegistry) -> None:
    """As in `docker push`."""
    digest = digest_of(root("push", f"docker://{registry.address}/{TEAM}"))
    assert registry.tags(TEAM) == {"latest": digest}


def test_a_push_of_what_is_there_sends_and_reads_nothing(root: Tool, registry: StandInRegistry) -> None:
    """A HEAD for each blob and manifest, and no file of a model is opened."""
    ref = f"{registry.address}/{TEAM}:v1"
    with files_opened() as opened:
        digest = digest_of(root("push", ref))
    assert {Path(path).name for path in of_models(opened)} == {Path(path).name for path in {**LARGE, **SMALL}}
    registry.forget()
    with files_opened() as opened:
        ran = root("push", ref)
    assert digest_of(ran) == digest
    assert of_models(opened) == []
    assert [request.method for request in registry.requests] == ["HEAD"] * (LAYERS + 2 + 2 + 1)
    assert bytes_sent(registry.requests) == 0
    assert f" in {LAYERS} layers, {LAYERS} of them there already." in ran.err


def test_a_small_change_moves_little(root: Tool, registry: StandInRegistry, tmp_path: Path) -> None:
    """Of a later commit the layer of small files is sent, and comes; the weights stay where they are."""
    ref, old = f"{registry.address}/{TEAM}:v1", tmp_path / "old"
    root("push", ref)
    assert root("sync", "--from", f"docker://{ref}", "--root", str(old)).exit_code == 0
    changed = {**LARGE, "config.json": b'{"new": 1}'}
    lock([put(root.folder, A, changed, commit="d" * 40), put(root.folder, B, SMALL)], root.folder)
    registry.forget()
    digest_of(root("push", ref))
    small = sum(len(content) for path, content in changed.items() if content is not WEIGHTS)
    assert small < bytes_sent(registry.requests) <= small + (64 << 10)
    registry.forget()
    ran = root("sync", "--from", f"docker://{ref}", "--root", str(old))
    assert ran.exit_code == 0, ran.err
    assert models_in(old) == models_in(root.folder)
    assert 0 < sum(request.sent for request in registry.requests) <= small + (64 << 10)


def test_a_change_that_the_stamp_ignores_is_none(root: Tool, registry: StandInRegistry) -> None:
    """An owner or a mode that is set again moves the ctime alone."""
    ref = f"{registry.address}/{TEAM}:v1"
    root("push", ref)
    weights = root.home(A) / "model.safetensors"
    before = weights.stat().st_ctime_ns
    while weights.stat().st_ctime_ns == before:
        weights.chmod(0o644)
    with files_opened() as opened:
        digest_of(root("push", ref))
    assert of_models(opened) == []


def test_a_file_that_has_changed_is_hashed_anew(root: Tool, registry: StandInRegistry) -> None:
    """A replaced file is a change; the layers of other files are not read for it. Other bytes are exit 1."""
    ref = f"{registry.address}/{TEAM}:v1"
    digest = digest_of(root("push", ref))
    config = root.home(B, "reranker") / "config.json"
    shutil.copy2(config, root.folder / "copy")
    (root.folder / "copy").replace(config)
    with files_opened() as opened:
        assert digest_of(root("push", ref)) == digest
    assert {Path(path).parent for path in of_models(opened)} == {config.parent}
    with files_opened() as opened:
        assert digest_of(root("push", ref)) == digest
    assert of_models(opened) == []
    config.write_bytes(b"[2]")
    ran = root("push", f"{registry.address}/{TEAM}:v2")
    assert (ran.exit_code, ran.out) == (1, "")
    assert f"{B} " in ran.err
    assert "config.json" in ran.err
    assert registry.tags(TEAM) == {"v1": digest}


def test_a_file_that_changed_behind_its_facts_is_refused(root: Tool, registry: StandInRegistry) -> None:
    """Size and mtime are as they were: the registry sees that the digest is another, and the file is named."""
    digest_of(root("push", f"{registry.address}/{TEAM}:v1"))
    shutil.rmtree(registry.storage.folder / TEAM)
    flip(root.home(B, "reranker") / "model.safetensors", 5000)
    for _ in range(2):  # the second time nothing is noted that could be believed
        ran = root("push", f"{registry.address}/{TEAM}:v1")
        assert (ran.exit_code, ran.out) == (1, "")
        assert f"{B} " in ran.err
        assert "model.safetensors" in ran.err
        assert "hint: " in ran.err
        assert registry.tags(TEAM) == {}


@pytest.mark.parametrize("again", [False, True], ids=["first push", "digests noted"])
@pytest.mark.parametrize("size", [len(WEIGHTS), 20], ids=["same size", "shorter"])
def test_a_model_replaced_during_a_push(root: Tool, registry: StandInRegistry, size: int, again: bool) -> None:
    """The bytes that are there now are no image of the lock: exit 1 that names the model, and no tag."""
    if again:
        digest_of(root("push", f"{registry.address}/{TEAM}:v1"))
        shutil.rmtree(registry.storage.folder / TEAM)
    other = {**LARGE, "config.json": b"[]", "model.safetensors": WEIGHTS[::-1][:size]}
    registry.fail(Replace(root.folder, other), "upload start")  # of either layer, which is read after that
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--only", A)
    assert (ran.exit_code, ran.out) == (1, ""), ran.err
    assert A in ran.err or str(root.home(A)) in ran.err
    assert "Traceback" not in ran.err
    assert registry.tags(TEAM) == {}
    put(root.folder, A, LARGE)
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1"))
    assert manifests_below(registry, TEAM, digest)


def test_two_pushes_at_a_time(root: Tool, registry: StandInRegistry) -> None:
    """Of the same models: both end well, with one image."""
    processes = [root.process("push", f"{registry.address}/{TEAM}:v1") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    digest = ends[0][0].strip()
    assert (ends[1][0].strip(), registry.tags(TEAM)) == (digest, {"v1": digest})
    assert manifests_below(registry, TEAM, digest)


def test_another_repository_takes_the_layers_from_the_first(root: Tool, registry: StandInRegistry) -> None:
    """No layer is sent; one that the first has lost is sent, and the upload that was begun for it is ended."""
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1"))
    small = min(registry.blobs(TEAM).values(), key=lambda path: (path.stat().st_size < 60_000, path.stat().st_size))
    for gone in (0, 1):
        if gone:
            small.unlink()
        registry.forget()
        other = f"other{gone}/models"
        assert digest_of(root("push", f"{registry.address}/{other}:v1")) == digest
        assert manifests_below(registry, other, digest)
        layers = [request for request in blobs_sent(registry) if request.received > 5000]
        assert len(layers) == 0
        if gone:
            assert list((registry.storage.folder / other / "_uploads").iterdir()) == []


def test_a_registry_that_mounts_nothing_gets_the_layers(root: Tool, registry: StandInRegistry) -> None:
    """It answers 202 and begins an upload, or refuses: the layers are sent."""
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1"))
    faults: list[Fault] = [IgnoreMount(), refusal(403, "DENIED"), refusal(405, "UNSUPPORTED")]
    for number, fault in enumerate(faults):
        registry.fail(fault, "upload start", on="mount=", times=-1)
        assert digest_of(root("push", f"{registry.address}/other{number}/models:v1")) == digest
        assert manifests_below(registry, f"other{number}/models", digest)
        registry.mend()


WORDS = {
    "only": ["--only", B],
    "prefix": ["--prefix", "srv/x"],
    "platform": ["--platform", "linux/arm/v7,linux/amd64"],
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_the_options_are_those_of_export(root: Tool, registry: StandInRegistry, words: list[str]) -> None:
    """The same words, the same image."""
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", *words))
    assert digest_of(root("export", "image/", *words)) == digest
    assert manifests_below(registry, TEAM, digest)


def test_without_a_lock_the_receipts_are_the_pin(root: Tool, registry: StandInRegistry) -> None:
    """The image is the same; with --locked that is exit 2."""
    digest = digest_of(root("export", "image/"))
    (root.folder / "models.lock").unlink()
    assert digest_of(root("push", f"{registry.address}/{TEAM}:v1")) == digest
    assert not (root.folder / "models.lock").exists()
    ran = root("push", "--locked", f"{registry.address}/{TEAM}:v2")
    assert (ran.exit_code, "there is no" in ran.err) == (2, True)


def test_a_root_that_is_read_only(root: Tool, registry: StandInRegistry) -> None:
    """It is pushed, twice, and nothing is noted."""
    ref = f"{registry.address}/{TEAM}:v1"
    with mounted("tmpfs", 64 << 20, 400) as volume:
        make_root(volume.folder / "root")
        words = ["--root", str(volume.folder / "root"), "--lockfile", str(volume.folder / "root" / "models.lock")]
        volume.remount("ro")
        digest = digest_of(root("push", ref, *words))
        registry.forget()
        assert digest_of(root("push", ref, *words)) == digest
        assert blobs_sent(registry) == []
        assert not (volume.folder / "root" / DIGESTS).exists()
        volume.remount("rw")


def test_missing_models(root: Tool, registry: StandInRegistry) -> None:
    """Exit 1, each is named, and the registry is asked for nothing."""
    for kind, model_id in (("embedding", A), ("reranker", B)):
        shutil.rmtree(root.home(model_id, kind))
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert (ran.exit_code, ran.out) == (1, "")
    assert all(model_id in ran.err for model_id in CONTENTS)
    assert registry.requests == []
    assert not (root.folder / DIGESTS).exists()


def test_one_job_is_enough(root: Tool, registry: StandInRegistry) -> None:
    """No request waits for another one that it is part of."""
    ran = root.run("push", f"{registry.address}/{TEAM}:v1", "--jobs=1")
    digest_of(ran)
    ran = root.run("sync", "--from", f"docker://{registry.address}/{TEAM}:v1", "--jobs=1", "--root", "other")
    assert ran.exit_code == 0, ran.err
    assert models_in(root.folder / "other") == models_in(root.folder)


def test_an_address_of_version_6(root: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http to loopback, in brackets."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        unavailable("there is no loopback of IPv6")
    monkeypatch.setattr(Server, "address_family", socket.AF_INET6)
    with StandInRegistry(tmp_path / "registry", host="::1") as registry:
        port = registry.address.rpartition(":")[2]
        registry.site.url = f"http://[::1]:{port}"
        ref = f"[::1]:{port}/{TEAM}:v1"
        digest = digest_of(root("push", ref))
        assert manifests_below(registry, TEAM, digest)
        assert root("sync", "--from", f"docker://{ref}", "--root", "other").exit_code == 0


def test_every_kind_is_pushed(tool: Tool, registry: StandInRegistry) -> None:
    """As `export` has them."""
    models = [pin(f"acme/{kind}", SMALL, kind) for kind in Kind]
    for model in models:
        published(tool.folder, model, SMALL)
    lock(models, tool.folder)
    digest = digest_of(tool("push", f"{registry.address}/{TEAM}:v1"))
    assert digest_of(tool("export", "image/")) == digest


def test_what_is_said(root: Tool, registry: StandInRegistry) -> None:
    """--quiet: the digest alone. --log-format json: an object a layer and one at the end."""
    ref = f"{registry.address}/{TEAM}:v1"
    ran = root("push", ref, "--log-format", "json")
    digest = digest_of(ran)
    told = [json.loads(line) for line in ran.err.splitlines()]
    assert [one["event"] for one in told] == ["layer"] * LAYERS + ["ready"]
    assert {one["digest"] for one in told[:-1]} < {one.removeprefix("sha256:") for one in registry.blobs(TEAM)}
    expected = {"models": 2, "digest": digest, "layers": LAYERS, "written": LAYERS, "image": ref}
    assert {**told[-1], **expected} == told[-1]
    ran = root("push", ref, "--quiet")
    assert (digest_of(ran), ran.err) == (digest, "")
