"""The login for a registry, as docker and podman keep it: in files, and in programs that are asked for it.

The files are those of containers-auth.json(5) and of docker (github.com/docker/cli, cli/config). A program is a
`docker-credential-NAME` (github.com/docker/docker-credential-helpers, README); one is run only if a file names it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from modelcache.core.errors import SettingError
from modelcache.core.redact import register_secret
from modelcache.core.text import escape, size_in_words
from modelcache.image.reference import DOCKER_HUB
from modelcache.sources.credential_program import NoAnswerError, ask, parse_object, try_it
from modelcache.system.files import absolute
from modelcache.system.limits import limit_behind

_HUB_KEY = "https://index.docker.io/v1/"
"""The key under which docker keeps the login for Docker Hub."""
_HUB_HOSTS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_KEY = re.compile(r"(https?://)?([^/]*)(.*)", re.IGNORECASE | re.DOTALL)
_API_PATHS = ("/v1/", "/v2/")
_PROGRAM_NAME = re.compile(r"[A-Za-z0-9._-]+")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, which no header may hold, and halves of characters, which have no bytes."""
_LARGEST_FILE = 1 << 20
_TOKEN_USER = "<token>"  # noqa: S105  # the name that stands for an identity token
_LOG_IN = "Log in again with `docker login` or `podman login`"
_OTHER_FILE = (
    "name another file in REGISTRY_AUTH_FILE: one that `podman login --authfile` wrote, "
    "or one that holds {} to ask without a login."
)


@dataclass(frozen=True, slots=True)
class Login:
    """The name and the password for a registry, or the token that stands for them."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token for the token server of the registry (OAuth 2); empty where there is none."""
    source: str = ""
    """The file, or the program, that it comes from; for messages."""


def login_for(registry: str, repository: str) -> Login | None:
    """Return the login for a repository of a registry; None if no file knows one.

    `registry` is `docker.io`, or a host with its port if it has one. The first of these files that has a login wins:
    config.json in DOCKER_CONFIG, containers/auth.json in XDG_RUNTIME_DIR and in XDG_CONFIG_HOME (~/.config), and
    ~/.docker/config.json where DOCKER_CONFIG is not set. With REGISTRY_AUTH_FILE that file is the only one.
    In a file the program for this registry (`credHelpers`) is asked, else the program for all of them (`credsStore`),
    as docker does; where that knows none, the file's own entries (`auths`) count. UsageError as `absolute`.

    Raises:
        SettingError: a file cannot be read or understood, or a program gives no answer that can be used.
        LimitError: this machine has too little memory, or too few descriptors.

    """
    if registry in _HUB_HOSTS:
        registry = DOCKER_HUB
    for file in _files():
        if login := _asked_login(file, registry) or _written_login(file, registry, repository):
            return login
    return None


@dataclass(frozen=True, slots=True)
class _AuthFile:
    """A file with logins, parsed."""

    name: str
    """Its path, for messages."""
    content: dict[str, Any] = field(repr=False)

    def table(self, *keys: str) -> dict[str, Any]:
        """Return the object behind some keys; empty where none is, or null, as Go writes an empty one."""
        found: Any = self.content
        for depth, key in enumerate(keys, start=1):
            found = found.get(key)
            if found is None:
                return {}
            if not isinstance(found, dict):
                self.refuse(f"{_quoted(keys[:depth])} is not an object")
        return found  # type: ignore[no-any-return]  # a dict of JSON

    def text(self, *keys: str) -> str:
        """Return the text behind some keys; empty where none is."""
        value = self.table(*keys[:-1]).get(keys[-1])
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(f"{_quoted(keys)} is not a string")
        return value

    def refuse(self, problem: str, hint: str = "") -> NoReturn:
        """Raise the error for an entry; it names no value."""
        raise SettingError(f"{self.name}: {problem}", hint=hint or f"Correct it, or {_OTHER_FILE}") from None


