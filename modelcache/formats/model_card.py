"""The front matter of a model card (README.md): the few keys that a report repeats, and no other.

A card is a stranger's, and its front matter may be half a megabyte of results. So the lines of these keys are cut out,
and only they are parsed: each key by itself, and at most a few kilobytes, into the nodes of YAML. No object is made of
these nodes, because that runs code for tags and fails in a dozen ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from modelcache.core.model_report import ModelCard

_KEYS = ("license", "license_name", "license_link", "base_model")
_TERMS = "extra_gated_"
_KEY = re.compile(rf"""(["']?)({"|".join(_KEYS)}|{_TERMS}\w{{1,50}})\1[ \t]*:(?=[ \t]|$)""")
_FENCE = "---"
# Behind a key that stands where a line begins: its value on lines of its own, a list, the end of one, a comment.
_GOES_ON = (" ", "\t", "-", "#", "]", "}")
_LONGEST_VALUE = 8192
_LONGEST_WORD = 200
_MOST_WORDS = 50
_MOST_TERMS = 20
# A version or a year is a word, too; `null`, `yes` and any tag of its author's own are none.
_WORDS = {f"tag:yaml.org,2002:{tag}" for tag in ("str", "int", "float", "timestamp")}
_LIST = "tag:yaml.org,2002:seq"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_card(content: bytes) -> ModelCard:
    """Return what the front matter of a card names; a key that is absent, or cannot be read, is empty."""
    values: dict[str, Node | None] = {}
    terms: dict[str, None] = {}
    for key, lines in _entries(_front_matter(content)):
        if key.startswith(_TERMS):
            terms[key] = None
        else:
            values[key] = _value(key, "\n".join(lines))
    return ModelCard(
        licences=_words(values.get("license")),
        licence_name=_word(values.get("license_name")),
        licence_link=_word(values.get("license_link")),
        base_models=_words(values.get("base_model")),
        terms=tuple(sorted(terms)[:_MOST_TERMS]),
    )


def first_line(content: bytes) -> str:
    """Return the first line of a text that is not blank, and its beginning if it is long."""
    lines = (line.strip() for line in _lines(content))
    return _shortened(next(filter(None, lines), ""))


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _front_matter(content: bytes) -> list[str]:
    """Return the lines between two lines of dashes, of which the first one begins the file; none without the second."""
    lines = iter(_lines(content))
    if next((line.rstrip() for line in lines if line.strip()), "").lstrip() != _FENCE:
        return []
    found: list[str] = []
    for line in lines:
        if line.rstrip() == _FENCE:
            return found
        found.append(line)
    return []


def _entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the keys that are wanted, each with its lines."""
    entry: tuple[str, list[str]] | None = None
    for line in lines:
        if line and not line.startswith(_GOES_ON):
            if entry:
                yield entry
            key = _KEY.match(line)
            entry = (key[2], []) if key else None
        if entry:
            entry[1].append(line)
    if entry:
        yield entry


def _value(key: str, text: str) -> Node | None:
    """Return the node of a key's value; None for one that is too long, or no YAML."""
    if len(text) > _LONGEST_VALUE:
        return None
    try:
        document = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None
    pairs = document.value if isinstance(document, MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _words(node: Node | None) -> tuple[str, ...]:
    """Return the words of a value that is one, or a list of them."""
    is_list = isinstance(node, SequenceNode) and node.tag == _LIST
    nodes = node.value[:_MOST_WORDS] if node and is_list else [node]
    return tuple(dict.fromkeys(filter(None, map(_word, nodes))))


def _word(node: Node | None) -> str:
    is_word = isinstance(node, ScalarNode) and node.tag in _WORDS
    return _shortened(node.value.strip()) if node and is_word else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_WORD else f"{text[: _LONGEST_WORD - 1]}…"
