"""Words for people and objects for programs."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.cli import progress
from modelcache.cli.bars import BarReporter
from modelcache.cli.messages import PAST, differences, error_lines, plan_lines, summary
from modelcache.cli.progress import JsonReporter, LineReporter, QuietReporter, make_reporter
from modelcache.core import redact
from modelcache.core.errors import (
    CacheModelsError,
    HubError,
    IntegrityError,
    PolicyError,
    SeveralModelsError,
    StorageError,
    raise_all,
)
from modelcache.core.kinds import Kind
from modelcache.core.plan import Action, Step
from modelcache.core.text import escape_lines, part_of, size_in_words
from modelcache.core.types import Changed, LockedFile, LockedModel, Verification
from modelcache.fastpath import detach
from tests.conftest import Tool

MODEL = LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, (LockedFile("x", 91_600_000, "1" * 64),))
FETCH, COPY, KEEP, REPLACE, SHARED = (
    Step(action, MODEL, 5) for action in (Action.FETCH, Action.COPY, Action.KEEP, Action.REPLACE, Action.FOUND)
)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.5, "1.0 kB"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (1050.1, "1.1 kB"),
        (99_940, "99.9 kB"),
        (99_950, "100 kB"),
        (115_300, "115 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (91_600_000, "91.6 MB"),
        (977_000_000, "977 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.00 GB"),
        (1_134_000_000, "1.13 GB"),
        (4_600_000_000, "4.60 GB"),
        (1_234_567_890_123, "1234.57 GB"),
        (-5, "-5 B"),
        (-91_600_000, "-91.6 MB"),
    ],
)
def test_size(count: float, text: str) -> None:
    """Decimal units with three digits, as the Hub's pages show them."""
    assert size_in_words(count) == text


@given(st.integers(1, 10**14))
def test_a_size_that_is_needed_is_rounded_up(count: int) -> None:
    """Whoever frees as much as a message says has enough."""
    number, unit = size_in_words(count, round_up=True).split()
    assert count <= float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] * (1 + 1e-12)
    assert float(number) >= float(size_in_words(count).split()[0]) or unit != size_in_words(count).split()[1]


def test_a_negative_size_is_written_like_a_positive_one() -> None:
    """A rate is negative while what was wrong is fetched again."""
    assert size_in_words(-500_000) == "-500 kB"


@settings(deadline=None)
@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_size_is_near_and_short(one: int, other: int) -> None:
    """What is printed is within half a digit of the truth, and larger is never printed as smaller."""

    def printed(count: int) -> float:
        number, unit = size_in_words(count).split()
        return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

    assert printed(one) == pytest.approx(one, rel=0.06, abs=0.5)
    assert (one < other) <= (printed(one) <= printed(other))
    assert len(size_in_words(one)) <= len("10000.00 GB")


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([FETCH], "1 model ready in /r: 1 fetched."),
        ([KEEP], "1 model ready in /r: unchanged."),
        ([KEEP, KEEP], "2 models ready in /r: unchanged."),
        ([FETCH, KEEP, REPLACE, FETCH], "4 models ready in /r: 2 fetched, 1 replaced, 1 unchanged."),
        ([REPLACE, REPLACE], "2 models ready in /r: 2 replaced."),
        ([COPY, SHARED, FETCH], "3 models ready in /r: 1 fetched, 1 copied, 1 by another process."),
        ([SHARED], "1 model ready in /r: 1 by another process."),
        pytest.param(
            [],
            "0 models ready in /r: the manifest lists none.",
        ),
    ],
    ids=["fetched", "unchanged", "both unchanged", "several", "replaced", "not alone", "by another", "none"],
)
def test_the_last_line_alone_says_whether_it_is_ready(steps: Sequence[Step], text: str) -> None:
    """How many, where, and what was done."""
    assert summary(Counter(step.action for step in steps), Path("/r")) == text


