"""docs/mirrors.md, private-models.md, ci.md, troubleshooting.md: their commands are run against the stand-in Hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from modelcache.formats.manifest import parse_manifest
from tests.conftest import PROJECT, Tool, files_below
from tests.support import models, pages, tiny
from tests.support.hub import StandInHub
from tests.support.proxy import Proxy, TlsFront, make_certificate

EMBEDDING, RERANKER = "acme/house-embedding", "acme/house-reranker"
MIRRORS, PRIVATE, CI = (
    pages.blocks_of(PROJECT / "docs" / f"{name}.md") for name in ("mirrors", "private-models", "ci")
)
TOKEN = "hf_of_the_page"
WITHOUT = {"NO_PROXY": ""}


def console(blocks: list[pages.Block]) -> list[pages.Block]:
    """Return the sessions of a page."""
    return [block for block in blocks if block.language == "console"]


@pytest.fixture
def house(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """Two models, pinned, and not fetched yet."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"), licence="mit")
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"), licence="mit")
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    assert tool("lock").exit_code == 0
    return tool


def compare(block: pages.Block, folder: Path, replace: Mapping[str, str], env: Mapping[str, str] | None = None) -> None:
    """Run a session; it prints what the page shows."""
    assert pages.run_session(block, folder, replace, env) == pages.without_seconds(block.text)


def empty(folder: Path) -> None:
    """Remove the models that are in place."""
    subprocess.run("rm -rf cached_*_models hub .cache-models*", shell=True, cwd=folder, check=True)


def test_mirrors(hub: StandInHub, house: Tool, tmp_path: Path) -> None:
    """A mirror, a proxy, a private certificate, other limits, and no request at all."""
    mirror, proxied, certified, slow, offline = console(MIRRORS)
    elsewhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    compare(mirror, house.folder, {"https://hub.example.com": hub.url}, elsewhere)

    empty(house.folder)
    with Proxy() as proxy:
        words = {"HTTPS_PROXY=http://proxy.example.com:3128": f"HTTP_PROXY={proxy.url}"}
        compare(proxied, house.folder, words, WITHOUT)
        assert proxy.asked

    empty(house.folder)
    certificate = make_certificate(tmp_path / "company.pem")
    plain = hub.url, hub.cdn_url
    with TlsFront(hub.url, certificate) as front, TlsFront(hub.cdn_url, certificate) as content:
        hub.behind(front.url, content.url)
        words = {"/etc/ssl/certs/company.pem": str(certificate)}
        compare(certified, house.folder, words, {"HF_ENDPOINT": front.url})

    empty(house.folder)
    hub.behind(*plain)
    compare(slow, house.folder, {})
    hub.forget()
    compare(offline, house.folder, {})
    assert hub.requests == []


