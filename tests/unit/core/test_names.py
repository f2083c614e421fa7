"""Names: what a model, a revision and a file may be called, and which names are one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cache_models
from modelcache.core.errors import PolicyError, UsageError
from modelcache.core.kinds import Kind
from modelcache.core.names import (
    problem_with_id,
    problem_with_path,
    problem_with_revision,
    refuse_colliding_ids,
    refuse_unsafe_paths,
    sanitize_model_id,
)
from modelcache.store.layout import Places

IDS = st.from_regex(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}", fullmatch=True)


@pytest.mark.parametrize(
    ("model_id", "name"),
    [("BAAI/bge-m3", "BAAI__bge-m3"), ("a/b__c", "a__b__c"), ("a", "a"), ("a/b/c", "a__b__c"), ("", "")],
)
def test_slashes_become_double_underscores(model_id: str, name: str) -> None:
    """The public function and the one inside are one rule."""
    assert sanitize_model_id(model_id) == cache_models.sanitize_model_id(model_id) == name


def test_places_are_below_the_root() -> None:
    """Each kind has a collection of its own, so one id may be cached as both."""
    places = Places.below(Path("/r"))
    assert places.home(Kind.EMBEDDING, "a/b") == Path("/r/cached_embedding_models/a__b")
    assert places.home(Kind.RERANKER, "a/b") == Path("/r/cached_reranker_models/a__b")


@pytest.mark.parametrize("model_id", ["BAAI/bge-m3", "a/b", "_a/b_", "a.b/c-d_e", "0/1", "x/" + "y" * 96])
def test_good_ids(model_id: str) -> None:
    """`owner/name` as the Hub allows it."""
    assert problem_with_id(model_id, Kind.EMBEDDING) is None


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "../b",
        "a/..",
        "./b",
        "a/b..c",
        "a/b--c",
        "a--b/c",
        "-a/b",
        "a/b-",
        "a/.b",
        "a/b.",
        "a b/c",
        "a/b\n",
        "a/b\0",
        "a\\b",
        "é/b",
        "a/b:c",
        "x/" + "y" * 97,
        "https://huggingface.co/a/b",
    ],
)
def test_bad_ids(model_id: str) -> None:
    """What cannot be a repository, or would leave the collection, is told with its name."""
    problem = problem_with_id(model_id, Kind.EMBEDDING)
    assert problem is not None
    assert (f'"{model_id}"' if model_id.isprintable() else ascii(model_id)[1:-1]) in problem


@pytest.mark.parametrize(
    ("kind", "bare", "full"),
    [
        (Kind.EMBEDDING, "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        (Kind.RERANKER, "ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
    ],
    ids=["embedding", "reranker"],
)
def test_a_bare_id_names_the_full_one(kind: Kind, bare: str, full: str) -> None:
    """Each kind has an owner that people leave out."""
    assert full in (problem_with_id(bare, kind) or "")


@settings(deadline=None)
@given(IDS)
def test_an_id_that_is_right_here_is_right_for_the_hub(model_id: str) -> None:
    """We never let an id through that huggingface_hub would refuse."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    assume(problem_with_id(model_id, Kind.EMBEDDING) is None)
    assume(not model_id.endswith(".git"))  # its own test, below
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        pytest.fail(str(error))


def test_an_id_that_ends_in_git_is_refused() -> None:
    """A pasted clone address without its host is no id."""
    assert problem_with_id("owner/name.git", Kind.EMBEDDING) is not None


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "0" * 40, "feature/x-y_z", "_x"])
def test_good_revisions(revision: str) -> None:
    """Branches, tags and commits."""
    assert problem_with_revision(revision) is None


@pytest.mark.parametrize("revision", ["", "-x", "a..b", "../main", "a b", "a\n", "a?b", "a#b", "a%2f", "/a", "x" * 256])
def test_bad_revisions(revision: str) -> None:
    """What would change an address, or cannot be a git reference, is told with its name."""
    told = f'"{revision}"' if revision.isprintable() else ascii(revision)[1:-1]
    assert told in (problem_with_revision(revision) or "")


