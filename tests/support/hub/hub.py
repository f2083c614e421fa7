"""A Hugging Face Hub on loopback that speaks the real protocol and breaks on request.

Two real HTTP servers, the hub and the content network it redirects to; needs nothing but the standard library.
What differs from the real one: no Xet, no uploads, no search, and one error code more (see sites.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .faults import Fault
from .repository import Lie, Repository
from .request_log import Request, RequestLog
from .server import Server
from .sites import Site


class StandInHub:
    """Serve repositories, record requests, fail when told to."""

    def __init__(
        self,
        *,
        lfs_threshold: int = 10_000_000,
        page_size: int = 1000,
        small_file_redirect: bool = False,
        host: str = "127.0.0.1",
        advertise: str | None = None,
        port: int = 0,
        cdn_port: int = 0,
    ) -> None:
        self._lfs_threshold = lfs_threshold
        self._site = Site(page_size, small_file_redirect)
        self._log = RequestLog(self._site)
        self._servers = [Server((host, port), self._log, "hub"), Server((host, cdn_port), self._log, "cdn")]
        self.url, self.cdn_url = (f"http://{advertise or host}:{server.server_address[1]}" for server in self._servers)
        self._site.url, self._site.cdn_url = self.url, self.cdn_url

    def start(self) -> StandInHub:
        """Begin to answer; the addresses are fixed since construction."""
        for server in self._servers:
            server.start()
        return self

    def close(self) -> None:
        """Stop answering and cut every connection, held ones too."""
        self._log.closing.set()
        for server in self._servers:
            server.stop()

    def __enter__(self) -> StandInHub:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def token(self) -> str | None:
        """Give the one token that may read private and gated repositories."""
        return self._site.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._site.token = token

    def behind(self, url: str, cdn_url: str) -> None:
        """Name these two addresses in redirects and links: something stands before the servers."""
        self._site.url, self._site.cdn_url = url, cdn_url

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path] | Path,
        *,
        branch: str = "main",
        private: bool = False,
        gated: bool = False,
        licence: str | None = None,
    ) -> str:
        """Make the next commit of a repository, its whole tree, and return its hash.

        Weights are in LFS whatever their size, as .gitattributes says on the real Hub; a `.gitattributes`
        among the files replaces those patterns. A branch named refs/pr/N is a pull request.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        repository = self._site.repositories.get(repo_id) or Repository(repo_id)
        repository.private, repository.gated, repository.licence = private, gated, licence
        commit = repository.commit(files, branch=branch, lfs_threshold=self._lfs_threshold)
        self._site.repositories[repo_id] = repository
        return commit.sha

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        """Point a tag at a commit."""
        repository = self._site.repositories[repo_id]
        repository.tags[name] = repository.commits[commit]

    def remove(self, repo_id: str) -> None:
        """Delete a repository with all its commits."""
        del self._site.repositories[repo_id]

    def rename(self, repo_id: str, to: str) -> None:
        """Give a repository another id; requests for the old one are redirected."""
        repository = self._site.repositories.pop(repo_id)
        repository.id = to
        self._site.repositories[to] = repository
        self._site.renamed[repo_id] = to

    def gate(self, repo_id: str) -> None:
        """Let the owner gate a repository, with no commit."""
        self._site.repositories[repo_id].gated = True

    def drop(self, repo_id: str, commit: str) -> None:
        """Take a commit out of a repository's history, as a forced push does."""
        self._site.repositories[repo_id].drop(commit)

    def lie(
        self, repo_id: str, path: str, *, size: int | None = None, sha256: str | None = None, oid: str | None = None
    ) -> None:
        """Let listing and model info tell something else about one file; its bytes and headers stay true."""
        repository = self._site.repositories[repo_id]
        if not any(path in commit.files for commit in repository.commits.values()):
            raise KeyError(path)
        repository.lies[path] = Lie(size, sha256, oid)

    def fail(self, fault: Fault, *, on: str, times: int = 1) -> None:
        """Break the next `times` requests (-1: all) whose "METHOD host path" the regex `on` is found in.

        The path is tried as sent, decoded, and as "METHOD host repo/file", since the content network's
        addresses name neither the repository nor a folder.
        """
        self._log.arm(fault, on, times)

    @property
    def requests(self) -> list[Request]:
        """Copy the record of all requests, in the order in which they were answered."""
        return self._log.requests()

    def forget(self) -> None:
        """Start the record afresh."""
        self._log.forget()
