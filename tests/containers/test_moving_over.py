"""docs/moving-over.md, with a real engine: each Dockerfile that it ends with is built, and its application run in it.

The applications are the page's, unchanged. All of them run in one container, where each sees the files of its own image
and nothing else, has the environment of that image, and no network. The image to move from is built as the page has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.containers.conftest import Images
from tests.containers.engine import Docker
from tests.support import models, tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs/moving-over.md").read_text()
MINILM, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "acme/house-reranker"
SHOWN_COMMIT = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
SCRIPT, DEFAULT_CACHE, OWN_PATH, CACHE_FOLDER, COPIED_CACHE = (
    "A script that saves into two directories",
    "A `RUN python -c` that fills the default cache",
    "A script that saves under a path of its own",
    "A `cache_folder`",
    "A copied Hub cache",
)

# The image `serve` has the libraries. Its cache is the one of the builder whose cache the page copies.
MY_APP = """
FROM {serve}
USER 0
ENV HOME=/root HF_HUB_CACHE=/hf/hub HF_HUB_OFFLINE=0 HF_ENDPOINT={hub}
WORKDIR /app
RUN mkdir backend
ENTRYPOINT []
"""

# One interpreter imports what takes long and reads no variable of the Hub, then forks for each application.
RUN_ALL = """
import contextlib, io, json, os, sys

import scipy.sparse, sklearn.metrics, torch, torch._dynamo

assert "huggingface_hub" not in sys.modules and "transformers" not in sys.modules
TEXTS, PAIRS = ["rain", "the cat sleeps at home"], [("rain", "it is wet"), ("rain", "the cat sleeps")]


def answer(number, job):
    os.chroot(f"/images/{job['image']}")
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(job["program"], "app.py", "exec"), names)
    numbers = {}
    if "embeddings" in names:
        numbers["embeddings"] = names["embeddings"].encode(TEXTS).tobytes().hex()
    if "reranker" in names:
        numbers["reranker"] = names["reranker"].predict(PAIRS).tobytes().hex()
    return {"printed": printed.getvalue(), **numbers}


jobs = json.loads(os.environ["JOBS"])
answers = [open(f"/tmp/{number}", "w+") for number in range(len(jobs))]
for number, job in enumerate(jobs):
    if os.fork() == 0:
        try:
            json.dump(answer(number, job), answers[number])
            answers[number].flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
failed = sum(os.wait()[1] != 0 for _ in jobs)
for file in answers:
    file.seek(0)
