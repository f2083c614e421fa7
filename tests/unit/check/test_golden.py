"""models.golden.json: numbers are written so that they come back bit for bit; and the probes."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.check.golden import (
    Golden,
    format_golden,
    golden_of,
    parse_golden,
    tolerance_for,
)
from modelcache.check.probes import PAIRS, QUERY, TEXTS, Answer, Probe, answer_from_json, answer_to_json, probes_for
from modelcache.cli.commands import check
from modelcache.core.errors import CacheModelsError, UsageError
from modelcache.core.kinds import Kind, Output
from modelcache.core.types import LockedFile, LockedModel, set_digest

DIGEST = "a" * 64


def floats(*values: float) -> array[float]:
    """32-bit floats, as models give them."""
    return array("f", values)


VECTORS = Golden(
    "a/b",
    Kind.EMBEDDING,
    (
        Answer(Probe("one"), floats(1, 0, 0)),
        Answer(Probe("two", prompt="query"), floats(0.6, 0.8, 0)),
        Answer(Probe(words=80), floats(0, 0, 0)),
    ),
    {"query": "query: ", "": "query"},
    {"torch": "2.13.0"},
)
SCORES = Golden("a/b", Kind.RERANKER, (Answer(Probe("text", query="q"), floats(0.25)),), {}, {"torch": "2.13.0"})
FILE = {DIGEST: VECTORS, "b" * 64: SCORES}


def sparse(numbers: Mapping[int, float], dimension: int = 30_522) -> Answer:
    """A sparse vector by its indices, without its probe."""
    return Answer(Probe(), floats(*numbers.values()), array("I", numbers), dimension)


def matrix(*rows: Sequence[float], columns: int = 2) -> Answer:
    """A matrix of these rows, without its probe."""
    return Answer(Probe(), floats(*(number for row in rows for number in row)), dimension=columns)


SPARSE = Golden(
    "a/b",
    Kind.SPARSE,
    (
        replace(sparse({3: 0.6, 7: 0.8}), probe=Probe("one", prompt="document")),
        replace(sparse({}), probe=Probe("", prompt="query")),
    ),
)
MATRICES = Golden(
    "a/b",
    Kind.MULTI_VECTOR,
    (
        replace(matrix((1, 0), (0.6, 0.8), (0, 0)), probe=Probe("one", prompt="document")),
        Answer(Probe("one", query="q"), floats(20)),
    ),
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
PROBES = st.builds(
    Probe,
    text=st.text(max_size=20),
    words=st.just(0),
    query=st.none() | st.text(max_size=9),
    prompt=st.sampled_from(["", "query"]),
    task=st.sampled_from(["", "a"]),
) | st.builds(Probe, words=st.integers(1, 10_000))
ANSWERS = st.builds(Answer, PROBES, st.lists(FLOATS, min_size=1, max_size=8).map(lambda values: array("f", values)))


@given(ANSWERS)
def test_an_answer_comes_back_bit_for_bit(answer: Answer) -> None:
    """Any text, any numbers."""
    back = answer_from_json(json.loads(json.dumps(answer_to_json(answer))), Output.VECTOR)
    assert back.probe == answer.probe
    assert back.values.tobytes() == answer.values.tobytes()


@settings(deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2))
def test_a_file_comes_back(answers: list[Answer], prompts: dict[str, str]) -> None:
    """What is written is read, whatever the texts hold."""
    file = {DIGEST: Golden("a/b", Kind.EMBEDDING, tuple(answers), prompts, {"torch": "2"})}
    back = parse_golden(format_golden(file).encode(), "x")
    assert format_golden(back) == format_golden(file)
    assert [answer.probe for answer in back[DIGEST].answers] == [answer.probe for answer in answers]


@pytest.mark.parametrize("golden", [SPARSE, MATRICES], ids=["sparse", "matrices"])
def test_answers_of_the_other_forms_come_back_bit_for_bit(golden: Golden) -> None:
    """Indices, the dimension, a vector of zeros, the rows; none of these keys stands with a vector or a score."""
    back = parse_golden(format_golden({DIGEST: golden}).encode(), "x")[DIGEST]
    assert repr(back.answers) == repr(golden.answers)
    old = json.loads(format_golden(FILE))
    keys = {key for entry in old["models"].values() for answer in entry["answers"] for key in answer}
    assert keys == {"text", "words", "query", "prompt", "values"}
    assert old["format"] == 1


def test_a_recorded_file_of_before_is_read_and_written_as_it_was() -> None:
    """Byte for byte: its digest may be pinned, too."""
    before = f"""{{
 "format": 1,
 "models": {{
  "{DIGEST}": {{
   "id": "a/b",
   "kind": "embedding",
   "tolerance": {{"cosine": 0.99999, "score": 0.0001}},
   "versions": {{"torch": "2.13.0"}},
   "prompts": {{"": "query", "query": "query: "}},
   "answers": [
    {{"text": "one", "values": "AACAPwAAAAAAAAAA"}},
    {{"text": "two", "prompt": "query", "values": "mpkZP83MTD8AAAAA"}},
    {{"words": 80, "values": "AAAAAAAAAAAAAAAA"}}
   ]
  }},
  "{"b" * 64}": {{
   "id": "a/b",
   "kind": "reranker",
   "tolerance": {{"cosine": 0.99999, "score": 0.0001}},
   "versions": {{"torch": "2.13.0"}},
   "prompts": {{}},
   "answers": [
    {{"text": "text", "query": "q", "values": "AACAPg=="}}
   ]
  }}
 }}
}}
"""
    assert format_golden(FILE) == before
    assert format_golden(parse_golden(before.encode(), "x")) == before


def test_the_file_is_for_people_to_compare() -> None:
    """One line an answer, sorted by digest, no date; an empty one is valid, too."""
    text = format_golden(FILE)
    assert text.count("\n    {") == 4
    assert text == format_golden(dict(reversed(FILE.items())))
    assert parse_golden(format_golden({}).encode(), "x") == {}


def test_the_fewer_bits_the_more_may_a_number_move() -> None:
    """Two thirds of the bits of float32 are missing in bfloat16, and the last ones are the processor's."""
    strict, loose = tolerance_for("float32"), tolerance_for("bfloat16")
    assert strict == tolerance_for("float64")
    assert loose == tolerance_for("float16")
    assert loose.cosine < strict.cosine
    assert loose.score > strict.score


