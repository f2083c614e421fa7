"""docker-compose.yml as it is shipped: the init container fills the volume before the API starts."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.containers.conftest import BY_ID, CODE, EMBEDDING, MODELS, OTHER, READY, TABLES, Images, found_by_id
from tests.containers.engine import Docker, Ran, make_context
from tests.support.hub import Slow, StandInHub

pytestmark = pytest.mark.slow


class Project:
    """A compose project of its own, in a directory of its own."""

    def __init__(self, docker: Docker, context: Path, name: str) -> None:
        self.docker = docker
        self.context = context
        self.name = name
        services: dict[str, object] = {"init": {}, "api": {}}
        if wheels := os.environ.get("WHEELS_DIR"):
            build = {"build": {"additional_contexts": {"wheels": wheels}, "args": {"TORCH_INDEX_URL": ""}}}
            services = {"init": build, "api": build}
        (context / "machine.json").write_text(json.dumps({"services": services}))

    def __call__(self, *words: str, files: tuple[str, ...] = (), check: bool = True, **env: str) -> Ran:
        """Run a compose command."""
        chosen = [word for file in ("docker-compose.yml", "machine.json", *files) for word in ("--file", file)]
        env = {"HF_ENDPOINT": self.docker.hub, "PORT": "0", **env}
        return self.docker(
            "compose", "--project-name", self.name, *chosen, *words, check=check, cwd=self.context, **env
        )

    def states(self) -> dict[str, str]:
        """The state of each container, by its service."""
        lines = self("ps", "--all", "--format", "json").stdout.splitlines()
        return {entry["Service"]: entry["State"] for entry in map(json.loads, lines)}

    def ask(self, model: str) -> int:
        """Ask the API from outside; return the vector's dimension."""
        address = self("port", "api", "8080").stdout.strip()
        body = json.dumps({"model": model, "input": "rain"}).encode()
        with urllib.request.urlopen(f"http://{address}/v1/embeddings", body) as answer:
            return len(json.load(answer)["data"][0]["embedding"])


@contextmanager
def removed_at_the_end(docker: Docker, images: Images, folder: Path) -> Iterator[Project]:
    """A project of the shipped file, over the small models; everything of it is removed at the end."""
    context = make_context(folder / "context", TABLES)
    (context / "models.lock").write_bytes((images.context / "models.lock").read_bytes())
    project = Project(docker, context, f"cache-models-test-{uuid4().hex[:8]}")
    try:
        yield project
    finally:
        project("down", "--volumes", "--remove-orphans", check=False)


@pytest.fixture
def project(docker: Docker, images: Images, tmp_path: Path) -> Iterator[Project]:
    """A project with a volume of its own, not started yet."""
    with removed_at_the_end(docker, images, tmp_path) as project:
        yield project


@pytest.fixture(scope="module")
def started(docker: Docker, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that is up: starting the API takes most of the time of these tests."""
    with removed_at_the_end(docker, images, tmp_path_factory.mktemp("started")) as project:
        project("up", "--detach", "--wait", "--build")
        yield project


def test_up_fills_the_volume_and_answers_and_up_again_is_quiet(started: Project, public_hub: StandInHub) -> None:
    """The second time the init container ends without a request, and the API goes on."""
    assert started.states() == {"init": "exited", "api": "running"}
    assert started.ask(EMBEDDING) == started.ask(CODE) == 32
    public_hub.forget()
    started("up", "--detach", "--wait")
    assert public_hub.requests == []
    assert f"{READY} in /models: unchanged." in started("logs", "init").stdout
    assert started.ask(EMBEDDING) == 32


def test_a_program_in_the_api_finds_the_models_by_their_ids(started: Project) -> None:
    """The Hub view is on the volume, and the image names it."""
    assert started("exec", "--no-TTY", "api", *BY_ID).stdout.splitlines() == found_by_id("/models")


def test_the_init_container_works_in_every_working_directory(project: Project) -> None:
    """`working_dir` of a compose file, and `--workdir`: a directory that is there, and one that is not."""
    for folder in ("/tmp", "/elsewhere"):
        ran = project("run", "--rm", "--build", "--workdir", folder, "init")
        assert f"{READY} in /models" in ran.stderr


def test_the_api_has_no_way_out_and_cannot_write(started: Project) -> None:
    """Neither the Hub nor anybody else; the volume is read-only for it."""
    program = (
        "import socket\n"
        "for place in (('1.1.1.1', 53), ('huggingface.co', 443)):\n"
        "    try: socket.create_connection(place, 2)\n"
        "    except OSError: continue\n"
        "    raise SystemExit(f'reached {place}')\n"
        "try: open('/models/x', 'w')\n"
        "except OSError: pass\n"
        "else: raise SystemExit('the volume can be written')\n"
    )
    started("exec", "--no-TTY", "api", "python", "-c", program)


def test_a_failing_init_keeps_the_api_down_and_says_why(project: Project) -> None:
    """`up` fails, the API was never started, and the logs hold the reason."""
    (project.context / "models.toml").write_text('[[embedding]]\nid = "tinyorg/nobody"\n')
    (project.context / "models.lock").unlink()
    ran = project("up", "--detach", "--wait", "--build", check=False)
    assert ran.returncode
    assert project.states() == {"init": "exited", "api": "created"}
    assert "tinyorg/nobody is not on" in project("logs", "init").stdout


def test_init_containers_that_race_share_the_work(project: Project, public_hub: StandInHub) -> None:
    """Three on one fresh volume: every file is sent once, and all end with 0."""
    project("build", "init")
    public_hub.forget()
    public_hub.fail(Slow(150_000), on=r"GET cdn .*model\.safetensors", times=3)
    project("up", "--detach", "--scale", "init=3", "init")
    until = time.monotonic() + 120
    ended: list[str] = []
    while ended != ["exited 0"] * 3:
        assert time.monotonic() < until, ended
        time.sleep(0.3)
        ended = project("ps", "--all", "--format", "{{.State}} {{.ExitCode}}", "init").stdout.splitlines()
    sent = [
        (request.repo, request.file) for request in public_hub.requests if request.file and request.status in (200, 206)
    ]
    weights = [one for one in sent if one[1] == "model.safetensors"]
    assert sorted(weights) == sorted((model, "model.safetensors") for model in MODELS if model != OTHER)
    assert len(sent) == len(set(sent))


def test_a_models_image_takes_the_place_of_the_volume(project: Project, images: Images, public_hub: StandInHub) -> None:
    """docker-compose.image.yml: no init container, nothing fetched."""
    project("build", "api")
    public_hub.forget()
    project("up", "--detach", "--wait", files=("docker-compose.image.yml",), MODELS_IMAGE=images.models)
    assert project.states() == {"api": "running"}
    assert project.ask(EMBEDDING) == 32
    assert project("exec", "--no-TTY", "api", *BY_ID).stdout.splitlines() == found_by_id("/models")
    assert public_hub.requests == []


def test_down_with_volumes_leaves_nothing(project: Project) -> None:
    """Start afresh: containers, networks and the volume are gone."""
    project("create", "--build")
    project("down", "--volumes")
    left = project.docker("volume", "ls", "--quiet", "--filter", f"name={project.name}").stdout
    networks = project.docker("network", "ls", "--quiet", "--filter", f"name={project.name}").stdout
    assert left == networks == ""
