"""Parse the line of JSON in which the process of a model reports, without trusting it.

The model's own code runs in that process, so the line can be anything. Fields that are only printed are escaped and
shortened here; fields that are recorded and compared keep their text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn

from modelcache.check.confine.isolation import LONGEST_ANSWER
from modelcache.check.pip_packages import PACKAGES
from modelcache.check.probes import Answer, Observation, answer_from_json
from modelcache.core.kinds import Output
from modelcache.core.text import one_line, quote

# Each bracket and comma may become an object; so many take 20 MB, and one for each byte of a line takes 400 MB.
_MOST_ITEMS = 1 << 18
_MOST_PROMPTS, _LONGEST_PROMPT, _LONGEST_TEXTS = 1_000, 100_000, 1 << 20
_HIGHEST_COUNT, _HIGHEST_PEAK, _MOST_SECONDS = 1 << 24, 1 << 50, 1e6
_HALF = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z0-9_.-]{0,32}")


def read_observation(line: bytes, output: Output) -> Observation:
    """Parse the observation of a model that has this output.

    Raises:
        ValueError: it is not as `observation_to_json` writes it; the message is one line that can be printed.

    """
    entry = _object_of(line)
    if missing := [name for name in _READERS if name not in entry]:
        raise ValueError(f"its answer has no `{missing[0]}`")
    if unknown := [name for name in entry if name not in _READERS]:
        raise ValueError(f"its answer has an unknown field {quote(unknown[0])}")
    found = {}
    readers: Mapping[str, Callable[[Any], Any]] = {**_READERS, "answers": partial(_answers, output=output)}
    for name, read in readers.items():
        try:
            found[name] = read(entry[name])
        except ValueError as error:
            raise ValueError(f"the `{name}` of its answer: {error}") from None
    observed = Observation(**found)
    if not observed.error and not observed.answers:
        raise ValueError("its answer has neither an error nor numbers")
    if observed.error and observed.answers:
        raise ValueError("its answer has both an error and numbers")
    if observed.answers and not observed.dimension:
        raise ValueError("its answer has numbers and no dimension")
    return observed


def _object_of(line: bytes) -> Mapping[str, object]:
    if len(line) > LONGEST_ANSWER:
        raise ValueError(f"its answer is longer than {LONGEST_ANSWER >> 20} MiB")
    try:
        text = line.decode()
        small = sum(map(text.count, "[{,")) <= _MOST_ITEMS
        entry = (
            json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant) if small else {}
        )
    except (ValueError, RecursionError):
        raise ValueError("its answer is no JSON") from None
    if not small:
        raise ValueError("its answer has too many parts")
    if not isinstance(entry, dict):
        raise ValueError("its answer is no JSON object")
    return entry


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _printed_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no string")
    return one_line(value)


def _printed_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("no list of strings")
    return tuple(map(_printed_text, value))


def _packages(value: object) -> tuple[str, ...]:
    """Return the packages that a model lacks; a name that is not in our own table is refused."""
    names = _printed_texts(value)
    if unknown := set(names) - set(PACKAGES.values()):
        raise ValueError(f"an unknown package {quote(min(unknown))}")
    return names


def _checked(kind: type, fits: Callable[[Any], object], otherwise: str) -> Callable[[object], Any]:
    """Return a reader of values of exactly one type that fit; `otherwise` is its error."""

    def read(value: object) -> object:
        if type(value) is not kind or not fits(value):
            raise ValueError(otherwise)
        return value

    return read


def _natural(highest: int) -> Callable[[object], Any]:
    return _checked(int, lambda number: 0 <= number <= highest, f"no number from 0 to {highest}")


def _recorded(text: object) -> str:
    """Return a text as it is; half a character is refused, since no file can hold it."""
    if not isinstance(text, str) or len(text) > _LONGEST_PROMPT:
        raise ValueError(f"no text of {_LONGEST_PROMPT} characters at most")
    if _HALF.search(text):
        raise ValueError("half a character")
    return text


def _all_recorded(texts: Iterable[object]) -> list[str]:
    """Return texts as they are; too long ones together are refused, since those of all models are in one file."""
    found = list(map(_recorded, texts))
    if sum(map(len, found)) > _LONGEST_TEXTS:
        raise ValueError(f"texts of more than {_LONGEST_TEXTS} characters")
    return found


def _prompts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _MOST_PROMPTS:
        raise ValueError(f"no texts by name, {_MOST_PROMPTS} at most")
    _all_recorded([*value, *value.values()])
    return value


def _answers(value: object, output: Output) -> tuple[Answer, ...]:
    if not isinstance(value, list):
        raise ValueError("no list of answers")
    answers = tuple(answer_from_json(entry, output) for entry in value)
    probes = [answer.probe for answer in answers]
    _all_recorded(text for one in probes for text in (one.text, one.query or "", one.prompt, one.task))
    return answers


_count = _natural(_HIGHEST_COUNT)
_word = _checked(str, _WORD.fullmatch, "no short word")
_READERS: Mapping[str, Callable[[Any], Any]] = {
    **{one.name: _printed_texts for one in fields(Observation)},  # most are, and the others follow
    "error": _printed_text,
    "failed_step": _printed_text,
    "missing_packages": _packages,
    "seconds": _checked(float, lambda seconds: 0 <= seconds <= _MOST_SECONDS, "no number of seconds"),
    "peak_memory": _natural(_HIGHEST_PEAK),
    "dimension": _count,
    "max_seq_length": lambda value: None if value is None else _count(value),
    "similarity": _word,
    "dtype": _word,
    "default_pooling": _checked(bool, lambda _: True, "neither true nor false"),
    "prompts": _prompts,
}
