"""Choosing the files of a model out of a folder, or out of files that a test describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import ListedFile, WantedModel
from modelcache.resolver.files import Choice, choose

LOADED = [kind for kind in Kind if kind.spec.loads]
EMBEDDING = WantedModel(Kind.EMBEDDING, "owner/name")
RERANKER = WantedModel(Kind.RERANKER, "owner/name")

MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
BERT = {"model_type": "bert", "architectures": ["BertModel"]}
SCORER = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
WHOLE: dict[str, object] = {"modules.json": MODULES, "config.json": BERT, "model.safetensors": b""}
CODE = {**BERT, "auto_map": {"AutoModel": "modeling_x.X"}}


def listed(folder: Path) -> list[ListedFile]:
    """List a folder as the Hub would; a link counts as the file it is."""
    return [
        ListedFile(path.relative_to(folder).as_posix(), path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def chosen(folder: Path, wanted: WantedModel = EMBEDDING) -> Choice:
    """Choose among the files of a folder."""
    return choose(wanted, listed(folder), lambda file: (folder / file.path).read_bytes())


def paths(choice: Choice) -> set[str]:
    """Return the names of what is shipped, and make sure of their order."""
    names = [file.path for file in choice.files]
    assert names == sorted(set(names))
    return set(names)


def among(files: Mapping[str, object], wanted: WantedModel = EMBEDDING) -> Choice:
    """Choose among files given as JSON values or bytes."""
    contents = {path: what if isinstance(what, bytes) else json.dumps(what).encode() for path, what in files.items()}
    listing = [ListedFile(path, len(content)) for path, content in contents.items()]
    return choose(wanted, listing, lambda file: contents[file.path])


def refusal(files: Mapping[str, object] | Path, wanted: WantedModel = EMBEDDING) -> list[str]:
    """Return why a model is not shipped, one line a reason."""
    with pytest.raises(PolicyError) as caught:
        chosen(files, wanted) if isinstance(files, Path) else among(files, wanted)
    first, *reasons = caught.value.message.splitlines()
    assert first == "owner/name is not shipped:"
    assert all(": " in reason for reason in reasons), "a reason without a way out"
    return [reason.strip() for reason in reasons]
