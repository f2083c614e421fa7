"""The images as a user builds and runs them."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.containers.conftest import (
    BY_ID,
    CODE,
    EMBEDDING,
    FETCHED,
    GRAPH,
    KINDS,
    MODELS,
    READY,
    RERANKER,
    TABLES,
    Images,
    found_by_id,
)
from tests.containers.engine import Docker, make_context
from tests.support import tiny
from tests.support.hub import Slow, StandInHub

pytestmark = pytest.mark.slow

HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
STARTED = 120.0


@contextmanager
def running(docker: Docker, *words: str) -> Iterator[str]:
    """Run a container in the background; remove it at the end."""
    name = docker("run", "--detach", *words).stdout.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def wait_until_healthy(docker: Docker, name: str) -> None:
    """Wait for the image's own health check."""
    until = time.monotonic() + STARTED
    while (state := json.loads(docker("inspect", name).stdout)[0]["State"])["Health"]["Status"] != "healthy":
        assert state["Running"], docker("logs", name).stderr
        assert time.monotonic() < until, docker("logs", name).stderr
        time.sleep(0.2)


ASK = """
import json, sys, urllib.request
def ask(path, body):
    request = urllib.request.Request("http://127.0.0.1:8080" + path, json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request))
print(json.dumps([
    len(ask("/v1/embeddings", {"model": sys.argv[1], "input": "rain"})["data"][0]["embedding"]),
    len(ask("/v1/embeddings", {"model": sys.argv[2], "input": ["rain", "sun"]})["data"]),
    len(ask("/v1/rerank", {"model": sys.argv[3], "query": "rain", "documents": ["wet", "dry"]})["results"]),
]))
"""


def test_the_runtime_answers_with_no_network_at_all(docker: Docker, images: Images) -> None:
    """`docker build .` and run, anywhere: embeddings, code, reranks, as nobody, with nothing to write to but /tmp."""
    with running(docker, "--network", "none", *HARDENED, "--workdir", "/elsewhere", images.runtime) as name:
        wait_until_healthy(docker, name)
        said = docker("exec", name, "python", "-c", ASK, EMBEDDING, CODE, RERANKER).stdout
        assert json.loads(said) == [32, 2, 2]
        assert docker("exec", name, *BY_ID).stdout.splitlines() == found_by_id("/models")
        docker("stop", "--time", "30", name)
        assert json.loads(docker("inspect", name).stdout)[0]["State"]["ExitCode"] == 0


def test_check_in_the_image_loads_every_model_that_has_a_loader(docker: Docker, images: Images) -> None:
    """As the build has done it; it says what it has not run."""
    run = ["run", "--rm", "--network", "none", *HARDENED, "--entrypoint", "cache-models", images.runtime]
    said = docker(*run, "check", "--locked").stderr
    assert f"{len(MODELS) - 1} models in /models load with no network" in said
    assert "1 model of [[other]] never loaded" in said
    assert f"{EMBEDDING}: included for other programs, and not run here: {', '.join(GRAPH)}" in said


def test_any_user_can_read_the_models(docker: Docker, images: Images) -> None:
    """OpenShift and strict clusters choose the user; the files are root's and open to all."""
    links = "-path '/models/hub/*' -type l"
    listing = f"find /models {links} -o -type f -perm 0644 -o -type d -perm 0755 -o -print"
    hashes = "cd /models && find . -type f -exec sha256sum {} + | tail -1"
    ran = docker("run", "--rm", "--user", "54321:0", "--entrypoint", "sh", images.runtime, "-c", f"{listing}; {hashes}")
    assert re.fullmatch(r"[0-9a-f]{64}  \./.*\n", ran.stdout)


def test_the_images_say_what_they_are(docker: Docker, images: Images) -> None:
    """Nobody's user, a health check, and what was baked, seen from outside."""
    config = docker.inspect(images.runtime)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"]
    verdict = docker("run", "--rm", "--entrypoint", "cat", images.runtime, "/app/verdict.json").stdout
    assert {row["id"]: row["state"] for row in json.loads(verdict)} == dict.fromkeys(MODELS, "ready")


def test_the_init_image_fills_a_volume(docker: Docker, images: Images, public_hub: StandInHub) -> None:
    """As nobody, with a read-only root file system and 256 MB; again, and it asks nobody."""
    volume = docker("volume", "create").stdout.strip()
    run = ["run", "--rm", *HARDENED, "--memory", "256m", "--env", f"HF_ENDPOINT={docker.hub}"]
    run += ["--volume", f"{volume}:/models", images.init]
    try:
        assert f"{READY} in /models: {FETCHED}" in docker(*run).stderr
        public_hub.forget()
        assert f"{READY} in /models: unchanged." in docker(*run).stderr
        assert public_hub.requests == []
    finally:
        docker("volume", "rm", "--force", volume)