@pytest.mark.parametrize(
    ("actions", "to_write", "text"),
    [
        (
            [Action.FETCH, Action.KEEP],
            1500,
            "2 models would be ready in /r: 1 fetched, 1 unchanged; 1.5 kB would be written.",
        ),
        ([Action.KEEP], 0, "1 model would be ready in /r: unchanged."),
        ([], 0, "0 models would be ready in /r: the manifest lists none."),
    ],
    ids=["something to do", "nothing to do", "no model"],
)
def test_the_last_line_of_a_dry_run_says_what_would_be_done(actions: list[Action], to_write: int, text: str) -> None:
    """And how many bytes a run would write."""
    assert summary(Counter(actions), Path("/r"), to_write) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(PAST)), min_size=1))
def test_every_action_is_counted(actions: list[Action]) -> None:
    """Those that do not occur are not mentioned."""
    assert PAST.keys() == set(Action) - {Action.CONVERT, Action.READ}  # `sync` tells these as events of their own
    counted = summary(Counter(actions), Path("/r")).split(": ")[1]
    for action, past in PAST.items():
        if action is not Action.KEEP:
            assert (f"{actions.count(action)} {past}" in counted) == (action in actions)


def test_planned_lines_say_why() -> None:
    """Action, id, size, and the reason where there is one; to keep a model writes nothing."""
    steps = [FETCH, KEEP, COPY, Step(Action.REPLACE, MODEL, 91_600_000, "x differs")]
    assert [line.split(maxsplit=4) for line in plan_lines(steps)] == [
        ["fetch", "a/b", "5", "B"],
        ["keep", "a/b"],
        ["copy", "a/b", "5", "B"],
        ["replace", "a/b", "91.6", "MB", "(x differs)"],
    ]


FOUND = Verification(("gone.txt",), ("new.txt", "other/"), (Changed("x.json", 5, 6),))
DIFFERENCES = [
    "  missing  gone.txt",
    "  extra    new.txt",
    "  extra    other/",
    "  changed  x.json   expected 5 B  found 6 B",
]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (CacheModelsError("what"), ["error: what"]),
        (CacheModelsError("what", hint="do"), ["error: what", "hint: do"]),
        (IntegrityError("a/b", hint="do", verification=FOUND), ["error: a/b", *DIFFERENCES, "hint: do"]),
        (IntegrityError("a/b"), ["error: a/b"]),
        (
            SeveralModelsError([HubError("one", hint="wait"), IntegrityError("two", verification=FOUND)]),
            ["error: one", "hint: wait", "error: two", *DIFFERENCES],
        ),
    ],
    ids=["what", "what and hint", "differences", "none told", "several"],
)
def test_words_of_an_error(error: CacheModelsError, lines: list[str]) -> None:
    """What and where, then the differences, then what to do; of several models each."""
    assert error_lines(error) == lines


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        (91_567_890, 45_200_000, "expected 91.6 MB  found 45.2 MB"),
        (91_567_890, 91_567_891, "expected 91,567,890 bytes  found 91,567,891 bytes"),
        (999, 1_000, "expected 999 B  found 1.0 kB"),
        (0, 1, "expected 0 B  found 1 B"),
        ("a" * 64, "b" * 64, "expected aaaaaaaaaaaa…  found bbbbbbbbbbbb…"),
        ("the receipt of this version", "another", "expected the receipt of this version  found another"),
    ],
)
def test_two_sizes_that_differ_never_look_equal(expected: int | str, found: int | str, told: str) -> None:
    """Sizes are in words, exact where the words would be the same; hashes by their beginnings."""
    (line,) = differences(Verification(changed=(Changed("x", expected, found),)))
    assert line == f"  changed  x   {told}"


