"""What a stranger says of its model: an answer in its shape comes through unchanged, anything else is told as wrong."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.check.confine.isolation import LONGEST_ANSWER
from modelcache.check.golden import Golden, Tolerance, format_golden, parse_golden
from modelcache.check.probes import Answer, Observation, Probe, observation_to_json
from modelcache.check.verdict import Verdict, judge, recorded
from modelcache.check.worker_answer import read_observation
from modelcache.cli.bars import BarReporter
from modelcache.cli.commands import check
from modelcache.cli.messages import error_lines
from modelcache.cli.progress import JsonReporter, LineReporter
from modelcache.core.errors import CheckError
from modelcache.core.kinds import Kind, Output
from modelcache.core.types import set_digest
from tests.support.published_model import pinned

MODEL = pinned()
GIVEN = Answer(Probe("law", prompt="query"), array("f", [0.5, float("nan")]))
WELL = Observation(
    seconds=1.5,
    peak_memory=1 << 33,
    dimension=2,
    max_seq_length=512,
    similarity="cosine",
    dtype="float32",
    newly_initialized_unused=("pooler.weight",),
    constant_prompts=(" as query",),
    prompts={"query": "Instruct: find\nQuery: ", "": "query"},
    answers=(GIVEN,),
)
SPARSE = Answer(Probe("law", prompt="query"), array("f", [0.5, -2]), array("I", [3, 70_000]), 1 << 20)
MATRIX = Answer(Probe("law", prompt="query"), array("f", [0.5, -2, 0, 1]), dimension=2)
PAIR = Answer(Probe("law", query="river"), array("f", [0.5]))
OF_KIND: dict[Kind, Observation] = {
    Kind.SPARSE: replace(WELL, dimension=1 << 20, answers=(SPARSE, Answer(Probe(), array("f"), array("I"), 1 << 20))),
    Kind.MULTI_VECTOR: replace(WELL, answers=(MATRIX, Answer(Probe(), array("f"), dimension=2), PAIR)),
}
FAILED = Observation(attempts=("hub:443",), missing_folders=("1_Pooling",), error="OSError: no such file (load.py:3)")
FIELDS = [one.name for one in fields(Observation)]
LISTS = [one.name for one in fields(Observation) if one.type == "Sequence[str]" and one.name != "missing_packages"]
ENTRY = observation_to_json(WELL)


def line_of(**changes: object) -> bytes:
    """Return an answer, some fields of which are others."""
    return json.dumps({**ENTRY, **changes}).encode()


def sent(observed: Observation) -> bytes:
    """Return an observation as the process of a model sends it."""
    return json.dumps(observation_to_json(observed)).encode()


def refused(line: bytes, output: Output = Output.VECTOR) -> str:
    """Return what is said of a line that is no answer: one line, which can be printed."""
    with pytest.raises(ValueError, match=r"^(its answer|the `\w+` of its answer)") as caught:
        read_observation(line, output)
    assert type(caught.value) is ValueError
    told = str(caught.value)
    assert told.isprintable()
    assert len(told) < 200
    return told


@pytest.mark.parametrize(
    ("seen", "kind"),
    [(WELL, Kind.EMBEDDING), (FAILED, Kind.EMBEDDING), *((seen, kind) for kind, seen in OF_KIND.items())],
)
def test_an_answer_comes_through_unchanged(seen: Observation, kind: Kind) -> None:
    """To the bit."""
    back = read_observation(sent(seen), kind.spec.output)
    assert repr(back) == repr(seen)
    assert observation_to_json(back) == observation_to_json(seen)


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_has_to_be_there(field: str) -> None:
    """An answer without one is told by its name; one beside them is told, too."""
    without = {name: value for name, value in ENTRY.items() if name != field}
    assert refused(json.dumps(without).encode()) == f"its answer has no `{field}`"
    assert refused(line_of(**{f"{field}\n": 1})) == f'its answer has an unknown field "{field}\\n"'


VALUES: list[object] = [None, True, 0, -1, 1 << 60, 10**400, 1.0, -1.0, 1e7, "", "a b", "x" * 200_000, [], [1], [[]]]
VALUES += [["x", None], {}, {"x": 1}, {"x": "\ud800"}, {"\ud800": "x"}, [{}], [None], ["x"], {"x": []}]


def _is_list(value: object) -> bool:
    return value in ([], ["x"])


RIGHT: dict[str, Callable[[object], bool]] = {
    "error": lambda value: value == "",
    "failed_step": lambda value: isinstance(value, str),
    "missing_packages": lambda value: value == [],
    "seconds": lambda value: type(value) is float and 0 <= value < 1e7,
    "peak_memory": lambda value: type(value) is int and value == 0,
    "dimension": lambda value: False,
    "max_seq_length": lambda value: value is None or (type(value) is int and value == 0),
    "similarity": lambda value: value == "",
    "dtype": lambda value: value == "",
    "default_pooling": lambda value: value is True,
    "prompts": lambda value: value == {},
    "answers": lambda value: False,
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_has_its_type_and_its_bounds(field: str) -> None:
    """A truth is no number, a number no text, half a character nothing that could be written."""
    right = RIGHT.get(field, _is_list)
    for value in VALUES:
        line = line_of(**{field: value})
        if right(value):
            read_observation(line, Output.VECTOR)
        else:
            assert field in refused(line) or "its answer has" in refused(line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "its answer is no JSON"),
        ("\ufeff{}", "its answer is no JSON"),
        ("{}", "its answer has no `attempts`"),
        ("[]", "its answer is no JSON object"),
        ('"x"', "its answer is no JSON object"),
        ("\x1b[2J", "its answer is no JSON"),
        ("9" * 10_000, "its answer is no JSON"),
        ("[" * 100_000, "its answer is no JSON"),
        ('{"a":' * 100_000, "its answer is no JSON"),
        ("[" * 300_000, "its answer has too many parts"),
        ("[[]" + ",[]" * 5_000_000 + "]", "its answer has too many parts"),
        ("[0" + ",0" * 8_000_000 + "]", "its answer has too many parts"),
        ("x" * (LONGEST_ANSWER + 1), "its answer is longer than 16 MiB"),
        ('{"attempts": [], "attempts": []}', "its answer is no JSON"),
        (line_of().replace(b"512", b"NaN"), "its answer is no JSON"),
        (line_of().replace(b"1.5", b"-Infinity"), "its answer is no JSON"),
        (line_of().replace(b"1.5", b"1e999"), "the `seconds` of its answer: no number of seconds"),
        (line_of(answers=[]), "its answer has neither an error nor numbers"),
        (line_of(error="x"), "its answer has both an error and numbers"),
        (line_of(dimension=0), "its answer has numbers and no dimension"),
        (line_of(prompts={str(number): "" for number in range(1001)}), "no texts by name"),
        (line_of(answers=[{"text": "\ud800", "values": "AAAAAA=="}]), "half a character"),
        (line_of(answers=[{"words": True, "values": "AAAAAA=="}]), "neither text nor words"),
        (line_of(answers=[{"text": "", "values": "é"}]), "not base64"),
    ],
)
def test_a_line_that_is_no_answer_is_told(line: str | bytes, told: str) -> None:
    """In words about the answer, whatever Python says of it."""
    assert told in refused(line.encode() if isinstance(line, str) else line)


def test_bytes_that_are_no_text_are_told() -> None:
    """Not UTF-8, or UTF-8 of halves of characters; JSON in UTF-16 is no line of ours either."""
    for content in (
        b"\xff",
        b'{"\xed\xa0\x80": 1}',
        line_of().decode().encode("utf-16"),
        line_of().decode().encode("utf-32-le"),
    ):
        assert refused(content) == "its answer is no JSON"


@pytest.mark.slow
def test_no_line_takes_much_memory() -> None:
    """Nothing that fits into a line becomes more than a few times its size."""
    program = """