@pytest.mark.parametrize("folder", ["/tmp", "/usr", "/root", "/elsewhere"])
def test_the_command_works_in_every_working_directory(docker: Docker, images: Images, folder: str) -> None:
    """One that it may write to, one that it may not, one that it may not even read, and one that is not there."""
    run = ["run", "--rm", *HARDENED, "--network", "none", "--workdir", folder]
    ran = docker(*run, images.init, "status", "--json")
    assert "/app/models.toml" in ran.stderr
    rows = json.loads(ran.stdout)
    assert {row["id"]: row["state"] for row in rows} == dict.fromkeys(MODELS, "absent")
    rows = json.loads(docker(*run, "--entrypoint", "cache-models", images.runtime, "status", "--json").stdout)
    assert {row["id"]: row["state"] for row in rows} == dict.fromkeys(MODELS, "ready")


def test_a_stopped_init_container_goes_on_later(docker: Docker, images: Images, public_hub: StandInHub) -> None:
    """SIGTERM reaches the tool, which is process 1: exit 143 at once, and the next one asks for the rest only."""
    volume = docker("volume", "create").stdout.strip()
    run = ["--volume", f"{volume}:/models", "--env", f"HF_ENDPOINT={docker.hub}", images.init]
    public_hub.forget()
    public_hub.fail(Slow(20_000), on=r"GET cdn .*model\.safetensors", times=3)
    try:
        with running(docker, *run) as name:
            until = time.monotonic() + STARTED
            while not any(request.file == "model.safetensors" for request in public_hub.requests):
                assert time.monotonic() < until
                time.sleep(0.1)
            docker("stop", "--time", "60", name)
            assert json.loads(docker("inspect", name).stdout)[0]["State"]["ExitCode"] == 143
        assert READY in docker("run", "--rm", *run).stderr
    finally:
        docker("volume", "rm", "--force", volume)


# What is in the layers


def test_no_layer_holds_what_does_not_belong_there(docker: Docker, images: Images, tmp_path: Path) -> None:
    """No link but those of the Hub view, no pickle, no lease, no stamp; one owner and one time on everything."""
    names = []
    for member in members(docker, images.models, tmp_path):
        if member.issym():
            assert member.name.startswith("models/hub/")
            assert os.path.normpath(f"/{member.name}/../{member.linkname}").startswith("/models/cached_")
        else:
            assert member.isfile() or member.isdir(), member.name
            assert member.mode & 0o777 == (0o755 if member.isdir() else 0o644), member.name
        assert (member.uid, member.gid) == (0, 0), member.name
        names.append(member.name)
        assert member.mtime == 315532800, member.name
    homes = [f"models/cached_{kind}_models/{model.replace('/', '__')}" for model, kind in KINDS.items()]
    views = [f"models/hub/models--{model.replace('/', '--')}" for model in MODELS]
    graphs = [f"{home}/{file}" for home in (homes[0], homes[-1]) for file in GRAPH]
    assert {*homes, *views, *graphs} <= set(names)
    assert not [name for name in names if re.search(r"\.cache(/|$)|\.bin$|\.pt$|\.lease$|\.stamp|~", name)]