GOOD_PATHS = [
    "config.json",
    "1_Pooling/config.json",
    "a/b/c/d.txt",
    ".gitattributes",
    "..a/b",
    "é/日本語.json",
    "with space.txt",
    "it's.json",
    "console.txt",
    "sub/.cache-models.json",
    "x" * 255,
]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_good_paths(path: str) -> None:
    """Plain relative names, also in other scripts, are fine."""
    assert problem_with_path(path) is None
    refuse_unsafe_paths("a/b", [path])


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "leaves"),
        ("../x", "leaves"),
        ("a/../../x", "leaves"),
        ("a/..", "leaves"),
        ("..", "leaves"),
        ("/x", "leaves"),
        ("//x", "leaves"),
        ("a//b", "plain relative"),
        ("a/", "plain relative"),
        ("./a", "plain relative"),
        ("a/./b", "plain relative"),
        (".", "plain relative"),
        ("a\\b", "characters"),
        ("..\\x", "characters"),
        ("C:/x", "characters"),
        ("a:stream", "characters"),
        ("a\0b", "characters"),
        ("a\nb", "characters"),
        ("a\rb", "characters"),
        ("a\tb", "characters"),
        ("a\x1bb", "characters"),
        ("a\x7fb", "characters"),
        ("nul", "characters"),
        ("sub/CON", "characters"),
        ("aux.json", "characters"),
        ("Com1.txt/x", "characters"),
        ("lpt9", "characters"),
        ("x" * 300, "too long"),
        ("é" * 150, "too long"),
        ("/".join(["abcdefg"] * 200), "too long"),
        (".wh.x", "removes files where an image is unpacked"),
        ("a/.wh.b/c", "removes files where an image is unpacked"),
        ("a/.wh..wh..opq", "removes files where an image is unpacked"),
        (".cache-models.json", "keeps for itself"),
        (".cache-models.json/x", "keeps for itself"),
        (".cache-models/x", "keeps for itself"),
    ],
)
def test_bad_paths(path: str, problem: str) -> None:
    """Each has its own reason, and the error that stops the model names the path and the model."""
    assert problem in (problem_with_path(path) or "")
    with pytest.raises(PolicyError) as caught:
        refuse_unsafe_paths("owner/name", ["config.json", path])
    assert "owner/name" in caught.value.message
    assert repr(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("path", ["\udcff.json", "\ud800"], ids=["not UTF-8 on disk", "half a pair in JSON"])
def test_a_name_that_is_no_text_is_refused(path: str) -> None:
    """A name with no UTF-8 form can be neither locked nor hashed."""
    assert problem_with_path(path) is not None


@pytest.mark.parametrize("path", [".CACHE-MODELS.JSON", ".Cache-Models/x"])
def test_our_own_names_are_ours_in_any_case(path: str) -> None:
    """Where case does not count, such a file would replace the receipt."""
    assert problem_with_path(path) is not None


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "A"),
        ("sub/a.json", "SUB/A.json"),
        ("a", "a"),
        ("STRASSE", "straße"),
        ("README.md", "readme.MD", "ReadMe.md"),
    ],
)
def test_names_that_differ_in_case_collide(paths: tuple[str, ...]) -> None:
    """On a volume without case they would be one file: all of them are named."""
    with pytest.raises(PolicyError) as caught:
        refuse_unsafe_paths("a/b", ["other", *paths])
    assert all(repr(path) in caught.value.message for path in paths)
    assert "'other'" not in caught.value.message


def test_names_that_differ_in_normalisation_collide() -> None:
    """A composed and a decomposed é are one name on a Mac's volume."""
    with pytest.raises(PolicyError):
        refuse_unsafe_paths("a/b", ["caf\u00e9.json", "cafe\u0301.json"])


def test_directories_that_differ_in_case_collide() -> None:
    """Where case does not count they become one directory, and the model never verifies."""
    with pytest.raises(PolicyError):
        refuse_unsafe_paths("a/b", ["A/x", "a/y"])


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a"), ("A", "a/b/c"), ("x/y", "x/y/z/w")], ids=" ".join)
def test_a_file_below_a_file_is_refused(paths: tuple[str, ...]) -> None:
    """A name cannot be a file and a directory."""
    with pytest.raises(PolicyError) as caught:
        refuse_unsafe_paths("a/b", ["other", *paths])
    assert repr(max(paths, key=len)) in caught.value.message
    assert "'other'" not in caught.value.message


def test_every_unsafe_path_is_told_at_once() -> None:
    """One run names everything the owner has to rename."""
    bad = ["../x", "/y", "nul", "K", "k"]
    with pytest.raises(PolicyError) as caught:
        refuse_unsafe_paths("a/b", ["good", *bad])
    assert all(repr(path) in caught.value.message for path in bad)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_good_path_stays_inside(path: str) -> None:
    """Whatever passes is relative, normal, and below the directory it is joined to."""
    assume(problem_with_path(path) is None)
    assert PurePosixPath(path).as_posix() == path
    assert Path("/home/model") in (Path("/home/model") / path).resolve().parents
    assert not set(path) & set("\\:\0\n\r")


@pytest.mark.parametrize(
    "ids",
    [("a/b__c", "a__b/c"), ("A/b", "a/B"), ("x/y", "a/b__c", "a__b/c")],
    ids=" ".join,
)
def test_ids_that_share_a_directory_are_refused(ids: tuple[str, ...]) -> None:
    """Both ids are named, and what to do."""
    with pytest.raises(UsageError) as caught:
        refuse_colliding_ids(ids)
    assert all(one in caught.value.message for one in ids[-2:])
    assert "--root" in caught.value.hint


def test_an_id_does_not_collide_with_itself() -> None:
    """Asking twice is no mistake."""
    refuse_colliding_ids(["a/b", "a/b", "a/c"])
