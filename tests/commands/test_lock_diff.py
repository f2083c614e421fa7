"""`lock --diff`: two locks as text, as Markdown and as JSON, for a pull request."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from modelcache.cli.lock_diff import DiffFormat, diff_lines
from modelcache.core.changes import Change, Difference, Part
from modelcache.core.effect import Effect
from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_TEXT, LockedModel, RemoteCode
from modelcache.formats.lockfile import format_lock
from modelcache.pipeline.lock_diff import PinDifference
from modelcache.pipeline.pins import read_lock
from tests.conftest import Ran, Tool
from tests.support import tiny
from tests.support.hub import StandInHub, Status
from tests.support.pins import pin
from tests.support.versions import CODE, Edits, Keys, changed, pickle, repository, weights

MODEL, OTHER = "tinyorg/model", "tinyorg/other"
FILES = repository(Kind.EMBEDDING)
ST = "sentence_bert_config.json"
EDITS: Edits = {"model.safetensors": weights(1), ST: Keys(max_seq_length=32)}
MEANING = "vectors will differ: re-index"
UNREAD = "not readable in both versions, so their settings are not compared"


@pytest.fixture
def upgraded(hub: StandInHub, tool: Tool) -> tuple[str, str]:
    """Both commits of a model whose lock has moved; the old lock is beside it."""
    old = hub.add(MODEL, FILES)
    tool.want(MODEL)
    assert tool("lock").exit_code == 0
    (tool.folder / "models.lock").rename(tool.folder / "old.lock")
    new = hub.add(MODEL, changed(FILES, EDITS))
    assert tool("lock").exit_code == 0
    hub.forget()
    return old[:12], new[:12]


def diff(tool: Tool, *words: str) -> list[str]:
    """Run it against the old lock; return its lines."""
    done = tool("lock", "--diff", "old.lock", *words)
    assert done.exit_code == 0, done.err
    return done.out.splitlines()


def pins(tool: Tool) -> tuple[LockedModel, ...]:
    """The models of the lock."""
    return read_lock(tool.folder / "models.lock") or ()


def test_a_table_in_markdown_has_a_row_a_model(upgraded: tuple[str, str], tool: Tool) -> None:
    """Of four columns."""
    old, new = upgraded
    assert diff(tool, "--format", "md") == [
        "| model | commit | changes | meaning |",
        "|---|---|---|---|",
        f"| `{MODEL}` (embedding) | {old} → {new} | **weights** model.safetensors<br>"
        f"**settings** sentence\\_bert\\_config.json: max\\_seq\\_length 64 → 32 | **{MEANING}** |",
    ]


def test_the_last_line_counts(upgraded: tuple[str, str], tool: Tool) -> None:
    """On stderr, so that stdout is the table alone."""
    assert tool("lock", "--diff", "old.lock").err.splitlines()[-1].endswith("models.lock against old.lock: 1 moved.")
    assert tool("lock", "--diff", "models.lock").err.splitlines()[-1].endswith("against models.lock: unchanged.")


def test_locks_that_are_equal_differ_in_nothing(upgraded: tuple[str, str], hub: StandInHub, tool: Tool) -> None:
    """Nothing in text, a sentence in Markdown, every model in JSON; and no request."""
    (tool.folder / "models.lock").replace(tool.folder / "old.lock")
    (tool.folder / "models.lock").write_bytes((tool.folder / "old.lock").read_bytes())
    assert diff(tool) == []
    assert diff(tool, "--format", "md") == ["No pin has changed."]
    (found,) = json.loads("\n".join(diff(tool, "--format", "json")))
    assert (found["state"], found["changes"], found["effect"]) == ("unchanged", [], "none")
    assert hub.requests == []


def test_pins_that_are_equal_cost_no_request(hub: StandInHub, tool: Tool) -> None:
    """Also with `include`, which counts by the modules of a model: neither `lock` nor `--diff` asks for these."""
    hub.add("tinyorg/model", {**repository(Kind.EMBEDDING), "onnx/model.onnx": b"\x08\x07"})
    keys = 'id = "tinyorg/model"\ninclude = ["onnx/*"]\n'
    (tool.folder / "models.toml").write_text(f"[[embedding]]\n{keys}")
    assert tool("lock").exit_code == 0
    hub.forget()
    assert tool("lock").exit_code == 0
    assert tool("lock", "--diff", "models.lock").exit_code == 0
    assert hub.requests == []


def test_stdin_is_read_as_git_show_gives_it(upgraded: tuple[str, str], tool: Tool) -> None:
    """Byte for byte."""
    command = [sys.executable, str(Path(__file__).parents[2] / "cache_models.py"), "lock", "--diff", "-"]
    old = (tool.folder / "old.lock").read_bytes()
    done = subprocess.run(command, cwd=tool.folder, input=old, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[-1].strip() == MEANING
    assert done.stderr.decode().splitlines()[-1].endswith("models.lock against stdin: 1 moved.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "stdin is empty"),
        (b"\x80\x81", "stdin is not TOML"),
        (b"lock_version = 9\n", "stdin has lock_version 9"),
        (b"# " + b"x" * LARGEST_TEXT, "stdin has more than 4.2 MB"),
    ],
)
def test_stdin_that_is_no_lock_is_refused(
    content: bytes, said: str, upgraded: tuple[str, str], tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `git show` that failed gives nothing."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert_refused(tool("lock", "--diff", "-"), said)


def test_a_stdin_that_is_closed_is_an_empty_one(
    upgraded: tuple[str, str], tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a supervisor."""
    monkeypatch.setattr(sys, "stdin", None)
    assert_refused(tool("lock", "--diff", "-"), "stdin is empty")