def members(docker: Docker, image: str, tmp_path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield every entry of every layer of an image."""
    docker("save", "--output", str(tmp_path / "image.tar"), image)
    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        for layer in manifest["Layers"]:
            content = archive.extractfile(layer)
            assert content is not None
            with tarfile.open(fileobj=content) as inner:
                yield from inner


def test_a_token_leaves_no_trace(docker: Docker, tmp_path: Path) -> None:
    """A gated model is baked with a secret: its bytes are in no layer, no history, no configuration, no lock."""
    secret = "hf_this-must-not-be-seen-anywhere"
    with StandInHub() as hub:  # on loopback, since over plain http the token goes nowhere else
        hub.token = secret
        hub.add("org/gated", tiny.tiny_embedding(tmp_path / "gated"), gated=True)
        context = make_context(tmp_path / "context", ['[[embedding]]\nid = "org/gated"\n'])
        build = ["--network=host", "--target", "models", "--build-arg", f"HF_ENDPOINT={hub.url}", "--progress=plain"]
        refused = docker("build", *build, str(context), check=False)
        assert refused.returncode
        assert "org/gated is gated" in refused.stdout + refused.stderr
        built = docker(
            "build", *build, "--secret", "id=hf_token,env=HF_TOKEN", "--tag", "cache-models-test:gated", str(context),
            HF_TOKEN=secret,
        )  # fmt: skip
        docker("build", *build[:1], "--target", "lock", *build[3:], "--output", str(context), str(context))
    docker("save", "--output", str(tmp_path / "gated.tar"), "cache-models-test:gated")
    history = docker("history", "--no-trunc", "cache-models-test:gated").stdout
    inspected = json.dumps(docker.inspect("cache-models-test:gated"))
    layers = (tmp_path / "gated.tar").read_bytes()
    lock = (context / "models.lock").read_text()
    for place in (layers.decode("latin-1"), history, inspected, built.stdout + built.stderr, lock):
        assert secret not in place
    with tarfile.open(tmp_path / "gated.tar") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content and (data := content.read()).startswith(b"\x1f\x8b"):
                assert secret.encode() not in gzip.decompress(data)


# Building again


def test_nothing_is_done_when_nothing_changed(docker: Docker, images: Images, public_hub: StandInHub) -> None:
    """A warm build takes every step from the cache and asks no Hub."""
    public_hub.forget()
    said = docker.build(images.context, "--tag", images.runtime).stderr
    steps = re.findall(r"^#(\d+) \[[^]]*\d+/\d+\] (?:RUN|COPY|WORKDIR)", said, re.MULTILINE)
    cached = re.findall(r"^#(\d+) CACHED", said, re.MULTILINE)
    assert steps
    assert set(steps) <= set(cached)
    assert public_hub.requests == []


def test_equal_models_make_equal_layers_without_a_cache(docker: Docker, images: Images) -> None:
    """Whoever builds them and whenever: fetched again, they make the diff ids of the first build, also in `runtime`."""
    words = ["--no-cache-filter", "builder", "--target", "models", "--tag", "cache-models-test:again"]
    assert FETCHED in docker.build(images.context, *words).stderr
    assert docker.layers("cache-models-test:again") == docker.layers(images.models)
    assert set(docker.layers(images.models)) < set(docker.layers(images.runtime))


def test_a_model_that_does_not_load_makes_no_image(docker: Docker, public_hub: StandInHub, tmp_path: Path) -> None:
    """The build fails with the reason; the bytes were right."""
    broken = tiny.tiny_embedding(tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    tiny.write_json(broken / "config.json", {**config, "num_hidden_layers": 1})
    public_hub.add("org/broken", broken)
    context = make_context(tmp_path / "context", ['[[embedding]]\nid = "org/broken"\n'])
    ran = docker.build(context, "--tag", "cache-models-test:broken", check=False)
    assert ran.returncode
    assert "weights for which the model has no parameter" in ran.stderr
    assert docker("image", "inspect", "cache-models-test:broken", check=False).returncode


@pytest.mark.parametrize("target", ["models", "checked"])
def test_a_lock_that_does_not_fit_makes_no_image(
    docker: Docker, images: Images, public_hub: StandInHub, tmp_path: Path, target: str
) -> None:
    """`--locked` wherever there is a lock: nothing is resolved anew, and the message says how Docker writes one."""
    context = make_context(tmp_path / "context", TABLES[:2])
    (context / "models.lock").write_bytes((images.context / "models.lock").read_bytes())
    public_hub.forget()
    ran = docker.build(context, "--target", target, check=False)
    assert ran.returncode
    assert f"{RERANKER} (reranker) is pinned and no longer wanted" in ran.stderr
    assert "`docker build --target lock --output . .`" in ran.stderr
    assert public_hub.requests == []


def test_the_models_image_is_for_every_platform(docker: Docker, images: Images, tmp_path: Path) -> None:
    """Both platforms in one build, nothing emulated, the very same layers."""
    target = tmp_path / "models.tar"
    words = ["--platform", "linux/amd64,linux/arm64", "--target", "models", "--output", f"type=oci,dest={target}"]
    docker.build(images.context, *words)
    with tarfile.open(target) as archive:

        def blob(digest: str) -> dict[str, Any]:
            content = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert content is not None
            found: dict[str, Any] = json.load(content)
            return found

        top = json.load(archive.extractfile("index.json") or io.BytesIO())
        index = blob(top["manifests"][0]["digest"])
        found = {
            entry["platform"]["architecture"]: blob(entry["digest"])
            for entry in index["manifests"]
            if entry["platform"]["architecture"] != "unknown"
        }
        assert set(found) == {"amd64", "arm64"}
        assert found["amd64"]["layers"] == found["arm64"]["layers"]
        assert blob(found["arm64"]["config"]["digest"])["rootfs"]["diff_ids"] == docker.layers(images.models)


def test_the_dockerfile_is_clean(docker: Docker) -> None:
    """hadolint, and the engine's own check; each exception has its reason here."""
    assert "no warnings found" in docker("build", "--check", str(PROJECT)).stdout
    hadolint = Path(sys.executable).with_name("hadolint")
    ignored = [
        "DL3008",  # binutils stays in a stage that is not shipped
    ]
    words = [word for rule in ignored for word in ("--ignore", rule)]
    ran = subprocess.run([hadolint, *words, PROJECT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
