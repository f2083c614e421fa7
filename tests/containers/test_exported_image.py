"""The image that `cache-models export` writes, taken by Docker: loaded, mounted, pushed, and built upon."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import files_below
from tests.containers.exported import FOUR, GRAPH, IMAGE, LOADED, MODELS, ONE, TABLES, THREE, TWO, Clone, Layout
from tests.containers.older_store import older_store
from tests.containers.test_images import HARDENED, running, wait_until_healthy
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

ASK = """
import json, sys, urllib.request
body = json.dumps({"model": sys.argv[1], "input": ["rain", "sun"]}).encode()
print(len(json.load(urllib.request.urlopen("http://127.0.0.1:8080/v1/embeddings", body))["data"]))
"""
WELL = "3 models in /baked: every byte as pinned."
BASE = "python:3.11-slim-bookworm"


@pytest.fixture(scope="module")
def loaded(exported: Clone) -> str:
    """The archive in the engine, under a name of the tests' own."""
    said = exported.docker("load", "--input", str(exported.folder / "models.tar")).stdout
    assert said == f"Loaded image: {LOADED}\n"
    exported.docker("tag", LOADED, f"{IMAGE}:loaded")
    exported.docker("rmi", LOADED)
    return f"{IMAGE}:loaded"


@pytest.fixture(scope="module")
def init(exported: Clone) -> str:
    """The tool in an image, with this manifest and lock."""
    exported.docker.build(exported.folder, "--target", "init", "--tag", f"{IMAGE}:init")
    return f"{IMAGE}:init"


@pytest.fixture(scope="module")
def layered(exported: Clone) -> str:
    """The API on top of the layers of the layout."""
    return exported.build("layered")


@pytest.fixture(scope="module")
def runtime(exported: Clone) -> str:
    """The API with the models of the layout in one layer."""
    return exported.build("runtime")


@pytest.fixture
def other(exported: Clone, tmp_path: Path) -> Callable[..., Clone]:
    """Make a clone that wants some models, for what a test changes."""
    return lambda *ids: Clone.make(exported.docker, tmp_path / "other", *ids)


def links_below(folder: Path) -> dict[str, str]:
    """The target of every link of a directory, by its POSIX path."""
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    return {path.relative_to(folder).as_posix(): os.readlink(path) for path in links}


# The image itself


def test_docker_loads_the_image_that_was_written(exported: Clone, loaded: str) -> None:
    """The digest that `export` has printed, and every layer as it is; the history names models and files."""
    found = exported.docker.inspect(loaded)
    assert found["Id"] == exported.layout.digest
    assert found["RootFS"]["Layers"] == exported.layout.layers
    history = exported.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", loaded).stdout.splitlines()
    titles = [f"{ONE} model.safetensors", *sorted(MODELS)]
    assert history[::-1] == [f"cache-models export: {title}" for title in titles]


def test_an_engine_with_the_older_store_loads_it(exported: Clone) -> None:
    """It reads `manifest.json`, and not the index: the same layers, and the files and links of the root."""
    saved = exported.folder / "saved.tar"
    with older_store() as docker:
        assert "Storage Driver: overlay2" in docker("info").stdout
        assert docker("load", "--input", str(exported.folder / "models.tar")).stdout == f"Loaded image: {LOADED}\n"
        assert docker.layers(LOADED) == exported.layout.layers
        container = docker("create", LOADED, "none").stdout.strip()
        docker("cp", f"{container}:/models", str(exported.folder / "copied"))
        docker("rm", container)
        docker("save", "--output", str(saved), LOADED)
    refill(exported, saved)
    copied = exported.folder / "copied"
    for part in (*exported.folder.glob("cached_*_models"), exported.folder / "hub"):
        assert files_below(copied / part.name) == files_below(part)
    assert links_below(copied / "hub") == links_below(exported.folder / "hub") != {}
    shutil.rmtree(copied)


def test_what_docker_saves_fills_a_root(exported: Clone, loaded: str) -> None:
    """Of both platforms, or of one; the models have come through the store of the engine."""
    saved = exported.folder / "saved.tar"
    for words in ((), ("--platform", "linux/amd64")):
        exported.docker("save", *words, "--output", str(saved), loaded)
        refill(exported, saved)


def refill(exported: Clone, archive: Path) -> None:
    """Fill a root from an archive, with the lock and without; nothing of it is left."""
    root = exported.folder / "refilled"
    for lock in ("models.lock", "absent.lock"):
        place = ["--root", str(root), "--lockfile", str(exported.folder / lock)]
        exported("sync", *place, "--from", f"oci-archive:{archive}")
        exported("verify", "--root", str(root))
        shutil.rmtree(root)
    (exported.folder / "absent.lock").unlink()
    archive.unlink()


def test_a_container_mounts_it(exported: Clone, loaded: str, init: str) -> None:
    """Read-only, and every byte as pinned."""
    mount = ["--mount", f"type=image,source={loaded},target=/baked,image-subpath=models"]
    run = ["run", "--rm", "--network", "none", *HARDENED, *mount]
    assert WELL in exported.docker(*run, init, "verify", "--root", "/baked").stderr
    written = exported.docker(*run, "--entrypoint", "touch", init, "/baked/new", check=False)
    assert "Read-only file system" in written.stderr