@given(st.integers(0, 1 << 50), st.integers(-5000, 5000).filter(bool))
def test_any_two_sizes_look_different(size: int, more: int) -> None:
    """However near they are."""
    (line,) = differences(Verification(changed=(Changed("x", size, abs(size + more)),)))
    expected, found = line.split("expected ")[1].split("  found ")
    assert (expected != found) is (size != abs(size + more))


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(45_200_000, 91_600_000, "45.2 of 91.6 MB"), (466_000, 91_600_000, "466 kB of 91.6 MB"), (0, 5, "0 of 5 B")],
)
def test_a_part_of_a_size_has_the_unit_once_where_it_is_the_same(part: int, whole: int, told: str) -> None:
    """As people say it."""
    assert part_of(part, whole) == told


def test_no_difference_is_no_line() -> None:
    """Silence is agreement."""
    assert differences(Verification()) == []
    assert Verification().ok
    assert not FOUND.ok


def subclasses(cls: type[CacheModelsError]) -> Iterator[type[CacheModelsError]]:
    """Every class below this one that is raised for one failure."""
    for below in cls.__subclasses__():
        if below.__module__ == cls.__module__ and below is not SeveralModelsError:
            yield below
            yield from subclasses(below)


TREE: tuple[type[CacheModelsError], ...] = (CacheModelsError, *subclasses(CacheModelsError))
LEAST_CURABLE_FIRST = (70, 2, 5, 6, 1, 4, 3)


@pytest.mark.parametrize("one", TREE)
@pytest.mark.parametrize("other", TREE)
def test_the_least_curable_error_is_the_exit_code(one: type[CacheModelsError], other: type[CacheModelsError]) -> None:
    """A Job that tries again on 3 must not do so where 5 came with it: for any two classes of the tree."""
    with pytest.raises(SeveralModelsError) as caught:
        raise_all([one("one"), other("other")])
    assert caught.value.exit_code == min(one.exit_code, other.exit_code, key=LEAST_CURABLE_FIRST.index)
    assert caught.value.retryable == (one.retryable and other.retryable)


def test_the_rank_belongs_to_the_exit_code() -> None:
    """Equal codes have equal ranks, and no two codes share one."""
    assert len({(cls.exit_code, cls.rank) for cls in TREE}) == len({cls.exit_code for cls in TREE})
    assert len({cls.rank for cls in TREE}) == len({cls.exit_code for cls in TREE}) == len(LEAST_CURABLE_FIRST)


def test_a_class_with_a_code_of_its_own_can_be_told_with_others() -> None:
    """A code that no table has heard of is no bug; what says nothing of trying again is taken for hopeless."""

    class NewError(CacheModelsError):
        exit_code = 9

    several = SeveralModelsError([HubError("one"), NewError("two")])
    assert (several.exit_code, several.retryable) == (9, False)
    nested = SeveralModelsError([SeveralModelsError([HubError("a"), PolicyError("b")]), StorageError("c")])
    assert nested.exit_code == PolicyError.exit_code


def test_trying_again_helps_what_changes_by_itself() -> None:
    """The Hub and the disk may be better later; a missing repository, a refusal or a taken place is not."""
    retryable = {cls.__name__ for cls in TREE if cls.retryable}
    assert retryable == {"HubUnreachableError", "LimitError", "StorageError"}


def test_one_error_stays_itself() -> None:
    """No wrapping where nothing is to be wrapped."""
    error = PolicyError("x")
    with pytest.raises(PolicyError) as caught:
        raise_all([error])
    assert caught.value is error
    raise_all([])


@pytest.mark.parametrize(
    ("log_format", "quiet", "out", "kind"),
    [
        ("auto", False, io.StringIO(), LineReporter),
        ("auto", False, Terminal(), BarReporter),
        ("text", False, Terminal(), LineReporter),
        ("json", False, Terminal(), JsonReporter),
        ("json", False, io.StringIO(), JsonReporter),
        ("json", True, Terminal(), QuietReporter),
        ("auto", True, Terminal(), QuietReporter),
    ],
)
def test_how_to_speak(log_format: str, quiet: bool, out: io.StringIO, kind: type) -> None:
    """Bars on a terminal only; `text` is for logs that look like one; `--quiet` wins."""
    assert type(make_reporter(log_format, quiet=quiet, out=out)) is kind


