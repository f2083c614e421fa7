"""docs/registry.md: its commands are run word by word, against registries of the tests and with no Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PROJECT, Tool
from tests.support import models, tiny
from tests.support.hub import StandInHub
from tests.support.oci_images import CONFIG, INDEX, LAYER, MANIFEST, Entry, tar
from tests.support.registry import Html, Login, StandInRegistry

PAGE = (PROJECT / "docs" / "registry.md").read_text()
IMAGE_PAGE = (PROJECT / "docs" / "image.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MINILM, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "acme/house-reranker"
API, BUSYBOX = "team/api", "mirror/busybox"
REGISTRY, INSIDE = "registry.example.com", "registry.inside.example"
_END = "@@@"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return [text for name, text in BLOCKS if name == language]


@dataclass(frozen=True)
class Site:
    """The registry of the page, which wants a login, and the one behind the air gap, which wants none."""

    registry: StandInRegistry
    inside: StandInRegistry

    def real(self, text: str) -> str:
        """Return a text of the page with the addresses that are here."""
        return text.replace(REGISTRY, self.registry.address).replace(INSIDE, self.inside.address)

    def shown(self, text: str) -> str:
        """Return an output with the names of the page."""
        return text.replace(self.registry.address, REGISTRY).replace(self.inside.address, INSIDE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two registries; the first has the images that models are put on."""
    login = Login("bearer", user="ci")
    with (
        StandInRegistry(tmp_path / "registry", login=login) as registry,
        StandInRegistry(tmp_path / "inside") as inside,
    ):
        for repository in (API, BUSYBOX):
            registry.add(repository, _base(tmp_path / repository), "1")
        yield Site(registry, inside)