def test_a_container_writes_the_same_image(exported: Clone, loaded: str, init: str, tmp_path: Path) -> None:
    """The image of the tool, as the user whose directory it is, out of a mounted image: the same digest again."""
    for name in ("models.toml", "models.lock"):
        shutil.copy(exported.folder / name, tmp_path)
    os.chown(tmp_path, 1000, 1000)
    mounts = ["--mount", f"type=image,source={loaded},target=/baked,image-subpath=models"]
    mounts += ["--volume", f"{tmp_path}:/wanted", "--user", "1000:1000"]
    export = ["export", "--root", "/baked", "models.oci/"]
    ran = exported.docker("run", "--rm", "--network", "none", *HARDENED, *mounts, init, *export)
    assert ran.stdout == f"{exported.layout.digest}\n"
    assert Layout(tmp_path / "models.oci").layers == exported.layout.layers


def test_it_is_pushed_and_pulled_with_its_digest(exported: Clone, loaded: str, layered: str, registry: str) -> None:
    """Through a real registry; of the image that is built on it only the upper layers are sent."""
    name = f"{registry}/cache-models-test/exported"
    exported.docker("tag", loaded, f"{name}:models")
    assert f"models: digest: {exported.layout.digest} " in exported.docker("push", f"{name}:models").stdout
    exported.docker("rmi", f"{name}:models")
    assert f"Digest: {exported.layout.digest}" in exported.docker("pull", f"{name}:models").stdout
    assert exported.docker.layers(f"{name}:models") == exported.layout.layers
    exported.docker("tag", layered, f"{name}:layered")
    sent = exported.docker("push", f"{name}:layered").stdout
    there = {line.partition(":")[0] for line in sent.splitlines() if line.endswith(": Layer already exists")}
    assert {digest.removeprefix("sha256:")[:12] for digest in exported.layout.layers} <= there


# What is built with it


def test_the_layered_image_keeps_every_layer(exported: Clone, layered: str) -> None:
    """They are its lowest ones, so an image of the next lock has them, too."""
    count = len(exported.layout.layers)
    assert exported.docker.layers(layered)[:count] == exported.layout.layers


def test_the_runtime_has_the_layer_that_a_plain_build_makes(exported: Clone, runtime: str) -> None:
    """Of the models that the build fetches itself, one layer: the files of the layout are equal in every respect."""
    exported.docker.build(exported.folder, "--target", "models", "--tag", f"{IMAGE}:models")
    (layer,) = exported.docker.layers(f"{IMAGE}:models")
    assert layer in exported.docker.layers(runtime)


@pytest.mark.parametrize("target", ["layered", "runtime"])
def test_the_api_answers_with_no_network_at_all(exported: Clone, target: str, request: pytest.FixtureRequest) -> None:
    """As nobody, with nothing to write to but /tmp; the build has loaded every model that has a loader."""
    docker, image = exported.docker, request.getfixturevalue(target)
    with running(docker, "--network", "none", *HARDENED, "--workdir", "/elsewhere", image) as name:
        wait_until_healthy(docker, name)
        assert docker("exec", name, "python", "-c", ASK, ONE).stdout == "2\n"
        assert json.loads(docker("exec", name, "id", "-u").stdout) == 10001
        verdict = json.loads(docker("exec", name, "cat", "/app/verdict.json").stdout)
        assert {row["id"]: row["state"] for row in verdict} == dict.fromkeys(MODELS, "ready")
        docker("stop", "--time", "30", name)
        assert json.loads(docker("inspect", name).stdout)[0]["State"]["ExitCode"] == 0


def test_both_images_have_the_same_settings(exported: Clone, layered: str, runtime: str) -> None:
    """But for the variables and labels of PYTHON_IMAGE, which an image that does not begin with it cannot inherit."""
    ours, theirs, base = (exported.docker.inspect(image)["Config"] for image in (layered, runtime, BASE))
    lock = (exported.folder / "models.lock").read_bytes()
    assert ours["Labels"]["io.github.cache-models.lock.sha256"] == sha256(lock).hexdigest()
    for config in (ours, theirs, base):
        variables = dict(line.split("=", 1) for line in config.pop("Env"))
        variables["PATH"] = list(dict.fromkeys(variables["PATH"].split(":")))
        config["Env"] = variables
    for key in ("Env", "Labels"):
        mine, all_of_them = ours.pop(key), theirs.pop(key)
        assert all_of_them | mine == all_of_them
        assert (all_of_them.keys() - mine.keys()) <= (base[key] or {}).keys()
    assert ours == theirs


