"""Applications that have not been upgraded name their models by id: sentence-transformers 5.7 and 3.4.

Each has the transformers and huggingface_hub of its time, in an environment that scripts/other-libraries makes.
tests/commands/test_by_id.py has the same with the libraries of today.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelcache.store.hub_view import hold_view, write_view
from modelcache.store.layout import read_receipt
from tests.conftest import EMBEDDING, Tool, unavailable
from tests.support.by_id import applications
from tests.support.by_id.applications import LOADS, MODELS, OTHER_CACHES, PLAIN, RERANKER, TAGGED
from tests.support.by_id.clients import found_by_hf_home, run_in_view, scanned, try_a_client_that_writes, try_deleting
from tests.support.by_id.outputs import Answers, application, home_of, variables
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["3.4", "5.7"])
def version(request: pytest.FixtureRequest) -> str:
    """A version of sentence-transformers."""
    return str(request.param)


@pytest.fixture(scope="module")
def python(version: str) -> Path:
    """The interpreter of its environment."""
    environment = Path(sys.prefix) / f"older-{version}"
    if not (environment / "installed").exists():
        unavailable("scripts/other-libraries has not made the environments of the older versions")
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with every kind of model; its Hub is gone."""
    return applications.fill(tmp_path_factory.mktemp("by-id"))


@pytest.fixture(scope="module")
def answers(root: Path, python: Path, version: str) -> Answers:
    """What one process of an application says."""
    return application(root, [load for load in (*LOADS, *OTHER_CACHES) if load.since <= int(version[0])], python)


def test_every_line_of_an_application_gives_the_numbers_of_the_directory(answers: Answers, version: str) -> None:
    """Bit for bit, with two variables, no network and a read-only root; a line has nothing but the id."""
    assert answers.versions["sentence_transformers"].startswith(f"{version}.")
    assert answers.differences([load for load in LOADS if load.since <= int(version[0])]) == {}
    assert answers.tried == []


def test_another_cache_is_not_the_view(answers: Answers, root: Path, python: Path) -> None:
    """An argument, SENTENCE_TRANSFORMERS_HOME or TRANSFORMERS_CACHE takes precedence over HF_HUB_CACHE."""
    assert answers.failed(OTHER_CACHES) == [load.name for load in OTHER_CACHES]
    settings = {**variables(root), "TRANSFORMERS_CACHE": "elsewhere"}
    loads = [load for load in LOADS if load.model in (PLAIN, RERANKER) and "hf_hub_download" not in load.by_id]
    failed = application(root, loads, python, settings).failed(loads)
    assert failed == [load.name for load in loads if "try_to_load" not in load.by_id and "snapshot" not in load.by_id]


def test_hf_home_is_as_good_as_hf_hub_cache(root: Path, python: Path, tmp_path: Path) -> None:
    """The view is named as the cache is in HF_HOME."""
    assert found_by_hf_home(python, root, tmp_path).parent == root / "hub" / "models--org--plain" / "snapshots"


def test_the_cache_is_scanned_without_a_warning(root: Path, python: Path) -> None:
    """`scan_cache_dir` knows each model."""
    assert scanned(python, root) == [sorted(MODELS), []]


def test_a_client_that_writes_harms_no_model(python: Path, hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Online, it downloads other files and commits, and some anew; sync and prune leave that alone."""
    try_a_client_that_writes(python, hub, tool, tmp_path)


def test_sync_mends_what_a_deleted_revision_took_along(
    python: Path, hub: StandInHub, tool: Tool, tmp_path: Path
) -> None:
    """`delete_revisions` takes the published files for blobs where there is another revision beside the pinned one."""
    try_deleting(python, hub, tool, tmp_path)


def test_a_load_while_its_model_is_replaced_fails_at_its_first_file(root: Path, python: Path) -> None:
    """A missing modules.json would be no error in version 3.4, but a model without one: pooled by the mean."""
    loads = [load for load in LOADS if load.model in (PLAIN, TAGGED, RERANKER) and "open(" not in load.by_id]
    pins = [receipt for model in {load.model for load in loads} if (receipt := read_receipt(home_of(root, model)))]
    for pin in pins:
        hold_view(root / "hub", pin)
    answers = application(root, [load for load in loads if "none.json" not in load.by_id], python).by_id
    for pin in pins:
        write_view(root / "hub", pin)
    assert {name: "JSON" in answer for name, answer in answers.items()} == dict.fromkeys(answers, True), answers
    assert scanned(python, root) == [sorted(MODELS), []]


def test_what_transformers_writes_beside_the_models_stays(
    python: Path, version: str, pair: Tool, tmp_path: Path
) -> None:
    """Importing transformers 4.48 leaves `version.txt` in the cache."""
    assert pair("sync").exit_code == 0
    run_in_view(python, pair.folder, tmp_path, "-c", "import transformers.utils.hub")
    found = [path.name for path in (pair.folder / "hub").iterdir() if path.is_file()]
    assert found == (["version.txt"] if version == "3.4" else [])
    assert "unchanged" in pair("sync").err
    assert pair("verify").exit_code == 0
    pair.want(EMBEDDING)
    assert [pair(command).exit_code for command in ("lock", "prune", "sync", "verify")] == [0, 0, 0, 0]
    assert [path.name for path in (pair.folder / "hub").iterdir() if path.is_file()] == found
