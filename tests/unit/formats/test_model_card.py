"""The front matter of a model card: few keys, short words, and nothing that a stranger writes does harm."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.model_report import ModelCard
from modelcache.formats import model_card
from modelcache.formats.model_card import first_line, parse_card

NONE = ModelCard()


def card(*lines: str) -> ModelCard:
    """The card with these lines between its dashes."""
    return parse_card("\n".join(["---", *lines, "---", "", "# A model"]).encode())


@pytest.mark.parametrize(
    ("lines", "licences", "name", "link"),
    [
        (["license: apache-2.0"], ("apache-2.0",), "", ""),
        (["license: 'mit' # a comment"], ("mit",), "", ""),
        (['"license": "mit"'], ("mit",), "", ""),
        (["license: [mit, apache-2.0]"], ("mit", "apache-2.0"), "", ""),
        (["license: [", "  mit,", "  apache-2.0", "]", "tags: [x]"], ("mit", "apache-2.0"), "", ""),
        (["license:", "- mit", "", "- apache-2.0", "- mit"], ("mit", "apache-2.0"), "", ""),
        (["license:", "  - mit"], ("mit",), "", ""),
        (["license:", "  mit"], ("mit",), "", ""),
        (
            ["license: other", "license_name: acme-1.0", "license_link: LICENSE"],
            ("other",),
            "acme-1.0",
            "LICENSE",
        ),
        (["license: other", "license_name: 1.0"], ("other",), "1.0", ""),
        (["license_name: >-", "  two", "  lines", "tags: x"], (), "two lines", ""),
        (["license: 'Apache License, Version 2.0'"], ("Apache License, Version 2.0",), "", ""),
        (["tags:", "- license: gpl", "x:", "  license: gpl"], (), "", ""),
        (["language: en", "license: mit", "license: apache-2.0"], ("apache-2.0",), "", ""),
        (["license:"], (), "", ""),
        (["license: null"], (), "", ""),
        (["license: no"], (), "", ""),
        (["license: {mit: yes}"], (), "", ""),
        (["license: [[mit], {a: b}, null, '']"], (), "", ""),
        (["licensee: x", "license-x: y", "license : mit"], ("mit",), "", ""),
        (["the license: gpl"], (), "", ""),
    ],
)
def test_a_licence_is_read_as_the_hub_reads_it(
    lines: list[str], licences: tuple[str, ...], name: str, link: str
) -> None:
    """A name, a list of names, or `other` with a name and a link of its own; of other shapes nothing is made."""
    found = card(*lines)
    assert (found.licences, found.licence_name, found.licence_link) == (licences, name, link)


@pytest.mark.parametrize(
    ("lines", "models"),
    [
        (["base_model: BAAI/bge-m3"], ("BAAI/bge-m3",)),
        (["base_model:", "- BAAI/bge-m3", "- a/b"], ("BAAI/bge-m3", "a/b")),
        (["base_model: []"], ()),
        (["base_model: {id: a/b}"], ()),
        (["base_model_relation: finetune"], ()),
    ],
)
def test_a_base_model_is_one_id_or_several(lines: list[str], models: tuple[str, ...]) -> None:
    """As the Hub shows them on the page of a model."""
    assert card(*lines).base_models == models


def test_the_keys_with_which_an_owner_asks_for_consent_are_found() -> None:
    """Their values may be long, and are not read."""
    found = card("extra_gated_prompt: >-", "  You agree: to all", "  of [this", "extra_gated_fields:", "  Name: text")
    assert found == ModelCard(terms=("extra_gated_fields", "extra_gated_prompt"))


@pytest.mark.parametrize(
    "content",
    [
        b"---\nlicense: mit\n---\n# x",
        b"\xef\xbb\xbf---\nlicense: mit\n---\n",
        b"---\r\nlicense: mit\r\n---\r\n",
        b"\n\n---\nlicense: mit\n---",
        b"---  \nlicense: mit\n---  \n",
        b"---\nlicense: mit\ntitle: \xff\xfe\n---\n",
    ],
)
def test_front_matter_is_found_whatever_wrote_it(content: bytes) -> None:
    """A mark of the byte order, line ends of Windows, blanks, bytes that are no UTF-8."""
    assert parse_card(content).licences == ("mit",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# A model\n\nlicense: mit\n",
        b"words\n---\nlicense: mit\n---\n",
        b"---\nlicense: mit\n",
        b"----\nlicense: mit\n----\n",
        b"---\n---\nlicense: mit\n---\n",
        b"\xff\xfe-\0-\0-\0",
    ],
)
def test_a_text_without_front_matter_names_nothing(content: bytes) -> None:
    """A licence is never guessed from the words of a text, nor from front matter that never ends."""
    assert parse_card(content) == NONE


@pytest.mark.parametrize(
    "value",
    [
        "[" * 8000,
        "{a: " * 2000,
        "- " * 4000,
        "? " * 4000,
        "&a [*a]",
        "&a [&b [*a, *a], *b]",
        "*nowhere",
        "[&a x, *a, *b]",
        '"\\UFFFFFFFF"',
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!bool x",
        "!mine x",
        "!mine [x]",
        "'never ends",
        "%YAML 9.9",
        "\t@`",
        "x: y: z",
        "|\n---x\n",
        "a\n--- b",
    ],
)
@pytest.mark.parametrize("loader", ["SafeLoader", "CSafeLoader"])
def test_a_hostile_value_is_no_value(value: str, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors, tags, deep nesting and broken YAML: the other keys are read all the same, with libyaml and without."""
    monkeypatch.setattr(model_card, "_Loader", getattr(yaml, loader))
    found = card(f"license: {value}", "base_model: a/b")
    assert (found.licences, found.base_models) == ((), ("a/b",))


