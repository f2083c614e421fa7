"""What strangers write reaches a screen as text: no escape sequence, no control character, no line of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, Ran, Tool
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.bounds import EVIL, assert_told
from tests.support.hub import StandInHub, Status

REVISION, TREE, BODY = "GET hub /api/models/.*/revision/", "GET hub /api/models/.*/tree/", "GET cdn"
# What a terminal obeys: escape sequences of 7 and 8 bits, a title, carriage return, backspace, text direction.
OBEYED = "\x1b[2J\x1b]0;x\x07\x9b31m\r\x08\x7f\u202e\u2066\u200b\u2028\U000e0001"
LINES = f"{OBEYED}\n{EVIL}\r\n{EVIL}"
# A header cannot hold a line break, but it can be folded.
HEADER = f"{OBEYED.replace(chr(13), '')}\r\n {EVIL}\r\n {EVIL}"


def error_message(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(403, {"X-Error-Message": HEADER}), on=TREE, times=-1)


def content_type(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(200, {"Content-Type": HEADER}), on=REVISION, times=-1)


def content_encoding(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(200, {"Content-Encoding": HEADER}), on=TREE, times=-1)


def content_range(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(206, {"Content-Range": HEADER}), on=BODY, times=-1)


def other_commit(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(200, {"X-Repo-Commit": HEADER}), on=BODY, times=-1)


def location(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(302, {"Location": f"http://x{HEADER}/"}), on=TREE, times=-1)


def status_line(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(599), on=TREE, times=-1)


def listed_type(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    listing(hub, {"type": LINES, "oid": "0" * 40, "size": 1, "path": LINES})


def listed_path(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    listing(hub, {"type": "file", "oid": "0" * 40, "size": 1, "path": LINES})


def listed_hash(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    listing(hub, {"type": "file", "oid": LINES, "size": 1, "path": "x"})


def commit(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.fail(Status(200, {}, json.dumps({"sha": LINES}).encode()), on=REVISION, times=-1)


def code(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    files["config.json"] = json.dumps({"auto_map": {LINES: LINES}}).encode()


def module_type(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    files["modules.json"] = json.dumps([{"path": LINES, "type": LINES}]).encode()


def module_folder(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    module = {"path": LINES, "type": "sentence_transformers.models.Dense"}
    files["modules.json"] = json.dumps([module]).encode()


def named_weights(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    files["config.json"] = json.dumps({"transformers_weights": LINES}).encode()


def shards(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"x": LINES}}).encode()


def activation(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    files["config.json"] = json.dumps({"sbert_ce_default_activation_function": LINES}).encode()


def saved_type(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    files["config_sentence_transformers.json"] = json.dumps({"model_type": LINES}).encode()


def licence(hub: StandInHub, tool: Tool, files: dict[str, bytes]) -> None:
    hub.add(EMBEDDING, dict(files), licence=LINES)


def listing(hub: StandInHub, entry: Mapping[str, object]) -> None:
    hub.fail(Status(200, {}, json.dumps([entry]).encode()), on=TREE, times=-1)


CHANNELS = (
    error_message,
    content_type,
    content_encoding,
    content_range,
    other_commit,
    location,
    listed_type,
    listed_path,
    listed_hash,
    commit,
    code,
    module_type,
    module_folder,
    named_weights,
    shards,
    activation,
    saved_type,
    licence,
)


def assert_harmless(tool: Tool, *words: str) -> Ran:
    """Run a command and check all that it says, in both forms."""
    for log_format in ("json", "text"):
        ran = tool(*words, f"--log-format={log_format}")
        assert_told(ran)
        if log_format == "json":
            assert all(json.loads(line)["text"] for line in ran.err.splitlines())
    return ran


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.__name__)
def test_what_a_hub_says_is_no_command(
    hub: StandInHub,
    tool: Tool,
    model: Mapping[str, bytes],
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
    channel: Callable[[StandInHub, Tool, dict[str, bytes]], None],
) -> None:
    """Headers, listings and configurations: whatever is told of them is told in plain characters."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no pause before another try
    files = dict(model)
    tool.want(EMBEDDING)
    channel(hub, tool, files)
    hub.add(EMBEDDING, files, licence="mit")
    for command in (f"add {EMBEDDING} --manifest=other.toml", "lock", "sync"):
        assert assert_harmless(tool, *command.split()).exit_code in (0, 3, 5)
    for command in ("status", "verify"):
        assert_harmless(tool, command)
    tally("words meant for the terminal", 10)


def test_what_lies_in_a_model_is_no_command(hub: StandInHub, one: Tool, tally: Tally) -> None:
    """Names of files and directories that somebody put there, also such as are no text."""
    assert one("sync").exit_code == 0
    home = one.home(EMBEDDING)
    for number, name in enumerate((os.fsencode(LINES), b"\xff\xfe\x1b[2J", b"x" * 255)):
        (Path(os.fsdecode(os.fsencode(home) + b"/" + name))).write_text("x")
        for command in ("verify", "verify --quick", "status", "status --json", "sync --dry-run", f"path {EMBEDDING}"):
            ran = assert_harmless(one, *command.split())
            assert ran.exit_code == (0 if command in ("status", "status --json", "sync --dry-run") else 1), (
                f"{command}: {ran.err}"
            )
        assert number < 3
        assert one("sync").exit_code == 0
    (one.folder / "models.lock").unlink()
    foreign = one.home("x/y")
    foreign.mkdir()
    (foreign / LINES.replace("/", "")).write_text("x")
    one.want("x/y")
    hub.add("x/y", {})
    for command in ("sync", "status", "verify"):
        assert_harmless(one, command)
    tally("words meant for the terminal", 42)


def test_what_stands_in_a_manifest_is_no_command(tool: Tool, tally: Tally, tmp_path: Path) -> None:
    """Ids, keys and paths; also a directory of a model whose files have such names."""
    text = json.dumps(LINES)
    source = tiny.tiny_embedding(tmp_path / "source")
    (source / LINES.replace("/", "")).write_text("x")
    for manifest in (
        f"[[embedding]]\nid = {text}",
        f'[[embedding]]\nid = "a/b"\nrevision = {text}',
        f'[[embedding]]\nid = "a/b"\n{text} = 1',
        f'[[embedding]]\nid = "a/b"\npath = {text}',
        f'[[embedding]]\nid = "a/b"\npath = "~{LINES[0:0]}nobody-{os.getpid()}/x"',
        f'[[embedding]]\nid = "a/b"\npath = "{source}"',
        f'[[embedding]]\nid = "a/b"\npooling = {text}',
        f"[[{text}]]",
        f"\x1b[2J\n{EVIL}",
    ):
        (tool.folder / "models.toml").write_text(manifest)
        for command in ("sync", "lock", "status", "add a/b"):
            ran = assert_harmless(tool, *command.split())
            assert ran.exit_code in (0, 2, 4, 5), ran.err
    for words in (
        ["add", LINES],
        ["sync", LINES],
        ["path", LINES],
        ["sync", f"--from={LINES}"],
        ["lock", "--upgrade", LINES],
    ):
        assert_harmless(tool, *words)
    tally("words meant for the terminal", 82)
