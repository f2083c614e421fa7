"""The report of models as JSON: every fact, for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelcache.core.model_report import ReportedModel
from modelcache.core.types import LockedFile

_FORMAT = 1


def format_report(models: Iterable[ReportedModel]) -> str:
    """Return the report as JSON; equal facts give equal bytes."""
    return json.dumps({"format": _FORMAT, "models": [_model(model) for model in models]}, indent=1)


def _model(model: ReportedModel) -> Mapping[str, Any]:
    pin, card = model.pin, model.card
    return {
        "id": pin.id,
        "kind": str(pin.kind),
        "revision": None if pin.from_directory else pin.revision,
        "commit": pin.commit or None,
        "on_disk": model.on_disk,
        "size": pin.size,
        "set_digest": model.digest,
        "licence": {
            "names": list(model.licences),
            "source": model.licence_source,
            "locked": pin.licence or None,
            "link": card.licence_link or None,
            "files": [{"path": file.path, "first_line": file.first_line or None} for file in model.licence_files],
        },
        "base_models": list(card.base_models) if model.on_disk else None,
        "gated": {"is_gated": bool(model.gated), "sources": list(model.gated), "terms": list(card.terms)},
        "remote_code": str(pin.remote_code),
        "code": [
            {"path": file.path, "repository": original.repository, "commit": original.commit or None}
            for file, original in model.code
        ],
        "packages": list(pin.packages),
        "pickles": list(pin.pickles),
        "pooling": pin.pooling,
        "normalize": pin.normalize,
        "include": list(pin.include),
        "exclude": list(pin.exclude),
        "index_id": model.index_id,
        "check": {"verdict": str(model.proof), "versions": dict(sorted(model.versions.items()))},
        "files": [_file(file) for file in pin.files],
    }


def _file(file: LockedFile) -> Mapping[str, Any]:
    entry: dict[str, Any] = {"path": file.path, "size": file.size, "sha256": file.sha256}
    if file.made:
        entry["made"] = str(file.made)
    if file.made and (original := file.original):
        entry["from"] = {"path": original.path, "size": original.size, "sha256": original.sha256}
    return entry
