"""The real thing: cached directories load in a fresh process, offline, and give the repository's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import models
from tests.conftest import Tool, files_below
from tests.models.outputs import Kind
from tests.standin import StandInHub

MINILM = "sentence-transformers/all-MiniLM-L6-v2"

EMBEDDINGS: list[tuple[Kind, Callable[[Path], Path]]] = [
    ("embedding", models.plain_embedding),
    ("embedding", models.sharded_embedding),
    ("embedding", models.dense_embedding),
    ("routes", models.router_embedding),
    ("embedding", models.static_embedding),
    ("embedding", models.fp16_embedding),
]
RERANKERS: list[tuple[Kind, Callable[[Path], Path]]] = [
    ("reranker", models.plain_reranker),
    ("reranker", models.saved_reranker),
]


def test_minilm_is_cached_whole_and_nothing_else(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The real all-MiniLM-L6-v2, beside its heavy duplicates: 91.6 of 977 MB, few requests, equal numbers."""
    source = models.with_heavy_duplicates(models.minilm(tmp_path / "repository"), real_size=True)
    hub.add(MINILM, source)
    tool.want(MINILM)
    assert "12 files   91.6 MB of 977 MB" in tool("lock").err
    assert tool("sync").exit_code == 0

    home = tool.home(MINILM)
    published = files_below(home)
    assert sum(len(content) for path, content in published.items() if not path.startswith(".")) == 91_617_632
    assert sum(request.sent for request in hub.requests if request.status in (200, 206) and request.file) == 91_617_632
    asked = [request for request in hub.requests if request.host == "hub"]
    assert len(asked) <= len(published) - 1 + 3
    assert sum("/tree/" in request.path for request in asked) == 1

    package = models.minilm_source()
    assert package is not None
    theirs, ours = models.outputs([("embedding", package), ("embedding", home)])
    assert ours.tobytes() == theirs.tobytes()


def test_a_small_file_redirect_costs_one_request_more_a_file(tool: Tool, tmp_path: Path) -> None:
    """Where the Hub answers small files with a redirect to its own cache, it is followed, token and all."""
    with StandInHub(small_file_redirect=True) as hub:
        pytest.MonkeyPatch().setenv("HF_ENDPOINT", hub.url)
        hub.add("org/plain", models.plain_embedding(tmp_path / "plain"))
        tool.want("org/plain")
        assert tool("sync").exit_code == 0
        files = len(files_below(tool.home("org/plain"))) - 1
        assert len([request for request in hub.requests if request.host == "hub"]) == 2 + 2 * (files - 1) + 1


def test_every_layout_gives_the_repositorys_own_numbers(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Plain, sharded, Dense, Router, static, half precision; raw and saved rerankers: bit for bit."""
    jobs: list[tuple[Kind, Path]] = []
    manifest = []
    for kind, make in EMBEDDINGS + RERANKERS:
        model_id = f"org/{make.__name__}"
        hub.add(model_id, make(tmp_path / make.__name__))
        table = "reranker" if kind == "reranker" else "embedding"
        manifest.append(f'[[{table}]]\nid = "{model_id}"\n')
        jobs += [(kind, tmp_path / make.__name__), (kind, tool.home(model_id, table))]
    tool.want(extra="\n".join(manifest))
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err
    hub.close()
    numbers = models.outputs(jobs)
    for (_, directory), theirs, ours in zip(jobs[::2], numbers[::2], numbers[1::2], strict=True):
        assert ours.tobytes() == theirs.tobytes(), directory
        assert ours.size