print(json.dumps([json.loads(file.read() or "{}") for file in answers]))
sys.exit(failed)
"""


def blocks(language: str, section: str = "") -> list[str]:
    """The blocks in one language, of a section or of the whole page."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0] if section else PAGE
    assert text, section
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The commands of a console block."""
    return re.findall(r"^\$ (.*)$", block, re.MULTILINE)


@dataclass
class Reader:
    """A reader's repository, and the images that are made from it."""

    docker: Docker
    folder: Path
    hub: StandInHub
    jobs: list[dict[str, object]] = field(default_factory=list)

    def shell(self, command: str, folder: Path) -> str:
        """Run a command of the page; return what it prints."""
        tool = folder.parent / "bin" / "cache-models"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROJECT}/cache_models.py" "$@"\n')
        tool.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "HF_ENDPOINT": self.hub.url}
        ran = subprocess.run(
            ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def build(self, name: str, dockerfile: str) -> None:
        """Build a Dockerfile of the page."""
        images = {"cache-models-init": "moving-init", "my-app": "moving-my-app"}
        contexts = [f"--build-context={image}=docker-image://cache-models-test:{tag}" for image, tag in images.items()]
        (self.folder / "Dockerfile").write_text(dockerfile)
        self.docker("build", *contexts, "--tag", f"cache-models-test:moving-{name}", str(self.folder))

    def will_run(self, name: str, program: str) -> None:
        """Remember to run a program in an image."""
        config, base = (
            self.docker.inspect(f"cache-models-test:moving-{image}")["Config"] for image in (name, "my-app")
        )
        given = {line for line in base["Env"] if line.startswith("HF_")}
        environment = dict(line.split("=", 1) for line in config["Env"] if line not in given)
        folder = config["WorkingDir"]
        self.jobs.append({"image": name, "folder": folder, "environment": environment, "program": program})

    def run(self) -> list[dict[str, str]]:
        """Run all programs, each with the root of its image, read-only; return what each answers, in their order."""
        names = {str(job["image"]) for job in self.jobs}
        mounts = [f"--mount=type=image,source=cache-models-test:moving-{name},target=/images/{name}" for name in names]
        (self.folder / "jobs").write_text(f"JOBS={json.dumps(self.jobs)}\n")
        ran = self.docker(
            *("run", "--rm", "--network=none", "--tmpfs=/tmp", f"--env-file={self.folder / 'jobs'}", *mounts),
            *("cache-models-test:moving-my-app", "python", "-c", RUN_ALL),
        )
        found: list[dict[str, str]] = json.loads(ran.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def reader(docker: Docker, images: Images, bridge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """An image with a copied cache, a Hub with a newer commit, and the page's models.toml, which pins the old one."""
    folder = tmp_path_factory.mktemp("moving") / "repository"
    folder.mkdir()
    with StandInHub(host=bridge) as hub:
        commit = hub.add(MINILM, models.minilm(folder.parent / "minilm"), licence="apache-2.0")
        hub.add(RERANKER, tiny.tiny_reranker(folder.parent / "reranker"), licence="apache-2.0")
        reader = Reader(docker, folder, hub)
        made = {
            "init": f"FROM {images.init}\nENV HF_ENDPOINT={hub.url}\n",
            "my-app": MY_APP.format(serve=images.serve, hub=hub.url),
        }
        for name, dockerfile in made.items():
            reader.build(name, dockerfile)
        reader.build("old", blocks("dockerfile", COPIED_CACHE)[0])

        # In the newer commit the numbers are others, so that it would be seen if an image had it.
        newer = models.minilm(folder.parent / "newer")
        config = json.loads((newer / "config.json").read_text())
        (newer / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
        assert hub.add(MINILM, newer, licence="apache-2.0") != commit

        ask, pin = commands(blocks("console", "Keep the version that is in production")[0])
        assert reader.shell(ask.replace("my-app:old", "cache-models-test:moving-old"), folder) == commit
        reader.shell(pin.replace(SHOWN_COMMIT, commit), folder)
        reader.shell(f"cache-models add {RERANKER}", folder)
        yield reader


def test_the_models_are_listed_once(reader: Reader, tmp_path: Path) -> None:
    """The first block makes both files, from an empty directory."""
    (tmp_path / "empty").mkdir()
    (command,) = commands(blocks("console")[0])
    reader.shell(command, tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["models.lock", "models.toml"]


def test_no_application_changes(reader: Reader) -> None:
    """In each image that the page ends with, the application gives the numbers of the image that it moves from.

    That one has the same files, so they are equal bit for bit.
    """
    stages = blocks("dockerfile", SCRIPT)[1].partition("FROM my-app\n")[0]
    own = f"{stages}FROM my-app\n"
    copied, variable, home = (blocks("dockerfile", name)[2] for name in (OWN_PATH, CACHE_FOLDER, COPIED_CACHE))
    assert len(blocks("dockerfile")) == 13, "a Dockerfile was added: test it here"
    programs = {name: blocks("python", name)[-1] for name in (SCRIPT, DEFAULT_CACHE, OWN_PATH, CACHE_FOLDER)}
    by_id = blocks("python", COPIED_CACHE)[0]
    after = {
        "script": (blocks("dockerfile", SCRIPT)[1], programs[SCRIPT]),
        "default": (blocks("dockerfile", DEFAULT_CACHE)[1], programs[DEFAULT_CACHE]),
        "path": (blocks("dockerfile", OWN_PATH)[1], programs[OWN_PATH]),
        "path-copied": (own + copied, programs[OWN_PATH]),
        "folder": (blocks("dockerfile", CACHE_FOLDER)[1], programs[CACHE_FOLDER]),
        "variable": (f"{own}COPY --from=models /models /models\n{variable}", programs[DEFAULT_CACHE]),
        "copied": (blocks("dockerfile", COPIED_CACHE)[1].replace("ENV", "ENV HF_HOME=/app/hf\nENV"), by_id),
        "home": (f"{own}COPY --from=models /models /models\n{home}", by_id),
    }
    numbers = blocks("python", "Keep the version that is in production")[0]
    reader.will_run("old", f"{by_id}\n{numbers}")
    for name, (dockerfile, program) in after.items():
        assert dockerfile.startswith(stages), name
        reader.build(name, dockerfile)
        reader.will_run(name, f"{program}\n{numbers}" if name == "copied" else program)

    old, *new = reader.run()
    assert len(old["printed"].splitlines()) == 2
    for name, found in zip(after, new, strict=True):
        loaded = ["embeddings", "reranker"] if "CrossEncoder" in after[name][1] else ["embeddings"]
        expected = {key: old[key] for key in loaded}
        assert found == expected | {"printed": old["printed"] if name == "copied" else ""}, name


def test_all_images_share_the_layer_of_the_models(reader: Reader) -> None:
    """A link is all that a way of loading adds, so the layer is pushed once."""
    tags = ("script", "default", "path", "folder", "variable", "copied", "home")
    own = reader.docker.layers("cache-models-test:moving-my-app")
    assert len({reader.docker.layers(f"cache-models-test:moving-{tag}")[len(own)] for tag in tags}) == 1


def test_compose_mounts_the_two_directories(reader: Reader) -> None:
    """From the host's `backend`, as before, or from a volume that the init container fills: with the same files."""
    before, after = blocks("yaml", SCRIPT)
    (command,) = commands(blocks("console", SCRIPT)[0])
    (reader.folder / "backend").mkdir()
    reader.shell(command, reader.folder)
    hashes = "cd /app/backend && find . -type f | sort | xargs sha256sum; touch cached_embedding_models/x"
    here = {
        "models": {"image": "cache-models-test:moving-init"},
        "api": {"image": "cache-models-test:moving-init", "entrypoint": ["sh", "-c", hashes]},
    }
    project = f"cache-models-test-moving-{os.getpid()}"
    said = []
    for text in (before, after):
        (reader.folder / "compose.yaml").write_text(text)
        services = {name: here[name] for name in here if f"  {name}:\n    image" in text}
        (reader.folder / "here.json").write_text(json.dumps({"services": services}))
        files = ("--file", "compose.yaml", "--file", "here.json")

        def compose(*words: str, files: tuple[str, ...] = files) -> str:
            ran = reader.docker(
                "compose", "--project-name", project, *files, *words, cwd=reader.folder, check=words[0] != "up"
            )
            return ran.stdout

        try:
            compose("up", "--abort-on-container-failure")
            said.append(compose("logs", "--no-log-prefix", "api"))
        finally:
            compose("down", "--volumes", "--timeout=0")
    shutil.rmtree(reader.folder / "backend")
    assert "./cached_embedding_models/sentence-transformers__all-MiniLM-L6-v2/model.safetensors" in said[0]
    assert "Read-only file system" in said[0]
    assert said[0] == said[1]
