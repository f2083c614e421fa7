"""`push --base IMAGE`: the models on top of an image that a registry has, whose layers stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran, Tool
from tests.support.base_images import AMD, ARM, DOCKER, WINDOWS, Base
from tests.support.base_images import REPOSITORY as APP
from tests.support.faults.bounds import run_bounded
from tests.support.oci_images import LAYER, MANIFEST
from tests.support.pushed import (
    SMALL,
    A,
    B,
    blobs_sent,
    config_of,
    make_root,
    manifest_of,
    manifests_below,
    write_logins,
)
from tests.support.registry import Fault, Headers, Html, IgnoreMount, Login, Reset, Short, StandInRegistry, Status

TEAM = "team/app"
OURS = ["CACHE_MODELS_ROOT=/models", "HF_HUB_CACHE=/models/hub", "HF_HUB_OFFLINE=1"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[StandInRegistry]:
    """Another registry, which has the base."""
    with StandInRegistry(tmp_path / "elsewhere") as standin:
        yield standin


@pytest.fixture
def root(tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tool:
    """The tool in a root with two models of a layer each; no login is known."""
    make_root(tool.folder, {A: SMALL, B: SMALL})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write_logins(tmp_path / "auth.json", {})))
    return tool


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """An empty layout."""
    return Base(tmp_path / "base")


def digest_of(ran: Ran) -> str:
    """The digest that it printed, alone on stdout."""
    assert ran.exit_code == 0, ran.err
    assert ran.out.startswith("sha256:")
    return ran.out.strip()


def parts(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Digest and size of each layer."""
    return [(layer["digest"], layer["size"]) for layer in layers]


def layers_of(registry: StandInRegistry, digest: str, repository: str = APP) -> list[tuple[str, int]]:
    """Those of a manifest in a registry."""
    return parts(manifest_of(registry, repository, digest)["layers"])


