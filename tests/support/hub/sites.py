"""The two sites, hub and cdn: which answer a request gets when nothing goes wrong.

Knows addresses, tokens and who may read what; nothing of sockets and faults.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlencode

from . import api, tree
from .answers import Answer, RefusalError, as_json, as_text, as_xml, disposition, refused, unauthorized
from .content import Content, File
from .repository import Commit, Repository
from .request import ParsedRequest

_REVISION = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"
_API = re.compile(
    r"/api/models/(?P<id>[^/]+(?:/[^/]+)??)"
    rf"(?:/(?P<verb>refs|discussions|(?:revision|tree|commits|paths-info)(?=/))(?:/{_REVISION}(?:/(?P<path>.*))?)?)?/?"
)
_RESOLVE = re.compile(rf"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/{_REVISION}/(?P<path>.+)")
_RESOLVE_CACHE = re.compile(r"/api/resolve-cache/models/(?P<id>[^/]+(?:/[^/]+)?)/(?P<rev>[0-9a-f]{40})/(?P<path>.+)")
_TEXT = "text/plain; charset=utf-8"
_EXPOSED = "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash"  # noqa: E501


@dataclass(slots=True)
class Site:
    """Keep the repositories and answer for both hosts."""

    page_size: int
    small_file_redirect: bool
    url: str = ""
    cdn_url: str = ""
    token: str | None = None
    repositories: dict[str, Repository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    signed: dict[str, tuple[str, str, File]] = field(default_factory=dict)

    def hub(self, ask: ParsedRequest) -> Answer:
        """Answer as the Hub's own host."""
        bucket = "api" if ask.path.startswith("/api/") else "resolvers"
        try:
            answer = self._route(ask)
        except RefusalError as refusal:
            answer = refusal.answer
        common = {
            "RateLimit": f'"{bucket}";r=2999;t=300',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q=3000;w=300',
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin, Accept",
        }
        return Answer(answer.status, {**common, **answer.headers}, answer.content, answer.ranges)

    def cdn(self, ask: ParsedRequest) -> Answer:
        """Answer as the content network: the signature in the query is the only key."""
        known = self.signed.get(ask.query.get("Signature", [""])[0])
        if known is not None:
            ask.repo, ask.file = known[:2]
        if ask.headers.get("Authorization") is not None:
            return as_xml("InvalidArgument", "Only one auth mechanism allowed", status=400)
        if known is None or ask.method not in ("GET", "HEAD"):
            return as_xml("AccessDenied", "Access Denied", status=403)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": disposition(known[1]),
            "Cache-Control": "public, max-age=31536000, immutable",
            "ETag": f'"{known[2].xet}"',
        }
        return self._body(ask, headers, known[2].content)

    def _route(self, ask: ParsedRequest) -> Answer:
        if self.token is not None and ask.bearer not in (None, self.token):
            raise unauthorized("Invalid credentials in Authorization header")
        if moved := self._renamed(ask):
            return moved
        if match := _RESOLVE_CACHE.fullmatch(ask.path):
            _, commit, file = self._file(ask, match)
            return self._small(ask, commit, file)
        if match := _API.fullmatch(ask.path):
            return self._api(ask, match)
        if match := _RESOLVE.fullmatch(ask.path):
            return self._resolve(ask, match)
        if ask.path == "/api/agent-harnesses":
            return as_json({"standardEnvVars": [], "harnesses": {}})
        if ask.path == "/api/whoami-v2":
            if ask.bearer is None:
                raise unauthorized("Invalid username or password.")
            auth = {"type": "access_token", "accessToken": {"displayName": "stand-in", "role": "read"}}
            return as_json({"type": "user", "id": "0" * 24, "name": "stand-in", "orgs": [], "auth": auth})
        raise refused(404, None, "Sorry, we can't find the page you are looking for.")

    def _renamed(self, ask: ParsedRequest) -> Answer | None:
        """Redirect a request for the old id of a repository, as the real one does, with a path and no host."""
        match = _API.fullmatch(ask.path) or _RESOLVE.fullmatch(ask.path)
        if match is None or (new := self.renamed.get(unquote(match["id"]))) is None:
            return None
        ask.repo = unquote(match["id"])
        return _moved(307, f"{ask.target[: match.start('id')]}{new}{ask.target[match.end('id') :]}", {})

    def _api(self, ask: ParsedRequest, match: re.Match[str]) -> Answer:
        repository = self._repository(ask, unquote(match["id"]))
        if match["verb"] == "refs":
            return as_json(api.refs(repository, ask.query))
        if match["verb"] == "discussions":
            return as_json(api.discussions(repository))
        revision = unquote(match["rev"] or "main")
        commit = self._commit(repository, revision)
        if match["verb"] == "tree":
            folder = unquote(match["path"] or "").strip("/")
            return tree.page(repository, commit, revision, folder, ask.query, size=self.page_size, url=self.url)
        if match["verb"] == "commits":
            self._open_gate(ask, repository)
            return api.commits(commit, ask.query, size=self.page_size)
        if match["verb"] == "paths-info":
            wanted = parse_qs(ask.body.decode())
            expand = wanted.get("expand", ["false"])[0].lower() == "true"
            entries = tree.entries(repository, commit, expand=expand)
            return as_json([entry for entry in entries if entry["path"] in wanted.get("paths", [])])
        return as_json(api.info(repository, commit, ask.query))

    def _resolve(self, ask: ParsedRequest, match: re.Match[str]) -> Answer:
        repository, commit, file = self._file(ask, match)
        path = str(ask.file)
        common = {"X-Repo-Commit": commit.sha, "Content-Disposition": disposition(path), "Accept-Ranges": "bytes"}
        if file.lfs:
            linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"', "Cache-Control": "no-store"}
            return _moved(302, self._sign(repository, commit, path, file), {**common, **linked})
        if not self.small_file_redirect:
            return self._small(ask, commit, file)
        where = f"/api/resolve-cache/models/{repository.id}/{commit.sha}/{quote(path)}"
        where += f"?{quote(unquote(ask.path), safe='')}=&etag=%22{file.oid}%22"
        return _moved(307, where, {**common, "X-Linked-Etag": f'"{file.oid}"'})

    def _small(self, ask: ParsedRequest, commit: Commit, file: File) -> Answer:
        headers = {
            "Content-Type": _TEXT,
            "Content-Disposition": disposition(str(ask.file)),
            "X-Repo-Commit": commit.sha,
            "ETag": f'"{file.oid}"',
        }
        return self._body(ask, headers, file.content)

    def _body(self, ask: ParsedRequest, headers: dict[str, str], content: Content) -> Answer:
        if ask.headers.get("If-None-Match") == headers["ETag"]:
            return Answer(304, headers)
        # a condition that no longer holds turns the part into the whole (RFC 9110, 13.1.5)
        ranges = ask.headers.get("If-Range") in (None, headers["ETag"])
        return Answer(200, {"Accept-Ranges": "bytes", **headers}, content, ranges=ranges)

    def _file(self, ask: ParsedRequest, match: re.Match[str]) -> tuple[Repository, Commit, File]:
        ask.file = unquote(match["path"])
        repository = self._repository(ask, unquote(match["id"]))
        commit = self._commit(repository, unquote(match["rev"]))
        self._open_gate(ask, repository)
        file = commit.files.get(ask.file)
        if file is None:
            told = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit.sha}
            raise RefusalError(as_text("Entry not found", status=404, headers=told))
        return repository, commit, file

    def _repository(self, ask: ParsedRequest, repo_id: str) -> Repository:
        ask.repo = repo_id
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and not self._trusted(ask)):
            if ask.bearer is not None:
                raise refused(404, "RepoNotFound", "Repository not found")
            # The real one sends no code here; huggingface_hub then goes by the address, which must be https.
            raise unauthorized("Invalid username or password.", code="RepoNotFound")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.resolve(revision)
        if commit is None:
            raise refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _open_gate(self, ask: ParsedRequest, repository: Repository) -> None:
        if not repository.gated or self._trusted(ask):
            return
        restricted = f"Access to model {repository.id} is restricted"
        if ask.bearer is None:
            please = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
            raise unauthorized(please, code="GatedRepo")
        visit = f"Visit {self.url}/{repository.id} to ask for access."
        raise refused(403, "GatedRepo", f"{restricted} and you are not in the authorized list. {visit}")

    def _trusted(self, ask: ParsedRequest) -> bool:
        return self.token is not None and ask.bearer == self.token

    def _sign(self, repository: Repository, commit: Commit, path: str, file: File) -> str:
        signature = hashlib.sha256(f"{repository.id} {commit.sha} {path}".encode()).hexdigest()
        self.signed[signature] = (repository.id, path, file)
        query = {
            "X-Xet-Cas-Uid": "public",
            "response-content-disposition": disposition(path),
            "Expires": str(int(time.time()) + 3600),
            "Signature": signature,
            "Key-Pair-Id": "STANDIN",
        }
        folder = hashlib.sha256(repository.id.encode()).hexdigest()[:24]
        return f"{self.cdn_url}/xet-bridge-us/{folder}/{file.xet}?{urlencode(query)}"


def _moved(status: int, where: str, headers: dict[str, str]) -> Answer:
    word = "Found" if status == 302 else "Temporary Redirect"
    return as_text(f"{word}. Redirecting to {where}", status=status, headers={**headers, "Location": where})
