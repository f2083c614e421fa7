"""Differences in words: a line a part and a setting, the larger effect first, long values from where they differ."""

from __future__ import annotations

import pytest

from modelcache.cli.changes_text import change_rows, meaning, text_lines
from modelcache.core.changes import Change, Difference, Part
from modelcache.core.effect import Effect
from modelcache.core.kinds import Kind

LONG = "x" * 100


def setting(old: str, new: str, name: str = "config.json: a", part: Part = Part.SETTINGS, **more: Effect) -> Change:
    """A setting that differs."""
    return Change(part, name, old, new, is_file=False, **more)


def row(*changes: Change) -> list[str]:
    """The texts of the rows."""
    return [text for _, text in change_rows(Difference(changes))]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("1", "2", "1 → 2"),
        ("", "2", "unset → 2"),
        ("1", "", "1 → unset"),
        (f"{LONG}1", f"{LONG}2", f"…{LONG[:20]}1 → …{LONG[:20]}2"),
        (LONG, f"{LONG}2", f"…{LONG[:20]} → …{LONG[:20]}2"),
        (f"1{LONG}", f"2{LONG}", f"1{LONG[:58]}… → 2{LONG[:58]}…"),
        (LONG, "", f"{LONG[:59]}… → unset"),
        ("a\nb", "\x1b[31m", r"a\nb → \x1b[31m"),
    ],
)
def test_a_setting_shows_where_its_values_differ(old: str, new: str, text: str) -> None:
    """Two prompts of many words begin alike."""
    assert row(setting(old, new)) == [f"config.json: a {text}"]


def test_a_setting_of_the_same_name_as_its_part_is_named_once() -> None:
    """The licence is the licence."""
    assert list(change_rows(Difference((setting("mit", "x", "licence", Part.LICENCE),)))) == [("licence", "mit → x")]


def test_of_many_settings_the_largest_effect_is_shown() -> None:
    """Ten, and how many more there are."""
    many = [setting("1", "2", f"config.json: {number:02}", effect=Effect.POSSIBLE) for number in range(14)]
    pooling = setting("1", "2", "z/config.json: pooling_mode", effect=Effect.CERTAIN)
    found = row(*many, pooling)
    assert found[0] == "z/config.json: pooling_mode 1 → 2"
    assert found[-1] == "and 5 more like these"
    assert len(found) == 11


def test_files_are_on_one_line_and_the_first_of_them_named() -> None:
    """With what became of each."""
    files = [Change(Part.FILES, f"{number}\x1b", "a" * (number > 0), "b" * (number > 1)) for number in range(7)]
    assert row(*files) == [r"0\x1b (gone), 1\x1b (gone), 2\x1b, 3\x1b, 4\x1b and 2 more"]
    assert row(Change(Part.FILES, "x", "", "b")) == ["x (new)"]


def test_the_last_line_is_the_meaning() -> None:
    """Of no change, too."""
    assert list(text_lines(Difference(), Kind.EMBEDDING)) == ["nothing that is shipped"]
    difference = Difference((Change(Part.WEIGHTS, "w", "a", "b", Effect.CERTAIN),), ("config.json",))
    assert list(text_lines(difference, Kind.SPARSE)) == [
        "weights    w",
        "unread     config.json: not readable in both versions, so their settings are not compared",
        "vectors will differ: re-index",
    ]
    assert meaning(difference, Kind.RERANKER) == "scores will differ"
