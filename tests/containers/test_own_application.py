"""An application that knows nothing of this tool, with the files that the pages show for it, as they stand there.

Its Dockerfile, its compose file and its Deployment are read from docs/; test_docs compares the README with these.
It loads its models by their ids.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.commands.test_package import SOURCE, run
from tests.conftest import PROJECT
from tests.containers.conftest import (
    BY_ID,
    CODE,
    COPIED,
    EMBEDDING,
    FETCHED,
    MODELS,
    MULTI_VECTOR,
    READY,
    RERANKER,
    SPARSE,
    Images,
    found_by_id,
)
from tests.containers.engine import Docker, Ran
from tests.containers.manifests import Object, pods
from tests.containers.pods import STARTED, Api, Podman, for_podman
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

APPLICATION = f"""
import json

from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

print(json.dumps([
    SentenceTransformer("{EMBEDDING}").encode("rain").shape[0],
    SentenceTransformer("{CODE}", trust_remote_code=True).encode("rain").shape[0],
    len(CrossEncoder("{RERANKER}").predict([("rain", "wet"), ("rain", "dry")])),
    SparseEncoder("{SPARSE}").encode("rain").shape[0],
    MultiVectorEncoder("{MULTI_VECTOR}").encode_query("rain").shape[1],
]))
"""
# The image `serve` has the libraries. What it sets for the Hub is put back, so that only the reader's own ENV counts.
IMAGE_OF_IT = """
FROM {serve}
ENV HF_HUB_CACHE=/tmp/hub HF_HUB_OFFLINE=0
COPY application.py /
ENTRYPOINT ["python", "/application.py"]
"""
# In front of this one the init containers are put: a client of the Hub without torch, so that it starts at once.
CLIENT = ("python", "-uc", f"{BY_ID[2]}import time; time.sleep(600)")
ANSWER = [32, 32, 2, len(tiny.VOCABULARY), 16]
PYTHON = "python:3.11-slim-bookworm"
"""An application without libraries, where only the layers are looked at. It has no `/models`, unlike `serve`."""
TOKEN = "hf_this-must-not-be-seen-anywhere"


def shown(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (PROJECT / page).read_text(), re.MULTILINE | re.DOTALL)


FROM_INIT, WITH_PIP = shown("docs/own-image.md", "dockerfile")
(COMPOSE,) = shown("docs/compose.md", "yaml")
FROM_ARCHIVE, INIT_FROM_ARCHIVE = shown("docs/image.md", "yaml")
DEPLOYMENT = next(text for text in shown("docs/kubernetes.md", "yaml") if text.startswith("# my-app.yaml"))


@dataclass(frozen=True)
class Repository:
    """A reader's repository: models.toml, models.lock and a wheel of the tool; in it the pages' files are used."""

    docker: Docker
    folder: Path

    def build(self, tag: str, dockerfile: str, *words: str, app: str = PYTHON, check: bool = True) -> Ran:
        """Build a Dockerfile of the page; `my-app` is `app`, and the other images have been told where the Hub is."""
        (self.folder / "Dockerfile").write_text(dockerfile)
        images = {
            "cache-models-init": "cache-models-test:init-here",
            PYTHON: "cache-models-test:python-here",
            "my-app": app,
        }
        contexts = [f"--build-context={name}=docker-image://{image}" for name, image in images.items()]
        command = ["build", "--progress=plain", *contexts, "--tag", f"cache-models-test:{tag}", *words]
        return self.docker(*command, str(self.folder), check=check)

    def layer_of_models(self, tag: str) -> str:
        """The diff id of the layer that was put on top of those of `my-app`."""
        own = self.docker.layers(PYTHON)
        layers = self.docker.layers(f"cache-models-test:{tag}")
        assert layers[:-1] == own
        return layers[-1]


@pytest.fixture(scope="module")
def repository(docker: Docker, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The reader's repository, and the images that its files name."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("models.toml", "models.lock"):
        (folder / name).write_bytes((images.context / name).read_bytes())
    make_wheel(tmp_path_factory.mktemp("clone"), folder)
    (folder / "application.py").write_text(APPLICATION)
    made = {
        "app": IMAGE_OF_IT.format(serve=images.serve),
        # It has no `/models`, from whose owner the engine would make that of a volume.
        "client": f"FROM {images.init}\nUSER 0\nRUN rmdir /models\nUSER 54321\nENTRYPOINT {json.dumps(CLIENT)}\n",
        "init-here": f"FROM {images.init}\nENV HF_ENDPOINT={docker.hub}\n",
        "python-here": f"FROM {PYTHON}\nENV HF_ENDPOINT={docker.hub}\n",
    }
    for tag, dockerfile in made.items():
        (folder / "Dockerfile").write_text(dockerfile)
        docker("build", "--tag", f"cache-models-test:{tag}", str(folder))
    return Repository(docker, folder)


@pytest.fixture(scope="module")
def archive(repository: Repository, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the reader's lock as `export` writes them where the Hub can be reached."""
    folder = tmp_path_factory.mktemp("here")
    folder.chmod(0o755)
    tool = [sys.executable, str(PROJECT / "cache_models.py")]
    place = ["--manifest", str(repository.folder / "models.toml"), "--root", str(folder)]
    for words in (["sync", "--locked"], ["export", str(folder / "models.tar")]):
        ended = run([*tool, *words, *place], folder, {"HF_ENDPOINT": public_hub.url})
        assert ended.exit_code == 0, ended.err
    return folder / "models.tar"


