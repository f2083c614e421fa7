"""The name of an image in a registry, read by the rules of https://github.com/distribution/reference.

The grammar is that of its regexp.go, and short names are completed as its normalize.go does it: `redis` is
`docker.io/library/redis:latest`. So a name means the same here as in docker, podman and skopeo.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from modelcache.core.names import DIGEST

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

_LEGACY_HUB = "index.docker.io"
_OFFICIAL = "library/"
_SKOPEO = "docker://"
_OTHER_SCHEMES = ("oci:", "oci-archive:", "docker-archive:", "docker-daemon:", "containers-storage:", "dir:")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)|\[(?P<ipv6>[0-9a-f:]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
_IS_HOST = re.compile("[.:]")
_LONGEST_HOST = 253  # characters, and 63 a label: https://www.rfc-editor.org/rfc/rfc1035
_LARGEST_PORT = 65535
_PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(f"{_PART}(?:/{_PART})*")
_LONGEST_REPOSITORY = 255  # RepositoryNameTotalLengthMax of reference.go
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of an image in a registry, as docker and skopeo write it."""

    registry: str
    """The host, or `host:port`, in lower case; `docker.io` for Docker Hub."""
    repository: str
    """Such as `library/redis` or `team/models`."""
    tag: str = ""
    digest: str = ""
    """`sha256:` and 64 hex digits."""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the image that `text` names, also with skopeo's `docker://` before it.

        ValueError for a text that names none; its message shows no text that may hold a password.
        """
        before, at, digest = text.partition("@")
        if "/" in digest or "@" in digest:  # as in user:password@host/…; a digest has neither
            raise ValueError(
                "the name of an image has no user and no password in it: write REGISTRY/REPOSITORY:TAG, "
                "and log in with `docker login REGISTRY`"
            )
        if at and not DIGEST.fullmatch(digest):  # the text is not shown: a password may stand before the @
            raise ValueError("the digest after the @ is not `sha256:` and 64 hex digits in lower case")
        named = before.removeprefix(_SKOPEO)
        _refuse_other_names(text, named)
        registry, path = _split(named)
        repository, colon, tag = path.partition(":")
        _check_registry(text, registry)
        _check_repository(text, named, repository)
        if colon and not _TAG.fullmatch(tag):
            raise ValueError(
                f"{text!r} is no image, because its tag {tag!r} is not 1 to 128 of the characters "
                "A-Z a-z 0-9 _ . - without a dot or a dash at the start"
            )
        return cls(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)

    def __str__(self) -> str:
        """Return the full name, with the tag and the digest where it has them."""
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    def at(self, digest: str) -> Reference:
        """Return the same image by this digest, without a tag."""
        return replace(self, tag="", digest=digest)

    @property
    def wanted(self) -> str:
        """The digest, else the tag: the last part of `/v2/<repository>/manifests/<wanted>`."""
        return self.digest or self.tag


def _split(named: str) -> tuple[str, str]:
    """Return the registry, and the repository with its tag (splitDockerDomain of normalize.go)."""
    first, slash, rest = named.partition("/")
    if not slash or not (first == "localhost" or _IS_HOST.search(first) or first != first.lower()):
        first, rest = DOCKER_HUB, named
    registry = first.lower()
    if registry == _LEGACY_HUB:
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in rest:
        rest = _OFFICIAL + rest
    return registry, rest


def _refuse_other_names(text: str, named: str) -> None:
    """Refuse a text that names something else than an image in a registry."""
    if not named:
        raise ValueError(f"{text!r} is no image: write REGISTRY/REPOSITORY:TAG, such as ghcr.io/team/models:v1")
    if url := _URL.match(named):
        raise ValueError(f"{text!r} is an address, not the name of an image: write {named[url.end() :]!r}")
    if named.startswith(_OTHER_SCHEMES):
        raise ValueError(f"{text!r} is not in a registry: write REGISTRY/REPOSITORY:TAG")
    if named.endswith("/"):
        raise ValueError(f"{text!r} is no image, because it ends with a slash: write {named.rstrip('/')!r}")
    if _IDENTIFIER.fullmatch(named):
        raise ValueError(f"{text!r} is the id of an image in an engine: write the image's name in a registry")


def _check_registry(text: str, registry: str) -> None:
    found = _HOST.fullmatch(registry)
    valid = found is not None and len(found["name"] or "") <= _LONGEST_HOST
    if found and found["ipv6"]:
        try:
            IPv6Address(found["ipv6"])
        except ValueError:
            valid = False
    if found is None or not valid:
        raise ValueError(f"{text!r} is no image, because {registry!r} is not the host of a registry, or HOST:PORT")
    if found["port"] and not 1 <= int(found["port"]) <= _LARGEST_PORT:
        raise ValueError(f"{text!r} is no image, because its port is not from 1 to {_LARGEST_PORT}")
    if not _IS_HOST.search(registry) and registry != "localhost":
        # Only its capitals make it a host, as in BAAI/models. In lower case it would be an owner on Docker Hub.
        raise ValueError(
            f"{text!r} is no image, because its owner has capitals: write it in lower case, or {registry + ':443'!r} "
            "for a registry on a host of this name"
        )


def _check_repository(text: str, named: str, repository: str) -> None:
    if len(repository) > _LONGEST_REPOSITORY:
        raise ValueError(f"{text!r} is no image, because its repository has more than {_LONGEST_REPOSITORY} characters")
    if _REPOSITORY.fullmatch(repository):
        return
    if _REPOSITORY.fullmatch(repository.lower()):
        spelled = re.escape(repository.removeprefix(_OFFICIAL))
        right = re.sub(rf"(?<![^/]){spelled}(?![^:])", lambda found: found[0].lower(), named, count=1)
        raise ValueError(f"{text!r} is no image, because a repository is in lower case: write {right!r}")
    raise ValueError(
        f"{text!r} is no image, because each part of the repository {repository!r} must be of a-z and 0-9, "
        "with single dots, one or two underscores, or dashes between them"
    )
