"""Requests to a registry about one repository: their login, their redirects, and the error of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from modelcache.core.errors import HubError
from modelcache.sources.registry_auth import RegistryAuth
from modelcache.sources.registry_responses import NO_REGISTRY, error_in, location_of
from modelcache.sources.responses import is_redirect
from modelcache.transfer.http_client import Body, HttpClient, HttpResponse
from modelcache.transfer.origins import host_of, origin_of
from modelcache.transfer.retry import TransientError

_MOST_REDIRECTS = 5


class RegistryRequests:
    """Sends requests to one registry; several threads may use it. `name` is the repository, for messages."""

    def __init__(self, name: str, registry: str, auth: RegistryAuth, client: HttpClient, address: str) -> None:
        self._name = name
        self._registry = registry
        self._auth = auth
        self._client = client
        self._origin = origin_of(address)

    @contextmanager
    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Callable[[], Body] | None = None,
        *,
        scopes: Sequence[str],
        patience: float = 1.0,
        raises: bool = True,
    ) -> Iterator[HttpResponse]:
        """Send a request with the header that the registry wants, follow the redirects of a GET, and give the response.

        The header goes to the registry's own origin alone. `raises` is False where a refusal is an answer.
        """
        wanted, refused = tuple(scopes), None
        redirects = answers = 0
        while True:
            ours = origin_of(url) == self._origin
            header = self._auth.header(wanted) if ours else None
            secret = {"Authorization": header} if header else {}
            with ExitStack() as opened:
                sent = self._client.send(method, url, {**headers, **secret}, body and body(), patience=patience)
                response = opened.enter_context(sent)
                if response.status == 401 and ours and answers < 2:
                    challenge, refused = response.headers.get("WWW-Authenticate", ""), header
                elif method == "GET" and is_redirect(response):
                    challenge, redirects = "", redirects + 1
                    if redirects > _MOST_REDIRECTS:
                        raise HubError(f"{host_of(url)} redirects without end", hint=NO_REGISTRY)
                    url = location_of(response) or url
                    continue
                else:
                    if response.status in (401, 403) and raises and ours and not response.proxy:
                        raise self._denied(response, method)
                    yield response
                    return
            answers += 1
            self._auth.answer(challenge, wanted, refused)

    def _denied(self, response: HttpResponse, method: str) -> HubError:
        doing = "read" if method in ("GET", "HEAD") else "write"
        message = error_in(response)[1] if method != "HEAD" else ""
        reason = f": {message}" if message else ""
        return self._auth.refusal(f"{self._registry} does not let this run {doing} {self._name}{reason}")

    def refused(self, response: HttpResponse, doing: str, message: str = "") -> HubError | TransientError:
        """Return the error for an unexpected status."""
        if response.proxy or origin_of(response.url) != self._origin or response.status < 400:
            hint = NO_REGISTRY if response.status < 400 else ""
            return TransientError(f"{host_of(response.url)}: status {response.status}, cannot {doing}", hint=hint)
        reason = f"status {response.status}{': ' if message else ''}{message}"
        hint = "The reason is that of the registry; trying again does not help." if message else NO_REGISTRY
        if response.status == 413:
            hint = "The registry, or a proxy before it, limits the size of a request; ask who runs it."
        return HubError(f"{self._name}: the registry does not {doing} ({reason})", hint=hint)