def test_private_models(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """A gated model with a token, from a variable and a file; a model of a directory; a root as the source."""
    with_token, from_file, recorded, of_path, from_root = console(PRIVATE)
    hub.token = TOKEN
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"), gated=True, licence="mit")
    (tool.folder / "token.txt").write_text(TOKEN + "\n")
    compare(with_token, tool.folder, {})
    empty(tool.folder)
    compare(from_file, tool.folder, {})
    compare(recorded, tool.folder, {})

    (toml,) = (block.text for block in PRIVATE if block.language == "toml")
    assert [model.id for model in parse_manifest(toml.encode(), Path("page"))] == ["acme/house-model"]
    tiny.tiny_embedding(tool.folder / "models" / "house-model")
    with (tool.folder / "models.toml").open("a") as manifest:
        manifest.write("\n" + toml)
    compare(of_path, tool.folder, {})
    hub.close()
    compare(from_root, tool.folder, {})


def test_ci(hub: StandInHub, house: Tool, tmp_path: Path) -> None:
    """The gate, the weekly job on a newer commit, and the reports."""
    gate, weekly, sbom = console(CI)
    compare(gate, house.folder, {})
    hub.add(
        RERANKER, {**files_below(tmp_path / "reranker"), "README.md": b"---\nlicense: mit\n---\n# New\n"}, licence="mit"
    )
    compare(weekly, house.folder, {})
    compare(sbom, house.folder, {})
    assert (house.folder / "models.md").read_text().startswith("# ")


@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_of_the_workflows(hub: StandInHub, house: Tool, number: int) -> None:
    """The root of a run, packed and unpacked as a cache does, needs no request; a byte that it lost is fetched."""
    text = [block.text for block in CI if block.language == "yaml"][number]
    job = yaml.safe_load(text)
    lines = (
        [step["run"] for step in job["jobs"]["test"]["steps"] if "run" in step]
        if number == 0
        else job["test"]["script"]
    )
    lines = [line for line in lines if line.startswith("cache-models ")]
    assert len(lines) == 3
    block = pages.Block("", "", 0, "console", "".join(f"$ {line}\n" for line in lines), "", "")
    root = house.folder / ".models"
    env = {"CACHE_MODELS_ROOT": str(root)}
    pages.run_session(block, house.folder, {}, env)
    packed = house.folder / "cache.tar"
    for spoiled in (False, True):
        with tarfile.open(packed, "w") as cache:
            cache.add(root, ".models")
        root.rename(house.folder / f"root of another machine, {spoiled}")  # no new file gets the inode of an old one
        with tarfile.open(packed) as cache:
            cache.extractall(house.folder, filter="tar")
        weights = root / "cached_embedding_models" / EMBEDDING.replace("/", "__") / "model.safetensors"
        if spoiled:
            before = weights.stat()
            weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        hub.forget()
        pages.run_session(block, house.folder, {}, env)
        assert bool(hub.requests) == spoiled
    assert house("verify", "--root", str(root)).exit_code == 0


def test_the_commands_for_a_report_change_nothing(house: Tool) -> None:
    """Those of docs/troubleshooting.md, in a root with every model in place."""
    (block,) = pages.blocks_of(PROJECT / "docs" / "troubleshooting.md")
    assert house("sync").exit_code == 0
    before = files_below(house.folder)
    pages.run_session(block, house.folder, {})
    assert files_below(house.folder) == before


def test_the_two_variables_of_by_id(hub: StandInHub, house: Tool) -> None:
    """The lines of docs/by-id.md, in a shell: a program finds a model by its id, with no request."""
    (lines,) = (block.text for block in pages.blocks_of(PROJECT / "docs" / "by-id.md") if block.language == "sh")
    assert house("sync").exit_code == 0
    hub.forget()
    program = f"from huggingface_hub import snapshot_download; print(snapshot_download({EMBEDDING!r}))"
    settings = lines.replace("/models/", f"{house.folder}/")
    ran = subprocess.run(
        ["bash", "-ec", f'set -a\n{settings}\n"$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(str(house.folder / "hub"))
    assert hub.requests == []


def test_every_other_yaml_is_yaml() -> None:
    """Those that no test can run are parsed, and their init containers run `sync --locked`."""
    texts = [block.text for block in (*MIRRORS, *PRIVATE, *CI) if block.language == "yaml"]
    assert len(texts) == 7
    for parsed in map(yaml.safe_load, texts):
        assert isinstance(parsed, dict)
        services = parsed.get("services", {}).values()
        commands = [service["command"] for service in services] + [
            one["args"] for one in parsed.get("initContainers", [])
        ]
        assert all(command == ["sync", "--locked"] for command in commands)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-n", "2"]])
def test_the_fixture_of_pytest(hub: StandInHub, tool: Tool, tmp_path: Path, options: list[str]) -> None:
    """A session of its own, alone and with two workers: each file is fetched once, and the model loads by its id."""
    conftest, test = (block.text for block in CI if block.language == "python")
    hub.add(EMBEDDING, models.plain_embedding(tmp_path / "model"))
    tool.want(EMBEDDING)
    assert tool("lock").exit_code == 0
    (tool.folder / "conftest.py").write_text(conftest)
    (tool.folder / "test_search.py").write_text(test)
    hub.forget()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=tool.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
    fetched = [request.path for request in hub.requests if re.search(r"safetensors$", request.path)]
    assert len(fetched) == len(set(fetched))
    assert (tool.folder / ".models" / "hub").is_dir()
