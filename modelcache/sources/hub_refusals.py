"""Which error a refused request to the Hub means. Rules only; the first that fits counts.

The codes are those of huggingface_hub 2.4 (utils/_http.py `hf_raise_for_status`). Another try is of no use after the
codes in `_FINAL`, whether the Hub itself or a mirror sends them. Any other refusal of a host that the Hub redirects to
may have gone with a new address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    @property
    def code(self) -> str:
        """Why, in one word, if the Hub says so."""
        return self.headers.get("X-Error-Code", "")

    @property
    def elsewhere(self) -> bool:
        """Whether it came from another server than the endpoint, which is never shown the token."""
        return origin_of(self.url) != origin_of(self.endpoint)

    @property
    def token(self) -> bool:
        """Whether the server has seen a token."""
        return self.has_token and not self.elsewhere


Error = type[HubError] | type[TransientError]
_RULES: tuple[tuple[Callable[[Refusal], bool], Error, str, str], ...] = (
    (
        lambda refusal: refusal.status < 400 or (refusal.elsewhere and refusal.code not in _FINAL),
        TransientError,
        "{host}: status {status}{through}",
        "{past_proxy}",
    ),
    (
        lambda refusal: refusal.code == "GatedRepo",
        AccessDeniedError,
        "{repo} is gated and cannot be read {with_token}",
        "Accept its terms at {site}/{repo}, then set HF_TOKEN.{scope}",
    ),
    (
        lambda refusal: refusal.code == "DisabledRepo" or refusal.headers.get("X-Error-Message") == _DISABLED,
        NotOnHubError,
        "{repo} is disabled on {host}",
        "{site}/{repo} may say why.",
    ),
    (
        lambda refusal: refusal.code == "RevisionNotFound",
        NotOnHubError,
        "{repo} at {revision}: there is no such revision",
        "Check `revision`, or pin a commit that exists.",
    ),
    (
        lambda refusal: refusal.code == "EntryNotFound",
        NotOnHubError,
        "{repo} has no file {what}",
        "Run `python cache_models.py lock --upgrade`.",
    ),
    (
        lambda refusal: refusal.status == 401 and refusal.token and not refusal.proxy,
        AccessDeniedError,
        "{host} does not accept the token",
        "Check HF_TOKEN; it may have expired.",
    ),
    (
        lambda refusal: refusal.proxy is not None and not refusal.code and refusal.status != 404,
        HubError,
        "the proxy {proxy}, or {host} behind it, refuses {repo}, {what}: status {status}",
        "{past_proxy}",
    ),
    (
        lambda refusal: not refusal.code and refusal.status in _NO_ROUTE and refusal.what.startswith("commit "),
        HubError,
        "{host} does not list files: status {status} for /api/models/{repo}/tree, and it knows the revision",
        "Set HF_ENDPOINT to a mirror with the Hub's whole API, or take the models from a root: --from.",
    ),
    (
        lambda refusal: refusal.code == "RepoNotFound" or refusal.status in (401, 404),
        NotOnHubError,
        "{repo} is not on {host}",
        "Check the id. If it is private, HF_TOKEN must belong to an account that may read it.{scope}",
    ),
    (
        lambda refusal: refusal.status == 403,
        AccessDeniedError,
        "{host} refuses {repo}, {what}: {reason}",
        "{token_hint}",
    ),
    (
        lambda refusal: True,
        HubError,
        "{host} gives no {repo}, {what}: {reason}",
        "See {endpoint}/{repo}; trying again does not help.",
    ),
)


def error_of(refusal: Refusal) -> HubError | TransientError:
    """Return the error that a refusal means."""
    error, message, hint = next(rule[1:] for rule in _RULES if rule[0](refusal))
    facts = _facts(refusal)
    return error(message.format_map(facts), hint=hint.format_map(facts))


def _facts(refusal: Refusal) -> dict[str, object]:
    """Return what messages and hints may quote."""
    scheme, host, port = origin_of(refusal.url)
    usual = (scheme, port) in (("https", 443), ("http", 80))
    scope = f" {host_of(refusal.endpoint)} leads there, and the token is for HF_ENDPOINT only."
    proxy, past_proxy = refusal.proxy, ""
    if proxy:
        past_proxy = proxy.address_hint if refusal.status == 401 and not refusal.elsewhere else proxy.bypass_hint(host)
    return {
        "repo": refusal.repo,
        "what": refusal.what,
        "revision": refusal.what.rpartition(" ")[2],
        "endpoint": refusal.endpoint,
        "host": host,
        "site": f"{scheme}://{host}" if usual else f"{scheme}://{host}:{port}",
        "status": refusal.status,
        "reason": escape(refusal.headers.get("X-Error-Message", f"status {refusal.status}")),
        "with_token": "with this token" if refusal.token else "without a token",
        "token_hint": "Check what HF_TOKEN may read." if refusal.token else "If it is private or gated, set HF_TOKEN.",
        "scope": scope if refusal.elsewhere else "",
        "proxy": proxy.place if proxy else "",
        "through": f", through the proxy {proxy.place}" if proxy else "",
        "past_proxy": past_proxy,
    }
