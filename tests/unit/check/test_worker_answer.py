"""What a stranger says of its model: an answer in its shape comes through unchanged, anything else is told as wrong."""

from __future__ import annotations

import io
import json
import math
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
from modelcache.cli.commands import check
from modelcache.cli.messages import error_lines
from modelcache.cli.progress import BarReporter, JsonReporter, LineReporter
from modelcache.core.errors import CheckError
from modelcache.core.kinds import Kind
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


def refused(line: bytes) -> str:
    """Return what is said of a line that is no answer: one line, which can be printed."""
    with pytest.raises(ValueError, match=r"^(its answer|the `\w+` of its answer)") as caught:
        read_observation(line)
    assert type(caught.value) is ValueError
    told = str(caught.value)
    assert told.isprintable()
    assert len(told) < 200
    return told


@pytest.mark.parametrize("seen", [WELL, FAILED], ids=["well", "failed"])
def test_an_answer_comes_through_unchanged(seen: Observation) -> None:
    """To the bit."""
    back = read_observation(sent(seen))
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
            read_observation(line)
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
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for one in ("[[]", ",[]", "]"), ("[0", ",10", "]"), ('["a"', ',"ab"', "]"), ('{"":[', '"\\U00010348",', ""):
    line = (one[0] + one[1] * (LONGEST_ANSWER // len(one[1].encode()) - 9) + one[2]).encode()
    for part in (line, line[: 3 * 262_000] + b"]"):
        try:
            read_observation(part)
        except ValueError as error:
            assert "its answer" in str(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 160


TEXTS = st.text(max_size=20) | st.sampled_from(["\ud800", "\n  proven   a/b", "\x1b[2J", "\u202e", "x" * 2000])
PARTS = st.none() | st.booleans() | st.integers() | st.floats(width=32) | TEXTS
TREES = st.recursive(
    PARTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | TEXTS, inner)
)


def heard(line: bytes) -> Observation | None:
    """Return what is read of a line, or None where it is refused."""
    with suppress(ValueError):
        return read_observation(line)
    refused(line)
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
        back = read_observation(sent(seen))
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
    verdict = judge(model, read_observation(sent(seen)), golden)
    assert verdict.proven
    assert not (then == now and all(map(math.isfinite, then)) and verdict.moves)


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


def told_of(seen: Observation, known: Golden | None = None) -> Verdict:
    """Return the verdict; every way it is told has as many lines as it should, and nothing that is obeyed."""
    golden = {set_digest(MODEL.files): known} if known else {}
    verdict = judge(MODEL, seen, golden)
    reasons = [*verdict.faults, *verdict.moves]
    error = CheckError(f"{MODEL.id} does not pass:\n  " + "\n  ".join(reasons), hint="hint")
    lines = error_lines(error)
    assert len(lines) == min(1 + len(reasons), 41) + 1
    assert all(line.startswith(("error: ", "hint: ", "  ")) for line in lines)
    logs = {kind: io.StringIO() for kind in (LineReporter, BarReporter, JsonReporter)}
    for kind, out in logs.items():
        reporter = kind(out)
        reporter.event("failed", check.row(verdict), **check.fields(verdict))
        for note in verdict.notes:
            reporter.event("note", f"{MODEL.id}: {note}", model=MODEL.id)
        assert out.getvalue().count("\n") == 1 + len(verdict.notes), kind
    texts = ["\n".join(lines), *(out.getvalue() for out in logs.values())]
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "##[" not in text
        assert "##vso[" not in text
        assert "  proven" not in text
        assert not any(line.strip().startswith("::") for line in text.split("\n"))
    said = [json.loads(line) for line in logs[JsonReporter].getvalue().splitlines()]
    assert said[0]["problems"] == reasons
    assert "\n".join(one["text"] for one in said).count("\n") == len(verdict.notes)
    assert len("".join(texts)) < 1_000_000
    written = format_golden(recorded([MODEL], [verdict], {}, golden))
    assert format_golden(parse_golden(written.encode(), "x")) == written
    return verdict


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("field", ["error", "failed_step", *LISTS])
def test_nothing_that_a_model_says_forges_a_row(nasty: str, field: str) -> None:
    """Nor is it obeyed, wherever it comes out; once or many times."""
    text = field in ("error", "failed_step")
    base = FAILED if text else WELL
    for value in (NASTY[nasty],) if text else ([NASTY[nasty]], [f"{NASTY[nasty]}{n}" for n in range(30)]):
        told_of(read_observation(json.dumps({**observation_to_json(base), field: value}).encode()))


@pytest.mark.parametrize("nasty", [nasty for nasty in NASTY if nasty not in ("half a character", "a flood")])
def test_what_is_recorded_keeps_its_text_and_is_told_safely(nasty: str) -> None:
    """Prompts and their names, and what was asked."""
    text = NASTY[nasty][:90_000]
    given = (Answer(Probe(text, prompt=text), array("f", [0.5, 1.0])), Answer(Probe(text, query=text), GIVEN.values))
    seen = replace(WELL, prompts={text: text}, answers=(*given, Answer(Probe(task=text), array("f", [1.0]))))
    back = read_observation(sent(seen))
    assert back.prompts == {text: text}
    assert [answer.probe for answer in back.answers] == [answer.probe for answer in seen.answers]
    moved = tuple(replace(answer, values=array("f", [1.0, 0.0])) for answer in seen.answers)
    verdict = told_of(back, Golden(MODEL.id, MODEL.kind, moved, {"": text}, {}, Tolerance()))
    assert len(verdict.moves) == 5
    told_of(replace(back, answers=given[:1]))


def test_no_package_of_a_models_choice_is_told_to_be_installed() -> None:
    """A command that people copy has names of ours only; whoever installs a package runs what lies under its name."""
    for names in (["einops-of-nobody"], ["einops", "--index-url=http://x"], ["x\x1b[2J"]):
        assert "an unknown package" in refused(line_of(missing_packages=names))
    told = told_of(read_observation(sent(replace(FAILED, missing_packages=["einops", "Pillow"]))))
    assert (
        "it asks for packages that are not installed here: einops, Pillow; `pip install einops Pillow`" in told.faults
    )


def test_many_reasons_of_one_kind_are_counted() -> None:
    """A list in the answer is no list of lines."""
    many = tuple(f"host{number}:443" for number in range(5000))
    faults = judge(MODEL, replace(FAILED, attempts=many + many), {}).faults
    assert len(faults) < 30
    assert "and 4980 more like these" in faults