def assert_refused(done: Ran, said: str) -> None:
    """Exit 2, with a hint, and nothing on stdout."""
    assert (done.exit_code, done.out) == (2, ""), done.err
    assert said in done.err
    assert "hint: " in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.lock"], "there is no nowhere.lock"),
        ([""], "--diff names no file"),
        (["damaged.lock"], "damaged.lock is not TOML"),
        (["."], "cannot be read"),
        (["old.lock", "--upgrade"], "--diff compares two locks, and --upgrade does something else"),
        (["old.lock", "--check"], "--diff compares two locks, and --check does something else"),
        (["old.lock", "--lockfile", "none.lock"], "there is no"),
        (["old.lock", "--format", "yaml"], "--format"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], said: str, upgraded: tuple[str, str], tool: Tool) -> None:
    """Each with the way out."""
    (tool.folder / "damaged.lock").write_text("[[model")
    assert_refused(tool("lock", "--diff", *words), said)


def test_models_that_are_new_dropped_and_in_another_table(hub: StandInHub, tool: Tool) -> None:
    """A table is a part of a model's name: in another one it is another model."""
    for name in (MODEL, OTHER):
        hub.add(name, FILES, gated=name == OTHER, licence="mit")
    hub.token = "hf_x"
    tool.want(MODEL)
    assert tool("lock").exit_code == 0
    (before,) = pins(tool)
    (tool.folder / "old.lock").write_bytes((tool.folder / "models.lock").read_bytes())
    new = replace(before, id=OTHER, gated=True, licence="", remote_code=RemoteCode.VENDORED)
    moved = replace(before, kind=Kind.OTHER)
    (tool.folder / "models.lock").write_text(format_lock([new, moved]))
    commit, size = before.commit[:12], f"{before.size / 1000:.0f} kB"
    brings = f"{commit}, {len(before.files)} files, {size}, licence"
    assert diff(tool) == [
        f"new        embedding    {OTHER}",
        f"           {brings} unknown, gated, code of its own",
        f"new        other        {MODEL}",
        f"           {brings} mit",
        f"dropped    embedding    {MODEL}",
        f"           {commit}",
    ]
    assert diff(tool, "--format", "md")[2:] == [
        f"| `{OTHER}` (embedding) | {brings} unknown, gated, code of its own |  | new |",
        f"| `{MODEL}` (other) | {brings} mit |  | new |",
        f"| `{MODEL}` (embedding) | {commit} |  | dropped |",
    ]
    found = json.loads("\n".join(diff(tool, "--format", "json")))
    assert [(one["effect"], one["meaning"]) for one in found] == [("", "")] * 3
    assert [(one["state"], one["kind"], one["old_commit"], one["commit"]) for one in found] == [
        ("new", "embedding", "", before.commit),
        ("new", "other", "", before.commit),
        ("dropped", "embedding", before.commit, ""),
    ]
    assert hub.requests[-1].repo == MODEL  # of `lock`: nothing is asked for a model that is in one lock alone


def test_a_model_from_a_directory_has_no_commit(tool: Tool) -> None:
    """Its old settings may be nowhere any more."""
    tiny.tiny_embedding(tool.folder / "house")
    tool.want(extra='[[embedding]]\nid = "me/house"\npath = "house"\n')
    assert tool("lock").exit_code == 0
    (tool.folder / "old.lock").write_bytes((tool.folder / "models.lock").read_bytes())
    (tool.folder / "house" / ST).write_text('{"max_seq_length": 32}')
    assert tool("lock", "--upgrade").exit_code == 0
    assert [line.strip() for line in diff(tool)] == [
        "changed    embedding    me/house",
        "a directory",
        f"settings   {ST}",
        f"unread     {ST}: {UNREAD}",
        "vectors may differ: compare with `check`, or re-index",
    ]


