"""Mirrors and caches as people run them, with a real nginx: a server that wants fewer connections gets fewer.

Few retries everywhere: that a further connection is refused is no failure as long as bytes come over another one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.hub import Slow, StandInHub
from tests.support.nginx import nginx
from tests.support.policy_defaults import patch_limits

SEGMENT = 1 << 18
WEIGHTS = "model.safetensors"

pytestmark = pytest.mark.slow
THROUGH = "proxy_pass {hub}; proxy_http_version 1.1; proxy_redirect {cdn}/ http://$http_host/;"
CDN = "location /xet-bridge-us/ {{ {limit} proxy_pass {cdn}; {more} }}"


@pytest.fixture
def slow(hub: StandInHub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The tool, wanting two models, one of them large, of a Hub whose line is slow."""
    patch_limits(monkeypatch, segment=SEGMENT)
    hub.add(EMBEDDING, tiny.big_embedding(tmp_path / "embedding", 4))
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    hub.fail(Slow(2_000_000), on="GET cdn", times=-1)
    return tool


def assert_right(tool: Tool) -> None:
    """Check every byte of the large model."""
    published, source = files_below(tool.home(EMBEDDING)), files_below(tool.folder.parent / "embedding")
    assert all(data == source[path] for path, data in published.items() if path != ".cache-models.json")


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("what", ["all of it", "its large files"])
def test_a_mirror_that_allows_one_connection(
    hub: StandInHub, slow: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, status: int
) -> None:
    """Every file comes over the one connection, of pinning as of fetching; others wait for their turn."""
    limit = f"limit_conn all 1; limit_conn_status {status};"
    hubs = {"hub": hub.url, "cdn": hub.cdn_url}
    locations = CDN.format(limit=limit, more="", **hubs) + (
        f"location / {{ {limit if what == 'all of it' else ''} {THROUGH.format(**hubs)} }}"
    )
    with nginx(tmp_path / "nginx", locations) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        ran = slow("sync", "--retries=1")
        assert ran.exit_code == 0, ran.err
        assert_right(slow)
        if what == "all of it":
            assert str(status) in mirror.statuses(), "nothing was refused, so this has shown nothing"


@pytest.mark.parametrize("allowed", [1, 3])
def test_a_content_network_that_allows_few_connections(
    hub: StandInHub, slow: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """More are tried, since one is slow; those that are refused end, and the file comes over the others."""
    limit = f"limit_conn all {allowed};"
    with nginx(tmp_path / "nginx", CDN.format(limit=limit, more="", cdn=hub.cdn_url)) as network:
        hub.behind(hub.url, network.url)
        ran = slow("sync", "--retries=1")
        assert ran.exit_code == 0, ran.err
        assert_right(slow)
        assert "503" in network.statuses()


@pytest.mark.parametrize("lock", ["on", "off"])
def test_a_pull_through_cache_fetches_each_file_once(
    hub: StandInHub, slow: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """A cache that fetches a whole file before it answers for its end is asked for it once, from its beginning."""
    hubs = {"hub": hub.url, "cdn": hub.cdn_url}
    cached = f"proxy_cache hub; proxy_cache_valid 200 1h; proxy_cache_lock {lock}; proxy_ignore_headers Cache-Control;"
    locations = f"{CDN.format(limit='', more=cached, **hubs)} location / {{ {THROUGH.format(**hubs)} }}"
    assert slow("lock").exit_code == 0
    hub.forget()
    with nginx(tmp_path / "nginx", locations) as cache:
        monkeypatch.setenv("HF_ENDPOINT", cache.url)
        ran = slow("sync", "--retries=1", "--timeout=1")
        assert ran.exit_code == 0, ran.err
        assert_right(slow)
    fetched = [str(request.file) for request in hub.requests if request.host == "cdn"]
    assert sorted(fetched) == [WEIGHTS, WEIGHTS], "one of each model"
