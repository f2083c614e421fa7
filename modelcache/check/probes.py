"""What a model is asked to show that it works, and what is seen of it, as text. No torch, no disk.

The questions are few and awkward: several scripts, nothing at all, and more than the model can read.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.text import escape, quote

TEXTS = (
    "The court dismissed the appeal because it was filed too late.",
    "Το δικαστήριο απέρριψε την έφεση ως εκπρόθεσμη.",
    "Суд отклонил апелляцию, поскольку она была подана слишком поздно.",
    "東京の図書館は月曜日に閉まっています。",
    "أين أقرب محطة قطار؟",
    "naïve café, 3.14 € — 50 % off!",
    "",
)
# Different words, equally long: who does not know them sees the same, however letters or bytes stand for them.
PAIRS = (
    ("river", "judge"),
    ("law", "sea"),
    ("1", "7"),
    ("河", "官"),
    ("νερό", "ψωμί"),
    ("вода", "хлеб"),
    ("ماء", "خبز"),
)
_SOME = (
    "law court judge appeal river water bread house train street music paper moon green cold open walk read small day"
)
_WORDS = tuple(_SOME.split())
QUERY = "Why was the appeal dismissed?"
# Beyond so many tokens a single text takes minutes and gigabytes; such a model, and one without a limit, gets so many
# words.
_HIGHEST_LIMIT, _LONG_ENOUGH = 8_192, 2_000
_SHORT = 40
"""Characters that are told of a text."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question: a text, or for a cross-encoder a query and a text. `words` stands for a text of so many words."""

    text: str = ""
    words: int = 0
    query: str | None = None
    prompt: str = ""
    """The name of the prompt that goes in front: `query`, `document`, or another one of the model's own."""
    task: str = ""
    """The name of a Router's way, where it is neither `query` nor `document`."""

    @property
    def way(self) -> str:
        """How it is asked, in words for people; empty for the plain way."""
        return f" as {escape(name, _SHORT)}" if (name := self.prompt or self.task) else ""

    def spelled(self) -> str:
        """Return the text as the model gets it."""
        return " ".join(_WORDS[number % len(_WORDS)] for number in range(self.words)) if self.words else self.text

    def told(self) -> str:
        """Return words for people that say which one it is."""
        text = f"{self.words} words" if self.words else quote(self.text, 40)
        pair = f"{quote(self.query, 40)} with " if self.query is not None else ""
        return f"{pair}{text}{self.way}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model gave for one probe: a vector, or one score for each label; float32."""

    probe: Probe
    values: array[float]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one model; nothing but the fields before `seconds` when it ended with an error."""

    attempts: Sequence[str] = ()
    """Where it wanted to go in the network."""
    absent: Sequence[str] = ()
    """Folders that modules.json names and that are not there."""
    error: str = ""
    doing: str = ""
    """The step that the error ended, where that was not loading; it completes "fails when it is …"."""
    lacking: Sequence[str] = ()
    """Packages that are not installed here and without which it does not go, by pip's names."""
    seconds: float = 0.0
    """How long it took to load."""
    peak: int = 0
    """The most memory that its process had, in bytes."""
    dimension: int = 0
    limit: int | None = None
    """Tokens that it reads of a text."""
    similarity: str = ""
    precision: str = ""
    """The coarsest type of its parameters: `float32`, `bfloat16`, `float16`."""
    fallback: bool = False
    """Whether the loader had to choose a pooling."""
    unfilled: Sequence[str] = ()
    """Parameters that no weight file fills, and that numbers depend on."""
    harmless: Sequence[str] = ()
    """Such parameters that no number depends on."""
    computed: Sequence[str] = ()
    """Parameters that no weight file names, and that are the same at every load."""
    lost: Sequence[str] = ()
    """Weights that no parameter takes."""
    unused: Sequence[str] = ()
    """Such weights that are known not to be needed, by their parts."""
    deaf: Sequence[str] = ()
    """Ways to ask it in which all words are the same to it; each as `Probe.way`."""
    beyond: Sequence[str] = ()
    """Tokenizers that know more tokens than there are embeddings, in words for people."""
    unanswered: Sequence[str] = ()
    """Why it gives nothing for a text without a word."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text by name; under `""` the name of the one that is used when none is asked for."""
    answers: Sequence[Answer] = ()


def probes_for(kind: Kind, limit: int | None, ways: Sequence[Probe]) -> tuple[Probe, ...]:
    """Choose what to ask a model that reads `limit` tokens and is asked in these ways, each a probe without a text.

    Every text is asked once, in the first way; in the others the first text.
    """
    # A word is one token at least, so this is longer than the limit by some.
    longest = limit + 16 if limit and limit <= _HIGHEST_LIMIT else _LONG_ENOUGH
    first, *others = ways
    return (
        *(replace(first, text=text) for text in TEXTS),
        replace(first, words=longest),
        *([Probe(TEXTS[0], query="")] if kind is Kind.RERANKER else ()),
        *(replace(other, text=TEXTS[0]) for other in others),
    )


def probe_to_json(probe: Probe) -> dict[str, Any]:
    """Return a probe as JSON holds it."""
    entry: dict[str, Any] = {"words": probe.words} if probe.words else {"text": probe.text}
    if probe.query is not None:
        entry["query"] = probe.query
    if probe.prompt:
        entry["prompt"] = probe.prompt
    if probe.task:
        entry["task"] = probe.task
    return entry


def to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON holds it: the numbers as base64 of little-endian float32."""
    values = array("f", answer.values)
    if sys.byteorder == "big":
        values.byteswap()
    return {**probe_to_json(answer.probe), "values": base64.b64encode(values.tobytes()).decode()}


def probe_from_json(entry: Mapping[str, Any]) -> Probe:
    """Read a probe back.

    Raises:
        ValueError: it is none.

    """
    match entry:
        case {"text": str(text)}:
            probe = Probe(text)
        case {"words": int(words)} if words is not True and 0 < words <= 1_000_000:
            probe = Probe(words=words)
        case _:
            raise ValueError("a probe has neither text nor words")
    query, prompt, task = entry.get("query"), entry.get("prompt", ""), entry.get("task", "")
    if not isinstance(query, str | None) or not isinstance(prompt, str) or not isinstance(task, str):
        raise ValueError("a probe's query, prompt or task is not a string")
    return Probe(probe.text, probe.words, query, prompt, task)


def from_json(entry: Mapping[str, Any]) -> Answer:
    """Read an answer back.

    Raises:
        ValueError: it is none.

    """
    values = array("f")
    try:
        values.frombytes(base64.b64decode(entry["values"], validate=True))
    except (KeyError, TypeError, ValueError):
        raise ValueError("an answer's values are not base64 of 32-bit floats") from None
    if sys.byteorder == "big":
        values.byteswap()
    if not values:
        raise ValueError("an answer has no values")
    return Answer(probe_from_json(entry), values)


def observation_to_json(seen: Observation) -> dict[str, Any]:
    """Return what was seen as JSON holds it."""
    plain = {one.name: getattr(seen, one.name) for one in fields(seen)}
    return {**plain, "answers": [to_json(answer) for answer in seen.answers]}