def speak(reporter: LineReporter) -> None:
    """Say one of everything."""
    reporter.event("keep", "a/b", model="a/b")
    reporter.begin(FETCH)
    reporter.advance(50_000_000)
    time.sleep(0.01)
    reporter.advance(41_600_000)
    reporter.end(FETCH, 1.25)
    reporter.line("ready", 'all "good" in /r/é\u2028\nor so', models=1)


def test_lines() -> None:
    """A line for what happened, one now and then while bytes come, one for what is done."""
    out = io.StringIO()
    speak(LineReporter(out, interval=0.005))
    lines = out.getvalue().split("\n")
    assert lines[0] == "  keep     a/b"
    assert lines[1].startswith("  fetch    a/b  100 %  91.6 of 91.6 MB  ")
    assert lines[1].endswith("B/s")
    assert lines[2].split() == ["fetch", "a/b", "91.6", "MB", "1.2", "s"]
    assert lines[3:] == ['all "good" in /r/é\\u2028', "or so", ""]


@pytest.mark.parametrize("kind", [LineReporter, BarReporter])
def test_what_is_said_is_one_row(kind: type[LineReporter], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in it may hold anything."""
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    kind(out).event("leave", "a\n  ready    all\u2028")
    assert out.getvalue() == "  leave    a\\n  ready    all\\u2028\n"


def test_lines_are_few() -> None:
    """A thousand chunks in a moment are not a thousand lines of log."""
    out = io.StringIO()
    reporter = LineReporter(out)
    reporter.begin(FETCH)
    for _ in range(1000):
        reporter.advance(91_600)
    assert out.getvalue() == ""


def test_the_whole_run_stands_behind_the_model() -> None:
    """And alone while no model is begun: small ones are fetched together, and one that failed is not shown again."""
    out = io.StringIO()
    reporter = LineReporter(out, interval=0.0)
    reporter.expect("all", 400_000_000, 3)
    reporter.begin(FETCH)
    reporter.advance(9_160_000)
    reporter.expect("all", 300_000_000, 2)
    reporter.advance(1)
    reporter.expect("all", 0)
    reporter.advance(1)
    said = out.getvalue().splitlines()
    assert re.fullmatch(
        r"  fetch    a/b  10 %  9\.2 of 91\.6 MB  \S+ \SB/s  .* left  \(0 of 3 models done, 2 %, .*\)", said[0]
    )
    assert re.match(r"  all       25 %  100 of 400 MB  ", said[1])
    assert len(said) == 2


def test_a_long_wait_is_a_line_now_and_then() -> None:
    """Of a short one nothing is said."""
    out = io.StringIO()
    reporter = LineReporter(out, interval=0.2)
    reporter.waiting("loading a/b", 0.1)
    assert out.getvalue() == ""
    time.sleep(0.2)
    for _ in range(10):
        reporter.waiting("loading a/b", 7.2)
    assert out.getvalue() == "  wait     loading a/b, for 8 s\n"


def test_objects_are_valid_and_one_a_line() -> None:
    """Every line is an object with its event, the fields and the words."""
    out = io.StringIO()
    speak(JsonReporter(out, interval=0.005))
    found = [json.loads(line) for line in out.getvalue().split("\n")[:-1]]
    assert [one["event"] for one in found] == ["keep", "progress", "fetch", "ready"]
    assert found[0] == {"event": "keep", "model": "a/b", "text": "keep     a/b"}
    assert (found[1]["model"], found[1]["bytes"], found[1]["total"]) == ("a/b", 91_600_000, 91_600_000)
    assert (found[2]["files"], found[2]["bytes"], found[2]["seconds"]) == (1, 91_600_000, 1.25)
    assert found[3] == {"event": "ready", "models": 1, "text": 'all "good" in /r/é\u2028\nor so'}


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even elsewhere."""
    speak(QuietReporter())
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_bars_leave_one_line_a_model() -> None:
    """The bar goes; what is done stays, as in a log."""
    out = Terminal()
    speak(BarReporter(out))
    screen = pyte.Screen(80, 10)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    shown = [line.rstrip() for line in screen.display]
    assert shown[0] == "  keep     a/b"
    assert shown[1].split() == ["fetch", "a/b", "91.6", "MB", "1.2", "s"]
    assert shown[2:5] == ['all "good" in /r/é\\u2028', "or so", ""]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Many transfers speak at once, and each line is still one object."""
    with (tmp_path / "log").open("w", buffering=1) as out:
        reporter = JsonReporter(out)

        def talk(number: int) -> None:
            for count in range(300):
                reporter.event("event", "x" * 200, thread=number, count=count)

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "log").read_text().splitlines()
    found = {(one["thread"], one["count"]) for one in map(json.loads, lines)}
    assert len(found) == len(lines) == 2400


def test_a_whole_run_in_json(pair: Tool) -> None:
    """First run, second run and failure: every line of stderr is an object, and the last says how it ended."""
    for words, event in [
        (("sync",), "ready"),
        (("sync",), "ready"),
        (("sync", "--jobs=2"), "ready"),
        (("sync", "x/y"), "error"),
        (("lock",), "ready"),
        (("verify",), "ready"),
    ]:
        ran = pair.run(*words, "--log-format=json")
        found = [json.loads(line) for line in ran.err.splitlines()]
        assert found[-1]["event"] == event, words
        assert all({"event", "text"} <= one.keys() for one in found)
        assert ran.out == ""


def test_the_last_object_of_a_second_run_has_the_fields_of_the_first(pair: Tool) -> None:
    """A program that waits for `ready` reads the same fields each time."""
    first, second = (json.loads(pair.run("sync", "--log-format=json").err.splitlines()[-1]) for _ in range(2))
    assert first.keys() == second.keys()


def test_data_is_written_in_the_bytes_of_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is for a program, so no encoding of the terminal changes it."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    sys.stdout.write("before\n")
    progress.show("/é/\udcff")
    assert raw.getvalue() == b"before\n" + os.fsencode("/é/\udcff") + b"\n"


def test_data_goes_to_a_stream_without_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have put its own in the place of stdout."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    progress.show("/é")
    progress.finish()
    assert out.getvalue() == "/é\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_nothing_replaces_is_given_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without /dev/null, or a descriptor for it, Python must not flush it at the end."""
    monkeypatch.setattr(sys, name, io.StringIO())
    detach(getattr(sys, name))
    assert getattr(sys, name) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("::error::x", "\\u003a:error::x"),
        ("a\n  ::add-mask::x", "a\n  \\u003a:add-mask::x"),
        ("a ##[set-output name=x]y", "a \\u0023#[set-output name=x]y"),
        ("a ###vso[task.complete]", "a #\\u0023#vso[task.complete]"),
        ("##teamcity[x]", "\\u0023#teamcity[x]"),
        ("std::vector, ## title [x], #1, a:: b", "std::vector, ## title [x], #1, a:: b"),
    ],
)
def test_a_ci_server_gets_no_command(text: str, told: str) -> None:
    """Whoever wrote the words that are told; for a program they stay the same."""
    assert escape_lines(text) == told
    out = io.StringIO()
    LineReporter(out).line("x", text)
    assert out.getvalue() == f"{told}\n"
    out = io.StringIO()
    JsonReporter(out).line("x", text, field="\\" + text)
    line = out.getvalue()
    assert escape_lines(line) == line
    assert "##[" not in line
    assert json.loads(line) == {"event": "x", "field": "\\" + text, "text": text.strip()}


def test_a_digest_is_shown_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A short password may stand in it by chance; in any other text it is masked."""
    monkeypatch.setattr(redact, "_forms", set())
    digest = f"sha256:{'cc38' * 16}"
    redact.register_secret("cc38")
    progress.show(digest)
    progress.show(f"{digest} cc38")
    first, second = capsys.readouterr().out.splitlines()
    assert first == digest
    assert "cc38" not in second
