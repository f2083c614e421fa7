"""Text of strangers: on one line, short, and nothing that a terminal obeys."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.text import escape, first_lines, join_names, last_lines, one_line


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("Übung/東京.json", "Übung/東京.json", "Übung/東京.json"),
        ("a\nb\r\tc\u2028d\x85e", "a\\nb\\r\\tc\\u2028d\\x85e", "a b c d e"),
        ("é\x1b[2J\x9b\x7f", "é\\x1b[2J\\x9b\\x7f", "é\\x1b[2J\\x9b\\x7f"),
        ("a\u202eb\u200bc\ufeff\u2066", "a\\u202eb\\u200bc\\ufeff\\u2066", "a\\u202eb\\u200bc\\ufeff\\u2066"),
        ("a\ud800\U000e0041", "a\\ud800\\U000e0041", "a\\ud800\\U000e0041"),
        ("a    b", "a \\x20 \\x20b", "a b"),
        (" as query", " as query", " as query"),
    ],
)
def test_a_strangers_words_stand_in_a_line(text: str, name: str, sentence: str) -> None:
    """Only what a terminal would obey, or that draws another row, is written as in Python."""
    assert escape(text) == name
    assert one_line(text) == sentence


@settings(deadline=None)
@given(st.text(), st.integers(5, 50))
def test_a_strangers_words_are_short_and_printable(text: str, limit: int) -> None:
    """Any text; what is safe stays as it is."""
    for told in (escape(text, limit), one_line(text, limit)):
        assert told.isprintable()
        assert "  " not in told
        assert len(told) <= limit
        assert escape(told, limit) == one_line(told, limit) == told
    assert escape("x" * limit, limit) == "x" * limit
    assert escape("x" * (limit + 1), limit) == "x" * (limit - 1) + "…"


def test_the_last_lines_of_a_stranger_look_like_no_row() -> None:
    """The last ones, each behind a bar; a line that draws over itself is several."""
    text = "first\n\n  proven   a/b\r\n::error::x\x1b[2J\r50 %\u2028end" + "y" * 5000 + "\n"
    lines = last_lines(text, 4)
    assert lines[:3] == ["|  proven a/b", "| ::error::x\\x1b[2J", "| 50 %"]
    assert lines[3].startswith("| endyyy")
    assert len(lines[3]) < 1010
    assert last_lines("", 4) == []


def test_of_many_some_are_told() -> None:
    """Names are short and in one line, sentences are counted before they are all made."""
    assert join_names(["a", "b\nc"]) == "a, b\\nc"
    assert join_names([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
    assert len(join_names(["x" * 5000] * 5000)) < 1100
    assert first_lines(["a", "b"], 2) == ["a", "b"]
    assert first_lines(map(str, count()), 2) == ["0", "1", "and more like these"]
    assert first_lines(list("abcd"), 1) == ["a", "and 3 more like these"]
