"""The three hosts, registry, token and content: which answer a request gets when nothing goes wrong.

Knows the distribution spec (https://github.com/opencontainers/distribution-spec/blob/main/spec.md); nothing of sockets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote

from tests.support.hub.answers import Answer, RefusalError, as_json
from tests.support.hub.content import Content
from tests.support.hub.request import ParsedRequest

from .login import Login, Right
from .storage import Storage, UnknownBlobError, append

Host = Literal["registry", "token", "content"]
Kind = Literal["version", "manifest", "blob", "upload start", "upload body", "token", "unknown"]
"""`upload body` is every request about an upload that was started: PATCH, PUT, GET and DELETE."""
Form = Literal["relative", "absolute", "query", "elsewhere"]

_PATH = re.compile(
    r"/(?:v2|content)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)/"
    r"(?:manifests/(?P<manifest>sha256:[0-9a-f]{64}|\w[\w.-]{0,127})"
    r"|blobs/uploads/(?P<start>)|blobs/uploads/(?P<upload>[0-9a-f]+)|blobs/(?P<blob>sha256:[0-9a-f]{64}))",
    re.ASCII,
)
_KINDS: dict[str, Kind] = {
    "manifest": "manifest",
    "start": "upload start",
    "upload": "upload body",
    "blob": "blob",
}
_LARGEST_MANIFEST = 4 << 20


@dataclass(slots=True)
class Ask(ParsedRequest):
    """One request; `file` is the tag, digest or session that it is about."""

    host: Host = "registry"
    kind: Kind = "unknown"
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    """The body, as it comes in."""

    def __post_init__(self) -> None:
        """Find out what is asked."""
        path = unquote(self.path)
        if path == "/token":
            self.kind = "token"
        elif path in ("/v2", "/v2/"):
            self.kind = "version"
        elif match := _PATH.fullmatch(path):
            self.repo = match["name"]
            self.kind, self.file = next((_KINDS[key], match[key]) for key in _KINDS if match[key] is not None)

    def parameter(self, name: str) -> str | None:
        """The first value of this name in the query."""
        return next(iter(self.query.get(name, [])), None)


@dataclass(slots=True)
class Site:
    """Answer for all hosts."""

    storage: Storage
    login: Login | None = None
    """The passwords and tokens that are asked for; None lets every client do everything."""
    url: str = ""
    content_url: str = ""
    realm: str = ""
    """Where tokens are to be had. `token_url` + "/token" of the registry is another host."""
    redirects: bool = False
    """Whether GET of a blob is answered with 307 to the content network."""
    upload_location: Form = "absolute"
    """How the Location of an upload is written; "query" changes with every piece, "elsewhere" is signed."""
    reads_refused_bodies: bool = True
    """If not, a refusal of a large body goes out while it comes in, and the connection ends, as servers in Go do."""

    def answer(self, ask: Ask) -> Answer:
        """Answer; a request that may not be made, or has no sense, is refused."""
        try:
            answer = self._route(ask)
        except RefusalError as refusal:
            answer = refusal.answer
        headers = {"Docker-Distribution-Api-Version": "registry/2.0", **answer.headers}
        return Answer(answer.status, headers, answer.content, answer.ranges)

    def _route(self, ask: Ask) -> Answer:
        if ask.host == "content":
            self._look_at_signature(ask)
        elif ask.kind == "token":
            return self._token(ask)
        elif ask.host == "registry":
            self._admit(ask)
        if ask.host == "token":
            raise refused(404, "UNSUPPORTED", "this host gives tokens")
        if ask.kind == "version":
            return as_json({})
        if ask.kind == "unknown":
            raise refused(404, "NAME_UNKNOWN", f"{ask.path} is nothing of a registry")
        if ask.kind == "upload start" and ask.method == "POST":
            return self._start(ask)
        if ask.kind == "upload body":
            return self._upload(ask)
        if ask.kind == "manifest" and ask.method == "PUT":
            return self._put_manifest(ask)
        if ask.method not in ("GET", "HEAD") or ask.kind == "upload start":
            raise refused(405, "UNSUPPORTED", f"{ask.method} is not for {ask.path}")
        return self._manifest(ask) if ask.kind == "manifest" else self._blob(ask)

    def _admit(self, ask: Ask) -> None:
        rights: list[Right] = []
        if ask.repo is not None:
            rights = [(ask.repo, "pull")] + ([] if ask.method in ("GET", "HEAD") else [(ask.repo, "push")])
        if ask.kind == "upload start" and (source := ask.parameter("from")) and ask.parameter("mount"):
            rights.append((source, "pull"))
        challenge = self.login and self.login.challenge(ask, rights, self.realm)
        if challenge:
            raise refused(401, "UNAUTHORIZED", "log in first", {"WWW-Authenticate": challenge})

    def _look_at_signature(self, ask: Ask) -> None:
        # as at object storage: the signature in the query is the only key, and a second one is refused
        if ask.headers.get("Authorization") is not None:
            raise refused(400, "DENIED", "only one way to log in is allowed")
        if ask.parameter("signature") != _signature(unquote(ask.path)):
            raise refused(403, "DENIED", "the signature is wrong")

    def _token(self, ask: Ask) -> Answer:
        form = parse_qs(b"".join(ask.pieces).decode()) if ask.method == "POST" else ask.query
        granted = self.login and self.login.grant(ask, form)
        if not granted:
            raise refused(401, "UNAUTHORIZED", "wrong credentials")
        return as_json(granted)

    def _manifest(self, ask: Ask) -> Answer:
        repository, reference = _about(ask)
        found = self.storage.manifest(repository, reference)
        accepted = ask.headers.get("Accept", "*/*")
        if found is None or ("*/*" not in accepted and found[1] not in accepted):
            raise refused(404, "MANIFEST_UNKNOWN", f"{repository} has no {reference} that the client accepts")
        digest, media_type, path = found
        return Answer(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, Content(path))

    def _put_manifest(self, ask: Ask) -> Answer:
        repository, reference = _about(ask)
        data = b"".join(ask.pieces)
        if len(data) > _LARGEST_MANIFEST:
            raise refused(413, "SIZE_INVALID", "a manifest has at most 4 MiB")
        tag = None if ":" in reference else reference
        if tag is None and reference != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise refused(400, "DIGEST_INVALID", "the manifest has another digest")
        try:
            digest = self.storage.put_manifest(repository, tag, data, ask.headers.get("Content-Type", ""))
        except UnknownBlobError as error:
            raise refused(400, "MANIFEST_BLOB_UNKNOWN", f"not there: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise refused(400, "MANIFEST_INVALID", str(error)) from error
        where = {"Location": f"{self.url}/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest}
        return Answer(201, where)

    def _blob(self, ask: Ask) -> Answer:
        repository, digest = _about(ask)
        path = self.storage.blob(repository, digest)
        if path is None:
            raise refused(404, "BLOB_UNKNOWN", f"{repository} has no {digest}")
        if self.redirects and ask.host == "registry" and ask.method == "GET":
            return Answer(307, {"Location": self._elsewhere(f"{repository}/blobs/{digest}")})
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if ask.host == "registry":
            headers["Docker-Content-Digest"] = digest
        return Answer(200, headers, Content(path), ranges=True)

    def _start(self, ask: Ask) -> Answer:
        repository, _ = _about(ask)
        digest, source = ask.parameter("mount"), ask.parameter("from")
        if digest and source and self.storage.mount(repository, source, digest):
            return self._made(repository, digest)
        return self._state(202, repository, self.storage.start(repository))

    def _upload(self, ask: Ask) -> Answer:
        repository, session = _about(ask)
        upload = self.storage.upload(repository, session)
        if upload is None:
            raise refused(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
        if ask.method == "GET":
            return self._state(204, repository, upload)
        if ask.method == "DELETE":
            upload.unlink()
            return Answer(204)
        if ask.method not in ("PATCH", "PUT"):
            raise refused(405, "UNSUPPORTED", f"{ask.method} is not for an upload")
        size = upload.stat().st_size
        if self.upload_location == "query" and ask.parameter("_state") != str(size):
            raise refused(400, "BLOB_UPLOAD_INVALID", "this is not the location that the last answer named")
        begins = re.match(r"(?:bytes )?(\d+)-", ask.headers.get("Content-Range", f"{size}-"))
        if begins is None or int(begins[1]) != size:
            return self._state(416, repository, upload)
        append(upload, ask.pieces)
        if ask.method == "PATCH":
            return self._state(202, repository, upload)
        try:
            return self._made(repository, self.storage.finish(repository, upload, ask.parameter("digest") or ""))
        except ValueError as error:
            raise refused(400, "DIGEST_INVALID", str(error)) from error

    def _made(self, repository: str, digest: str) -> Answer:
        where = f"{self.url}/v2/{repository}/blobs/{digest}"
        return Answer(201, {"Location": where, "Docker-Content-Digest": digest})

    def _state(self, status: int, repository: str, upload: Path) -> Answer:
        path, size = f"{repository}/blobs/uploads/{upload.name}", upload.stat().st_size
        where = {
            "relative": f"/v2/{path}",
            "absolute": f"{self.url}/v2/{path}",
            "query": f"{self.url}/v2/{path}?_state={size}",
            "elsewhere": self._elsewhere(path),
        }[self.upload_location]
        # an empty upload is 0-0, too, as in https://github.com/distribution/distribution
        told = {"Location": where, "Range": f"0-{max(size - 1, 0)}", "Docker-Upload-UUID": upload.name}
        return Answer(status, told)

    def _elsewhere(self, path: str) -> str:
        return f"{self.content_url}/content/{path}?signature={_signature(f'/content/{path}')}"


def refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> RefusalError:
    """A refusal as the spec words it."""
    return RefusalError(as_json({"errors": [{"code": code, "message": message}]}, status=status, headers=headers))


def _about(ask: Ask) -> tuple[str, str]:
    assert ask.repo is not None
    assert ask.file is not None
    return ask.repo, ask.file


def _signature(path: str) -> str:
    return hashlib.sha256(f"content {path}".encode()).hexdigest()[:32]
