"""What is to be done about a model, and what it costs: values in, values out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.kinds import Kind
from modelcache.core.plan import Action, Step, plan, space_needed
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from tests.conftest import EMBEDDING, RERANKER, Tool

SMALL = LockedFile("config.json", 600, "1" * 64)
LARGE = LockedFile("model.safetensors", 90_000_000, "2" * 64)
TWIN = LockedFile("copy/config.json", 600, "1" * 64)
CARD = LockedFile("README.md", 50, "3" * 64)


def model(*files: LockedFile) -> LockedModel:
    """Return a model of these files."""
    return LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, files)


NEW = model(SMALL, LARGE, CARD)


@pytest.mark.parametrize(
    ("wanted", "difference", "there", "expected"),
    [
        (NEW, None, NEW, Step(Action.KEEP, NEW)),
        (NEW, None, None, Step(Action.KEEP, NEW)),
        (NEW, "", None, Step(Action.FETCH, NEW, 90_000_650)),
        (NEW, "it has no receipt", None, Step(Action.REPLACE, NEW, 90_000_650, "it has no receipt")),
        (NEW, "another", model(SMALL, LARGE), Step(Action.REPLACE, NEW, 50, "another")),
        (NEW, "another", model(replace(LARGE, path="weights")), Step(Action.REPLACE, NEW, 650, "another")),
        (NEW, "another", model(replace(CARD, sha256="4" * 64)), Step(Action.REPLACE, NEW, 90_000_650, "another")),
        (model(SMALL, TWIN), "", None, Step(Action.FETCH, model(SMALL, TWIN), 600)),
    ],
    ids=[
        "in place",
        "in place, whatever the receipt",
        "nothing there",
        "no receipt",
        "a later commit",
        "the same bytes under another name",
        "the same name with other bytes",
        "one content twice is fetched once",
    ],
)
def test_plan(wanted: LockedModel, difference: str | None, there: LockedModel | None, expected: Step) -> None:
    """Keep what is in place, fetch what is not there, replace what is another one; only new content is counted."""
    assert plan(wanted, difference, {file.sha256 for file in there.files} if there else ()) == expected


@pytest.mark.parametrize(
    ("difference", "action"), [(None, Action.KEEP), ("", Action.COPY), ("another", Action.REPLACE)]
)
def test_a_model_that_is_at_hand_is_copied(difference: str | None, action: Action) -> None:
    """What is in place stays, and another version is replaced, wherever the bytes come from."""
    assert plan(NEW, difference, at_hand=True).action is action


ORIGINAL = Original("pytorch_model.bin", 70_000, "5" * 64)
ELSEWHERE = Original("code.py", 600, "1" * 64, "other/code", "d" * 40)


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (replace(LARGE, made=Made.CONVERTED, original=ORIGINAL), 90_070_000),
        (replace(SMALL, made=Made.WRITTEN), 600),
        (replace(SMALL, original=ELSEWHERE), 600),
    ],
    ids=["made from another file", "made from nothing", "out of another repository"],
)
def test_what_a_file_is_made_from_takes_room_beside_it(file: LockedFile, size: int) -> None:
    """Only what lies on the disk at the same time; what a repository has is the file itself."""
    assert plan(model(file, CARD), "", {CARD.sha256}).size == size


def test_a_lost_file_counts(pair: Tool) -> None:
    """What `--dry-run` prints, and the check of free space, hold the file that has to be fetched again."""
    pair("sync")
    weights = pair.home(EMBEDDING) / "model.safetensors"
    size = weights.stat().st_size
    weights.unlink()
    (line,) = (line for line in pair("sync", "--dry-run").err.splitlines() if line.startswith("  replace "))
    assert f" {size / 1000:.0f} kB " in line


def step(action: Action, *files: LockedFile, size: int | None = None) -> Step:
    """Return a step that writes its files."""
    return Step(action, model(*files), sum(file.size for file in files) if size is None else size)


@pytest.mark.parametrize(
    ("steps", "needed"),
    [
        ([], 0),
        ([step(Action.KEEP, LARGE, size=0)], 0),
        ([step(Action.FETCH, SMALL)], 4096 + 18 * 4096),
        ([step(Action.FETCH, replace(SMALL, size=4096))], 4096 + 18 * 4096),
        ([step(Action.FETCH, replace(SMALL, size=4097))], 2 * 4096 + 18 * 4096),
        ([step(Action.FETCH, replace(SMALL, size=0))], 18 * 4096),
        ([step(Action.KEEP, LARGE, size=0), step(Action.REPLACE, SMALL)], 4096 + 18 * 4096),
        ([step(Action.FETCH, SMALL), step(Action.FETCH, CARD)], 2 * 4096 + 20 * 4096),
    ],
    ids=["nothing", "all in place", "one", "a whole block", "a block and one", "empty", "beside one kept", "two"],
)
def test_space_needed(steps: list[Step], needed: int) -> None:
    """Whole blocks, two blocks a file for its names and its link, and some for directories."""
    assert space_needed(steps, 4096) == needed


FILES = st.lists(
    st.builds(LockedFile, st.uuids().map(str), st.integers(0, 10**9), st.text("01", min_size=64, max_size=64)),
    max_size=6,
)
STEPS = st.lists(st.tuples(st.sampled_from(Action), FILES), max_size=5)


@settings(deadline=None)
@given(STEPS, st.sampled_from([512, 4096, 1 << 20]))
def test_space_is_never_too_little(drawn: list[tuple[Action, list[LockedFile]]], block: int) -> None:
    """No file system takes more blocks than were counted; what is kept takes none."""
    in_place = (Action.KEEP, Action.LINK)
    steps = [step(action, *files, size=0 if action in in_place else None) for action, files in drawn]
    written = [file for one in steps if one.action not in in_place for file in one.model.files]
    assert space_needed(steps, block) >= sum(-(-file.size // block) * block for file in written)
    assert written or space_needed(steps, block) == 0


def test_a_dry_run_prints_the_plan(pair: Tool) -> None:
    """One line a model: the action, the id, what is to be written; then one for all of them."""
    pair("lock")
    *lines, last = pair("sync", "--dry-run").err.splitlines()
    assert [line.split()[:2] for line in lines] == [["fetch", EMBEDDING], ["fetch", RERANKER]]
    assert all(line.endswith(" kB") for line in lines)
    assert last.startswith(f"2 models would be ready in {pair.folder}: 2 fetched; ")
    pair("sync")
    *lines, last = pair("sync", "--dry-run").err.splitlines()
    assert [line.split() for line in lines] == [["keep", EMBEDDING], ["keep", RERANKER]]
    assert last == f"2 models would be ready in {pair.folder}: unchanged."