@pytest.mark.parametrize("stop", ["offline", "down", "gone"])
def test_without_the_hub_the_configurations_that_differ_are_named(
    stop: str, upgraded: tuple[str, str], hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes in both locks are enough for the rest; a Hub that does not answer is asked once."""
    if stop == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif stop == "down":
        hub.fail(Status(503), on=".", times=-1)
    else:
        hub.remove(MODEL)
    lines = [line.strip() for line in diff(tool)]
    assert lines[2:] == [
        "weights    model.safetensors",
        f"settings   {ST}",
        f"unread     {ST}: {UNREAD}",
        MEANING,
    ]
    (found,) = json.loads("\n".join(diff(tool, "--format", "json")))
    assert found["unread"] == [ST]
    assert len(hub.requests) <= 8


def test_a_hub_that_does_not_answer_is_asked_for_one_file(hub: StandInHub, tool: Tool) -> None:
    """However many configurations of how many models differ."""
    names = [f"tinyorg/model{number}" for number in range(3)]
    tool.want(*names)
    for files, lock in ((FILES, "old.lock"), (changed(FILES, {ST: Keys(max_seq_length=1)}), "models.lock")):
        for name in names:
            hub.add(name, files)
        assert tool("lock", "--upgrade", "--lockfile", lock).exit_code == 0
    hub.fail(Status(503), on=".", times=-1)
    hub.forget()
    assert diff(tool).count(f"           unread     {ST}: {UNREAD}") == len(names)
    assert len({request.path for request in hub.requests}) == 1


def test_what_is_at_hand_is_not_asked_for(upgraded: tuple[str, str], hub: StandInHub, tool: Tool) -> None:
    """The new version is in the root; of the old one the configurations that differ are fetched, and those alone."""
    assert tool("sync").exit_code == 0
    hub.forget()
    assert "max_seq_length 64 → 32" in "\n".join(diff(tool))
    assert [request.file for request in hub.requests] == [ST]


def test_a_server_that_sends_other_bytes_is_not_believed(
    upgraded: tuple[str, str], hub: StandInHub, tool: Tool
) -> None:
    """The settings are those of the bytes that the lock pins, or they are not compared."""
    assert tool("sync").exit_code == 0  # so only the old version is asked for
    size = len(FILES[ST])
    hub.fail(Status(200, {}, b'{"max_seq_length": 1}'.ljust(size)), on=ST, times=-1)
    assert f"unread     {ST}" in "\n".join(diff(tool))


def test_a_configuration_that_this_version_would_write_otherwise_is_not_compared(hub: StandInHub, tool: Tool) -> None:
    """An earlier version of the tool may have made its references local in another way."""
    hub.add(MODEL, changed(FILES, {"config.json": Keys(auto_map={"AutoModel": "other/impl--x.X"})}))
    hub.add("other/impl", {"x.py": CODE})
    tool.want(extra=f'[[embedding]]\nid = "{MODEL}"\ntrust_remote_code = true\n')
    assert tool("lock").exit_code == 0
    (model,) = pins(tool)
    files = [replace(file, sha256="0" * 64) if file.path == "config.json" else file for file in model.files]
    (tool.folder / "old.lock").write_text(format_lock([replace(model, files=tuple(files))]))
    assert [line.strip() for line in diff(tool)][2:4] == [
        "settings   config.json",
        "unread     config.json: not readable in both versions, so their settings are not compared",
    ]


# Pickles


def test_an_owner_who_uploads_the_converted_weights_changes_nothing(hub: StandInHub, tool: Tool) -> None:
    """The bytes are those that were shipped before."""
    files = changed(FILES, {"model.safetensors": None, "pytorch_model.bin": pickle(100_000)})
    hub.add(MODEL, files)
    tool.want(extra=f'[[embedding]]\nid = "{MODEL}"\nallow_pickle = true\n')
    assert tool("sync").exit_code == 0
    (tool.folder / "old.lock").write_bytes((tool.folder / "models.lock").read_bytes())
    converted = (tool.home(MODEL) / "model.safetensors").read_bytes()
    hub.add(MODEL, changed(files, {"model.safetensors": converted}))
    assert tool("outdated").out.splitlines()[-1].strip() == "nothing that is shipped"
    assert tool("lock", "--upgrade").exit_code == 0
    assert diff(tool)[-1].strip() == "nothing that is shipped"


def test_a_pickle_that_is_saved_anew_is_known_by_its_tensors_once_it_is_converted(hub: StandInHub, tool: Tool) -> None:
    """`outdated` sees another pickle; `lock` converts it, and knows better."""
    content = pickle(100_000)
    files = changed(FILES, {"model.safetensors": None, "pytorch_model.bin": content})
    hub.add(MODEL, files)
    tool.want(extra=f'[[embedding]]\nid = "{MODEL}"\nallow_pickle = true\n')
    assert tool("lock").exit_code == 0
    (tool.folder / "old.lock").write_bytes((tool.folder / "models.lock").read_bytes())
    end = content.rindex(b"PK\x05\x06")
    again = content[: end + 20] + b"\x01\x00" + b" "  # a comment of one byte at the end of the zip archive
    hub.add(MODEL, changed(files, {"pytorch_model.bin": again}))
    assert tool("outdated").out.splitlines()[-1].strip() == MEANING
    assert tool("lock", "--upgrade").exit_code == 0
    assert diff(tool)[-1].strip() == "nothing that is shipped"


# Hostile values

_PLAIN = ("text", "text_special")
HOSTILE = [
    *("| a | b |", "`code`", "**bold** _i_ ~~s~~", "<img src=x onerror=y>", "&lt;b&gt;", "[x](http://y)", "![x](y)"),
    *("see https://evil.example/x", "WWW.evil.example"),
    *("\\", "\\|", "a\nb", "a\r\n|---|", "\x1b[31m", "\u202e", "\x9b", "##vso[task]", "::error::x", "@octocat", "#1"),
    *("$x$", "<!--", "-->", "\ud800", "  x", "` | `", "\t"),
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_value_is_one_cell_of_plain_text(value: str) -> None:
    """Whatever Markdown, HTML, a terminal or a CI server would make of it."""
    changes = (
        Change(Part.SETTINGS, f"config.json: {value}", json.dumps(value, ensure_ascii=False), "", is_file=False),
        Change(Part.INCLUDED, f"onnx/{value}", "a", "b"),
        Change(Part.LICENCE, "licence", value, value, is_file=False),
    )
    model = pin(FILES)
    one = PinDifference(model, replace(model, commit="d" * 40), Difference(changes, (value,)))
    *_, row = diff_lines([one], DiffFormat.MARKDOWN)
    assert row.isprintable()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 5  # bars that are not escaped
    bare = re.sub(r"<br>|\*\*\w[^*]*\*\*|<!-- -->|`owner/name`|&\w+;|\\.", "", row)
    assert not set("<>`*_[]~$#!\\").intersection(bare)
    assert "@octocat" not in row
    assert not re.search(r"(?i)://|www\.", row)  # a site makes a link of it
    for line in diff_lines([one], DiffFormat.TEXT):
        assert line.isprintable()
    json.loads("".join(diff_lines([one], DiffFormat.JSON)))


def test_the_table_is_one_to_a_parser_of_markdown() -> None:
    """With values of every kind, all in one table: as many cells as columns, and the text as it was."""
    model = pin(FILES)
    found = [
        PinDifference(
            model,
            replace(model, commit="d" * 40),
            Difference((Change(Part.SETTINGS, "a", json.dumps(value), "1", Effect.POSSIBLE, is_file=False),)),
        )
        for value in HOSTILE
    ]
    text = "\n".join(diff_lines(found, DiffFormat.MARKDOWN))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = [token.type for token in tokens]
    assert kinds.count("tr_open") == len(HOSTILE) + 1
    assert kinds.count("td_open") == 4 * len(HOSTILE)
    inner = {child.type for token in tokens for child in token.children or ()}
    assert inner <= {"text", "html_inline", "strong_open", "strong_close", "code_inline", "text_special"}
    cells = [token for before, token in pairwise(tokens) if before.type == "td_open"]
    shown = ["".join(child.content for child in cell.children or () if child.type in _PLAIN) for cell in cells[2::4]]
    assert shown == [f"settings a {escape(json.dumps(value), 60)} → 1" for value in HOSTILE]
    html = {child.content for token in tokens for child in token.children or () if child.type == "html_inline"}
    assert html <= {"<!-- -->", "<br>"}


def test_nothing_of_a_hostile_lock_reaches_the_terminal(upgraded: tuple[str, str], tool: Tool) -> None:
    """An old lock is a file of anybody's."""
    text = (tool.folder / "old.lock").read_text()
    for key in ("licence", "revision"):
        for bad in ('"\\u001b[31m"', '"a\\nb"', '"|##vso[x]"'):
            lines = [f"{key} = {bad}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
            (tool.folder / "old.lock").write_text("\n".join(lines))
            for form in DiffFormat:
                done = tool("lock", "--diff", "old.lock", "--format", form)
                assert done.exit_code in (0, 2), done.err
                assert all(line.isprintable() for line in (done.out + done.err).splitlines()), (key, bad)
                assert "##vso[" not in done.out


def test_a_format_without_a_difference_is_refused(pair: Tool) -> None:
    """`lock` itself prints rows, and writes a file."""
    ran = pair("lock", "--format", "md")
    assert ran.exit_code == 2
    assert "--format is for --diff" in ran.err
    assert not (pair.folder / "models.lock").exists()
