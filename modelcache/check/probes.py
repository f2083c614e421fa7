"""Probes, the answers to them, and the observation of one model, each with its JSON. No torch, no disk.

The probes are few and awkward: several scripts, an empty text, and more than the model can read.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import cycle, islice, pairwise
from typing import Any

from modelcache.core.kinds import Output
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
# Different words of equal length: to a model that does not know them they are the same, whatever its tokens are.
PAIRS = (
    ("river", "judge"),
    ("law", "sea"),
    ("1", "7"),
    ("河", "官"),
    ("νερό", "ψωμί"),
    ("вода", "хлеб"),
    ("ماء", "خبز"),
)
_WORDS = """
    law court judge appeal river water bread house train street music paper moon green cold open walk read small day
"""
QUERY = "Why was the appeal dismissed?"
# A text of more tokens takes minutes and gigabytes; a model with a larger window, or without one, gets fewer words.
_LARGEST_WINDOW, _WORDS_OF_LONG_TEXT = 8_192, 2_000
_LONGEST_LABEL = 40
_LARGEST_DIMENSION = 1 << 20


@dataclass(frozen=True, slots=True)
class Probe:
    """One input: a text, or a query and a text to be scored. `words` stands for a text of so many words."""

    text: str = ""
    words: int = 0
    query: str | None = None
    prompt: str = ""
    """The name of the prompt: `query`, `document`, or another one of the model's own."""
    task: str = ""
    """The route of a Router, where it is neither `query` nor `document`."""

    @property
    def label(self) -> str:
        """The prompt or the route, in words: ` as query`; empty where there is none."""
        return f" as {escape(name, _LONGEST_LABEL)}" if (name := self.prompt or self.task) else ""

    def input_text(self) -> str:
        """Return the text that the model gets."""
        return " ".join(islice(cycle(_WORDS.split()), self.words)) if self.words else self.text

    def description(self) -> str:
        """Return the probe in words for people."""
        text = f"{self.words} words" if self.words else quote(self.text, 40)
        pair = f"{quote(self.query, 40)} with " if self.query is not None else ""
        return f"{pair}{text}{self.label}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of a model for one probe; float32.

    Its values are a vector, or one score for each label; of a sparse vector those that are not zero; of a matrix one
    row after the other.
    """

    probe: Probe
    values: array[float]
    indices: array[int] | None = None
    """The place of each value in a sparse vector, in ascending order."""
    dimension: int = 0
    """How many numbers a sparse vector has, zeros included, or a row of a matrix."""

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return self.dimension or len(self.values)

    def by_index(self) -> dict[int, float]:
        """Return the values of a sparse vector by their places."""
        return dict(zip(self.indices or (), self.values, strict=True))

    def rows(self) -> list[array[float]]:
        """Return the rows of a matrix."""
        return [self.values[start : start + self.width] for start in range(0, len(self.values), self.width)]


@dataclass(frozen=True, slots=True)
class Observation:
    """The observation of one model; after an error only the fields before `seconds` are set."""

    attempts: Sequence[str] = ()
    """The addresses that it tried to reach."""
    missing_folders: Sequence[str] = ()
    """Folders that modules.json names and that are not there."""
    error: str = ""
    failed_step: str = ""
    """The step that failed, where that was not loading; it completes "fails when it is …"."""
    missing_packages: Sequence[str] = ()
    """Packages that it needs and that are not installed here, by pip's names."""
    seconds: float = 0.0
    """How long it took to load."""
    peak_memory: int = 0
    """Of its process, in bytes."""
    dimension: int = 0
    max_seq_length: int | None = None
    """Tokens that it reads of a text."""
    similarity: str = ""
    dtype: str = ""
    """The coarsest type of its parameters: `float32`, `bfloat16`, `float16`."""
    default_pooling: bool = False
    """Whether no file says how to pool, so that the loader takes its default."""
    not_found_by_id: Sequence[str] = ()
    """Its files that a program does not find by its id in the Hub view."""
    newly_initialized: Sequence[str] = ()
    """Parameters without a weight, so that they are random, on which outputs depend."""
    newly_initialized_unused: Sequence[str] = ()
    """Parameters without a weight on which no output depends."""
    computed: Sequence[str] = ()
    """Parameters without a weight that are the same at every load."""
    unexpected: Sequence[str] = ()
    """Weights without a parameter."""
    unused: Sequence[str] = ()
    """Parts of the weight files without a parameter that are known not to be needed."""
    constant_prompts: Sequence[str] = ()
    """Prompts for which different inputs give identical outputs; each as `Probe.label`."""
    unreachable_tokens: Sequence[str] = ()
    """Tokenizers that know more tokens than there are embeddings, in words for people."""
    unanswered: Sequence[str] = ()
    """Why it gives nothing for an empty text."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text by name; under `""` the name of the one that is used when none is asked for."""
    answers: Sequence[Answer] = ()


