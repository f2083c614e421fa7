"""`sync --from docker://`: models come from an image in a registry as from the Hub, checked by lock or receipts."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from modelcache.sources import registry_image
from tests.conftest import Tool
from tests.support.base_images import Base
from tests.support.faults.volumes import mounted
from tests.support.oci_images import Entry, Layout
from tests.support.pushed import (
    CONTENTS,
    LARGE,
    SMALL,
    WEIGHTS,
    A,
    B,
    bytes_sent,
    lock,
    make_root,
    manifest_of,
    manifests_below,
    models_in,
    write_logins,
)
from tests.support.registry import (
    ExpireToken,
    Fault,
    FlipFirst,
    Html,
    IgnoreRange,
    Login,
    NoRanges,
    Reset,
    Short,
    Slow,
    StandInRegistry,
    Status,
)

TEAM = "team/models"
LOGIN = "user:password-of-the-registry"


@pytest.fixture
def ref(tool: Tool, registry: StandInRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an image of two models; the tool has their manifest and lock, no models, and no login."""
    source = tmp_path / "source"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write_logins(tmp_path / "auth.json", {})))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # there is no Hub
    make_root(source)
    return push(tool, registry, source)


def push(tool: Tool, registry: StandInRegistry, source: Path, *words: str) -> str:
    """Push a root; return the image's name for --from. The tool gets its manifest and lock."""
    for name in ("models.toml", "models.lock"):
        shutil.copy(source / name, tool.folder)
    ran = tool("push", f"{registry.address}/{TEAM}:v1", "--root", str(source), *words)
    assert ran.exit_code == 0, ran.err
    registry.forget()
    return f"docker://{registry.address}/{TEAM}:v1"


def expected(tmp_path: Path) -> dict[str, bytes]:
    """The files of the models that were pushed."""
    return models_in(tmp_path / "source")


def digest_of(registry: StandInRegistry) -> str:
    """The digest of the tag."""
    return registry.tags(TEAM)["v1"]


def bytes_fetched(registry: StandInRegistry) -> int:
    """The bytes of blobs that were sent."""
    return sum(request.sent for request in registry.asked(kind="blob"))


@pytest.mark.parametrize("words", [["--locked"], [], None], ids=["--locked", "lock", "no lock"])
def test_models_come_from_a_registry(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, words: list[str] | None
) -> None:
    """The same bytes as were pushed; the tag is told with its digest. Without a lock the receipts give the same one."""
    pinned = (tool.folder / "models.lock").read_bytes()
    if words is None:
        (tool.folder / "models.lock").unlink()
    ran = tool("sync", "--from", ref, *(words or ()))
    assert ran.exit_code == 0, ran.err
    assert f"{ref} is {ref.removesuffix(':v1')}@{digest_of(registry)}" in ran.err
    assert models_in(tool.folder) == expected(tmp_path)
    assert (tool.folder / "models.lock").read_bytes() == pinned
    size = sum(layer["size"] for layer in manifests_below(registry, TEAM, digest_of(registry))[0]["layers"])
    # without a lock the layer of the receipt is hashed, which is a small one
    assert bytes_fetched(registry) <= size + (128 << 10)
    assert tool("verify").exit_code == 0
    registry.forget()
    for left in (".cache-models.stamp", "nothing"):
        ran = tool("sync", "--from", ref)
        assert ran.err.splitlines()[-1] == f"2 models ready in {tool.folder}: unchanged."
        (tool.folder / left).unlink(missing_ok=True)
    assert registry.requests == []


