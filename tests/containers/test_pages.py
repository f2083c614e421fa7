"""What the pages show of Docker and compose is what happens: their blocks are run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.containers.engine import Docker, make_context
from tests.support import models, tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

MINILM, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "acme/house-reranker"
# What a user's machine needs no word for: where the Hub is, and where a wheel of torch lies.
SHIM = """#!/bin/bash
case "$1 $*" in
    "build "*) shift; exec {docker} build {arguments} "$@" ;;
    "compose "*--file*) shift; exec {docker} compose --file machine.json "$@" ;;
    *) exec {docker} "$@" ;;
esac
"""


def blocks(page: str) -> list[list[tuple[str, str]]]:
    """The console blocks of a page: each a list of commands and what they print."""
    found = re.findall(r"^```console\n(.*?)^```$", (PROJECT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE) for text in found]


class Shell:
    """A directory in which the blocks are run, as a user's would be."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        tables = [f'[[embedding]]\nid = "{MINILM}"\n', f'[[reranker]]\nid = "{RERANKER}"\n']
        self.context = make_context(folder / "context", tables)
        self._bin = folder / "bin"
        self._bin.mkdir()
        shim = self._bin / "docker"
        shim.write_text(SHIM.format(docker=shutil.which("docker"), arguments=" ".join(docker.arguments())))
        shim.chmod(0o755)
        tool = self._bin / "cache-models"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} {PROJECT}/cache_models.py "$@"\n')
        tool.chmod(0o755)
        wheels = os.environ.get("WHEELS_DIR")
        build = (
            {"build": {"additional_contexts": {"wheels": wheels}, "args": {"TORCH_INDEX_URL": ""}}} if wheels else {}
        )
        (self.context / "machine.json").write_text(json.dumps({"services": {"api": build}}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        self.environment = {
            **os.environ,
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HF_ENDPOINT": docker.hub,
            "PORT": "0",
            "COMPOSE_PROJECT_NAME": f"cache-models-pages-{os.getpid()}",
            "COMPOSE_FILE": "docker-compose.yml:machine.json",
        }

    def __call__(self, command: str) -> str:
        """Run a line; return what it prints, without what a build says of its progress."""
        command = command.replace("8080:8080", f"{self.port}:8080").replace("localhost:8080", f"localhost:{self.port}")
        command = command.replace("--tag cache-models-init", "--tag cache-models-test:pages-init")
        told = command.startswith(("cache-models ", "docker run --rm"))  # as on a terminal, in its order
        ran = subprocess.run(
            ["bash", "-ec", command + (" 2>&1" if told else "")],
            cwd=self.context,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{(ran.stdout + ran.stderr)[-5000:]}"
        return ran.stdout


@pytest.fixture(scope="module")
def shell(docker: Docker, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The real MiniLM and the README's reranker, to be baked; nothing of it is left."""
    folder = tmp_path_factory.mktemp("pages")
    public_hub.add(MINILM, models.minilm(folder / "minilm"), licence="apache-2.0")
    public_hub.add(RERANKER, tiny.tiny_reranker(folder / "reranker"))
    shell = Shell(docker, folder)
    try:
        yield shell
    finally:
        for command in (
            "docker rm --force search",
            "docker compose down --volumes --remove-orphans",
            "docker volume rm --force models",
            "docker image rm --force search search-models search-init cache-models-models",
        ):
            subprocess.run(
                ["bash", "-c", command], cwd=shell.context, env=shell.environment, capture_output=True, check=False
            )


def plain(text: str) -> str:
    """Return a text without seconds and the last digits of scores."""
    text = re.sub(r" +\d+\.\d s$", " N s", text, flags=re.MULTILINE)
    return re.sub(r"(\d\.\d{4})\d+", r"\1", text)


@pytest.mark.parametrize("page", ["docs/own-image.md", "docs/compose.md", "docs/image.md"])
def test_every_block_of_a_page_is_run(shell: Shell, page: str) -> None:
    """In its order; the later pages use images of the first."""
    shell("rm -rf models.oci models.tar")
    for block in blocks(page):
        for command, shown in block:
            said = shell(command)
            if shown:
                said = plain(said.replace(str(shell.context), "/app").rstrip("\n") + "\n")
                if "--mount type=image" in command:  # the engine warns of it, and the image names its manifest
                    said = said[-len(plain(shown)) :]
                assert said == plain(shown), command
    if page == "docs/own-image.md":
        assert json.loads(shell("docker inspect search"))[0]["State"]["Running"]


def test_the_sizes_on_the_page_are_those_of_the_bench() -> None:
    """The page and the goals cannot part ways unseen."""
    page = (PROJECT / "docs/own-image.md").read_text()
    sizes = {
        name: int(size) for name, size in re.findall(r"^\| `(init|serve)` \|.*\| (\d+) MB \|$", page, re.MULTILINE)
    }
    assert sizes["init"] <= 75
    assert sizes["serve"] <= 380
