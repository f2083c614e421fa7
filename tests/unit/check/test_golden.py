"""models.golden.json: numbers are written so that they come back bit for bit, and a move is told with its probe."""

from __future__ import annotations

import json
import math
import tracemalloc
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
    Tolerance,
    format_golden,
    golden_of,
    moved,
    moved_prompts,
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


def answers(*values: array[float], golden: Golden = VECTORS) -> list[Answer]:
    """Answer the probes of a recording with these numbers."""
    return [Answer(then.probe, now) for then, now in zip(golden.answers, values, strict=True)]


def said(*values: array[float], golden: Golden = VECTORS) -> list[str]:
    """What is said of these numbers."""
    return list(moved(golden, answers(*values, golden=golden)))


def test_the_recorded_numbers_have_not_moved() -> None:
    """Neither have some whose last bits differ, as on another processor."""
    assert said(*(answer.values for answer in VECTORS.answers)) == []
    assert said(floats(1, 1e-4, 0), floats(0.6000001, 0.8, 0), floats(0, 1e-7, 0)) == []
    assert said(floats(0.25001), golden=SCORES) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((floats(1, 0.01, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), 'probe 1 of 3 ("one") moved: cosine 0.99995'),
        ((floats(1, 0, 0), floats(-0.6, -0.8, 0), floats(0, 0, 0)), 'probe 2 of 3 ("two" as query) moved: cosine -1.0'),
        ((floats(1, 0, 0), floats(0.6, 0.8, 0), floats(0, 0.1, 0)), "probe 3 of 3 (80 words) is no longer zero"),
        ((floats(0, 0, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), 'probe 1 of 3 ("one") has become zero'),
        ((floats(1, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), "gave 3 numbers, and now 2"),
        ((floats(math.nan, 0, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), "moved: cosine nan"),
    ],
)
def test_a_moved_vector_is_told_by_its_probe(values: tuple[array[float], ...], told: str) -> None:
    """Which one, and by how much; the others are not mentioned."""
    (line,) = said(*values)
    assert told in line


@pytest.mark.parametrize("value", [0.2502, math.nan, math.inf])
def test_a_moved_score_is_told(value: float) -> None:
    """A score is compared by its difference: 1e-4 is allowed."""
    (line,) = said(floats(value), golden=SCORES)
    assert 'probe 1 of 1 ("q" with "text") moved by' in line
    assert "0.0001 is allowed" in line


def told(golden: Golden, *found: Answer) -> str:
    """What is said of these answers, which is one sentence or none; those that are left out are as they were."""
    probes = [then.probe for then in golden.answers]
    now = [replace(answer, probe=probe) for answer, probe in zip(found, probes, strict=False)]
    return "".join(moved(golden, [*now, *golden.answers[len(found) :]]))


@pytest.mark.parametrize(
    ("now", "change"),
    [
        ({3: 0.6, 7: 0.8}, ""),
        ({3: 0.6000001, 7: 0.8, 9: 1e-5}, ""),
        ({3: 0.6, 7: 0.8, 9: 0.01}, "is no longer zero at 9"),
        ({3: 0.6, 8: 0.8}, "is no longer zero at 8 and has become zero at 7"),
        ({7: 0.8}, "has become zero at 3"),
        ({}, "has become zero"),
        ({3: 0.8, 7: 0.6}, "moved: cosine 0.960000, at least 0.99999"),
        ({3: 1.2, 7: 1.6}, "has another length: 1 then, 2 now"),
        ({3: 0.6, 7: math.nan}, "moved: cosine nan, at least 0.99999"),
        ({3: 0.6, 7: 0.8, 9: math.nan}, "is no longer zero at 9"),
        (dict.fromkeys(range(3, 12), 1.0), "is no longer zero at 4, 5, 6, 8, 9 and 2 more"),
    ],
)
def test_a_moved_sparse_vector_is_told_by_its_indices(now: dict[int, float], change: str) -> None:
    """Which came and which went; where the same ones are left, by its angle and its length, as any vector."""
    assert told(SPARSE, sparse(now)) == (change and f'probe 1 of 2 ("one" as document) {change}')


def test_the_longer_a_sparse_vector_the_more_may_come_and_go() -> None:
    """Its numbers are no parts of a unit vector: what is little of it is so by its length."""
    coarse = replace(SPARSE, tolerance=tolerance_for("bfloat16"))
    long = replace(coarse, answers=(replace(sparse({3: 3, 7: 4}), probe=SPARSE.answers[0].probe),))
    assert told(coarse, sparse({3: 0.6, 7: 0.8, 9: 0.015})).endswith("is no longer zero at 9")
    assert told(long, sparse({3: 3, 7: 4, 9: 0.045})) == ""
    assert told(long, sparse({3: 3, 7: 4, 9: 0.055})).endswith("is no longer zero at 9")


def test_a_sparse_vector_of_another_vocabulary_is_told() -> None:
    """Its indices stand for other words; and one that was zero is one no longer."""
    assert told(SPARSE, sparse({3: 0.6, 7: 0.8}, 30_523)).endswith("gave 30522 numbers, and now 30523")
    assert told(SPARSE, SPARSE.answers[0], sparse({9: 1.0})) == 'probe 2 of 2 ("" as query) is no longer zero'


def test_zeros_of_a_sparse_vector_take_no_memory() -> None:
    """A hostile model gives a million of them for each of many texts, and each later check compares these."""
    dimension = 1 << 20
    wide = replace(SPARSE, answers=(sparse({0: 0.6, dimension - 1: 0.8}, dimension),))
    tracemalloc.start()
    try:
        assert told(wide, sparse({0: 0.8, dimension - 1: 0.6}, dimension)).endswith(
            "moved: cosine 0.960000, at least 0.99999"
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < dimension


@pytest.mark.parametrize("now", [floats(math.nan, 0, 0), floats(0, 0, math.nan), floats(0, math.inf, math.nan)])
def test_a_vector_that_was_zero_is_told_wherever_it_is_not_finite(now: array[float]) -> None:
    """No comparison with NaN holds, so it is looked for; and of a sparse vector its place decides nothing, either."""
    assert said(VECTORS.answers[0].values, VECTORS.answers[1].values, now) == [
        "probe 3 of 3 (80 words) is no longer zero"
    ]
    numbers = {index: value for index, value in enumerate(now) if value}
    assert told(SPARSE, SPARSE.answers[0], sparse(numbers)) == 'probe 2 of 2 ("" as query) is no longer zero'


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (matrix((1, 0), (0.6, 0.8), (0, 0)), ""),
        (matrix((1, 1e-4), (0.6000001, 0.8), (0, 1e-5)), ""),
        (matrix((1, 0), (0.8, 0.6), (0, 0)), "moved in row 2 of 3: cosine 0.960000, at least 0.99999"),
        (matrix((1, 0.1), (0.8, 0.6), (0, 0)), "moved in row 2 of 3: cosine 0.960000, at least 0.99999"),
        (matrix((1, 0.1), (0.6, 0.8), (0, 0)), "moved in row 1 of 3: cosine 0.995037, at least 0.99999"),
        (matrix((2, 0), (0.6, 0.8), (0, 0)), "has another length in row 1 of 3: 1 then, 2 now"),
        (matrix((0, 0), (0.8, 0.6), (0, 0)), "has become zero in row 1 of 3"),
        (matrix((1, 0), (0.6, 0.8), (1, 0)), "is no longer zero in row 3 of 3"),
        (matrix((1, 0), (0.6, math.nan), (1, 0)), "moved in row 2 of 3: cosine nan, at least 0.99999"),
        (matrix((1, 0), (0.6, 0.8)), "gave 3 rows, and now 2"),
        (matrix(), "gave 3 rows, and now 0"),
        (matrix((1, 0, 0), (0.6, 0.8, 0), columns=3), "gave 2 numbers, and now 3"),
    ],
)
def test_a_moved_matrix_is_told_by_its_row(now: Answer, change: str) -> None:
    """The one that has moved the most; another count of rows is a move, however equal the others are."""
    assert told(MATRICES, now) == (change and f'probe 1 of 2 ("one" as document) {change}')


@pytest.mark.parametrize(
    ("score", "change"),
    [
        (20.001, ""),
        (20.01, "moved by 0.01; 0.002 is allowed"),
        (math.nan, "moved by nan; 0.002 is allowed"),
        (math.inf, "moved by inf; 0.002 is allowed"),
    ],
)
def test_a_moved_score_of_two_matrices_is_told(score: float, change: str) -> None:
    """It is a sum of one number for each row of the query, so the larger it is the more it may move."""
    pair = Answer(Probe(), floats(score))
    assert told(MATRICES, MATRICES.answers[0], pair) == (change and f'probe 2 of 2 ("q" with "one") {change}')


def test_the_tolerance_is_the_files_own() -> None:
    """Whoever knows that the processors differ may say how much is too much."""
    values = (floats(1, 0.01, 0), floats(0.6, 0.8, 0), floats(0, 0, 0))
    assert said(*values, golden=replace(VECTORS, tolerance=Tolerance(cosine=0.9))) == []
    assert len(said(*values, golden=replace(VECTORS, tolerance=Tolerance(cosine=0.99996)))) == 1


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


def test_a_probe_that_was_not_answered_is_told() -> None:
    """Silence is no agreement."""
    assert list(moved(SCORES, [])) == ['probe 1 of 1 ("q" with "text") was not answered']


def test_another_prompt_is_told_by_its_name() -> None:
    """It changes every vector made with it; the one that is used without asking, too."""
    assert list(moved_prompts(VECTORS, {"query": "query: ", "": "query"})) == []
    assert list(moved_prompts(VECTORS, {"query": "q: "})) == [
        'the default prompt was "query" and is ""',
        'the prompt "query" was "query: " and is "q: "',
    ]


def test_a_prompt_is_told_short_and_on_one_line() -> None:
    """It is the model's text: it draws no row, and does not hide the other one."""
    (told,) = moved_prompts(VECTORS, {"query": "q:\n   proven\x1b[2J" + "x" * 10_000, "": "query"})
    assert told.startswith('the prompt "query" was "query: " and is "q:\\n \\x20 proven\\x1b[2Jxxx')
    assert told.endswith('x…"')
    assert len(told) < 300


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