def test_by_digest(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """Whatever the tag is by now; it is not told again, because it was given."""
    named = f"{ref.removesuffix(':v1')}@{digest_of(registry)}"
    (registry.storage.folder / TEAM / "_tags" / "v1").unlink()
    ran = tool("sync", "--from", named)
    assert ran.exit_code == 0, ran.err
    assert " is docker://" not in ran.err
    assert models_in(tool.folder) == expected(tmp_path)


def test_a_dry_run_writes_nothing(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """It says what would come; without a lock it reads the receipts."""
    for _ in range(2):
        before = sorted(tool.folder.rglob("*"))
        ran = tool("sync", "--dry-run", "--from", ref)
        assert (ran.exit_code, A in ran.err, B in ran.err) == (0, True, True), ran.err
        assert sorted(tool.folder.rglob("*")) == before
        (tool.folder / "models.lock").unlink(missing_ok=True)
    assert bytes_fetched(registry) < len(WEIGHTS)


def test_the_environment_names_it(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """CACHE_MODELS_FROM and CACHE_MODELS_INSECURE, as in a Kubernetes manifest."""
    ran = tool.run("sync", env={"CACHE_MODELS_FROM": ref, "CACHE_MODELS_INSECURE": "1"})
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)
    ran = tool.run("sync", "--no-stamp", env={"CACHE_MODELS_FROM": "docker:team/models"})
    assert (ran.exit_code, "CACHE_MODELS_FROM" in ran.err) == (2, True)


def test_a_registry_of_this_machine_needs_no_insecure(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path
) -> None:
    """By name, too."""
    assert tool("sync", "--from", ref.replace("127.0.0.1", "localhost")).exit_code == 0


@pytest.mark.parametrize("state", ["down", "broken", "empty"])
def test_models_in_place_need_no_registry(tool: Tool, registry: StandInRegistry, ref: str, state: str) -> None:
    """With a lock, or with a stamp; a model that is lacking does. Without both the tag may stand for other pins."""
    assert tool("sync", "--from", ref).exit_code == 0
    if state == "down":
        registry.__exit__()
    elif state == "broken":
        registry.fail(Status(500), times=-1)
    else:
        shutil.rmtree(registry.storage.folder / TEAM)
    for left in (".cache-models.stamp", "nothing"):
        assert tool("sync", "--from", ref, "--retries=0").exit_code == 0
        (tool.folder / left).unlink(missing_ok=True)
    shutil.rmtree(tool.home(B, "reranker"))
    ran = tool("sync", "--from", ref, "--retries=0")
    assert ran.exit_code == 3, ran.err


def test_only_what_is_lacking_comes(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """Of a model that is there not even its layer is read."""
    assert tool("sync", B, "--from", ref).exit_code == 0
    assert 0 < bytes_fetched(registry) < len(WEIGHTS) // 2
    registry.forget()
    assert tool("sync", "--from", ref).exit_code == 0
    assert models_in(tool.folder) == expected(tmp_path)
    assert bytes_fetched(registry) < sum(map(len, LARGE.values())) + (64 << 10)


@pytest.mark.slow
def test_a_killed_sync_goes_on_where_it_stopped(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path
) -> None:
    """What had been written of the weights is not fetched a second time, and no half of a model is to be seen."""
    registry.fail(Slow(4_000_000), "blob", method="GET", times=-1)
    process = tool.process("sync", "--from", ref, env={"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 30
    while bytes_fetched(registry) < len(WEIGHTS) // 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not tool.home(A).exists()
    assert len(list(tool.home(A).parent.glob(".cache-models/*/*.ranges"))) == 1
    registry.mend()
    time.sleep(0.2)  # the threads of the registry count their last bytes
    registry.forget()
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)
    assert bytes_fetched(registry) < len(WEIGHTS) * 3 // 4


@pytest.mark.slow
def test_several_at_once_share(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """On one root: all end well, and the weights come once."""
    processes = [tool.process("sync", "--from", ref, "--log-format=json") for _ in range(3)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    assert models_in(tool.folder) == expected(tmp_path)
    whole = [request for request in registry.asked(kind="blob") if request.sent >= len(WEIGHTS)]
    assert len(whole) <= 1
    assert sum(one.sent for one in registry.asked(kind="blob")) < len(WEIGHTS) + (1 << 20)


TROUBLES: dict[str, Fault] = {
    "busy": Status(429, {"Retry-After": "0"}),
    "an error": Status(503),
    "no answer": Reset(None),
    "a reset": Reset(2000),
    "short": Short(2000),
    "other bytes": FlipFirst(),
    "no ranges": NoRanges(),
    "a range ignored": IgnoreRange(),
    "a page": Html(),
}


@pytest.mark.parametrize("redirects", [False, True], ids=["direct", "redirected"])
@pytest.mark.parametrize("fault", TROUBLES.values(), ids=TROUBLES)
def test_a_trouble_that_passes(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, fault: Fault, redirects: bool
) -> None:
    """Some answers about blobs are bad; in the end all bytes are right."""
    registry.site.redirects = redirects
    # Other bytes are fetched twice and no more: of a small layer, and of the weights; their headers come first.
    for nth in (3, 5) if fault == FlipFirst() else (1, 2, 3):
        registry.fail(fault, "blob", host="content" if redirects else "registry", nth=nth)
    ran = tool("sync", "--from", ref, "--retries=5", "--timeout=3")
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)


def test_a_registry_that_knows_no_ranges(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """It costs time, and works."""
    registry.fail(NoRanges(), "blob", times=-1)
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)


def test_no_ranges_of_a_large_layer_of_many_files(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its headers would cost all that is before it, so the way out is told at once."""
    monkeypatch.setattr("modelcache.image.layers.MOST_LAYERS", 1)
    push(tool, registry, tmp_path / "source")
    assert len(manifests_below(registry, TEAM, digest_of(registry))[0]["layers"]) == 1
    monkeypatch.setattr("modelcache.sources.registry_image._WHOLE", 0)
    monkeypatch.setattr("modelcache.sources.registry_responses._MOST_SKIPPED", 0)
    registry.fail(NoRanges(), "blob", times=-1)
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 3
    assert "sends whole blobs only, and no ranges of them\nhint: A layer of many files cannot be read there." in ran.err
    assert "again" not in ran.err


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_login_goes_to_the_registry_alone(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, kind: str
) -> None:
    """Not to the host that has the blobs. Tokens that expire are renewed; without a login it is exit 3."""
    registry.site.login = Login(kind)  # type: ignore[arg-type]  # one of two words
    registry.site.redirects = True
    ran = tool("sync", "--from", ref)
    assert (ran.exit_code, f"docker login {registry.address}" in ran.err) == (3, True), ran.err
    write_logins(tmp_path / "auth.json", {registry.address: LOGIN})
    if kind == "bearer":
        for nth in (1, 3, 4):
            registry.fail(ExpireToken(), "blob", host="registry", nth=nth)
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)
    content = registry.asked(host="content")
    assert content
    assert {request.authorization for request in content} == {None}


def test_who_may_pull_without_a_login_may_sync(tool: Tool, registry: StandInRegistry, ref: str) -> None:
    """As from the public registries, which give everybody a token."""
    registry.site.login = Login("bearer", anonymous_pull=True)
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 0, ran.err
    assert {request.method for request in registry.asked(kind="token")} == {"GET"}


@pytest.mark.parametrize("number", [0, 1, 2], ids=["weights", "small files", "another model"])
def test_a_damaged_blob(tool: Tool, registry: StandInRegistry, ref: str, number: int) -> None:
    """Exit 1 that names the file or the layer; the other model is published, and nothing half."""
    layer = manifests_below(registry, TEAM, digest_of(registry))[0]["layers"][number]
    path = registry.blobs(TEAM)[layer["digest"]]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 1, ran.err
    assert layer["digest"] in ran.err or "model.safetensors" in ran.err
    assert "hint: " in ran.err
    assert not tool.home(B if number == 2 else A, "reranker" if number == 2 else "embedding").exists()


def test_a_blob_that_is_gone(tool: Tool, registry: StandInRegistry, ref: str) -> None:
    """Exit 3 that names the blob."""
    layer = manifests_below(registry, TEAM, digest_of(registry))[0]["layers"][0]
    registry.blobs(TEAM)[layer["digest"]].unlink()
    ran = tool("sync", "--from", ref)
    assert (ran.exit_code, f"lacks the blob {layer['digest']}" in ran.err) == (3, True), ran.err


def test_there_is_no_image(tool: Tool, registry: StandInRegistry, ref: str) -> None:
    """Exit 3 that names it; so of a registry that is none."""
    ran = tool("sync", "--from", f"{ref}2")
    assert (ran.exit_code, f"there is no image {ref.removeprefix('docker://')}2" in ran.err) == (3, True), ran.err
    registry.fail(Html(), times=-1)
    ran = tool("sync", "--from", ref)
    assert (ran.exit_code, "answered with a page instead of" in ran.err) == (3, True), ran.err


def test_a_model_that_the_image_lacks(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """Exit 2 that names it, before a model is fetched; of an image of other things, too."""
    ran = tool("push", f"{registry.address}/{TEAM}:part", "--root", str(tmp_path / "source"), "--only", B)
    assert ran.exit_code == 0, ran.err
    part = ref.replace(":v1", ":part")
    for remove in ("nothing", "models.lock"):
        (tool.folder / remove).unlink(missing_ok=True)
        ran = tool("sync", "--from", part)
        assert (ran.exit_code, f"{part} does not hold {A}" in ran.err) == (2, True), ran.err
        assert models_in(tool.folder) == {}
    other = Base(tmp_path / "base")
    name = f"docker://{other.into(registry, other.image())}"
    ran = tool("sync", "--from", name)
    assert (ran.exit_code, name in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(("count", "code"), [(3, 2), (1, 1)], ids=["all", "the weights"])
def test_compressed_layers(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, count: int, code: int
) -> None:
    """As engines push them: the layer is named, with the way out; also where the receipt can be read."""
    layout = Layout.of_root(tmp_path / "source", tmp_path / "layout")
    for number in range(count):
        layout.compress(number)
    registry.add("other/models", layout.write(), "v1")
    ran = tool("sync", "--from", f"docker://{registry.address}/other/models:v1")
    assert ran.exit_code == code, ran.err
    assert layout.layers[0]["digest"] in ran.err
    assert "`skopeo copy --all --preserve-digests`" in ran.err


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_an_image_of_another_builder(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, locked: bool
) -> None:
    """Without any annotation: each layer is read, and the bytes are right."""
    layout = Layout.of_root(tmp_path / "source", tmp_path / "layout", "srv/x")
    layout.add([Entry("app/main.py", b"code")], place=0)
    registry.add("other/models", layout.write(), "v1")
    if not locked:
        (tool.folder / "models.lock").unlink()
    ran = tool("sync", "--from", f"docker://{registry.address}/other/models:v1")
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)


def test_an_application_with_models_is_a_source(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path
) -> None:
    """The image that `push --base` made: no layer of the base is read."""
    base = Base(tmp_path / "base")
    name = base.into(registry, top := base.image())
    push(tool, registry, tmp_path / "source", "--base", name, "--prefix", "srv/m")
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == 0, ran.err
    assert models_in(tool.folder) == expected(tmp_path)
    below = {layer["digest"] for layer in manifest_of(registry, "team/base", top["digest"])["layers"]}
    assert below.isdisjoint({request.reference for request in registry.requests})


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_an_image_of_another_version(tool: Tool, registry: StandInRegistry, ref: str, locked: bool) -> None:
    """The lock counts: exit 1 that names the file. Without a lock its receipts do, and give a lock of its own."""
    other = {**SMALL, "config.json": b"[9]"}
    make_root(tool.folder.parent / "other", {**CONTENTS, B: other})
    kept = (tool.folder / "models.lock").read_bytes()
    push(tool, registry, tool.folder.parent / "other")
    if locked:
        (tool.folder / "models.lock").write_bytes(kept)
    else:
        (tool.folder / "models.lock").unlink()
    ran = tool("sync", "--from", ref)
    assert ran.exit_code == (1 if locked else 0), ran.err
    assert tool.home(B, "reranker").exists() != locked
    assert not locked or "config.json" in ran.err


def test_a_receipt_permits_nothing(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """Without the key of the manifest, a model that runs code is exit 5."""
    from modelcache.core.types import RemoteCode
    from tests.support.baked import Pinned, bake

    pinned = Pinned(files={"config.json": b"{}", "code.py": b"x = 1"}, remote_code=RemoteCode.VENDORED)
    source = bake(tmp_path / "coded", pinned)
    manifest = f'[[embedding]]\nid = "{pinned.id}"\n'
    lock([pinned.model()], source)
    (source / "models.toml").write_text(f"{manifest}trust_remote_code = true\n")
    push(tool, registry, source)
    (tool.folder / "models.lock").unlink()
    (tool.folder / "models.toml").write_text(manifest)
    ran = tool("sync", "--from", ref)
    assert (ran.exit_code, "trust_remote_code = true" in ran.err) == (5, True), ran.err
    assert not tool.home(pinned.id).exists()


def test_a_place_for_small_layers(
    tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR takes them for a moment: exit 4 that names it where it takes nothing, and only if it is needed."""
    assert tool("sync", "--from", ref).exit_code == 0
    with mounted("tmpfs", 1 << 20, 400) as volume:
        monkeypatch.setenv("TMPDIR", str(volume.folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        volume.remount("ro")
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(volume.folder)])
        (tool.folder / ".cache-models.stamp").unlink()
        assert tool("sync", "--from", ref).exit_code == 0
        shutil.rmtree(tool.home(B, "reranker"))
        ran = tool("sync", "--from", ref)
        volume.remount("rw")
    assert (ran.exit_code, "TMPDIR" in ran.err) == (4, True), ran.err


def test_nothing_is_left(tool: Tool, registry: StandInRegistry, ref: str, tmp_path: Path) -> None:
    """Neither in TMPDIR nor in the root; and the registry is not written to."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ran = tool.run("sync", "--from", ref, env={"TMPDIR": str(temporary)})
    assert ran.exit_code == 0, ran.err
    assert list(temporary.iterdir()) == []
    assert {request.method for request in registry.requests} <= {"GET", "HEAD"}
    assert bytes_sent(registry.requests) == 0


def test_the_layers_that_are_kept_have_a_bound_in_all(
    tool: Tool, registry: StandInRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the temporary directory may be memory. Of the layers above the bound, parts are read."""
    monkeypatch.setattr(registry_image, "_WHOLE", 700_000)
    weights = {number: random.Random(number).randbytes(300_000) for number in range(5)}
    models = {f"acme/model-{number}": {"model.safetensors": content} for number, content in weights.items()}
    make_root(tmp_path / "source", models)
    image = push(tool, registry, tmp_path / "source")
    layers = {layer["digest"] for layer in manifests_below(registry, TEAM, digest_of(registry))[0]["layers"]}
    ran = tool("sync", "--locked", "--from", image)
    assert ran.exit_code == 0, ran.err
    asked = [one for one in registry.asked(kind="blob", method="GET") if one.reference in layers]
    assert len([one for one in asked if one.range is None]) == 2
    assert models_in(tool.folder) == expected(tmp_path)
