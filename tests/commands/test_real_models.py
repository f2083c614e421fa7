"""The real thing: cached directories load in a fresh process, offline, and give the repository's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Tool, files_below
from tests.support import models
from tests.support.hub import StandInHub
from tests.support.models.layouts import LAYOUTS

pytestmark = pytest.mark.slow

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def test_minilm_is_cached_whole_and_nothing_else(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The real all-MiniLM-L6-v2, beside its heavy duplicates: 91.6 of 977 MB, few requests, equal numbers."""
    source = models.with_heavy_duplicates(models.minilm(tmp_path / "repository"), real_size=True)
    hub.add(MINILM, source)
    tool.want(MINILM)
    tool.use_root()
    assert "91.6 of 977 MB" in tool("lock").err
    assert tool("sync").exit_code == 0

    home = tool.home(MINILM)
    published = files_below(home)
    assert sum(len(content) for path, content in published.items() if not path.startswith(".")) == 91_617_632
    sent = sum(request.sent for request in hub.requests if request.status in (200, 206) and request.file)
    assert sent == 91_617_632 + (32 << 10)  # `lock` looks at the header of the weights
    asked = [request for request in hub.requests if request.host == "hub"]
    assert len(asked) <= len(published) - 1 + 3 + 1
    assert sum("/tree/" in request.path for request in asked) == 1

    package = models.minilm_source()
    assert package is not None
    theirs, ours = models.outputs([("embedding", package), ("embedding", home)])
    assert ours.tobytes() == theirs.tobytes()
    texts = ["The court dismissed the appeal.", "The judges rejected the complaint.", "Add two eggs and some flour."]
    appeal, complaint, eggs = models.embed(home, texts)
    assert appeal @ complaint > 0.3 > appeal @ eggs


def test_a_small_file_redirect_costs_one_request_more_a_file(tool: Tool, tmp_path: Path) -> None:
    """Where the Hub answers small files with a redirect to its own cache, it is followed, token and all."""
    with StandInHub(small_file_redirect=True) as hub:
        pytest.MonkeyPatch().setenv("HF_ENDPOINT", hub.url)
        hub.add("org/plain", models.plain_embedding(tmp_path / "plain"))
        tool.want("org/plain")
        assert tool("sync").exit_code == 0
        files = len(files_below(tool.home("org/plain"))) - 1
        assert len([request for request in hub.requests if request.host == "hub"]) == 2 + 2 * (files - 1) + 1


def test_every_layout_gives_the_numbers_of_the_hub(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Whatever is changed on the way: bit for bit what the libraries give that load it from the Hub themselves."""
    for layout in LAYOUTS:
        hub.add(layout.id, layout.make(tmp_path / layout.make.__name__))
    hub.add("otherorg/impl", models.remote_code_impl(tmp_path / "impl"))
    tool.want(extra="\n".join(layout.table for layout in LAYOUTS))
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err
    groups = [[layout for layout in LAYOUTS if layout.trust is trust] for trust in (False, True)]
    theirs = [
        models.online(hub.url, [(layout.kind, layout.id) for layout in group], trust_remote_code=trust)
        for group, trust in zip(groups, (False, True), strict=True)
    ]
    hub.close()
    ours = [
        models.outputs([(layout.kind, layout.home(tool.folder)) for layout in group], trust_remote_code=trust)
        for group, trust in zip(groups, (False, True), strict=True)
    ]
    for layout, expected, found in zip(
        [*groups[0], *groups[1]], [*theirs[0], *theirs[1]], [*ours[0], *ours[1]], strict=True
    ):
        assert found.dtype == expected.dtype, layout.id
        assert found.tobytes() == expected.tobytes(), layout.id
        assert found.size
    assert tool("verify").exit_code == 0
