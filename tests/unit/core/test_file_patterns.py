"""Patterns of `include` and `exclude`: those of huggingface_hub, and the nearest names of one that matches nothing."""

from __future__ import annotations

import time

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.file_patterns import matches, nearest_names, problem_with_pattern, unmatched

PATHS = ["config.json", "onnx/model.onnx", "onnx/model_O3.onnx", "onnx/sub/a.onnx", "adapters/de/x.bin", "a[1].txt"]
PATTERNS = [
    "*",
    "*.onnx",
    "onnx/*",
    "onnx/",
    "onnx/model?O3.onnx",
    "[co]*",
    "adapters/**",
    "config.json",
    "nope",
    "*.ON*",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_huggingface_hub_takes_it_for(pattern: str) -> None:
    """`allow_patterns` of snapshot_download, asked itself."""
    assert [path for path in PATHS if matches(path, [pattern])] == list(
        filter_repo_objects(PATHS, allow_patterns=[pattern])
    )


def test_the_name_of_a_file_stands_for_it_whatever_brackets_it_has() -> None:
    """As a pattern, `a[1].txt` would stand for `a1.txt` alone."""
    assert matches("a[1].txt", ["a[1].txt"])
    assert matches("a1.txt", ["a[1].txt"])


def test_a_folder_is_offered_as_one() -> None:
    """A pattern without its slash names no file."""
    assert nearest_names("onnx", PATHS) == ["onnx/"]
    assert nearest_names("onnx/model.onnx", ["modules.json", "config.json"]) == []


def test_two_stars_at_the_front_stand_for_no_folder_too() -> None:
    """As in a shell; huggingface_hub wants a folder there."""
    assert [path for path in PATHS if matches(path, ["**/*.onnx", "**/config.json"])] == PATHS[:4]


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("onnx/model_03.onnx", "onnx/model_O3.onnx"),
        ("model_O3.onnx", "onnx/model_O3.onnx"),
        ("Config.JSON", "config.json"),
        ("adaptors/**", "adapters/de/"),
    ],
)
def test_the_nearest_name_is_offered(pattern: str, nearest: str) -> None:
    """By the whole path, or by the name alone."""
    assert unmatched([pattern, "*.json"], PATHS) == [pattern]
    assert nearest in nearest_names(pattern, PATHS)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "is not a short name"),
        ("/x", "is not relative"),
        ("../x", "is not relative"),
        ("x/../y", "is not relative"),
        ("a\\b", "is not relative"),
        ("a//b", "is not relative"),
        ("./x", "is not relative"),
        ("x\n", "is not a short name"),
        ("x" * 2000, "is not a short name"),
    ],
)
def test_a_pattern_stays_in_the_repository(pattern: str, problem: str) -> None:
    """Such a one matches nothing, so it is refused with the reason."""
    assert problem in (problem_with_pattern(pattern) or "")


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=4))
def test_any_text_is_compared(pattern: str, paths: list[str]) -> None:
    """Nothing raises, whatever stands in a manifest."""
    problem_with_pattern(pattern)
    folders = {f"{path.rpartition('/')[0]}/" for path in paths}
    assert set(nearest_names(pattern, paths)) <= {*paths, *folders, f"{pattern}/"}
    assert unmatched([pattern], paths) == ([] if any(matches(path, [pattern]) for path in paths) else [pattern])


def test_a_pattern_of_stars_takes_no_time() -> None:
    """Compared in bounded time: 1,000 stars against a long name that fits none."""
    began = time.process_time()
    assert not matches("a" * 1000, ["*a" * 500 + "b"])
    assert time.process_time() - began < 10
