"""The screen of a terminal: progress that fits, a clean line after Ctrl-C, colours where they are wanted."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelcache.cli.messages import pinned_row
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel
from tests.conftest import PROJECT, Tool
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.hub.faults import Slow, Stall
from tests.support.terminal import Terminal

WIDTHS = (80, 100, 160)
LONG = "a-team-with-a-long-name/an-embedding-model-with-a-very-long-name-indeed-0001"
SHORT, RERANKER = "acme/house-embedder", "acme/house-reranker"
PAGE = re.compile(r" +\d+ %  +\S+( \S+)? of \S+ MB  +\S+ \S+/s  +\d+ s left  \S+")
WHOLE = re.compile(r"  all +\d+ %  +\S+( \S+)? of \S+ MB  +[01] of 3 models  +\d+ s left")


@pytest.fixture
def pinned(tool: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """Three models, the first two of 17 MB; all are pinned, and none is fetched."""
    for number, name in enumerate((LONG, SHORT)):
        folder = tmp_path / f"model{number}"
        folder.mkdir()
        (folder / "vectors.txt").write_bytes(str(number).encode() * 17_000_000)
        hub.add(name, folder)
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    (tool.folder / "models.toml").write_text(
        f'[[other]]\nid = "{LONG}"\n\n[[other]]\nid = "{SHORT}"\n\n[[reranker]]\nid = "{RERANKER}"\n'
    )
    assert tool("lock").exit_code == 0
    hub.forget()
    return tool


@pytest.fixture
def slow(pinned: Tool, hub: StandInHub) -> Tool:
    """The same over a slow line."""
    hub.fail(Slow(6_000_000), on=r"GET cdn .*", times=10**6)
    return pinned


def screen(tool: Tool, *words: str, columns: int = 80, environment: Mapping[str, str] | None = None) -> Terminal:
    """The tool in a terminal."""
    command = [sys.executable, str(PROJECT / "cache_models.py"), *words]
    return Terminal(command, columns=columns, folder=tool.folder, environment=environment or {})


@pytest.mark.slow
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_fetch_shows_the_model_and_the_whole(slow: Tool, columns: int) -> None:
    """Percent, bytes, rate and time left beside an id of 76 characters; afterwards a row a model, nothing drawn."""
    with screen(slow, columns=columns) as terminal:
        title, page, whole = terminal.until(lambda lines: len(lines) == 3 and "█" in lines[1])
        assert title == f"  fetch    {LONG}" if columns > 90 else title.endswith("-indeed-0001")
        assert PAGE.match(page), page
        assert WHOLE.match(whole), whole
        code, lines = terminal.finish()
    assert code == 0
    assert len(re.findall(r"^  fetch(?: |$)", "\n".join(lines), re.MULTILINE)) == 3
    assert " ".join(" ".join(lines).split()).endswith("3 fetched.")
    assert not re.search(r"█| left", "\n".join(lines))


def test_the_screen_in_the_readme_is_such_a_screen() -> None:
    """A row of a model that is there, one of another on its way, and the whole run, in the columns of a real one."""
    shown = (PROJECT / "README.md").read_text().partition("On a terminal a fetch draws")[2]
    row, title, page, whole = shown.partition("```text\n")[2].partition("```")[0].splitlines()
    model = LockedModel(Kind.EMBEDDING, row.split()[1], "main", "", (LockedFile("x", 91_600_000, "0" * 64),))
    assert row == f"  fetch    {pinned_row(model)}   4.9 s"
    assert title == "  fetch    acme/house-embedder"
    assert PAGE.match(page)
    assert WHOLE.match(whole.replace("of 4", "of 3"))
    assert page.index("left") == whole.index("left")


@pytest.mark.slow
def test_control_c_leaves_a_clean_line(slow: Tool) -> None:
    """No half of a bar, no ^C within it; the next run goes on."""
    with screen(slow) as terminal:
        terminal.until(lambda lines: len(lines) == 3 and "█" in lines[1])
        terminal.type(b"\x03")
        code, lines = terminal.finish()
    assert (code, lines) == (130, ["interrupted; run it again to go on where it stopped"])


def test_a_narrow_terminal_is_no_error(slow: Tool) -> None:
    """Nothing fits there, and the run ends as in any other."""
    with screen(slow, "sync", RERANKER, columns=20) as terminal:
        assert terminal.finish(narrow=True)[0] == 0


@pytest.mark.parametrize(
    ("environment", "colours"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=["a terminal", "NO_COLOR", "NO_COLOR is empty", "TERM=dumb"],
)
def test_colours(slow: Tool, environment: dict[str, str], colours: bool) -> None:
    """On a terminal, unless NO_COLOR is set; a terminal that cannot move its cursor gets lines alone."""
    for words, code in ((["sync", RERANKER], 0), (["verify"], 1)):
        with screen(slow, *words, environment=environment) as terminal:
            assert terminal.finish(narrow=environment.get("TERM") == "dumb")[0] == code
        assert bool(re.search(rb"\x1b\[[0-9;]+m", terminal.raw)) is colours
        assert (b"\x1b" in terminal.raw) is (environment.get("TERM") != "dumb" and (colours or words[0] == "sync"))


def test_a_pipe_gets_no_control_characters(slow: Tool) -> None:
    """Logs of `docker build`, `kubectl logs` and CI servers."""
    for words in (["sync", RERANKER], ["verify"], ["status"]):
        said = slow.run(*words)
        assert (said.out + said.err).replace("\n", "").isprintable()


@pytest.mark.slow
def test_a_server_that_falls_silent_leaves_no_old_figures(pinned: Tool, hub: StandInHub) -> None:
    """What has come is shown although nothing follows it, and the rate falls."""
    hub.fail(Stall(5_000_000), on=r"GET cdn .*", times=8)
    seen: dict[str, set[str]] = {}
    with screen(pinned, "sync", SHORT, "--timeout=60") as terminal:

        def falls(lines: list[str]) -> bool:
            if len(lines) == 2 and (figures := re.match(r" +(\d\d) %  .* of \S+ MB +(\S+) MB/s", lines[1])):
                seen.setdefault(figures[1], set()).add(figures[2])
            return any(len(rates) > 2 for rates in seen.values())

        terminal.until(falls)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"TQDM_ASCII": "1", "TQDM_DISABLE": "1", "TQDM_NCOLS": "10", "TQDM_DELAY": "60", "TQDM_COLOUR": "red"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    ],
    ids=["variables of tqdm", "ascii"],
)
def test_bars_are_drawn_whatever_the_environment_says(slow: Tool, environment: dict[str, str]) -> None:
    """The variables are for other programs; a terminal without block characters gets others."""
    with screen(slow, "sync", LONG, environment=environment) as terminal:
        title, page = terminal.until(lambda lines: len(lines) == 2 and re.search(r" s left  [█#]", lines[1]))
        assert title.endswith("-indeed-0001")
        assert page.isascii() is ("LC_ALL" in environment)
        assert terminal.finish()[0] == 0


@pytest.mark.slow
def test_a_slow_hub_is_waited_for_in_sight(tool: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Nothing else is on the screen while a model is pinned."""
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    hub.fail(Slow(100), on=r"GET hub .*", times=2)
    with screen(tool, "add", RERANKER) as terminal:
        terminal.until(lambda lines: lines and re.fullmatch(r"  wait     pinning, \d s", lines[-1]))
        code, lines = terminal.finish()
    assert code == 0
    assert lines[0].startswith(f"  add      {RERANKER}")


