"""docs/updates.md: its commands are run word by word, its tables are those of the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from modelcache.core.changes import Part
from modelcache.core.effect import Effect, effect_sentence
from modelcache.core.kinds import Kind
from modelcache.core.pin_change import PinChange
from modelcache.core.update import UpdateState
from modelcache.pipeline.lock_diff import DROPPED
from tests.conftest import PROJECT, Tool
from tests.support.hub import StandInHub
from tests.support.versions import Keys, changed, repository, weights

PAGE = (PROJECT / "docs" / "updates.md").read_text()
OF_OTHERS = "\n## An index refuses another model\n"
MINE = PAGE.partition(OF_OTHERS)[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", MINE, re.MULTILINE | re.DOTALL)
OUTDATED, UPGRADE, REVIEW = (text for language, text in BLOCKS if language == "console")
EMBEDDING, RERANKER, OLD_ONE = "acme/house-embedding", "acme/house-reranker", "acme/house-model-of-2023"


@pytest.fixture
def house(hub: StandInHub, tool: Tool) -> Tool:
    """Three models of which two have a newer commit, and a repository whose main has their pins."""
    embedding, reranker = repository(Kind.EMBEDDING), repository(Kind.RERANKER)
    for name, files in ((EMBEDDING, embedding), (OLD_ONE, embedding), (RERANKER, reranker)):
        hub.add(name, files, licence="mit")
    tool.want(EMBEDDING, OLD_ONE, rerankers=(RERANKER,))
    assert tool("lock").exit_code == 0
    git = "git init -q -b main; git add models.toml models.lock; git -c user.name=x -c user.email=x commit -qm pins"
    subprocess.run(f"{git}; git update-ref refs/remotes/origin/main HEAD", cwd=tool.folder, shell=True, check=True)
    newer = {
        "model.safetensors": weights(1, len(embedding["model.safetensors"])),
        "sentence_bert_config.json": Keys(max_seq_length=128),
        "onnx/model.onnx": b"\x08\x07",
    }
    hub.add(EMBEDDING, changed(embedding, newer), licence="mit")
    hub.add(RERANKER, changed(reranker, {"README.md": b"---\nlicense: apache-2.0\n---\n"}), licence="apache-2.0")
    return tool


def said(tool: Tool, session: str) -> str:
    """Run the commands of a session; return it with what they print."""
    programs = f'python() {{ "{sys.executable}" "$@"; }}\n'
    programs += f'cache-models() {{ "{sys.executable}" "{PROJECT / "cache_models.py"}" "$@"; }}\n'
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"exec 2>&1; {programs}{command}"],
            cwd=tool.folder,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        shown += f"$ {command}\n{ran.stdout}"
    return shown


def test_every_block_is_run_or_said_not_to_be() -> None:
    """The workflow is the only one that no test runs."""
    assert [language for language, _ in BLOCKS] == ["console", "console", "console", "yaml"]
    assert "which is not run here" in MINE.partition("```yaml")[0].splitlines()[-2]


def test_the_commands_print_what_is_shown(house: Tool) -> None:
    """In their order; the last ones after the upgrade of one model."""
    for session in (OUTDATED, UPGRADE, REVIEW):
        assert said(house, session) == session


def test_the_workflow_runs_the_command_of_the_page() -> None:
    """With the branch that GitHub names."""
    (text,) = (text for language, text in BLOCKS if language == "yaml")
    steps = yaml.safe_load(text)["jobs"]["models"]["steps"]
    *_, command = re.findall(r"^\$ (.*)$", REVIEW, re.MULTILINE)
    assert command.replace("origin/main:models.lock", '"origin/$GITHUB_BASE_REF:models.lock"') in steps[-1]["run"]


def test_the_tables_are_those_of_the_code() -> None:
    """Every state, every part, every sentence."""
    first = re.findall(r"^\| `?([^`|]+?)`? \|", MINE, re.MULTILINE)
    assert [word for word in first if word in set(UpdateState)] == list(UpdateState)
    assert sorted(word for word in first if word in set(Part)) == sorted(Part)
    rows = dict(re.findall(r"^\| (none|possible|certain) \| (.*) \|$", MINE, re.MULTILINE))
    for effect in Effect:
        kinds = (Kind.EMBEDDING, Kind.RERANKER, Kind.OTHER)
        assert rows[effect.name.lower()].split(" | ") == [effect_sentence(effect, kind.spec.output) for kind in kinds]


def test_the_keys_of_the_page_are_those_of_the_json(house: Tool) -> None:
    """Every key, and no other."""
    ran = house("outdated", "--json")
    assert ran.exit_code == 0
    (objects,) = re.findall(r"^`--json` has a list.*?\n\n", MINE, re.MULTILINE | re.DOTALL)
    shown = set(re.findall(r"`(\w+)`", objects)) - {"none", "possible", "certain"}
    assert shown == set(re.findall(r'^ +"(\w+)":', ran.out, re.MULTILINE))

    ran = house("lock", "--diff", "models.lock", "--format", "json")
    (keys,) = re.findall(r"`--format json` is a list.*?\n\n", MINE, re.DOTALL)
    later = list(json.loads(ran.out)[0])
    words = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", keys, flags=re.DOTALL))
    assert words == later[: later.index("changes") + 1]
    assert set(re.findall(r"`(\w+)`", keys)) - set(words) == {*PinChange, DROPPED}