def test_both_images_have_the_same_files(exported: Clone, layered: str, runtime: str) -> None:
    """Paths, modes, owners, sizes and targets, but for what Python has compiled on the way."""
    find = r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -name __pycache__ \) -prune -o"
    listing = rf"{find} -type d -printf '%p %m %U %G\n' -o ! -name '*.pyc' -printf '%p %y %m %U %G %s %l\n'"
    run, images = ["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh"], (layered, runtime)
    ours, theirs = (set(exported.docker(*run, image, "-c", listing).stdout.splitlines()) for image in images)
    of_the_engine = re.compile(r"/(etc/(hostname|hosts|resolv.conf)|\.dockerenv) ")
    assert [line for line in ours ^ theirs if not of_the_engine.match(line)] == []
    assert "/tmp 1777 0 0" in ours
    assert "/models 755 0 0" in ours
    assert any(re.search(r" f 4\d{3} 0 ", line) for line in ours), "no file of the base has its owner's rights any more"


# What makes no image


def test_a_layout_that_lacks_a_model_makes_no_image(exported: Clone, tmp_path: Path) -> None:
    """`check` is a part of both targets, and says which one."""
    exported("export", f"{tmp_path}/models.oci/", "--only", ONE, THREE)
    for target in ("layered", "runtime"):
        said = exported.build(target, "--tag", f"{IMAGE}:lacking", layout=Layout(tmp_path / "models.oci"), check=False)
        assert f"{TWO} is not there" in said
    assert exported.docker("image", "inspect", f"{IMAGE}:lacking", check=False).returncode


def test_a_layout_of_another_lock_makes_no_image(
    exported: Clone, public_hub: StandInHub, other: Callable[..., Clone]
) -> None:
    """Models of another commit than that of models.lock."""
    public_hub.add(FOUR, GRAPH)
    older = other(FOUR)
    older.export()
    public_hub.add(FOUR, {**GRAPH, "README.md": b"Moved on\n"})
    older("lock", "--upgrade")
    assert f"{FOUR} does not match" in older.build("layered", "--tag", f"{IMAGE}:older", check=False)


def test_a_model_that_does_not_load_makes_no_image(
    exported: Clone, public_hub: StandInHub, other: Callable[..., Clone], tmp_path: Path
) -> None:
    """Its bytes are as pinned."""
    files = files_below(tiny.tiny_embedding(tmp_path / "broken"))
    config = json.dumps({**json.loads(files["config.json"]), "num_hidden_layers": 1}).encode()
    public_hub.add("export/broken", {**files, "config.json": config})
    broken = other()
    (broken.folder / "models.toml").write_text('[[embedding]]\nid = "export/broken"\n')
    broken.export()
    said = broken.build("layered", "--tag", f"{IMAGE}:broken", check=False)
    assert "weights for which the model has no parameter" in said


def test_a_layer_that_was_changed_makes_no_image(public_hub: StandInHub, other: Callable[..., Clone]) -> None:
    """The engine compares each with its digest, unless it has a layer of that digest already."""
    public_hub.add(FOUR, {**GRAPH, "README.md": uuid4().bytes})
    spoiled = other(FOUR)
    spoiled.export()
    (layer,) = spoiled.layout.layers
    blob = spoiled.layout.folder / "blobs" / layer.replace(":", "/")
    content = bytearray(blob.read_bytes())
    content[-2000] ^= 1
    blob.write_bytes(content)
    said = spoiled.build("layered", "--tag", f"{IMAGE}:spoiled", check=False)
    assert re.search(f"unexpected commit digest sha256:.* expected {layer}", said)


# The next image


def test_a_second_root_gives_the_same_image(exported: Clone, other: Callable[..., Clone]) -> None:
    """Fetched again, of a manifest in another order."""
    second = other(*reversed(MODELS))
    shutil.copy(exported.folder / "models.lock", second.folder)
    second.export()
    assert second.layout.digest == exported.layout.digest


def test_a_model_that_changes_or_is_added_leaves_the_layers_of_others(
    exported: Clone, public_hub: StandInHub, other: Callable[..., Clone], tmp_path: Path
) -> None:
    """Written anew is what is new; an engine has the same layers again without its cache."""
    public_hub.add("export/moving", {**GRAPH, "README.md": b"First\n"})
    second = other(ONE, THREE)
    with (second.folder / "models.toml").open("a") as manifest:
        manifest.write('[[other]]\nid = "export/moving"\n')
    second.export()
    before = second.layout.layers
    assert _without_cache(second, tmp_path) == before

    public_hub.add("export/moving", {**GRAPH, "README.md": b"Second\n"})
    second("lock", "--upgrade")
    assert "3 of them reused" in second.export().err
    moved = second.layout.layers
    assert [one == other for one, other in zip(before, moved, strict=True)].count(False) == 1
    assert _without_cache(second, tmp_path) == moved

    public_hub.add(FOUR, GRAPH)
    with (second.folder / "models.toml").open("a") as manifest:
        manifest.write(TABLES[FOUR])
    assert "4 of them reused" in second.export().err
    assert set(moved) < set(second.layout.layers)
    assert len(second.layout.layers) == len(moved) + 1


def _without_cache(clone: Clone, folder: Path) -> list[str]:
    """Return the layers of an image that takes all of the layout."""
    (folder / "Dockerfile").write_text("FROM models\n")
    context = f"models=oci-layout://{clone.layout.folder}"
    clone.docker("build", "--no-cache", "--build-context", context, "--tag", f"{IMAGE}:bare", str(folder))
    return clone.docker.layers(f"{IMAGE}:bare")
