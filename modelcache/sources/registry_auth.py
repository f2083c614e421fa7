"""The authorization of requests to a registry: the login is exchanged for tokens, as the registry asks.

The challenges and tokens are those of https://distribution.github.io/distribution/spec/auth/token/ (GET, with the
login as Basic) and …/oauth/ (POST, with an identity token). The login goes to the registry, and over https to the
token realm that it names. A token goes to the registry alone. Over plain http, a registry on this machine apart, no
login is sent, and none is asked for.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from modelcache.core.errors import AccessDeniedError, HubError, TokenRefusedError
from modelcache.core.redact import register_secret
from modelcache.core.text import escape
from modelcache.sources.registry_login import Login
from modelcache.sources.responses import read_short
from modelcache.transfer.http_client import HttpClient, HttpResponse
from modelcache.transfer.origins import host_of, is_loopback, origin_of
from modelcache.transfer.retry import TransientError

_LONGEST_ANSWER = 1 << 20
_PATIENCE_WITH_A_TOKEN = 6.0
"""Timeouts for all of an answer, however slowly it comes."""
_LONGEST_LIFE, _SHORTEST_LIFE = 3600, 60
"""Seconds that a token is used; the latter is the life of one that names none, as the specification has it."""
_PART_USED = 0.8
_WORD = re.compile(r'([a-z0-9_]+)\s*=\s*(?:"([^"]*)"|([^\s,"=]+))|([a-z][a-z0-9-]*)', re.IGNORECASE)
"""A parameter of a challenge, or the scheme that begins one."""


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    until: float


class RegistryAuth:
    """The Authorization headers for one registry; several threads may ask."""

    def __init__(self, registry: str, url: str, login: Login | None, client: HttpClient) -> None:
        self._registry = registry
        self._url = url
        self._may_send_login = url.startswith("https:") or is_loopback(url)
        self._login = login if self._may_send_login else None
        self._realm_hint = f"Check that {registry} is a registry, and the proxy before it."
        self._left_out = login is not None and not self._may_send_login
        self._client = client
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the header for these scopes, as far as the registry has asked for one."""
        found = self._tokens.get(" ".join(scopes)) or self._tokens.get("")
        return found.header if found and time.monotonic() < found.until else None

    def answer(self, challenge: str, scopes: tuple[str, ...], refused: str | None) -> str:
        """Return the header that the registry asks for by a challenge; `refused` is the one that it did not take.

        Raises:
            AccessDeniedError: there is no login, or the registry does not take it.
            HubError: the challenge is not understood, or the login would go where it must not.
            TransientError: the token realm failed; another try may not.

        """
        with self._lock:  # one thread gets a new token for the others
            if (found := self.header(scopes)) and found != refused:
                return found
            scheme, parameters = _parsed(challenge)
            if scheme == "basic":
                key, token = "", self._basic(refused)
            elif scheme == "bearer":
                key, token = " ".join(scopes), self._bearer(parameters, scopes)
            else:
                raise HubError(f"{self._registry} asks for a login of an unknown kind", hint=self._login_hint())
            register_secret(token.header.partition(" ")[2])
            self._tokens[key] = token
            return token.header

    def refusal(self, text: str) -> AccessDeniedError:
        """Return the error for something that the registry does not let this login do."""
        return AccessDeniedError(text, hint=self._login_hint())

    def _basic(self, refused: str | None) -> _Token:
        if self._login is None:
            raise self.refusal(f"{self._registry} asks for a login")
        if refused is not None:
            raise self._login_refused(self._login)
        return _Token(_basic_header(self._login), float("inf"))

    def _bearer(self, parameters: Mapping[str, str], scopes: tuple[str, ...]) -> _Token:
        realm, service = parameters.get("realm", ""), parameters.get("service", "")
        self._refuse_realm(realm)
        with self._token_request(realm, service, scopes) as response:
            if response.status in (400, 401, 403):
                if self._login:
                    raise self._login_refused(self._login)
                raise self.refusal(f"{self._registry} asks for a login")
            if response.status != 200:
                raise TransientError(f"{host_of(realm)}: status {response.status} for a token")
            deadline = time.monotonic() + _PATIENCE_WITH_A_TOKEN * self._client.policy.timeout
            body = read_short(response, self._registry, _LONGEST_ANSWER, deadline, hint=self._realm_hint)
        return self._token(response, body)

    def _token_request(self, realm: str, service: str, scopes: Sequence[str]) -> AbstractContextManager[HttpResponse]:
        """Send the login, if there is one, to the token realm."""
        login = self._login
        if login and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "cache-models"}
            form |= {"service": service, "scope": " ".join(scopes)}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._client.send("POST", realm, headers, urlencode(form).encode())
        query = [("service", service)] * bool(service) + [("scope", one) for one in scopes]
        headers = {"Authorization": _basic_header(login)} if login else {}
        return self._client.get(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query, quote_via=quote)}", headers)

    def _token(self, response: HttpResponse, body: bytes) -> _Token:
        text, life = "", 0.0
        with suppress(ValueError, RecursionError):  # a page of a proxy, say
            text, life = _token_and_life(json.loads(body))
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise HubError(f"{host_of(response.url)} sent no token", hint=self._realm_hint)
        return _Token(f"Bearer {text}", time.monotonic() + _PART_USED * min(life, _LONGEST_LIFE))

    def _refuse_realm(self, realm: str) -> None:
        """Refuse a realm that is no address, or that a login must not go to."""
        hint = "Ask who runs that registry; a token realm has an https address."
        try:
            scheme = origin_of(realm)[0]
        except HubError:
            raise HubError(f"{self._registry} names a token realm that is no http address", hint=hint) from None
        local = is_loopback(realm) and is_loopback(self._url)
        plain = self._url.startswith("http:") and self._login is None
        if scheme != "https" and not local and not plain:
            raise HubError(f"{self._registry} names a token realm over plain http, {host_of(realm)}", hint=hint)

    def _login_refused(self, login: Login) -> TokenRefusedError:
        return TokenRefusedError(
            f"{self._registry} does not take the login from {escape(login.source)}",
            hint=f"Log in again with `docker login {self._registry}`, or name another file in REGISTRY_AUTH_FILE.",
        )

    def _login_hint(self) -> str:
        if self._left_out:
            return "Over plain http no password is sent; use https, that is, leave --insecure out."
        if self._login:
            return f"The login comes from {escape(self._login.source)}; it may not do this, or the name is wrong."
        return f"Log in with `docker login {self._registry}`, or name a file with a login in REGISTRY_AUTH_FILE."


def _parsed(header: str) -> tuple[str, Mapping[str, str]]:
    """Return the scheme that is taken of a WWW-Authenticate header, in small letters, and its parameters.

    A server may offer several schemes (RFC 9110, 11.6.1). Tokens come first: some are had without a login.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    for name, quoted, plain, scheme in _WORD.findall(header[:4096]):
        if scheme:
            challenges.append((scheme.lower(), {}))
        elif challenges:
            challenges[-1][1].setdefault(name.lower(), quoted or plain)
    known = [challenge for wanted in ("bearer", "basic") for challenge in challenges if challenge[0] == wanted]
    return known[0] if known else ("", {})


def _basic_header(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"


def _token_and_life(answer: object) -> tuple[str, float]:
    """Return the token of an answer, empty if it has none, and its life in seconds."""
    if not isinstance(answer, dict):
        return "", 0
    token, life = answer.get("token") or answer.get("access_token"), answer.get("expires_in")
    seconds = life if isinstance(life, int) and not isinstance(life, bool) else 0
    return token if isinstance(token, str) else "", max(seconds, _SHORTEST_LIFE)