def make_wheel(clone: Path, target: Path) -> None:
    """Write the wheel of this tool, built from a copy of its sources."""
    for name in SOURCE:
        (clone / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (PROJECT / name).is_dir() else shutil.copy)(PROJECT / name, clone / name)
    made = run([sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", target, clone], clone)
    assert made.exit_code == 0, made.err


# In its own image


def test_the_image_writes_the_lock(repository: Repository, tmp_path: Path) -> None:
    """With nothing installed but Docker, and for the user whose directory it is."""
    (command,) = re.findall(r"`(docker run [^`]* lock)`", (PROJECT / "docs/own-image.md").read_text())
    command = command.replace("cache-models-init", "cache-models-test:init-here").replace(
        "$(id -u):$(id -g)", "1000:1000"
    )
    shutil.copy(repository.folder / "models.toml", tmp_path)
    os.chown(tmp_path, 1000, 1000)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "models.lock").read_bytes() == (repository.folder / "models.lock").read_bytes()
    assert (tmp_path / "models.lock").stat().st_uid == 1000


def test_the_application_finds_its_models_by_their_ids(repository: Repository) -> None:
    """No network, a read-only root file system, another user, and no line of it changed."""
    repository.build("own-app", FROM_INIT, app="cache-models-test:app")
    run = ["run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "54321:0"]
    said = repository.docker(*run, "cache-models-test:own-app").stdout
    assert json.loads(said) == ANSWER


def test_the_layer_depends_on_the_models_alone(repository: Repository, images: Images) -> None:
    """Two builds without a cache make the same one. Owned by root it is that of the image `models`, also with pip."""
    tags = {
        "own": FROM_INIT,
        "own-again": FROM_INIT,
        "own-root": FROM_INIT.replace("COPY --from=models", "COPY --from=models --chown=0:0"),
        "own-pip": WITH_PIP,
    }
    for tag, dockerfile in tags.items():
        repository.build(tag, dockerfile, *(["--no-cache"] if tag == "own-again" else []))
    layers = {tag: repository.layer_of_models(tag) for tag in tags}
    assert layers["own"] == layers["own-again"]
    assert [layers["own-root"]] == [layers["own-pip"]] == repository.docker.layers(images.models)


def test_copy_keeps_links_times_and_owners(repository: Repository) -> None:
    """BuildKit: the links of the Hub view are relative links, with the time that the tool gave them."""
    repository.build("own", FROM_INIT)
    find = ["find", "/models", "-printf", r"%y %m %U:%G %T@ %p %l\n"]
    said = repository.docker("run", "--rm", "--entrypoint", find[0], "cache-models-test:own", *find[1:]).stdout
    rows = [line.split(" ") for line in said.splitlines()]
    assert {time for _, _, _, time, _, _ in rows} == {"315532800.0000000000"}
    assert {mode for kind, mode, *_ in rows if kind != "l"} == {"644", "755"}
    assert {(owner, path == "/models") for _, _, owner, _, path, _ in rows} == {("0:0", True), ("10001:10001", False)}
    links = {path: target for kind, _, _, _, path, target in rows if kind == "l"}
    assert {path.split("/")[3] for path in links} == {f"models--{model.replace('/', '--')}" for model in MODELS}
    files = {path for kind, _, _, _, path, _ in rows if kind == "f"}
    for path, target in links.items():
        assert os.path.normpath(f"{path}/../{target}") in files


def test_the_ids_can_be_a_build_argument(repository: Repository) -> None:
    """docs/own-image.md: with no manifest and no lock."""
    page = (PROJECT / "docs/own-image.md").read_text()
    ((argument, run),) = re.findall(r"`(ARG MODEL_IDS)` and `(RUN [^`]*)`", page)
    dockerfile = f"FROM cache-models-init\n{argument}\n{run}\n"
    said = repository.build("own-argument", dockerfile, f"--build-arg=MODEL_IDS={EMBEDDING} {RERANKER}").stderr
    assert "2 models ready in /models: 2 fetched." in said


@pytest.mark.parametrize(
    ("mount", "run", "told"),
    [
        ("env=HF_TOKEN", '["cache-models", "sync", "--no-stamp"]', "1 model ready in /models: 1 fetched."),
        (
            "uid=10001",
            "HF_TOKEN_PATH=/run/secrets/hf_token cache-models sync --no-stamp",
            "1 model ready in /models: 1 fetched.",
        ),
        ("required", "HF_TOKEN_PATH=/run/secrets/hf_token cache-models sync --no-stamp", "uid=10001"),
    ],
)
def test_a_token_is_a_build_secret(repository: Repository, tmp_path: Path, mount: str, run: str, told: str) -> None:
    """As docs/own-image.md says it, in both forms of RUN. A secret is root's, unless the option `uid` is given."""
    with StandInHub() as hub:  # on loopback, since over plain http the token goes nowhere else
        hub.token = TOKEN
        hub.add("org/gated", tiny.tiny_embedding(tmp_path / "gated"), gated=True)
        (tmp_path / "models.toml").write_text('[[embedding]]\nid = "org/gated"\n')
        dockerfile = (
            f"FROM cache-models-init\nENV HF_ENDPOINT={hub.url}\nCOPY models.toml ./\n"
            f"RUN --mount=type=secret,id=hf_token,{mount} {run}\n"
        )
        gated = Repository(repository.docker, tmp_path)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HF_TOKEN", TOKEN)
            ran = gated.build(
                "own-gated", dockerfile, "--network=host", "--secret=id=hf_token,env=HF_TOKEN", check=False
            )
    assert bool(ran.returncode) == (mount == "required")
    assert told in ran.stderr
    assert TOKEN not in ran.stderr


# Behind an init container


def test_compose_puts_the_init_container_in_front(repository: Repository, public_hub: StandInHub) -> None:
    """The compose file of docs/compose.md; a second `up` asks nobody."""
    compose_file = COMPOSE.replace("127.0.0.1:8080:8080", "127.0.0.1::8080")  # any free port
    with composed(repository, compose_file) as compose:
        for told in (f"{READY} in /models: {FETCHED}", f"{READY} in /models: unchanged."):
            public_hub.forget()
            compose("up", "--detach", "--wait")
            assert told in compose("logs", "models").stdout
        assert public_hub.requests == []
        wait_for_found(lambda: compose("logs", "--no-log-prefix", "api").stdout)
        tried = compose("exec", "--no-TTY", "api", "touch", "/models/x", check=False)
        assert "Read-only file system" in tried.stderr


def test_compose_fills_the_volume_across_an_air_gap(
    repository: Repository, archive: Path, public_hub: StandInHub
) -> None:
    """The compose file of docs/image.md: no network, a carried archive; a second `up` does not open it."""
    public_hub.forget()
    with composed(repository, FROM_ARCHIVE.replace("./models.tar", str(archive))) as compose:
        for told in (f"{READY} in /models: {COPIED}", f"{READY} in /models: unchanged."):
            compose("up", "--detach", "--wait")
            assert told in compose("logs", "models").stdout
        wait_for_found(lambda: compose("logs", "--no-log-prefix", "api").stdout)
    assert public_hub.requests == []


@contextmanager
def composed(repository: Repository, compose_file: str) -> Iterator[Callable[..., Ran]]:
    """A project of a page's compose file; nothing of it is left."""
    docker, name = repository.docker, f"cache-models-test-own-{os.getpid()}"
    (repository.folder / "compose.yaml").write_text(compose_file)
    here = {"models": {"image": "cache-models-test:init-here"}, "api": {"image": "cache-models-test:client"}}
    (repository.folder / "here.json").write_text(json.dumps({"services": here}))

    def compose(*words: str, check: bool = True) -> Ran:
        files = ("--file", "compose.yaml", "--file", "here.json")
        return docker("compose", "--project-name", name, *files, *words, cwd=repository.folder, check=check)

    try:
        yield compose
    finally:
        compose("down", "--volumes", "--timeout=0")


def test_kubernetes_puts_the_init_container_in_front(
    repository: Repository, podman: Podman, registry: str, tmp_path: Path
) -> None:
    """The Deployment of docs/kubernetes.md: valid, and played with the ConfigMap that the page makes."""
    with played(repository, podman, registry, yaml.safe_load(DEPLOYMENT), tmp_path) as api:
        assert f"{READY} in /models: {FETCHED}" in podman.logs(api.name.replace("-pod-api", "-pod-models"))
        wait_for_found(lambda: podman.logs(api.name))
        assert "Read-only file system" in podman("exec", api.name, "touch", "/models/x", check=False).stderr


def test_kubernetes_fills_the_volume_across_an_air_gap(
    repository: Repository, podman: Podman, registry: str, archive: Path, tmp_path: Path
) -> None:
    """The init container of docs/image.md in the Deployment of docs/kubernetes.md."""
    deployment: Object = yaml.safe_load(DEPLOYMENT)
    pods([deployment])["Deployment"].update(yaml.safe_load(INIT_FROM_ARCHIVE))
    (carried,) = (volume for volume in pods([deployment])["Deployment"]["volumes"] if volume["name"] == "carried")
    del carried["persistentVolumeClaim"]
    carried["hostPath"] = {"path": str(archive.parent), "type": "Directory"}
    with played(repository, podman, registry, deployment, tmp_path) as api:
        assert f"{READY} in /models: {COPIED}" in podman.logs(api.name.replace("-pod-api", "-pod-models"))
        wait_for_found(lambda: podman.logs(api.name))


@contextmanager
def played(repository: Repository, podman: Podman, registry: str, deployment: Object, folder: Path) -> Iterator[Api]:
    """A valid Deployment, played with the ConfigMap that the page makes."""
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(deployment, version, strict=True)
    content = {name: (repository.folder / name).read_text() for name in ("models.toml", "models.lock")}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "models"}, "data": content}
    pod = pods([deployment])["Deployment"]
    for container, tag in ((pod["initContainers"][0], "init-here"), (pod["containers"][0], "client")):
        container["image"] = f"{registry}/test/cache-models-{tag}:1"
        repository.docker("tag", f"cache-models-test:{tag}", container["image"])
        repository.docker("push", "--quiet", container["image"])
        podman("pull", "--quiet", "--tls-verify=false", container["image"])
        repository.docker("rmi", container["image"])
    with podman.playing(for_podman([settings, deployment]), folder) as ran:
        assert ran.returncode == 0, ran.stderr
        yield Api(podman, [deployment])


def wait_for_found(logs: Callable[[], str]) -> None:
    """Wait until the client of the Hub has found the files of all models by their ids, on the volume."""
    until = time.monotonic() + STARTED
    while (said := logs()).splitlines() != found_by_id("/models"):
        assert time.monotonic() < until, said
        time.sleep(0.2)
