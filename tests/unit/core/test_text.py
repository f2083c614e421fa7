"""Text of strangers: on one line, short, and nothing that a terminal obeys."""

from __future__ import annotations

import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.text import duration_in_words, escape, first_lines, fold, join_names, last_lines, one_line, shorten


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


WORDS = st.text(st.sampled_from('ab `"/…é '), max_size=120)


@pytest.mark.parametrize(
    ("line", "folded"),
    [
        ("  fetch    a/b  1 MB", "  fetch    a/b  1 MB"),
        (f"  fetch    {'a' * 20}   1.2 MB   3 s", f"  fetch    {'a' * 20}   1.2 MB\n           3 s"),
        (f"  fetch    {'a' * 35}  1.2 MB", f"  fetch\n     {'a' * 35}\n           1.2 MB"),
        (f"  layer    a/b {'c' * 28}  1.2 MB", f"  layer    a/b\n           {'c' * 28}\n           1.2 MB"),
        ("  note     one two three four five six seven", "  note     one two three four five six\n           seven"),
        ("hint: Run `cache-models lock --upgrade a/b` now", "hint: Run\n  `cache-models lock --upgrade a/b` now"),
        ("error: an odd ` is a word, as any other, here", "error: an odd ` is a word, as any other,\n  here"),
        ("x" * 60, "x" * 60),
    ],
    ids=[
        "it fits",
        "columns",
        "a wide column",
        "words of a wide column",
        "words",
        "a command",
        "a backtick",
        "a long word",
    ],
)
def test_a_wide_line_is_broken(line: str, folded: str) -> None:
    """Between columns or words, at 40 columns."""
    assert fold(line, 40) == folded


@given(st.sampled_from(["", "  fetch    ", "hint: "]), WORDS, st.integers(1, 100))
def test_a_broken_line_says_the_same(head: str, text: str, width: int) -> None:
    """No word is lost, and no command in backticks is broken, whatever the width."""
    line = f"{head}{text}"
    folded = fold(line, width)
    assert folded.split() == line.split()
    if "  " not in text:
        for one in re.findall(r"`[^`]*`", text.partition("`")[1] + text.partition("`")[2]):
            assert one in folded


@given(st.text(max_size=100), st.integers(1, 100))
def test_a_name_is_shortened_in_its_middle(name: str, width: int) -> None:
    """Its beginning and its end stay."""
    short = shorten(name, width)
    assert len(short) == min(len(name), width)
    first, dots, last = short.partition("…")
    assert name.startswith(first)
    assert name == short or (dots and name.endswith(last))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59, "59 s"),
        (59.5, "1 min 0 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3599, "59 min"),
        (4860, "1 h 21 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_a_duration(seconds: float, words: str) -> None:
    """As precise as it matters."""
    assert duration_in_words(seconds) == words