import resource, sys
from modelcache.check.confine.isolation import LONGEST_ANSWER
from modelcache.check.worker_answer import read_observation
from modelcache.core.kinds import Output
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for one in ("[[]", ",[]", "]"), ("[0", ",10", "]"), ('["a"', ',"ab"', "]"), ('{"":[', '"\\U00010348",', ""):
    line = (one[0] + one[1] * (LONGEST_ANSWER // len(one[1].encode()) - 9) + one[2]).encode()
    for part in (line, line[: 3 * 262_000] + b"]"):
        try:
            read_observation(part, Output.MATRIX)
        except ValueError as error:
            assert "its answer" in str(error)
assert len(read_observation(sys.stdin.buffer.read(), Output.SPARSE_VECTOR).answers[0].values) == 1 << 20
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    full = of_kind(Kind.SPARSE, indices=packed("I", *range(1 << 20)), values=packed("f", *[0.5] * (1 << 20)))
    done = subprocess.run([sys.executable, "-c", program], input=full, capture_output=True, check=True)
    assert int(done.stdout) < 160


TEXTS = st.text(max_size=20) | st.sampled_from(["\ud800", "\n  proven   a/b", "\x1b[2J", "\u202e", "x" * 2000])
PARTS = st.none() | st.booleans() | st.integers() | st.floats(width=32) | TEXTS
TREES = st.recursive(
    PARTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | TEXTS, inner)
)


def heard(line: bytes, output: Output = Output.VECTOR) -> Observation | None:
    """Return what is read of a line, or None where it is refused."""
    with suppress(ValueError):
        return read_observation(line, output)
    refused(line, output)
    return None


@settings(deadline=None)
@given(
    st.binary()
    | TREES.map(lambda one: json.dumps(one).encode())
    | st.dictionaries(st.sampled_from(FIELDS), TREES).map(lambda one: line_of(**one))
)
def test_any_line_is_an_answer_or_refused(line: bytes) -> None:
    """Never anything but a ValueError, and what comes through can be judged, told, recorded, and sent again."""
    if seen := heard(line):
        told_of(seen)
        back = read_observation(sent(seen), Output.VECTOR)
        assert observation_to_json(back) == observation_to_json(seen)


@settings(deadline=None)
@given(st.integers(0, len(line_of())), st.integers(0, 9), st.binary(max_size=9))
def test_an_answer_with_other_bytes_in_it_is_an_answer_or_refused(start: int, length: int, other: bytes) -> None:
    """Wherever they stand."""
    line = line_of()
    if seen := heard(line[:start] + other + line[start + length :]):
        told_of(seen)


FLOATS = st.lists(st.floats(width=32), min_size=2, max_size=2).map(lambda values: array("f", values))


@settings(deadline=None)
@given(FLOATS, FLOATS, st.booleans())
def test_any_numbers_are_judged(then: array[float], now: array[float], reranker: bool) -> None:
    """Endless ones, and those at the end of what a float holds."""
    model = replace(MODEL, kind=Kind.RERANKER) if reranker else MODEL
    golden = {set_digest(model.files): Golden(model.id, model.kind, (replace(GIVEN, values=then),), WELL.prompts)}
    seen = replace(WELL, answers=(replace(GIVEN, values=now),))
    verdict = judge(model, read_observation(sent(seen), model.kind.spec.output), golden)
    assert verdict.proven
    assert not (then == now and all(map(math.isfinite, then)) and verdict.moves)


def of_kind(kind: Kind, **changes: object) -> bytes:
    """Return an answer of a model of this kind; keys of its first answer are others, or are gone where None."""
    entry = observation_to_json(OF_KIND[kind])
    first = {name: value for name, value in {**entry["answers"][0], **changes}.items() if value is not None}
    return json.dumps({**entry, "answers": [first, *entry["answers"][1:]]}).encode()


def packed(typecode: str, *numbers: float) -> str:
    """Return numbers as an answer has them."""
    return base64.b64encode(array(typecode, numbers).tobytes()).decode()


DIMENSIONS: list[object] = [None, 0, -1, True, 2.0, "2", [], 1 << 21, 10**400]
NO_BASE64: list[object] = [None, 1, [3, 4], "?", "AAA=", "é"]
INDICES = [(), (3,), (1, 2, 3), (4, 3), (3, 3), (3, 1 << 20), (0, (1 << 32) - 1)]
_ORDER = "indices are not one for each value, ascending and below its dimension"
FORMS: list[tuple[Kind, str, object, str]] = [
    *[(kind, "dimension", value, "no dimension from 1 to") for kind in OF_KIND for value in DIMENSIONS],
    *[(kind, "values", value, "values are not base64") for kind in OF_KIND for value in NO_BASE64],
    (Kind.MULTI_VECTOR, "dimension", 3, "rows are not of its dimension"),
    (Kind.MULTI_VECTOR, "values", packed("f", 1), "rows are not of its dimension"),
    *[(Kind.SPARSE, "indices", value, "indices are not base64") for value in NO_BASE64],
    *[(Kind.SPARSE, "indices", packed("I", *indices), _ORDER) for indices in INDICES],
    (Kind.SPARSE, "dimension", 70_000, _ORDER),
    (Kind.SPARSE, "values", packed("f", 1, 0), "values are to be those that are not zero"),
    (Kind.SPARSE, "values", packed("f", 1, -0.0), "values are to be those that are not zero"),
]


@pytest.mark.parametrize(("kind", "key", "value", "told"), FORMS)
def test_an_answer_of_another_form_is_refused(kind: Kind, key: str, value: object, told: str) -> None:
    """Indices that go back, twice the same, or beyond the vector; half a row; a zero among what is not zero."""
    assert told in refused(of_kind(kind, **{key: value}), kind.spec.output)
    assert heard(of_kind(kind), kind.spec.output)


def test_an_answer_has_the_form_of_its_models_kind() -> None:
    """A vector is not taken for a sparse one, and a sparse one not for a vector with few numbers."""
    for kind in OF_KIND:
        assert "no dimension" in refused(line_of(), kind.spec.output)
    assert "indices" in refused(of_kind(Kind.MULTI_VECTOR), Output.SPARSE_VECTOR)
    assert "no values" in refused(of_kind(Kind.MULTI_VECTOR, query="x", values=""), Output.MATRIX)


def test_the_largest_vector_costs_little() -> None:
    """A million places, of which the last has a number: the zeros are made for a comparison only."""
    kind = Kind.SPARSE
    line = of_kind(kind, indices=packed("I", (1 << 20) - 1), values=packed("f", 0.5))
    assert len(line) < 2_000
    seen = read_observation(line, kind.spec.output)
    then = (SPARSE, *seen.answers[1:])
    verdict = told_of(seen, Golden(MODEL.id, kind, then, WELL.prompts), kind)
    assert any("is no longer zero at 1048575 and has become zero at 3, 70000" in move for move in verdict.moves)


NUMBERS = st.floats(width=32) | st.sampled_from([0.0, 1e-5, 1.0])
SPARSE_ANSWERS = st.dictionaries(st.integers(0, 99), NUMBERS.filter(bool), max_size=4).map(
    lambda found: replace(SPARSE, dimension=100, values=array("f", [found[one] for one in sorted(found)]),
                          indices=array("I", sorted(found)))
)  # fmt: skip
MATRICES = st.lists(NUMBERS, max_size=6).map(
    lambda found: replace(MATRIX, values=array("f", found[: len(found) // 2 * 2]))
)


@settings(deadline=None)
@given(st.tuples(SPARSE_ANSWERS, SPARSE_ANSWERS) | st.tuples(MATRICES, MATRICES), st.tuples(NUMBERS, NUMBERS))
def test_any_numbers_of_the_other_forms_are_judged(answers: tuple[Answer, Answer], scores: tuple[float, float]) -> None:
    """Endless ones, vectors of zeros, matrices without a row; equal ones have not moved."""
    kind = Kind.MULTI_VECTOR if answers[0].indices is None else Kind.SPARSE
    pairs = [[replace(PAIR, values=array("f", [score]))] if kind is Kind.MULTI_VECTOR else [] for score in scores]
    then, now = ((answer, *pair) for answer, pair in zip(answers, pairs, strict=True))
    seen = replace(OF_KIND[kind], dimension=answers[1].width, answers=now)
    golden = Golden(MODEL.id, kind, then, WELL.prompts)
    verdict = told_of(read_observation(sent(seen), kind.spec.output), golden, kind)
    assert verdict.proven
    finite = all(math.isfinite(value) for answer in then for value in answer.values)
    assert not (then == now and finite and verdict.moves)
    assert finite or verdict.moves


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(OF_KIND)), st.binary(max_size=9), st.integers(0, 9))
def test_any_bytes_in_an_answer_of_the_other_forms_are_an_answer_or_refused(
    data: st.DataObject, kind: Kind, other: bytes, length: int
) -> None:
    """Wherever they stand, and whatever stands for the dimension, the indices or the values."""
    line = of_kind(kind)
    start = data.draw(st.integers(0, len(line)))
    if seen := heard(line[:start] + other + line[start + length :], kind.spec.output):
        told_of(seen, kind=kind)
    packs = st.binary(max_size=24).map(lambda content: base64.b64encode(content).decode()) | PARTS
    changes = data.draw(st.dictionaries(st.sampled_from(["dimension", "indices", "values", "text", "query"]), packs))
    if seen := heard(of_kind(kind, **changes), kind.spec.output):
        told_of(seen, kind=kind)


NASTY = {
    "a row": "x\n  proven   b/other  embedding  384  max 256",
    "a carriage return": "x\r  proven   b/other",
    "a line separator": "x\u2028  proven   b/other\u2029\x85\x0b\x0c\x1c",
    "padding": "x" + " " * 70 + "  proven   b/other",
    "tabs": "x\t\t\t\t\tproven\tb/other",
    "a terminal escape": "\x1b[2J\x1b]0;title\x07\x9b31m\x08\x7f",
    "directions": "\u202eredro\u2066\u2069\u200f",
    "nothing to see": "a\u200b\u200d\ufeff\u00ad\U000e0041b",
    "half a character": "\ud800",
    "a command of GitHub": "::error::all is lost",
    "an old command of GitHub": "x ##[set-output name=x;]y",
    "a command of Azure": "x ##vso[task.setvariable variable=x]y",
    "a flood": "y" * 300_000,
    "many marks": "a" + "\u0334" * 20_000,
    "braces": "{x} %s %(y)s",
}


COLOUR = re.compile(r"\x1b\[(?:31|33|0)m")
"""As the tool colours the name of an event; whatever else is an escape remains."""
ROW = re.compile(r"^  \S{1,9} +\S", re.MULTILINE)


def told_of(seen: Observation, known: Golden | None = None, kind: Kind = MODEL.kind) -> Verdict:
    """Return the verdict; every way it is told has as many lines as it should, and nothing that is obeyed."""
    golden = {set_digest(MODEL.files): known} if known else {}
    model = replace(MODEL, kind=kind)
    verdict = judge(model, seen, golden)
    reasons = [*verdict.faults, *verdict.moves]
    error = CheckError(f"{MODEL.id} does not pass:\n  " + "\n  ".join(reasons), hint="hint")
    lines = error_lines(error)
    assert len(lines) == min(1 + len(reasons), 41) + 1
    assert all(line.startswith(("error: ", "hint: ", "  ")) for line in lines)
    logs = {reporter: io.StringIO() for reporter in (LineReporter, BarReporter, JsonReporter)}
    for make, out in logs.items():
        reporter = make(out)
        reporter.event("failed", check.row(verdict), **check.fields(verdict))
        for note in verdict.notes:
            reporter.event("note", f"{MODEL.id}: {note}", model=MODEL.id)
        rows = ROW if make is BarReporter else re.compile(r"\n")  # a terminal breaks what is too wide
        assert len(rows.findall(COLOUR.sub("", out.getvalue()))) == 1 + len(verdict.notes), make
    texts = ["\n".join(lines), *(COLOUR.sub("", out.getvalue()) for out in logs.values())]
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "##[" not in text
        assert "##vso[" not in text
        assert not re.search(r"^  proven |  proven   ", text, re.MULTILINE)
        assert not any(line.strip().startswith("::") for line in text.split("\n"))
    said = [json.loads(line) for line in logs[JsonReporter].getvalue().splitlines()]
    assert said[0]["problems"] == reasons
    assert "\n".join(one["text"] for one in said).count("\n") == len(verdict.notes)
    assert len("".join(texts)) < 1_000_000
    written = format_golden(recorded([model], [verdict], {}, golden))
    assert format_golden(parse_golden(written.encode(), "x")) == written
    return verdict


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("field", ["error", "failed_step", *LISTS])
def test_nothing_that_a_model_says_forges_a_row(nasty: str, field: str) -> None:
    """Nor is it obeyed, wherever it comes out; once or many times."""
    text = field in ("error", "failed_step")
    base = FAILED if text else WELL
    for value in (NASTY[nasty],) if text else ([NASTY[nasty]], [f"{NASTY[nasty]}{n}" for n in range(30)]):
        told_of(read_observation(json.dumps({**observation_to_json(base), field: value}).encode(), Output.VECTOR))


@pytest.mark.parametrize("nasty", [nasty for nasty in NASTY if nasty not in ("half a character", "a flood")])
def test_what_is_recorded_keeps_its_text_and_is_told_safely(nasty: str) -> None:
    """Prompts and their names, and what was asked."""
    text = NASTY[nasty][:90_000]
    given = (Answer(Probe(text, prompt=text), array("f", [0.5, 1.0])), Answer(Probe(text, query=text), GIVEN.values))
    seen = replace(WELL, prompts={text: text}, answers=(*given, Answer(Probe(task=text), array("f", [1.0]))))
    back = read_observation(sent(seen), Output.VECTOR)
    assert back.prompts == {text: text}
    assert [answer.probe for answer in back.answers] == [answer.probe for answer in seen.answers]
    moved = tuple(replace(answer, values=array("f", [1.0, 0.0])) for answer in seen.answers)
    verdict = told_of(back, Golden(MODEL.id, MODEL.kind, moved, {"": text}, {}, Tolerance()))
    assert len(verdict.moves) == 6
    told_of(replace(back, answers=given[:1]))


def test_no_package_of_a_models_choice_is_told_to_be_installed() -> None:
    """A command that people copy has names of ours only; whoever installs a package runs what lies under its name."""
    for names in (["einops-of-nobody"], ["einops", "--index-url=http://x"], ["x\x1b[2J"]):
        assert "an unknown package" in refused(line_of(missing_packages=names))
    told = told_of(read_observation(sent(replace(FAILED, missing_packages=["einops", "Pillow"])), Output.VECTOR))
    assert (
        "it asks for packages that are not installed here: einops, Pillow; `pip install einops Pillow`" in told.faults
    )


def test_many_reasons_of_one_kind_are_counted() -> None:
    """A list in the answer is no list of lines."""
    many = tuple(f"host{number}:443" for number in range(5000))
    faults = judge(MODEL, replace(FAILED, attempts=many + many), {}).faults
    assert len(faults) < 30
    assert "and 4980 more like these" in faults
