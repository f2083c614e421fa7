"""The JSON of the Hub's API: model info, refs, commits, discussions.

Turns repositories into the shapes that huggingface_hub parses; who may see them is decided in sites.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from .answers import Answer, as_json
from .content import File
from .model_card import Card, front_matter
from .repository import Commit, Repository
from .request import Query, flag

Json = dict[str, object]
_CONVERSION = "Adding `safetensors` variant of this model"


def info(repository: Repository, commit: Commit, query: Query) -> Json:
    """Describe the model as /api/models does."""
    card = _card(repository, commit)
    library = card.get("library_name") or _library(commit)
    fields: Json = {
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0] if "/" in repository.id else None,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": list(commit.history())[-1].date,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": library,
        "pipeline_tag": card.get("pipeline_tag"),
        "tags": _tags(card, library, commit),
        "cardData": card,
        "config": _config(commit),
        "spaces": [],
        "usedStorage": sum(file.size for file in commit.files.values() if file.lfs),
        "siblings": [
            _sibling(path, file, blobs=flag(query, "blobs")) for path, file in repository.listed(commit).items()
        ],
    }
    wanted = query.get("expand", []) + query.get("expand[]", [])
    kept = {name for name in fields if not wanted or name in {*wanted, "id"}}
    return {
        "_id": commit.sha[:24],
        **{name: fields[name] for name in fields if name in kept and fields[name] is not None},
    }


def refs(repository: Repository, query: Query) -> Json:
    """Name branches and tags, and pull requests when they are asked for."""

    def rows(names: Iterable[tuple[str, Commit]], prefix: str) -> list[Json]:
        return [{"name": name, "ref": prefix + name, "targetCommit": commit.sha} for name, commit in names]

    branches = [item for item in repository.branches.items() if not item[0].startswith("refs/")]
    named: Json = {"branches": rows(branches, "refs/heads/"), "tags": rows(repository.tags.items(), "refs/tags/")}
    if flag(query, "include_prs"):
        named["pullRequests"] = rows(_pull_requests(repository), "refs/pr/")
    return {**named, "converts": []}


def commits(commit: Commit, query: Query, *, size: int) -> Answer:
    """Tell a page of the history, newest first."""
    rows = [
        {"id": each.sha, "title": each.title, "message": "", "date": each.date, "authors": [{"user": "stand-in"}]}
        for each in commit.history()
    ]
    start = int(query.get("p", ["0"])[0]) * size
    return as_json(rows[start : start + size], headers={"X-Total-Count": str(len(rows))})


def discussions(repository: Repository) -> Json:
    """Show every branch named refs/pr/N as the conversion bot's open pull request."""
    rows: list[Json] = [
        {
            "num": int(number),
            "title": _CONVERSION,
            "status": "open",
            "isPullRequest": True,
            "author": {"name": "SFconvertbot"},
            "createdAt": commit.date,
            "repo": {"name": repository.id, "type": "model"},
        }
        for number, commit in _pull_requests(repository)
    ]
    return {"discussions": rows, "count": len(rows), "start": 0, "numClosedDiscussions": 0}


def _pull_requests(repository: Repository) -> list[tuple[str, Commit]]:
    prefix = "refs/pr/"
    return [(name.removeprefix(prefix), c) for name, c in repository.branches.items() if name.startswith(prefix)]


def _sibling(path: str, file: File, *, blobs: bool) -> Json:
    row: Json = {"rfilename": path}
    if blobs:
        row |= {"blobId": file.oid, "size": file.size}
        if file.lfs:
            row["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return row


def _card(repository: Repository, commit: Commit) -> Card:
    readme = commit.files.get("README.md")
    card = front_matter(readme.content.read()) if readme else {}
    return {**card, "license": repository.licence} if repository.licence else card


def _library(commit: Commit) -> str | None:
    if "modules.json" in commit.files:
        return "sentence-transformers"
    return "transformers" if "config.json" in commit.files else None


def _config(commit: Commit) -> Json:
    file = commit.files.get("config.json")
    try:
        config = json.loads(file.content.read()) if file else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    return {name: config[name] for name in ("architectures", "model_type", "auto_map") if name in config}


def _tags(card: Card, library: object, commit: Commit) -> list[str]:
    tags = [library] if isinstance(library, str) else []
    if any(path.endswith(".safetensors") for path in commit.files):
        tags.append("safetensors")
    for name, prefix in (("tags", ""), ("base_model", "base_model:"), ("license", "license:")):
        values = card.get(name, [])
        tags += [prefix + value for value in ([values] if isinstance(values, str) else values)]
    return [*dict.fromkeys(tags), "region:us"]
