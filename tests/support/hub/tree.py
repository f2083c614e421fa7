"""The Hub's listing of a commit, page by page.

Knows its shape, its order and its cursors; who may see it is decided in sites.py.
"""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

from .answers import Answer, as_json, refused
from .api import Json
from .repository import Commit, Repository
from .request import Query, flag


def page(
    repository: Repository,
    commit: Commit,
    revision: str,
    folder: str,
    query: Query,
    *,
    size: int,
    url: str,
) -> Answer:
    """Give one page of the listing below `folder`, with the link to the next one."""
    if folder and folder not in commit.directories:
        raise refused(404, "EntryNotFound", f'{folder} does not exist on "{revision}"')
    listed = entries(repository, commit, expand=flag(query, "expand"))
    below = [entry for entry in listed if _is_below(str(entry["path"]), folder, recursive=flag(query, "recursive"))]
    limit = min(size, int(query.get("limit", [str(size)])[0]))
    start = 0
    if cursor := query.get("cursor"):
        names = [entry["path"] for entry in below]
        last = _file_name(cursor[0])
        if last not in names:
            raise refused(400, None, "Invalid cursor")
        start = names.index(last) + 1
    headers = {}
    if start + limit < len(below):
        token = _cursor(str(below[start + limit - 1]["path"]), commit.sha, limit)
        flags = "".join(f"{name}={query[name][0]}&" for name in ("expand", "recursive") if name in query)
        where = f"{url}/api/models/{repository.id}/tree/{quote(revision, safe='')}"
        where += f"/{quote(folder, safe='')}" if folder else ""
        headers["Link"] = f'<{where}?{flags}limit={limit}&cursor={quote(token, safe="")}>; rel="next"'
    return as_json(below[start : start + limit], headers=headers)


def entries(repository: Repository, commit: Commit, *, expand: bool) -> list[Json]:
    """List every directory and file of the commit, directories first."""
    last: Json = {"lastCommit": {"id": commit.sha, "title": commit.title, "date": commit.date}} if expand else {}
    scan: Json = {"status": "safe", "avScan": {"status": "safe"}, "pickleImportScan": None}
    rows: list[Json] = [
        {"type": "directory", "oid": oid, "size": 0, "path": path, **last}
        for path, oid in sorted(commit.directories.items())
    ]
    for path, file in repository.listed(commit).items():
        entry: Json = {"type": "file", "oid": file.oid, "size": file.size}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        rows.append(entry | {"path": path} | last | ({"securityFileStatus": scan} if expand else {}))
    return rows


def _is_below(path: str, folder: str, *, recursive: bool) -> bool:
    inside = path.startswith(f"{folder}/") if folder else True
    rest = path[len(folder) + 1 :] if folder else path
    return inside and (recursive or "/" not in rest)


def _cursor(path: str, tree: str, limit: int) -> str:
    inner = base64.b64encode(json.dumps({"file_name": path, "tree_oid": tree}).encode()).decode()
    return base64.b64encode(f"{inner}:{limit}".encode()).decode()


def _file_name(cursor: str) -> str:
    try:
        inner = base64.b64decode(cursor).partition(b":")[0]
        return str(json.loads(base64.b64decode(inner))["file_name"])
    except (ValueError, KeyError, TypeError):
        raise refused(400, None, "Invalid cursor") from None