def test_the_same_files_as_another_kind_are_not_known() -> None:
    """Scores say nothing about vectors."""
    model = LockedModel(Kind.RERANKER, "a/b", "main", "c" * 40, (LockedFile("x", 1, "d" * 64),))
    digest = set_digest(model.files)
    assert golden_of(model, {digest: SCORES}) == SCORES
    assert golden_of(model, {digest: VECTORS}) is None
    assert golden_of(model, {}) is None


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Change keys of the whole."""
    return lambda document: document.update(values)


def change_model(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Change keys of a model."""
    return lambda document: document["models"][DIGEST].update(values)


@pytest.mark.parametrize(
    "damage",
    [
        change(format=2),
        change(format=None),
        change(format="1\n  ready    all"),
        change_model(answers=[], id="a\n  ready    all"),
        change(models=[]),
        change(models={DIGEST: 1}),
        change_model(tolerance={}),
        change_model(tolerance={"cosine": 0, "score": 0}),
        change_model(tolerance={"cosine": 0.9, "score": math.inf}),
        change_model(tolerance={"cosine": 1, "score": 0}),
        change_model(tolerance={"cosine": 10**400, "score": 0}),
        change_model(answers=[]),
        change_model(answers=[{"text": "a", "values": ""}]),
        change_model(kind="sparse"),
        change_model(kind="multi_vector"),
        change_model(kind="other kind"),
        change_model(
            kind="sparse", answers=[{"text": "a", "dimension": 2, "indices": "AgAAAA==", "values": "AACAPw=="}]
        ),
        change_model(kind="multi_vector", answers=[{"text": "a", "dimension": 2, "values": "AACAPw=="}]),
        change_model(answers=[{"values": ""}]),
        change_model(answers=[{"text": "a", "values": "?"}]),
        change_model(answers=[{"text": "a", "values": "AAA="}]),
        change_model(answers=[{"words": -1, "values": ""}]),
        change_model(answers=[{"words": 10**9, "values": ""}]),
        change_model(answers=[{"text": "a", "query": 1, "values": ""}]),
        change_model(prompts=1),
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[dict[str, Any]], None]) -> None:
    """Exit 2, and how to make it anew."""
    document = json.loads(format_golden(FILE))
    damage(document)
    with pytest.raises(UsageError) as caught:
        parse_golden(json.dumps(document).encode(), "models.golden.json")
    assert "models.golden.json" in caught.value.message
    assert caught.value.message.isprintable()
    assert "check --record" in caught.value.hint


