"""The programs of docs/index-id.md: one builds an index, the other refuses to search it with another model.

The store of vectors is in the environment of the frameworks (scripts/frameworks makes it).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Ran, Tool, files_below, unavailable
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.index_id.edits import other_weights

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs" / "index-id.md").read_text()
BUILD, SEARCH = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(SAYS,) = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ENVIRONMENT = Path(sys.prefix) / "frameworks"


def test_an_index_is_searched_with_the_model_that_it_was_built_with_alone(
    hub: StandInHub, tool: Tool, tmp_path: Path
) -> None:
    """A new card changes nothing; new weights are refused, until the index is built anew or the old lock is back."""
    assert PAGE.count("```") == 6
    model = tiny.tiny_embedding(tmp_path / "model")
    tool.want(MODEL)
    publish(hub, tool, model)
    old_lock = (tool.folder / "models.lock").read_bytes()
    assert run(tool, BUILD).exit_code == 0
    found = run(tool, SEARCH)
    assert (found.exit_code, len(found.out.splitlines())) == (0, 1), found.err
    assert found.out.strip() in BUILD

    (model / "README.md").write_text("# Another card\n")
    publish(hub, tool, model)
    assert run(tool, SEARCH).out == found.out

    other_weights()(model)
    publish(hub, tool, model)
    refused = run(tool, SEARCH)
    assert (refused.exit_code, refused.out) == (1, "")
    assert re.fullmatch(re.escape(SAYS).replace("…", "[0-9a-f]{32}"), refused.err.splitlines()[-1])

    new_lock = (tool.folder / "models.lock").read_bytes()
    (tool.folder / "models.lock").write_bytes(old_lock)
    assert tool("sync").exit_code == 0
    assert run(tool, SEARCH).out == found.out

    (tool.folder / "models.lock").write_bytes(new_lock)
    assert tool("sync").exit_code == 0
    shutil.rmtree(tool.folder / "index")
    assert run(tool, BUILD).exit_code == 0
    assert run(tool, SEARCH).exit_code == 0


def publish(hub: StandInHub, tool: Tool, model: Path) -> None:
    """Let the tool publish a new commit of the model."""
    hub.add(MODEL, files_below(model))
    assert tool("lock", "--upgrade").exit_code == 0
    assert tool("sync").exit_code == 0


def run(tool: Tool, program: str) -> Ran:
    """Run a program of the page in the root, with the store of vectors and the libraries of the tests."""
    if not (ENVIRONMENT / "installed").exists():
        unavailable("scripts/frameworks has not made the environment of the frameworks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), sysconfig.get_path("purelib")])}
    ran = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-c", program],
        env=environment,
        cwd=tool.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)