def test_an_image_gets_its_models(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Its layers below are untouched, config and history are kept and continued; it is told that nothing was run."""
    top = base.image()
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--base", base.into(registry, top))
    digest = digest_of(ran)
    assert registry.tags(TEAM) == {"v1": digest}
    assert f"{registry.address}/{TEAM}:v1 is not checked: start your program in it once" in ran.err
    (manifest,) = manifests_below(registry, TEAM, digest)
    below, ours = manifest["layers"][:2], manifest["layers"][2:]
    assert parts(below) == layers_of(registry, top["digest"])
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"{LAYER}+gzip"] * 2 + [LAYER] * 2
    before, config = base.configs[0], config_of(registry, TEAM, manifest)
    assert config["config"] == {**before["config"], "Env": ["PATH=/usr/bin", *OURS]}
    assert config["rootfs"]["diff_ids"] == [*before["rootfs"]["diff_ids"], *(layer["digest"] for layer in ours)]
    assert config["history"][:3] == before["history"]
    assert [A in config["history"][3]["created_by"], B in config["history"][4]["created_by"]] == [True, True]
    assert len(config["history"]) == 5
    changed = {"config", "rootfs", "history"}
    assert {key: config[key] for key in before.keys() - changed} == {
        key: before[key] for key in before.keys() - changed
    }
    assert manifest["annotations"] == {
        "org.opencontainers.image.base.name": f"{registry.address}/{APP}:1",
        "org.opencontainers.image.base.digest": top["digest"],
    }


def test_the_layers_of_the_models_are_those_of_a_push_without_a_base(
    root: Tool, registry: StandInRegistry, base: Base
) -> None:
    """So two images share them: the second push sends no layer of models; a third sends nothing."""
    plain = digest_of(root("push", f"{registry.address}/models:v1"))
    registry.forget()
    words = ["push", f"{registry.address}/{TEAM}:v1", "--base", base.into(registry, base.image())]
    digest = digest_of(root(*words))
    (manifest,) = manifests_below(registry, TEAM, digest)
    assert manifest["layers"][2:] == manifests_below(registry, "models", plain)[0]["layers"]
    assert [request.received < 5000 for request in blobs_sent(registry)] == [True]  # the config
    registry.forget()
    assert digest_of(root(*words)) == digest
    assert {request.method for request in registry.requests} <= {"HEAD", "GET"}


def test_an_index_with_attestations(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Both platforms get the models, in their order; the attestations are of other images now, and go."""
    amd, arm = ({**base.image(one), "platform": one} for one in (AMD, ARM))
    top = base.index(amd, base.attestation(), arm, base.attestation())
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", base.into(registry, top)))
    entries = manifest_of(registry, TEAM, digest)["manifests"]
    assert [entry["platform"] for entry in entries] == [AMD, ARM]
    for entry, before in zip(manifests_below(registry, TEAM, digest), (amd, arm), strict=True):
        assert parts(entry["layers"][:2]) == layers_of(registry, before["digest"])
        assert entry["annotations"]["org.opencontainers.image.base.digest"] == top["digest"]


def test_an_image_of_docker(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Its media types become those of OCI for the same bytes."""
    amd = {**base.image(docker=True), "platform": AMD}
    top = base.index(amd, docker=True)
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", base.into(registry, top)))
    (manifest,) = manifests_below(registry, TEAM, digest)
    assert parts(manifest["layers"][:2]) == layers_of(registry, amd["digest"])
    assert "docker" not in json.dumps([manifest, manifest_of(registry, TEAM, digest)])


def test_windows_is_left_out(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Of an index; alone, it is exit 2."""
    windows = {**base.image(WINDOWS), "platform": WINDOWS}
    ref = f"{registry.address}/{TEAM}:v1"
    ran = root("push", ref, "--base", base.into(registry, base.index(windows)))
    assert (ran.exit_code, ran.out) == (2, "")
    assert "holds no image for Linux, but for windows/amd64" in ran.err
    assert registry.tags(TEAM) == {}
    both = base.index(windows, {**base.image(), "platform": AMD})
    digest = digest_of(root("push", ref, "--base", base.into(registry, both)))
    assert [one["platform"] for one in manifest_of(registry, TEAM, digest)["manifests"]] == [AMD]


def _schema_1(registry: StandInRegistry, base: Base) -> str:
    ref = base.into(registry, base.image())
    kind = f"{DOCKER}.distribution.manifest.v1+prettyjws"
    table = {"schemaVersion": 1, "fsLayers": [{"blobSum": base.layout.layers[0]["digest"]}], "signatures": []}
    registry.storage.put_manifest(APP, "1", json.dumps(table).encode(), MANIFEST)
    registry.fail(Headers((("Content-Type", kind),)), "manifest", method="GET", times=-1)
    return ref


def _with_models(registry: StandInRegistry, base: Base) -> str:
    ref = base.into(registry, base.image())
    layer = {**base.layout.layers[-1], "annotations": {"io.github.cache-models.set-digest": "a" * 64}}
    table = manifest_of(registry, APP, registry.tags(APP)["1"])
    registry.storage.put_manifest(APP, "1", json.dumps({**table, "layers": [layer, layer]}).encode(), MANIFEST)
    return ref


def _of_other_layers(registry: StandInRegistry, base: Base) -> str:
    ref = base.into(registry, base.image())
    table = manifest_of(registry, APP, registry.tags(APP)["1"])
    layers = [
        {**layer, "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip"} for layer in table["layers"]
    ]
    registry.storage.put_manifest(APP, "1", json.dumps({**table, "layers": layers}).encode(), MANIFEST)
    return ref


UNUSABLE: dict[str, tuple[Callable[[StandInRegistry, Base], str], str]] = {
    "schema 1": (_schema_1, "is of schema version 1"),
    "too many layers": (
        lambda registry, base: base.into(registry, base.image(count=119)),
        "has 119 layers, and the models have 2: engines take no more than 120 safely",
    ),
    "models": (_with_models, "has models of cache-models in it already"),
    "other layers": (_of_other_layers, "which is no layer of a file system"),
    "nothing for Linux": (
        lambda registry, base: base.into(registry, base.index(base.attestation())),
        "holds no image for Linux",
    ),
}


@pytest.mark.parametrize(("make", "told"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_base_that_cannot_be_used(
    root: Tool, registry: StandInRegistry, base: Base, make: Callable[[StandInRegistry, Base], str], told: str
) -> None:
    """Exit 2 that names it, and says why; nothing is sent."""
    ref = make(registry, base)
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--base", ref)
    assert (ran.exit_code, ran.out) == (2, ""), ran.err
    assert f"error: {ref} " in ran.err
    assert told in ran.err
    assert "hint: " in ran.err
    assert (registry.tags(TEAM), blobs_sent(registry)) == ({}, [])


def test_a_result_is_no_base(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Models that the lock no longer names would stay in it: exit 2, and the base without models is named."""
    first = base.into(registry, base.image())
    ref = f"{registry.address}/{TEAM}:v1"
    digest = digest_of(root("push", ref, "--base", first))
    ran = root("push", f"{registry.address}/{TEAM}:v2", "--base", ref)
    assert (ran.exit_code, f"name the image without them, which is {first}" in ran.err) == (2, True)
    assert registry.tags(TEAM) == {"v1": digest}


def test_a_base_keeps_its_tag(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Otherwise the next push would find an image with models as its base."""
    image = base.into(registry, base.image())
    ran = root("push", image, "--base", f"docker://{image}")
    assert (ran.exit_code, f"{image} is both the base and the target" in ran.err) == (2, True)
    assert registry.count(method="PUT") == 0


def test_a_base_that_is_not_there(root: Tool, registry: StandInRegistry) -> None:
    """Exit 3 that names it; so is a registry that answers with a page."""
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--base", f"{registry.address}/{APP}:1")
    assert (ran.exit_code, f"there is no image {registry.address}/{APP}:1" in ran.err) == (3, True)
    registry.fail(Html(), "manifest", times=-1)
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--base", f"{registry.address}/{APP}:1")
    assert (ran.exit_code, "answered with a page instead of" in ran.err) == (3, True), ran.err


def test_only_some_platforms(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """One without a variant means each; one that the base lacks is exit 2, with those that it has."""
    seven = {"os": "linux", "architecture": "arm", "variant": "v7"}
    entries = [{**base.image(one), "platform": one} for one in (AMD, ARM, seven)]
    name = base.into(registry, base.index(*entries))
    ref = f"{registry.address}/{TEAM}:v1"
    for words, expected in (
        ("linux/arm64", [ARM]),
        ("linux/arm64/v8,linux/amd64", [AMD, ARM]),
        ("linux/arm/v7", [seven]),
    ):
        digest = digest_of(root("push", ref, "--base", name, "--platform", words))
        assert [one["platform"] for one in manifest_of(registry, TEAM, digest)["manifests"]] == expected
    ran = root("push", ref, "--base", name, "--platform", "linux/arm/v6,linux/amd64")
    assert (ran.exit_code, f"{name} is not for linux/arm/v6" in ran.err) == (2, True)
    assert "linux/amd64, linux/arm64/v8, linux/arm/v7" in ran.err


@pytest.mark.parametrize("redirects", [False, True], ids=["direct", "redirected"])
def test_a_base_of_another_registry_is_copied(
    root: Tool, registry: StandInRegistry, elsewhere: StandInRegistry, base: Base, redirects: bool
) -> None:
    """Each blob once, by digest or by tag; the other registry is not written to."""
    elsewhere.site.redirects = redirects
    top = base.image()
    name = base.into(elsewhere, top)
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", f"{name}@{top['digest']}"))
    (manifest,) = manifests_below(registry, TEAM, digest)
    assert parts(manifest["layers"][:2]) == layers_of(elsewhere, top["digest"])
    assert {request.method for request in elsewhere.requests} == {"GET"}
    blobs = [request.reference for request in elsewhere.asked(kind="blob", host="content" if redirects else "registry")]
    assert len(blobs) == len(set(blobs)) == 3  # its config and its layers
    elsewhere.forget()
    registry.forget()
    assert root("push", f"{registry.address}/{TEAM}:v2", "--base", name).exit_code == 0
    assert elsewhere.count(kind="blob", host="registry") == 1  # its config


BREAKS: dict[str, Fault] = {
    "reset": Reset(300),
    "short": Short(300),
    "no answer": Reset(None),
    "busy": Status(429, {"Retry-After": "0"}),
    "an error": Status(502),
}


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
def test_a_copy_that_breaks_begins_anew(
    root: Tool, registry: StandInRegistry, elsewhere: StandInRegistry, base: Base, fault: Fault
) -> None:
    """Wherever the bytes end, the registry gets no half of a blob, and the push ends well."""
    name = base.into(elsewhere, top := base.image())
    for layer, _ in layers_of(elsewhere, top["digest"]):
        elsewhere.fail(fault, "blob", method="GET", on=layer)
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", name, "--retries=3", "--timeout=3"))
    assert manifests_below(registry, TEAM, digest)


def test_a_base_that_never_comes(root: Tool, registry: StandInRegistry, elsewhere: StandInRegistry, base: Base) -> None:
    """Exit 3 that names the registry of the base; no tag."""
    name = base.into(elsewhere, top := base.image())
    elsewhere.fail(Short(300), "blob", method="GET", on=layers_of(elsewhere, top["digest"])[1][0], times=-1)
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--base", name)
    assert (ran.exit_code, ran.out) == (3, "")
    assert registry.tags(TEAM) == {}


def test_each_registry_gets_its_own_login(
    root: Tool, registry: StandInRegistry, elsewhere: StandInRegistry, base: Base
) -> None:
    """Neither password nor token of one goes to the other; nor to the host that blobs come from."""
    registry.site.login = Login("bearer", user="writer", password="password-one")
    elsewhere.site.login = Login("basic", user="reader", password="password-two")
    elsewhere.site.redirects = True
    name = base.into(elsewhere, base.image())
    logins = {registry.address: "writer:password-one", elsewhere.address: "reader:password-two"}
    write_logins(root.folder.parent / "auth.json", logins)
    digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", name))
    sent = {one.authorization for one in registry.requests if one.kind != "token"} - {None}
    assert sent
    assert all(header and header.startswith("Bearer ") for header in sent)
    others = {one.authorization for one in elsewhere.asked(host="registry")} - {None}
    assert len(others) == 1
    assert others.isdisjoint({one.authorization for one in registry.requests})
    assert {one.authorization for one in elsewhere.asked(host="content")} == {None}


@pytest.mark.parametrize("mounts", [True, False], ids=["mounted", "copied"])
def test_a_base_of_the_same_registry_is_mounted(
    root: Tool, registry: StandInRegistry, base: Base, mounts: bool
) -> None:
    """No byte of it goes over the line; where the registry mounts nothing, it is copied."""
    if not mounts:
        registry.fail(IgnoreMount(), "upload start", on="mount=", times=-1)
    name = base.into(registry, top := base.image())
    digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", name))
    layers = {layer for layer, _ in layers_of(registry, top["digest"])}
    assert layers.isdisjoint({one.reference for one in registry.asked(kind="blob", method="GET")}) == mounts
    assert all(layer in registry.blobs(TEAM) for layer in layers)


def test_a_base_of_the_same_repository(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """Its layers are there."""
    name = base.into(registry, base.image(), TEAM)
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", name))
    assert registry.tags(TEAM).keys() == {"1", "v1"}
    assert registry.tags(TEAM)["v1"] == digest
    assert not any("mount=" in one.path for one in registry.requests)
    assert len(blobs_sent(registry)) == 3  # two layers of models, and the config


def test_a_prefix_is_told_to_the_programs(root: Tool, registry: StandInRegistry, base: Base) -> None:
    """By the environment of the image."""
    name = base.into(registry, base.image())
    digest = digest_of(root("push", f"{registry.address}/{TEAM}:v1", "--base", name, "--prefix", "srv/m"))
    (manifest,) = manifests_below(registry, TEAM, digest)
    env = config_of(registry, TEAM, manifest)["config"]["Env"]
    assert env == ["PATH=/usr/bin", *(one.replace("/models", "/srv/m") for one in OURS)]


@pytest.mark.slow
def test_a_copy_takes_little_memory(
    root: Tool, registry: StandInRegistry, elsewhere: StandInRegistry, base: Base
) -> None:
    """Of a layer of 200 MB no more than some pieces are in memory."""
    base.image()
    with (base.layout.folder / "large").open("wb") as file:
        file.truncate(200 << 20)
    name = base.into(elsewhere, base.image())
    table = manifest_of(elsewhere, APP, elsewhere.tags(APP)["1"])
    base.layout.layers = []
    blob = base.layout.add_file(base.layout.folder / "large", f"{LAYER}+gzip")
    elsewhere.storage.put_blob(APP, blob)
    layers = [table["layers"][0], *base.layout.layers]
    elsewhere.storage.put_manifest(APP, "1", json.dumps({**table, "layers": layers}).encode(), MANIFEST)
    ran = run_bounded(root.folder, "push", f"{registry.address}/{TEAM}:v1", "--base", name)
    assert ran.exit_code == 0, ran.err
    assert ran.peak < 48 << 20, f"{ran.peak >> 20} MiB"