def test_words_and_lists_are_bounded() -> None:
    """A report repeats names, and no essays."""
    assert card(f"license: {'x' * 5000}").licences == ("x" * 199 + "…",)
    assert card(f"license: {'x' * 9000}").licences == ()
    assert len(card("base_model:", *(f"- a/{n}" for n in range(300))).base_models) == 50
    assert len(card(*(f"extra_gated_{n}: x" for n in range(300))).terms) == 20


def test_half_a_megabyte_of_results_takes_no_time() -> None:
    """Cards of embedding models carry the results of MTEB: parsed as a whole, one takes seconds."""
    entry = "  - task:\n      type: Retrieval\n    metrics:\n    - type: ndcg_at_10\n      value: 1.5\n"
    results = "model-index:\n- name: x\n  results:\n" + entry * 6000
    content = f"---\ntags:\n- mteb\n{results}license: mit\n---\n".encode()
    assert len(content) > 500_000
    start = time.process_time()
    assert parse_card(content).licences == ("mit",)
    assert time.process_time() - start < 0.5


@given(st.text(max_size=300) | st.text("[]{}&*!|>'\"%@`-?:,# \n\tabc~", max_size=300))
def test_any_value_ends_in_short_words(value: str) -> None:
    """Whatever stands there: no exception, and nothing that is no word."""
    found = parse_card(f"---\nlicense: {value}\nbase_model:\n  - {value}\n---\n".encode(errors="replace"))
    words = [*found.licences, found.licence_name, found.licence_link, *found.base_models]
    assert all(len(word) <= 200 for word in words)


@given(st.binary(max_size=500))
def test_any_bytes_are_a_card(content: bytes) -> None:
    """A card is a file of a stranger."""
    parse_card(b"---\n" + content + b"\n---\n")
    first_line(content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ""),
        (b"\n \n\t\n  MIT License \nmore", "MIT License"),
        (b"\xef\xbb\xbfApache License\r\n", "Apache License"),
        (b"x" * 5000, "x" * 199 + "…"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_the_first_line_that_is_not_blank(content: bytes, line: str) -> None:
    """It names the licence, as a rule, and a person reads it."""
    assert first_line(content) == line
