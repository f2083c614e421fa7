"""The view of a model, computed from its pin: its folder, its commit, its refs and its links."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.core.hub_view import hub_view, leads_to_model
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel

FILES = tuple(LockedFile(path, 1, "0" * 64) for path in ("config.json", "1_Pooling/config.json", "a/b/c.json"))
PIN = LockedModel(Kind.EMBEDDING, "owner/na.me", "main", "c" * 40, FILES)


def test_a_view() -> None:
    """The layout of the standard cache, with relative links from every depth."""
    view = hub_view(PIN)
    assert view is not None
    assert (view.folder, view.commit, view.refs) == ("models--owner--na.me", "c" * 40, ("main",))
    home = "cached_embedding_models/owner__na.me"
    assert view.links == {
        "config.json": f"../../../../{home}/config.json",
        "1_Pooling/config.json": f"../../../../../{home}/1_Pooling/config.json",
        "a/b/c.json": f"../../../../../../{home}/a/b/c.json",
    }
    assert all(map(leads_to_model, view.links.values()))


@pytest.mark.parametrize(
    ("revision", "refs"),
    [
        ("main", ("main",)),
        ("v1.0", ("main", "v1.0")),
        ("refs/pr/1", ("main", "refs/pr/1")),
        ("main/old", ("main",)),
        ("d" * 40, ("main",)),
        ("dddddddd", ("main", "dddddddd")),
    ],
)
def test_its_refs(revision: str, refs: tuple[str, ...]) -> None:
    """A program that names no revision asks for main, whatever is pinned; a commit needs no ref."""
    view = hub_view(replace(PIN, revision=revision))
    assert view is not None
    assert view.refs == refs


def test_a_model_from_a_directory_has_a_commit_of_its_own() -> None:
    """Equal files have the same one, and other files another."""
    one, same, other = (
        hub_view(replace(PIN, commit="", files=files)) for files in (FILES, tuple(reversed(FILES)), FILES[:1])
    )
    assert one is not None and same is not None and other is not None  # noqa: PT018
    assert len(one.commit) == 40
    assert one.commit == same.commit != other.commit


@pytest.mark.parametrize("model_id", ["own--er/name", "owner/na--me", "owner/na..me", "owner/name.git"])
def test_ids_that_no_client_takes(model_id: str) -> None:
    """huggingface_hub refuses them before it looks into its cache; two of them would have one folder."""
    assert hub_view(replace(PIN, id=model_id)) is None


@pytest.mark.parametrize(
    "target",
    [
        "../../blobs/0123",
        "/models/cached_embedding_models/a__b/config.json",
        "../../../cached_embedding_models/a__b/config.json",
        "../../../../cached_embedding_models/a__b",
        "../../../../cached_other/a__b/config.json",
        "config.json",
        "",
    ],
)
def test_links_of_others(target: str) -> None:
    """Only a link that is written as this tool writes it is taken for one of its own."""
    assert not leads_to_model(target)