@settings(deadline=None)
@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from(["format", "models", "tolerance", "cosine", "score", "answers", "text", "values", "x"]), inner
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_golden_or_refused(content: bytes) -> None:
    """Whatever lies there, it is never a bug of ours."""
    with suppress(UsageError):
        parse_golden(content, "x")


# The probes


def test_embeddings_are_asked_in_several_scripts_and_beyond_their_limit() -> None:
    """An empty text, one longer than the limit, every prompt."""
    probes = probes_for(64, [Probe(), Probe(prompt="query"), Probe(task="a")])
    assert "" in [probe.text for probe in probes if not probe.words]
    (long,) = [probe for probe in probes if probe.words]
    assert len(long.input_text().split()) > 64
    assert {(probe.prompt, probe.task) for probe in probes} == {("", ""), ("query", ""), ("", "a")}
    assert len({text.encode()[:1] for text in TEXTS}) > 4
    assert all(probe.query is None for probe in probes)


def test_rerankers_are_asked_in_pairs() -> None:
    """One query with every text, and no query at all."""
    probes = probes_for(512, [Probe(query=QUERY)])
    assert all(probe.query is not None for probe in probes)
    assert {probe.query for probe in probes} > {""}
    assert any(probe.words > 512 for probe in probes)


def test_a_long_text_has_as_many_words_as_the_file_can_hold() -> None:
    """Where each token gives a vector; a window that is shorter is passed all the same."""
    assert [max(probe.words for probe in probes_for(limit, [Probe()], 320)) for limit in (None, 8192, 64)] == [
        320,
        320,
        80,
    ]


@pytest.mark.parametrize("limit", [None, 1 << 20, 32_768])
def test_a_limit_that_is_none_costs_no_minutes(limit: int | None) -> None:
    """Where a text beyond the limit would take gigabytes, a long one has to do."""
    assert max(probe.words for probe in probes_for(limit, [Probe()])) == 2_000


@pytest.mark.parametrize("pair", PAIRS)
def test_words_to_tell_apart_are_equally_long(pair: tuple[str, str]) -> None:
    """Letter by letter and byte by byte: whoever knows none of them must see no difference."""
    one, other = pair
    assert one != other
    assert (len(one), len(one.encode())) == (len(other), len(other.encode()))


def test_numbers_that_could_not_be_read_again_are_not_recorded(tmp_path: Path) -> None:
    """A model's code may give a lot of them; those that were recorded before stay."""
    path = tmp_path / "models.golden.json"
    path.write_text(format_golden({"d": VECTORS}))
    before, errors = path.read_bytes(), list[CacheModelsError]()
    assert not check._write_golden(path, {"d": VECTORS}, errors, limit=100)
    assert path.read_bytes() == before
    (error,) = errors
    assert error.exit_code == 6
    assert VECTORS.id in (error.hint or "")


def test_numbers_that_cannot_be_written_advise_manifest_and_not_root(tmp_path: Path) -> None:
    """models.golden.json lies beside the manifest, whatever the root is."""
    errors = list[CacheModelsError]()
    assert not check._write_golden(tmp_path / "gone" / "models.golden.json", {"d": VECTORS}, errors)
    (error,) = errors
    assert error.exit_code == 4
    assert "--manifest" in error.hint
    assert "--root" not in error.hint