def _base(folder: Path) -> Path:
    """Write the layout of an image of one layer, for two platforms; equal in every run."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = _blob(blobs, tar(folder / "layer.tar", [Entry("bin/sh", folder.name.encode())]).read_bytes(), LAYER)
    manifests = []
    for architecture in ("amd64", "arm64"):
        config = {
            "os": "linux",
            "architecture": architecture,
            "config": {"Env": ["PATH=/bin", "HF_HUB_CACHE=/old"], "Cmd": ["serve"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created_by": "COPY . ."}],
        }
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _blob(blobs, json.dumps(config).encode(), CONFIG),
            "layers": [layer],
        }
        found = _blob(blobs, json.dumps(document).encode(), MANIFEST)
        manifests.append({**found, "platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    top = {"schemaVersion": 2, "manifests": [_blob(blobs, json.dumps(index).encode(), INDEX)]}
    (folder / "index.json").write_text(json.dumps(top))
    return folder


def _blob(blobs: Path, content: bytes, media_type: str) -> dict[str, Any]:
    name = hashlib.sha256(content).hexdigest()
    (blobs / name).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)}


@pytest.fixture
def machine(tool: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """A root with the models of the page, after which the Hub is gone."""
    hub.add(MINILM, models.minilm(tmp_path / "minilm"), licence="apache-2.0")
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    tool.want(MINILM, rerankers=(RERANKER,))
    assert tool("sync").exit_code == 0
    hub.close()
    return tool


def test_every_block_is_known_to_a_test() -> None:
    """No block is shown that nothing below runs or reads, except those of which the page says so."""
    assert {name for name, _ in BLOCKS} == {"text", "console", "json", "yaml", "sh"}
    assert [len(blocks(name)) for name in ("text", "json", "yaml")] == [1, 1, 2]
    for before in re.findall(r"((?:[^\n]+\n)+)\n```sh", re.sub(r"```sh\n[^`]*```\n\n(?=```sh)", "", PAGE)):
        assert re.search(r"not run (here|by the tests)", before, re.IGNORECASE), before


@pytest.mark.slow
def test_the_commands_print_what_is_shown(site: Site, machine: Tool, tmp_path: Path) -> None:
    """In their order, in one shell, with the login of the page: equal but for places and seconds."""
    (login,) = blocks("json")
    (tmp_path / "config.json").write_text(site.real(login))
    commands = [re.findall(r"^\$ (.*)$", text, re.MULTILINE) for text in blocks("console")]
    said = iter(_run(machine, tmp_path, [site.real(command) for block in commands for command in block]))
    shown = "\n".join("".join(f"$ {command}\n{site.shown(next(said))}" for command in block) for block in commands)
    assert _plain(shown, machine.folder) == _plain("\n".join(blocks("console")), Path("/app"))

    assert site.registry.tags("team/models").keys() == {"1"}
    assert site.inside.tags("models") == {"1": site.registry.tags("team/models")["1"]}
    assert site.registry.tags(API).keys() == {"1", "1-models"}


def _run(machine: Tool, folder: Path, commands: list[str]) -> list[str]:
    """Run lines in one shell; return what each prints."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    command_file = bin_folder / "cache-models"
    command_file.write_text(f'#!/bin/sh\nexec {sys.executable} {PROJECT}/cache_models.py "$@"\n')
    command_file.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "REGISTRY_AUTH_FILE": str(folder / "config.json"),
    }
    script = "exec 2>&1\n" + "".join(f"{command}\necho {_END}\n" for command in commands)
    ran = subprocess.run(
        ["bash", "-ec", script], cwd=machine.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.split(f"{_END}\n")[:-1]


def _plain(text: str, root: Path) -> str:
    """Take away what differs from run to run: an image on a base names its registry, so its digest does."""
    text = _DIGEST.sub(lambda found: found[0] if found[0] in IMAGE_PAGE else "sha256:N", text)
    return re.sub(r" +\d+\.\d s$", " N s", text, flags=re.MULTILINE).replace(str(root), "ROOT")


def test_the_digest_is_that_of_the_page_about_the_image() -> None:
    """Equal models, equal digest: both pages show the same two models."""
    (pushed,) = set(_DIGEST.findall(blocks("console")[0]))
    assert pushed in IMAGE_PAGE
    assert pushed in blocks("yaml")[1]


def test_the_init_container_of_the_page_fits_the_deployment_of_the_other() -> None:
    """It has the volumes of docs/kubernetes.md and one with the login, as the file that the variable leads to."""
    kubernetes = (PROJECT / "docs" / "kubernetes.md").read_text()
    (there,) = re.findall(r"^```yaml\n(# my-app\.yaml\n.*?)^```$", kubernetes, re.MULTILINE | re.DOTALL)
    deployed, mine = yaml.safe_load(there)["spec"]["template"]["spec"], yaml.safe_load(blocks("yaml")[0])
    (container,), (other,) = mine["initContainers"], deployed["initContainers"]
    secret = {"secretName": "cache-models-login", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
    login = {"name": "login", "mountPath": "/login", "readOnly": True}
    assert container["args"] == [*other["args"], "--from", f"docker://{REGISTRY}/team/models:1"]
    assert container["volumeMounts"] == [*other["volumeMounts"], login]
    assert container["env"] == [{"name": "DOCKER_CONFIG", "value": "/login"}]
    assert mine["volumes"] == [*deployed["volumes"], {"name": "login", "secret": secret}]


def test_the_options_of_the_page_are_those_of_the_command(tool: Tool) -> None:
    """Every option of `push` alone is in the table, and no other."""
    (table,) = re.findall(r"^\| option \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    own = tool("push", "--help").out.partition("common options:")[0]
    assert set(re.findall(r"^\| `(--[a-z]+)", table, re.MULTILINE)) == set(
        re.findall("^  (--[a-z]+)", own, re.MULTILINE)
    )


def test_the_table_of_messages_quotes_the_code() -> None:
    """Each quoted part stands in a message of the sources."""
    sources = "\n".join(path.read_text() for path in (PROJECT / "modelcache").rglob("*.py"))
    messages = re.sub(r'"\s*\n\s*f?"', "", sources)
    quoted = re.findall(r"^\| `([^`]*…[^`]*)` \|", PAGE.partition("## When it fails")[2], re.MULTILINE)
    assert len(quoted) > 5
    assert [part for one in quoted for part in one.split("…") if part.strip() not in messages] == []


def test_a_web_page_in_the_place_of_an_image_is_named(pair: Tool, tmp_path: Path) -> None:
    """A proxy or a page to log in answers with 200: that is no image without models, and a retry does not help."""
    with StandInRegistry(tmp_path / "registry") as registry:
        registry.fail(Html(), "manifest", times=-1)
        ran = pair("sync", "--from", f"docker://{registry.address}/team/models:1")
        assert ran.exit_code == 3
        assert " instead of " in ran.err
        assert "/team/models:1\nhint: Check the name of the registry, and the proxy before it.\n" in ran.err
        assert registry.count(kind="manifest") == 1
