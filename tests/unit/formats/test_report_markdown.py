"""The report as a page: it fits a screen, says each fact, and shows the words of strangers as words."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from modelcache.core.model_report import ModelCard
from modelcache.core.redact import redact
from modelcache.core.types import RemoteCode
from modelcache.formats.report_markdown import format_report
from tests.conftest import PROJECT
from tests.support.reported import ABSENT, ALL, FULL, HOUSE, PLAIN, hostile, listed

HOSTILE = (
    "a|b",
    "``` `x` ``",
    "`",
    "x`",
    "<script>alert(1)</script>",
    "a\n\n# heading\n- list",
    "a\r\nb",
    "[link](https://evil.example) ![i](x)",
    "https://evil.example/?token=x",
    "x?a=b <b>",
    "www.evil.example",
    "a www.evil.example",
    "me@evil.example",
    "**bold** _soft_ ~~gone~~",
    "&amp; &#60;",
    "\x1b[31mred\x1b[0m \u202e",
    "\\",
    "x\\",
    " ",
    "| --- |",
    "- x",
    "1. x",
    "##[error]x",
)


def parsed(page: str) -> list[Token]:
    """The tokens of a page with tables."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)


def inline(tokens: list[Token]) -> list[Token]:
    """All that stands within lines."""
    return [child for token in tokens for child in token.children or ()]


def test_five_models_are_seen_on_one_screen() -> None:
    """A table of at most 100 columns with the models of models.toml, and all that is to be looked at."""
    lines = format_report(listed(PROJECT / "models.toml")).splitlines()
    first = lines[: next(number for number, line in enumerate(lines) if line.startswith("## "))]
    assert len(first) <= 24
    assert max(map(len, first)) <= 100, max(first, key=len)
    rows = [line for line in first if line.startswith("| ")]
    assert len(rows) == 6
    assert all("apache-2.0 | no " in row and "2.24 GB" in row for row in rows[1:])
    assert "- unproven: all 5" in first


def test_a_page_says_each_fact() -> None:
    """Each model has its own heading, and its facts below it."""
    page = format_report(ALL)
    assert page.startswith("# 4 models, 1.11 GB\n")
    top, plain, full, house, absent = page.split("\n## ")
    for line in (
        "not on disk, so from the lock alone: acme/absent",
        "licence unknown: acme/house, acme/absent",
        "gated: acme/full",
        "with code of a repository: acme/full",
        "with pickles as they are: acme/full",
        "with files that no repository has: acme/full",
        "unproven: acme/full, acme/house",
    ):
        assert f"- {line}\n" in f"{top}\n"
    assert "`LICENSE`: `MIT License`" in plain
    assert "with sentence-transformers 6.2.0, torch 2.13.0" in plain
    for words in (
        f"commit: {'b' * 40} (revision v1)",
        "licence: acme-1.0, apache-2.0, `https://acme.example/licence` (named by the card)",
        "base model: BAAI/bge-m3, not an id",
        "gated: the Hub asks for consent to its terms; its card asks for consent to terms",
        f"`modeling_x.py` from `c/code@{'f' * 40}`",
        f"`own.py` from `acme/full@{'b' * 40}`",
        "packages that its code imports: einops, `house_lib`",
        "tensors alone: `heads.pt`",
        f"`model.safetensors`, converted from `pytorch_model.bin` (SHA-256 {'8' * 64})",
        "`1_Pooling/config.json`, written",
        f"index id: {FULL.index_id}",
        "unproven: none are recorded for these files",
    ):
        assert words in full, words
    assert "commit: none, as it is from a directory" in house
    assert "licence: unknown\n" in house
    assert "not on disk: from the lock alone" in absent
    assert "base model: unknown" in absent
    assert "never loaded" in absent


def test_code_that_was_left_out_and_code_that_is_published_alone_are_said() -> None:
    """Neither is run by a program that loads the model."""
    omitted = replace(PLAIN, pin=replace(PLAIN.pin, remote_code=RemoteCode.OMITTED))
    alone = replace(FULL, pin=replace(FULL.pin, remote_code=RemoteCode.NONE))
    assert "code: left out" in format_report([omitted])
    assert "code: published, and named by no configuration" in format_report([alone])


def test_the_digests_of_a_page_can_be_checked_by_a_shell() -> None:
    """They are lines of `sha256sum`, and the SHA-256 of these is the set digest."""
    page = format_report([FULL])
    (block,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert hashlib.sha256(block.encode()).hexdigest() == FULL.digest
    assert f"set digest: {FULL.digest}" in page


def test_a_page_of_no_models_is_a_page() -> None:
    """A manifest may list none."""
    assert format_report([]).splitlines()[0] == "# 0 models, 0 B"
    assert "compared" not in format_report([ABSENT])
    assert "of the models that are there" in format_report([HOUSE, ABSENT])


def assert_shown_as_words(words: str) -> None:
    """Check that a page with these words has the blocks of any other, and nothing but text and code within lines."""
    page, harmless = redact(format_report([hostile(words)])), format_report([hostile("`harmless`")])
    tokens = parsed(page)
    assert [token.type for token in tokens] == [token.type for token in parsed(harmless)]
    assert {child.type for child in inline(tokens)} <= {"text", "code_inline", "softbreak"}
    # GitHub makes links of these where they stand in no code.
    plain = " ".join(child.content for child in inline(tokens) if child.type == "text")
    assert not re.search(r"://|www\.|@", plain), plain
    assert "\x1b" not in page
    assert len(page.splitlines()) == len(harmless.splitlines())


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_are_shown_as_words(words: str) -> None:
    """Bars, backticks, line ends, HTML, links, and what a terminal would obey."""
    assert_shown_as_words(words)


@given(st.text(min_size=1, max_size=60) | st.text("`|\\<>[]()!*_~&# \n-", min_size=1, max_size=30))
def test_any_words_are_shown_as_words(words: str) -> None:
    """Whatever a card says, the page has the same blocks."""
    assert_shown_as_words(words)


def test_a_long_licence_does_not_widen_the_table() -> None:
    """It stands below in full."""
    long = replace(PLAIN, card=ModelCard(licences=("x" * 200,)))
    page = format_report([long])
    assert max(len(line) for line in page.splitlines() if line.startswith("|")) < 100
    assert "x" * 200 in page


def test_a_bar_in_a_licence_makes_no_column() -> None:
    """Markdown would drop the columns that are too many, and whether the model is proven with them."""
    page = format_report([replace(PLAIN, card=ModelCard(licences=("a|b",)))])
    (row,) = [line for line in page.splitlines() if line.startswith("| acme/reranker")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert r"`a\|b`" in row


def test_a_licence_of_the_lock_that_the_card_does_not_name_is_shown() -> None:
    """Above, with the models that it concerns, and in the details."""
    page = format_report([replace(PLAIN, pin=replace(PLAIN.pin, licence="apache-2.0"))])
    assert "- licence in the lock another one: acme/reranker" in page
    assert "  - the lock has apache-2.0, as the Hub said" in page
    assert "the lock has" not in format_report([PLAIN])
