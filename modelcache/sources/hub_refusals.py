"""Which error a refused request to the Hub means. Rules only; the first that fits counts.

The codes are those of huggingface_hub 2.4 (utils/_http.py `hf_raise_for_status`). Another try is of no use after the
codes in `_FINAL`, whether the Hub itself or a mirror sends them. Any other refusal of a host that the Hub redirects to
may have gone with a new address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelcache.core.errors import AccessDeniedError, HubError, NotOnHubError
from modelcache.core.text import escape
from modelcache.transfer.origins import host_of, origin_of
from modelcache.transfer.proxies import Proxy
from modelcache.transfer.retry import TransientError

_FINAL = {"GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound", "DisabledRepo"}
_NO_ROUTE = {404, 405, 501}
_DISABLED = "Access to this resource is disabled."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response that is neither what was asked for nor a redirect."""

    repo: str
    what: str
    """`revision R`, `commit C` for its listing, or `PATH at C`."""
    endpoint: str
    """The Hub, or the mirror in HF_ENDPOINT; the response may come from another server."""
    has_token: bool
    url: str
    status: int
    headers: Mapping[str, str]
    proxy: Proxy | None
    """The proxy that may have answered instead."""


def error_of(refusal: Refusal) -> HubError | TransientError:
    """Return the error that a refusal means."""
    repo, what, status, proxy = refusal.repo, refusal.what, refusal.status, refusal.proxy
    code, message = refusal.headers.get("X-Error-Code", ""), refusal.headers.get("X-Error-Message", "")
    reason = escape(message or f"status {status}")
    scheme, host, port = origin_of(refusal.url)
    site = f"{scheme}://{host}" if (scheme, port) in (("https", 443), ("http", 80)) else f"{scheme}://{host}:{port}"
    elsewhere = (scheme, host, port) != origin_of(refusal.endpoint)
    token_seen = refusal.has_token and not elsewhere
    scope = f" {host_of(refusal.endpoint)} leads there, and the token is for HF_ENDPOINT only." if elsewhere else ""
    past_proxy = ""
    if proxy:
        past_proxy = proxy.address_hint if status == 401 and not elsewhere else proxy.bypass_hint(host)
    error: type[HubError | TransientError] = NotOnHubError
    if status < 400 or (elsewhere and code not in _FINAL):
        error, hint = TransientError, past_proxy
        text = f"{host}: status {status}" + (f", through the proxy {proxy.place}" if proxy else "")
    elif code == "GatedRepo":
        error, hint = AccessDeniedError, f"Accept its terms at {site}/{repo}, then set HF_TOKEN.{scope}"
        text = f"{repo} is gated and cannot be read {'with this' if token_seen else 'without a'} token"
    elif code == "DisabledRepo" or message == _DISABLED:
        text, hint = f"{repo} is disabled on {host}", f"{site}/{repo} may say why."
    elif code == "RevisionNotFound":
        text = f"{repo} at {what.rpartition(' ')[2]}: there is no such revision"
        hint = "Check `revision`, or pin a commit that exists."
    elif code == "EntryNotFound":
        text, hint = f"{repo} has no file {what}", "Run `cache-models lock --upgrade`."
    elif status == 401 and token_seen and not proxy:
        error, hint = AccessDeniedError, "Check HF_TOKEN; it may have expired."
        text = f"{host} does not accept the token"
    elif proxy and not code and status != 404:
        error, hint = HubError, past_proxy
        text = f"the proxy {proxy.place}, or {host} behind it, refuses {repo}, {what}: status {status}"
    elif not code and status in _NO_ROUTE and what.startswith("commit "):
        error = HubError
        text = f"{host} does not list files: status {status} for /api/models/{repo}/tree, and it knows the revision"
        hint = "Set HF_ENDPOINT to a mirror with the Hub's whole API, or take the models from a root: --from."
    elif code == "RepoNotFound" or status in (401, 404):
        text = f"{repo} is not on {host}"
        hint = f"Check the id. If it is private, HF_TOKEN must belong to an account that may read it.{scope}"
    elif status == 403:
        error, text = AccessDeniedError, f"{host} refuses {repo}, {what}: {reason}"
        hint = "Check what HF_TOKEN may read." if token_seen else "If it is private or gated, set HF_TOKEN."
    else:
        error, text = HubError, f"{host} gives no {repo}, {what}: {reason}"
        hint = f"See {refusal.endpoint}/{repo}; trying again does not help."
    return error(text, hint=hint)
