"""Which error a refused request to the Hub means. Rules only; the first that fits counts.

The codes are those of huggingface_hub 2.4 (utils/_http.py `hf_raise_for_status`). Another try is of no use after the
codes in `_FINAL`, whether the Hub itself or a mirror sends them. Any other refusal of a host that the Hub redirects to
may have gone with a new address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelcache.core.errors import (
    AccessDeniedError,
    HubError,
    NoRouteError,
    NotOnHubError,
    ProxyRefusedError,
    TokenRefusedError,
)
from modelcache.core.text import escape
from modelcache.transfer.origins import host_and_port, host_of, origin_of
from modelcache.transfer.proxies import Proxy
from modelcache.transfer.retry import TransientError

_FINAL = {"GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound", "DisabledRepo"}
_HUB = "huggingface.co"
_PRIVATE = "If the repository is private or gated, set HF_TOKEN."
_NO_ROUTE = {404, 405, 501}
BRANCHES, HISTORY = "its branches", "the history of "
"""Questions of `outdated`, which a mirror need not answer."""
_FROM = "copy from a root that has the models (`cache-models sync --from`)"
_DISABLED = "Access to this resource is disabled."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response that is neither what was asked for nor a redirect."""

    repo: str
    what: str
    """`revision R`, `commit C` for its listing, `PATH at C`, `BRANCHES`, or `HISTORY` and a commit."""
    endpoint: str
    """The Hub, or the mirror in HF_ENDPOINT; the response may come from another server."""
    token_source: str
    """Where the token comes from; empty without one."""
    url: str
    status: int
    headers: Mapping[str, str]
    proxy: Proxy | None
    """The proxy that may have answered instead."""

    @property
    def is_unknown_route(self) -> bool:
        """Whether a mirror does not have the part of the Hub's API that lists branches, or the history."""
        own = origin_of(self.url) == origin_of(self.endpoint) and (self.status == 404 or not self.proxy)
        asked = self.what.startswith((BRANCHES, HISTORY)) and "X-Error-Code" not in self.headers
        return own and asked and self.status in _NO_ROUTE


def error_of(refusal: Refusal) -> HubError | TransientError:
    """Return the error that a refusal means."""
    if refusal.is_unknown_route:
        text = f"{host_of(refusal.url)} does not know {refusal.what}: status {refusal.status}"
        return NoRouteError(text, hint="Set HF_ENDPOINT to a mirror with the Hub's whole API.")
    return _error_of(refusal)


def _error_of(refusal: Refusal) -> HubError | TransientError:
    """Return the error of a question that every mirror answers."""
    repo, what, status, proxy = refusal.repo, refusal.what, refusal.status, refusal.proxy
    code, message = refusal.headers.get("X-Error-Code", ""), refusal.headers.get("X-Error-Message", "")
    reason = escape(message or f"status {status}")
    scheme, host, port = origin_of(refusal.url)
    site = f"{scheme}://{host_and_port(refusal.url)}"
    elsewhere = (scheme, host, port) != origin_of(refusal.endpoint)
    token = "" if elsewhere else refusal.token_source
    scope = f" {host_of(refusal.endpoint)} leads there, and the token is for HF_ENDPOINT only." if elsewhere else ""
    past_proxy, cause = "", ""
    if proxy:
        past_proxy = proxy.address_hint if status == 401 and not elsewhere else proxy.bypass_hint(host)
    error: type[HubError] = NotOnHubError
    if status < 400 or (elsewhere and code not in _FINAL):
        text = f"{host}: status {status}" + (f", through the proxy {proxy.place}" if proxy else "")
        return TransientError(text, hint=past_proxy)
    if code == "GatedRepo":
        error, (text, hint) = AccessDeniedError, _gated(repo, site, token, scope)
    elif code == "DisabledRepo" or message == _DISABLED:
        text, hint = f"{repo} is disabled on {host}", f"{site}/{repo} may say why. Use another model, or {_FROM}."
    elif code == "RevisionNotFound":
        text = f"{repo} at {what.rpartition(' ')[2]}: there is no such revision"
        hint = "Check `revision` in models.toml. A pin whose commit is gone moves with `cache-models lock --upgrade`."
    elif code == "EntryNotFound":
        text, hint = f"{repo} has no file {what}", "Run `cache-models lock --upgrade`."
    elif status == 401 and token and not proxy:
        error, text = TokenRefusedError, f"{host} does not accept the token from {token}"
        new = f"Set HF_TOKEN to a new one ({site}/settings/tokens), which counts before a stored one"
        hint = f"It may have expired. {new}, or remove it: public models need none."
    elif proxy and not code and status != 404:
        error, hint = ProxyRefusedError, past_proxy
        cause = f"the proxy {proxy.place}, or {host} behind it, refuses requests: status {status}"
        text = f"the proxy {proxy.place}, or {host} behind it, refuses {repo}, {what}: status {status}"
    elif not code and status in _NO_ROUTE and what.startswith("commit "):
        error = HubError
        cause = f"{host} does not list files: status {status} for /api/models/…/tree, and it knows the revision"
        text = cause.replace("…", repo)
        hint = f"Set HF_ENDPOINT to a mirror with the Hub's whole API, or {_FROM}."
    elif code == "RepoNotFound" or status in (401, 404):
        text, mirror = f"{repo} is not on {host}", "" if host == _HUB else f", and HF_ENDPOINT ({refusal.endpoint})"
        access = f"the token from {token}" if token else "HF_TOKEN"
        cause = f"the models are not on {host}: status 404" if status == 404 and not code else ""
        hint = f"Check the id{mirror}. If it is private, {access} must belong to an account that may read it.{scope}"
    elif status == 403:
        error, text = AccessDeniedError, f"{host} refuses {repo}, {what}: {reason}"
        other = (
            "" if code or message else f" The answer gives no reason, so it may be that of a firewall before {host}."
        )
        cause = f"{host} refuses requests: {reason}" if other else ""
        hint = (f"Check what the token from {token} may read." if token else _PRIVATE) + other
    else:
        error, text = HubError, f"{host} refuses {repo}, {what}: {reason}"
        hint = f"{refusal.endpoint}/{repo} may say why; trying again does not help."
    return error(text, hint=hint, cause=cause)


def _gated(repo: str, site: str, token: str, scope: str) -> tuple[str, str]:
    """Return what to say of a gated repository, and what to do; with a token its account has not accepted the terms."""
    if not token:
        hint = f"Accept its terms at {site}/{repo}, then set HF_TOKEN.{scope}"
        return f"{repo} is gated and cannot be read without a token", hint
    return (
        f"{repo} is gated and cannot be read with the token from {token}",
        f"Accept its terms at {site}/{repo} with the account of this token."
        " A fine-grained token also needs the permission to read gated repositories.",
    )
