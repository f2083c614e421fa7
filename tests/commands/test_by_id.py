"""Applications name their models by id: what the libraries of today load from the Hub view, and what clients do to it.

tests/versions has the same with older libraries.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Tool
from tests.support.by_id import applications
from tests.support.by_id.applications import LOADS, MODELS, OTHER_CACHES
from tests.support.by_id.clients import found_by_hf_home, scanned, try_a_client_that_writes, try_deleting
from tests.support.by_id.outputs import Answers, application, variables
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with every kind of model; its Hub is gone."""
    return applications.fill(tmp_path_factory.mktemp("by-id"))


@pytest.fixture(scope="module")
def answers(root: Path) -> Answers:
    """What one process of an application says."""
    return application(root, [*LOADS, *OTHER_CACHES])


def test_every_line_of_an_application_gives_the_numbers_of_the_directory(answers: Answers) -> None:
    """Bit for bit, with two variables, no network and a read-only root; a line has nothing but the id."""
    assert answers.differences(LOADS) == {}
    assert answers.tried == []


def test_the_lines_of_the_page_are_such_lines() -> None:
    """docs/by-id.md shows nothing that the test above does not run."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "docs/by-id.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [line for line in block.splitlines() if not any(line in load.name for load in LOADS)] == []


def test_another_cache_is_not_the_view(answers: Answers) -> None:
    """An argument or SENTENCE_TRANSFORMERS_HOME takes precedence over HF_HUB_CACHE: no model is found there."""
    assert answers.failed(OTHER_CACHES) == [load.name for load in OTHER_CACHES]


def test_hf_home_is_as_good_as_hf_hub_cache(root: Path, tmp_path: Path) -> None:
    """The view is named as the cache is in HF_HOME."""
    assert found_by_hf_home(PYTHON, root, tmp_path).parent == root / "hub" / "models--org--plain" / "snapshots"


def test_the_cache_is_listed_without_a_warning(root: Path) -> None:
    """`scan_cache_dir` and `hf cache ls` know each model."""
    assert scanned(PYTHON, root) == [sorted(MODELS), []]
    command = [str(PYTHON.with_name("hf")), "cache", "ls", "--quiet"]
    ran = subprocess.run(command, env={**os.environ, **variables(root)}, capture_output=True, text=True, check=True)
    assert sorted(ran.stdout.split()) == sorted(f"model/{model}" for model in MODELS)
    assert "warn" not in ran.stderr.lower()


def test_a_client_that_writes_harms_no_model(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Online, it downloads other files and commits, and some anew; sync and prune leave that alone."""
    try_a_client_that_writes(PYTHON, hub, tool, tmp_path)


def test_sync_mends_what_a_deleted_revision_took_along(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """`hf cache rm` takes the published files for blobs where there is another revision beside the pinned one."""
    try_deleting(PYTHON, hub, tool, tmp_path)
