"""Progress counts each byte once: what is counted at the end is what was expected at the beginning."""

from __future__ import annotations

import threading

import pytest

from modelcache.cli.parser import load_command, parse
from modelcache.cli.progress import QuietReporter
from tests.conftest import Tool
from tests.support.hub import StandInHub
from tests.support.hub.faults import Reset, Short
from tests.support.registry import StandInRegistry


class Recorder(QuietReporter):
    """Remembers what was expected, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[tuple[str, int, int]] = []
        self.counted = 0
        self.done = False
        self._counting = threading.Lock()

    def expect(self, name: str, size: int, models: int = 0) -> None:
        """Remember."""
        self.done = not size and not models
        if not self.done:
            self.expected.append((name, size, models))

    def advance(self, count: int, *, found: bool = False) -> None:
        """Count."""
        with self._counting:
            self.counted += count


def run(*words: str) -> Recorder:
    """Run a command with such a reporter."""
    options, recorder = parse([*words, "--retries=3"] if words[0] in ("sync", "push") else list(words)), Recorder()
    load_command(options.command).run(options, recorder)
    assert recorder.done
    return recorder


@pytest.mark.parametrize("fault", [None, Reset(500), Short(500)], ids=["well", "reset", "cut short"])
def test_a_fetch(pair: Tool, hub: StandInHub, fault: Reset | Short | None) -> None:
    """All that has to come, of both models; bytes that were lost on the way and come again count once."""
    if fault:
        hub.fail(fault, on=r"GET cdn .*model\\.safetensors", times=2)
    assert pair("lock").exit_code == 0
    recorder = run("sync")
    assert recorder.expected[0] == ("all", recorder.counted, 2)
    assert recorder.counted > 200_000


def test_every_byte_is_compared_once(pair: Tool) -> None:
    """`verify` and, before it loads a model, `check`."""
    assert pair("sync").exit_code == 0
    recorder = run("verify")
    assert recorder.expected == [("verify", recorder.counted, 0)]
    assert recorder.counted > 200_000


@pytest.mark.parametrize("target", ["image/", "image.tar"])
def test_an_export(pair: Tool, target: str) -> None:
    """Layers that are written, and those that are there already."""
    assert pair("sync").exit_code == 0
    for _ in range(2):
        recorder = run("export", target)
        assert recorder.expected == [("export", recorder.counted, 0)]
        assert recorder.counted > 200_000


def test_a_push(pair: Tool, registry: StandInRegistry) -> None:
    """Layers that are sent, also at the second try, and those that the registry has."""
    assert pair("sync").exit_code == 0
    for repository in ("team/models", "team/models", "team/others"):
        registry.fail(Reset(None), "upload body")
        recorder = run("push", f"{registry.address}/{repository}:1")
        assert recorder.expected == [("push", recorder.counted, 0)]
        assert recorder.counted > 200_000
