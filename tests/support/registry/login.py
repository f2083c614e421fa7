"""The rights of clients: basic passwords, and bearer tokens for a scope.

Knows https://distribution.github.io/distribution/spec/auth/; nothing of repositories.
"""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tests.support.hub.request import ParsedRequest

Right = tuple[str, str]
"""A repository, and `pull` or `push`."""


@dataclass(slots=True)
class _Token:
    rights: frozenset[Right]
    until: float
    left: int | None


@dataclass(slots=True)
class Login:
    """The one user of a registry, and the tokens that it gave out."""

    kind: Literal["basic", "bearer"]
    user: str = "user"
    password: str = "password-of-the-registry"
    identity_token: str | None = None
    """Gets tokens by POST, as a refresh token; None: no such way."""
    anonymous_pull: bool = False
    lasts: float = 300.0
    """Seconds for which a token is good."""
    uses: int | None = None
    """Requests for which a token is good."""
    fields: tuple[str, ...] = ("token", "access_token")
    """Where the answer has the token."""
    tokens: dict[str, _Token] = field(default_factory=dict)

    def challenge(self, ask: ParsedRequest, rights: list[Right], realm: str) -> str | None:
        """The WWW-Authenticate of a refusal; None where the request may do all of this."""
        if self.anonymous_pull and ask.headers.get("Authorization") is None and self.kind == "basic":
            return None if rights and all(action == "pull" for _, action in rights) else 'Basic realm="stand-in"'
        if self.kind == "basic":
            return None if self._knows(ask) else 'Basic realm="stand-in"'
        token = self.tokens.get(ask.bearer or "")
        if token is not None and token.until > time.monotonic() and token.left != 0 and token.rights.issuperset(rights):
            token.left = None if token.left is None else token.left - 1
            return None
        told = f'Bearer realm="{realm}",service="stand-in"'
        told += f',scope="{_scopes(rights)}"' if rights else ""
        if token is not None:
            told += ',error="insufficient_scope"' if not token.rights.issuperset(rights) else ',error="invalid_token"'
        return told

    def grant(self, ask: ParsedRequest, form: dict[str, list[str]]) -> dict[str, object] | None:
        """The answer of the token endpoint, to the query of a GET or the form of a POST; None: refused.

        As at Docker Hub, a token without a password is one for less than it was asked for: the rights to pull.
        """
        rights = {
            (name, action)
            for scope in " ".join(form.get("scope", [])).split()
            for name, _, actions in [scope.removeprefix("repository:").rpartition(":")]
            for action in actions.split(",")
        }
        if ask.method == "POST":
            known = self.identity_token is not None and form.get("refresh_token") == [self.identity_token]
            known |= form.get("username") == [self.user] and form.get("password") == [self.password]
        elif ask.headers.get("Authorization") is None and self.anonymous_pull:
            known, rights = True, {right for right in rights if right[1] == "pull"}
        else:
            known = self._knows(ask)
        if not known:
            return None
        token = uuid.uuid4().hex
        self.tokens[token] = _Token(frozenset(rights), time.monotonic() + self.lasts, self.uses)
        return {**dict.fromkeys(self.fields, token), "expires_in": int(self.lasts)}

    def _knows(self, ask: ParsedRequest) -> bool:
        kind, _, coded = (ask.headers.get("Authorization") or "").partition(" ")
        try:
            return kind.lower() == "basic" and base64.b64decode(coded).decode() == f"{self.user}:{self.password}"
        except (binascii.Error, UnicodeDecodeError):
            return False


def _scopes(rights: Iterable[Right]) -> str:
    actions: dict[str, list[str]] = {}
    for name, action in rights:
        actions.setdefault(name, []).append(action)
    return " ".join(f"repository:{name}:{','.join(some)}" for name, some in actions.items())