def test_a_table_is_broken_where_it_is_too_wide(slow: Tool) -> None:
    """Between two cells; in a pipe a model has one line, however long."""
    with screen(slow, "status") as terminal:
        lines = terminal.finish()[1]
    assert [line for line in lines if LONG in line] == [f"  {LONG}"]
    assert len(slow.run("status").out.splitlines()) == 4


@pytest.mark.slow
def test_waiting_for_another_process_shows_how_far_that_is(slow: Tool, hub: StandInHub) -> None:
    """It would look hung: which model, how many bytes it has, and for how long this run has been waiting."""
    with slow.process("sync", SHORT) as other:
        limit = time.monotonic() + 60
        while not [one for one in hub.requests if one.host == "cdn"]:  # until then it has no lease
            assert time.monotonic() < limit
            time.sleep(0.02)
        with screen(slow, "sync", SHORT) as terminal:
            wanted = re.compile(r"  wait     another process is fetching ac.*: \S+( \S+)? of 17\.0 MB, [1-9] s")
            terminal.until(lambda lines: lines and wanted.fullmatch(lines[-1]))
            code, lines = terminal.finish()
        assert (other.wait(), code) == (0, 0)
    assert " ".join(" ".join(lines).split()).endswith("1 by another process.")
    assert not [line for line in lines if wanted.fullmatch(line)]
