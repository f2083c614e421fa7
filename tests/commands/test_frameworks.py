"""What docs/frameworks.md shows is what happens: its blocks are run with the frameworks it names.

The frameworks are in an environment of their own beside that of the tests (scripts/frameworks makes it).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT, Tool
from tests.support import tiny
from tests.support.frameworks import MARK, PROMPTS
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs" / "frameworks.md").read_text()
# The code of each section that has any: by id, then by path.
BLOCKS = {
    section.partition("\n")[0]: blocks
    for section in PAGE.split("\n## ")[1:]
    if (blocks := re.findall(r"^```python\n((?:(?!^```).*\n)*)```$", section, re.MULTILINE))
}
MINILM, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "acme/house-reranker"
ENVIRONMENT = Path(sys.prefix) / "frameworks"


def test_every_block_is_run() -> None:
    """No block stands on the page that the next test does not run."""
    assert list(BLOCKS) == ["LangChain", "LlamaIndex", "Haystack"]
    assert [len(blocks) for blocks in BLOCKS.values()] == [2, 2, 2]
    assert PAGE.count("```") == 12


def test_what_the_page_installs_is_what_is_tested() -> None:
    """The page, and the one on the id of an index, name the versions of the requirements."""
    wanted = re.findall(r"^([^#\s]+)", (PROJECT / "requirements-frameworks.txt").read_text(), re.MULTILINE)
    pages = PAGE + (PROJECT / "docs" / "index-id.md").read_text()
    assert set(wanted) == {
        name for line in re.findall(r"`pip install (.*)`", pages) for name in re.findall(r'"(.*?)"', line)
    }


@pytest.mark.parametrize("framework", BLOCKS)
def test_a_framework_gives_the_models_numbers_and_asks_nobody(
    framework: str, hub: StandInHub, tool: Tool, tmp_path: Path
) -> None:
    """By id, offline, and by path, online, no connection is tried; the numbers are those of sentence-transformers.

    Given an id in place of a path, the framework asks nobody either, which shows that it passes local_files_only on;
    without that it asks the Hub, which shows that asking is seen. Haystack's ranker knows no such argument.
    """
    publish(hub, tool, tmp_path)
    block = BLOCKS[framework][1]
    # Haystack has loaded the whole id already, and would load it no more.
    names = {MINILM: MINILM.partition("/")[2], RERANKER: RERANKER}
    by_id = [block.replace(f'cache_models.model_path("{one}")', f'"{name}"') for one, name in names.items()]
    free = re.sub(r"(local_files_only\W+)True", r"\1False", by_id[0])
    assert block != by_id[0] != free

    report = run(framework, tool, tmp_path, [*by_id, free])
    for way in ("by id", "by path"):
        for question, answer in report[way].items():
            assert flat(answer) == pytest.approx(flat(report["own"][question]), abs=1e-6), (way, question)
    assert report["own"]["without prompts"][:-1] != report["own"]["documents"]
    assert report["tried"] == 0
    assert asked(hub) == [set(), set(), {RERANKER} if framework == "Haystack" else set(), {MINILM}]
    assert set(report["tried in all"]) == {"127.0.0.1"}


def publish(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Let the tool publish the models that the page names: small ones, the embedding model one with prompts."""
    model = tiny.tiny_embedding(tmp_path / "embedding")
    settings = model / "config_sentence_transformers.json"
    tiny.write_json(settings, json.loads(settings.read_text()) | {"prompts": PROMPTS})
    hub.add(MINILM, model)
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    tool.want(MINILM, rerankers=(RERANKER,))
    assert tool("sync").exit_code == 0
    hub.forget()


def run(framework: str, tool: Tool, tmp_path: Path, variants: list[str]) -> dict[str, Any]:
    """Run both blocks in a process with the framework, an empty home, the variables of the page and a Hub at hand."""
    if not (ENVIRONMENT / "installed").exists():
        reason = "scripts/frameworks has not made the environment of the frameworks"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    path = [str(PROJECT)]
    if framework != "LangChain":
        # The environment holds the older huggingface_hub that LangChain wants; the others run with that of the tests.
        path.append(sysconfig.get_path("purelib"))
    home = tmp_path / "home"
    home.mkdir()
    changed = {"HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": os.pathsep.join(path)}
    changed |= {"HF_HUB_CACHE": str(tool.folder / "hub"), "HF_HUB_OFFLINE": "1", "HAYSTACK_TELEMETRY_ENABLED": "false"}
    if framework == "LlamaIndex":
        changed["LLAMA_INDEX_CACHE_DIR"] = changed["HF_HUB_CACHE"]
    order = {
        **dict(zip(("by id", "by path"), BLOCKS[framework], strict=True)),
        "variants": variants,
        "embedding": str(tool.home(MINILM)),
        "reranker": str(tool.home(RERANKER, "reranker")),
    }
    ran = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-m", "tests.support.frameworks"],
        input=json.dumps(order),
        env={**os.environ, **changed},
        cwd=tool.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def asked(hub: StandInHub) -> list[set[str]]:
    """Return which repositories the Hub was asked about: by the block, then by each variant."""
    phases: list[set[str]] = [set()]
    for request in hub.requests:
        if request.path == MARK:
            phases.append(set())
        elif request.repo:
            phases[-1].add(request.repo)
    return phases


def flat(numbers: list[Any]) -> list[float]:
    """Return the numbers of a list, or of a list of lists, in one row."""
    return [number for row in numbers for number in (row if isinstance(row, list) else [row])]