def form_of(output: Output, probe: Probe) -> Output:
    """Return the form of an answer: where there is a query, a model that gives matrices gives a score."""
    return Output.SCORE if output is Output.MATRIX and probe.query is not None else output


def probes_for(
    max_seq_length: int | None, templates: Sequence[Probe], most_words: int | None = None
) -> tuple[Probe, ...]:
    """Return the probes for a model; the templates are probes without a text, one for each of its prompts.

    The first template gets every text, and the others the first text.
    """
    # A word is one token at least, so this is longer than the window by some.
    longest = max_seq_length + 16 if max_seq_length and max_seq_length <= _LARGEST_WINDOW else _WORDS_OF_LONG_TEXT
    longest = min(longest, most_words or longest)
    first, *others = templates
    return (
        *(replace(first, text=text) for text in TEXTS),
        replace(first, words=longest),
        *([Probe(TEXTS[0], query="")] if first.query is not None else ()),
        *(replace(other, text=TEXTS[0]) for other in others),
    )


def probe_to_json(probe: Probe) -> dict[str, Any]:
    """Return a probe as JSON holds it."""
    entry: dict[str, Any] = {"words": probe.words} if probe.words else {"text": probe.text}
    options = {"query": probe.query, "prompt": probe.prompt or None, "task": probe.task or None}
    return entry | {name: value for name, value in options.items() if value is not None}


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON holds it: numbers as base64 of little-endian float32, indices of 32-bit integers."""
    entry = probe_to_json(answer.probe)
    if answer.dimension:
        entry["dimension"] = answer.dimension
    if answer.indices is not None:
        entry["indices"] = _to_base64(array("I", answer.indices))
    return {**entry, "values": _to_base64(array("f", answer.values))}


def probe_from_json(entry: Mapping[str, Any]) -> Probe:
    """Read a probe back.

    Raises:
        ValueError: the entry is no probe.

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


def answer_from_json(entry: Mapping[str, Any], output: Output) -> Answer:
    """Read an answer of a model back that has this output.

    Raises:
        ValueError: the entry is no answer of that form.

    """
    probe, values = probe_from_json(entry), _from_base64("f", entry, "values", "32-bit floats")
    form = form_of(output, probe)
    if form not in (Output.SPARSE_VECTOR, Output.MATRIX):
        if not values:
            raise ValueError("an answer has no values")
        return Answer(probe, values)
    dimension = entry.get("dimension")
    if type(dimension) is not int or not 0 < dimension <= _LARGEST_DIMENSION:
        raise ValueError(f"an answer has no dimension from 1 to {_LARGEST_DIMENSION}")
    if form is Output.MATRIX:
        if len(values) % dimension:
            raise ValueError("an answer's rows are not of its dimension")
        return Answer(probe, values, dimension=dimension)
    indices = _from_base64("I", entry, "indices", "32-bit integers")
    ascend = all(one < other for one, other in pairwise(indices))
    if len(indices) != len(values) or not ascend or (indices and indices[-1] >= dimension):
        raise ValueError("an answer's indices are not one for each value, ascending and below its dimension")
    if 0 in values:
        raise ValueError("an answer's values are to be those that are not zero")
    return Answer(probe, values, indices, dimension)


def observation_to_json(observed: Observation) -> dict[str, Any]:
    """Return an observation as JSON holds it."""
    plain = {field.name: getattr(observed, field.name) for field in fields(observed)}
    return {**plain, "answers": [answer_to_json(answer) for answer in observed.answers]}


def _to_base64(numbers: array[Any]) -> str:
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def _from_base64(typecode: str, entry: Mapping[str, Any], key: str, of: str) -> array[Any]:
    numbers: array[Any] = array(typecode)
    try:
        numbers.frombytes(base64.b64decode(entry[key], validate=True))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"an answer's {key} are not base64 of {of}") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