def _files() -> Iterator[_AuthFile]:
    """Yield the files that may hold logins, the first to be asked first; each is read when it is its turn.

    Raises:
        SettingError: REGISTRY_AUTH_FILE names a file that does not exist; see also `_read`.

    """
    if chosen := os.environ.get("REGISTRY_AUTH_FILE"):
        file = _read(absolute(chosen))
        if file is None:
            raise SettingError(
                f"REGISTRY_AUTH_FILE names {escape(str(absolute(chosen)))}, and no file is there",
                hint="Name a file that `podman login --authfile` wrote, or unset REGISTRY_AUTH_FILE.",
            )
        yield file
        return
    yield from filter(None, map(_read, _places()))


def _places() -> Iterator[Path]:
    """Yield the paths where docker and podman keep logins; a user without a home has fewer of them."""
    if folder := os.environ.get("DOCKER_CONFIG"):
        yield absolute(folder) / "config.json"
    home = os.path.expanduser("~")  # it stays `~` for a user without a home
    folders = (os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
    yield from (Path(folder, "containers/auth.json") for folder in folders if os.path.isabs(folder))
    if os.path.isabs(home) and not os.environ.get("DOCKER_CONFIG"):  # it takes the place of ~/.docker
        yield Path(home, ".docker/config.json")


def _read(path: Path) -> _AuthFile | None:
    """Return a file with logins, parsed; None if none is there.

    A link is followed: a mounted Secret of Kubernetes is one. An empty file, as of a build secret that is not given,
    and /dev/null hold no login.

    Raises:
        SettingError: it is no file, cannot be read, has more than 1 MiB, or is no JSON.

    """
    name = escape(str(path))
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
                raise SettingError(f"{name} is a pipe or a disk", hint=f"Make it a file, or {_OTHER_FILE}")
            content = file.read(_LARGEST_FILE + 1) or b""
    except (FileNotFoundError, NotADirectoryError):  # a home of /dev/null has none either
        return None
    except OSError as error:
        if limit := limit_behind(error, "read the logins for registries"):
            raise limit from error
        hint = f"Check what it is, or {_OTHER_FILE}"
        if isinstance(error, PermissionError):
            hint = f"Let uid {os.geteuid()} read it, or {_OTHER_FILE}"
        elif isinstance(error, IsADirectoryError):
            hint = "Mount a file that exists: Docker makes a directory where a bind mount names one that does not."
        raise SettingError(f"{name} cannot be read: {error.strerror}", hint=hint) from error
    if len(content) > _LARGEST_FILE:
        hint = f"Check what it is, or {_OTHER_FILE}"
        raise SettingError(f"{name} has more than {size_in_words(_LARGEST_FILE)}", hint=hint)
    if not content.strip():
        return _AuthFile(name, {})
    parsed = parse_object(content)
    if parsed is None:
        hint = f"Move it away, or {_OTHER_FILE}"
        raise SettingError(f"{name} is not the JSON of docker's config.json", hint=hint)
    return _AuthFile(name, parsed)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open also a pipe that has no writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _written_login(file: _AuthFile, registry: str, repository: str) -> Login | None:
    """Return the login that stands in a file: of the entry with the longest path, as podman has them.

    An entry without a login is passed over: docker leaves one for a login that a program keeps.
    """
    for key in _keys_for(file.table("auths"), registry, repository):
        user, password = _decoded_auth(file, key)
        if not user:
            user, password = file.text("auths", key, "username"), file.text("auths", key, "password")
        login = Login(user, password, file.text("auths", key, "identitytoken"), file.name)
        if problem := _problem_of(login):
            file.refuse(f"{_quoted(('auths', key))} {problem}", f"{_LOG_IN}, or {_OTHER_FILE}")
        if user or login.identity_token:
            return _registered(login)
    return None


def _keys_for(keys: Iterable[str], registry: str, repository: str) -> list[str]:
    """Return the keys of `auths` that name a registry or a part of it that has the repository, the longest first."""
    wanted = f"{_place_of(registry)}/{repository}/"
    places = {key: _place_of(key) for key in keys}
    found = [key for key, place in places.items() if wanted.startswith(f"{place}/")]
    return sorted(found, key=lambda key: (-len(places[key]), key != registry))


def _place_of(key: str) -> str:
    """Return the host of a key, and the path of repositories behind it; behind a scheme a path is one of the API."""
    scheme, host, path = _KEY.fullmatch(key).groups()  # type: ignore[union-attr]  # it matches any text
    host = host.lower()
    path = "" if scheme or path in _API_PATHS else path.rstrip("/")
    return (DOCKER_HUB if host in _HUB_HOSTS else host) + path


def _decoded_auth(file: _AuthFile, key: str) -> tuple[str, str]:
    """Return name and password of `auth`, empty where there is none; as docker reads them (configfile `decodeAuth`)."""
    encoded = "".join(file.text("auths", key, "auth").split()).rstrip("=")
    if not encoded:
        return "", ""
    decoded = ""
    with suppress(ValueError):
        decoded = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    user, colon, password = decoded.partition(":")
    if not (user and colon):
        file.refuse(
            f"{_quoted(('auths', key, 'auth'))} is not the base64 of user:password",
            f"{_LOG_IN}, or write what `printf %s user:password | base64 -w0` prints.",
        )
    return user, password.strip("\0")


def _problem_of(login: Login) -> str:
    """Return why a login cannot be sent, without any part of it; empty if it can."""
    if any(_UNUSABLE.search(text) for text in (login.user, login.password, login.identity_token)):
        return "has a line break or another control character in it"
    if ":" in login.user:
        return "has a colon in the name of the user, where the password would begin"
    if login.password and not login.user:
        return "has a password and no name of a user"
    return ""


def _registered(login: Login) -> Login:
    """Return a login, and have it masked in all output."""
    register_secret(login.identity_token)
    if login.password:
        register_secret(login.password)
        register_secret(b64encode(f"{login.user}:{login.password}".encode()).decode())
    return login


def _asked_login(file: _AuthFile, registry: str) -> Login | None:
    """Return the login that a program knows which a file names; None if it names none, or that knows none.

    An empty name in `credHelpers` says that no program is asked for this registry.
    """
    spellings = (_HUB_KEY, *_HUB_HOSTS) if registry == DOCKER_HUB else (registry,)
    key = next((key for key in spellings if key in file.table("credHelpers")), "")
    keys = ("credHelpers", key) if key else ("credsStore",)
    name = file.text(*keys)
    if not name:
        return None
    if not _PROGRAM_NAME.fullmatch(name):
        file.refuse(f"{_quoted(keys)} is no plain name", "Write NAME for the program docker-credential-NAME.")
    program = f"docker-credential-{escape(name, 200)}"
    server = _HUB_KEY if registry == DOCKER_HUB else registry
    try:
        answer = ask(program, server)
    except NoAnswerError as error:
        file.refuse(f"{program}, which {_quoted(keys)} names, {error}", f"{error.hint}, or {_OTHER_FILE}")
    except OSError as error:
        if limit := limit_behind(error, f"run {program}"):
            raise limit from error
        problem = f"{program}, which {_quoted(keys)} names, cannot be run: {error.strerror}"
        file.refuse(problem, f"Check its mode and its first line, or {_OTHER_FILE}")
    if answer is None:
        return None
    user, secret = answer.get("Username"), answer.get("Secret")
    if isinstance(user, str) and isinstance(secret, str):
        login = Login("", "", secret, program) if user == _TOKEN_USER else Login(user, secret, source=program)
        problem = _problem_of(login)
    else:
        login, problem = Login("", ""), "has no Username or no Secret"
    if problem:
        hint = f"{try_it(program, server)}, or {_OTHER_FILE}"
        file.refuse(f"the answer of {program}, which {_quoted(keys)} names, {problem}", hint)
    return _registered(login) if login.user or login.identity_token else None


def _quoted(keys: Iterable[str]) -> str:
    """Return the way to a value of a file, for messages."""
    return ".".join(json.dumps(escape(key, 200), ensure_ascii=False) for key in keys)
