"""Each rule of the refusals by itself, with no Hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelcache.core.errors import AccessDeniedError, HubError, NotOnHubError, ProxyRefusedError, TokenRefusedError
from modelcache.sources.hub_refusals import Refusal, error_of
from modelcache.transfer.proxies import Proxy
from modelcache.transfer.retry import TransientError

PROXY = Proxy("http", "proxy:3128", "HTTPS_PROXY")
FROM = "HF_TOKEN"
HUB, MIRROR = "https://huggingface.co", "https://mirror.example"
PLAIN = Refusal(
    repo="a/b",
    what=f"config.json at {'c' * 12}",
    endpoint=HUB,
    url=f"{HUB}/a/b/resolve/main/config.json",
    status=403,
    headers={},
    proxy=None,
    token_source="",
)


def coded(code: str, status: int = 403, **other: Any) -> Refusal:
    """A refusal with a code of the Hub's."""
    return replace(PLAIN, status=status, headers={"X-Error-Code": code}, **other)


@pytest.mark.parametrize(
    ("refusal", "error", "fact", "hint"),
    [
        (replace(PLAIN, status=302), TransientError, "huggingface.co: status 302", ""),
        (replace(PLAIN, endpoint=MIRROR), TransientError, "status 403", ""),
        (replace(PLAIN, status=302, proxy=PROXY), TransientError, "proxy:3128", "NO_PROXY=huggingface.co"),
        (coded("GatedRepo"), AccessDeniedError, "without a token", f"{HUB}/a/b"),
        (coded("GatedRepo", token_source=FROM), AccessDeniedError, "with the token from HF_TOKEN", "account"),
        (
            coded("GatedRepo", token_source=FROM, endpoint=MIRROR),
            AccessDeniedError,
            "without a token",
            "mirror.example",
        ),
        (
            coded("GatedRepo", url="http://hub:8080/x", endpoint="http://hub:8080"),
            AccessDeniedError,
            "",
            "http://hub:8080/a/b",
        ),
        (coded("DisabledRepo"), NotOnHubError, "disabled", f"{HUB}/a/b"),
        (coded("RevisionNotFound", 404, what="revision v9"), NotOnHubError, "v9", "revision"),
        (coded("EntryNotFound", 404), NotOnHubError, "config.json", "lock --upgrade"),
        (coded("RepoNotFound", 404, endpoint=MIRROR), NotOnHubError, "a/b", "mirror.example"),
        (replace(PLAIN, status=401, token_source=FROM), TokenRefusedError, "the token from HF_TOKEN", "HF_TOKEN"),
        (replace(PLAIN, status=401), NotOnHubError, "a/b", "HF_TOKEN"),
        (replace(PLAIN, status=404, token_source=FROM, proxy=PROXY), NotOnHubError, "a/b", "HF_TOKEN"),
        (replace(PLAIN, status=401, token_source=FROM, proxy=PROXY), ProxyRefusedError, "proxy:3128", "user:password"),
        (replace(PLAIN, proxy=PROXY), ProxyRefusedError, "proxy:3128", "NO_PROXY=huggingface.co"),
        (replace(PLAIN, status=404, what="commit c"), HubError, "/api/models/a/b/tree", "--from"),
        (replace(PLAIN, token_source=FROM), AccessDeniedError, "status 403", "HF_TOKEN may read"),
        (PLAIN, AccessDeniedError, "status 403", "set HF_TOKEN"),
        (replace(PLAIN, headers={"X-Error-Message": "{no}\x1b"}), AccessDeniedError, "{no}", "set HF_TOKEN"),
        (replace(PLAIN, status=451), HubError, "status 451", f"{HUB}/a/b"),
    ],
)
def test_a_refusal_means_one_error(refusal: Refusal, error: type[Exception], fact: str, hint: str) -> None:
    """Its class says whether to try again, and message and hint name what it is about."""
    found = error_of(refusal)
    assert type(found) is error
    assert fact in str(found)
    assert hint in found.hint
    assert "\x1b" not in str(found)


@pytest.mark.parametrize("status", [403, 404])
def test_an_answer_without_the_hubs_reason_is_one_cause_for_all_models(status: int) -> None:
    """It hardly comes from the Hub: as from a firewall, or a server that is none."""
    found = [error_of(replace(PLAIN, status=status, repo=repo, endpoint=MIRROR, url=MIRROR)) for repo in ("a/b", "c/d")]
    assert all(isinstance(error, HubError) and error.cause for error in found)
    assert len({error.cause for error in found if isinstance(error, HubError)}) == 1
    told = error_of(coded("RepoNotFound", 404))
    assert isinstance(told, HubError)
    assert not told.cause


def test_a_mirror_that_lacks_a_model_is_named_by_its_address() -> None:
    """HF_ENDPOINT may be what is wrong; of the Hub itself only the id can be."""
    told = error_of(coded("RepoNotFound", 404, endpoint=f"{MIRROR}/hf", url=f"{MIRROR}/hf/x"))
    assert f"HF_ENDPOINT ({MIRROR}/hf)" in told.hint
    assert "HF_ENDPOINT" not in error_of(coded("RepoNotFound", 404)).hint
