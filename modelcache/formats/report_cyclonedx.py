"""The report of models as a CycloneDX 1.6 ML-BOM in JSON.

The library has no model cards, so they are added to its JSON. Equal facts give equal
bytes: references are made of ids and paths, the serial number of the content, and no clock is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id
from packageurl import PackageURL

from modelcache import __version__
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import is_id
from modelcache.core.model_report import UNKNOWN, ReportedModel
from modelcache.core.types import LockedFile, Original, RemoteCode

_PREFIX = "cache-models:"
_LINK = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")
# The tasks of the Hub; its `text-ranking` is a score for a pair.
_TASKS = {
    Kind.EMBEDDING: "feature-extraction",
    Kind.RERANKER: "text-ranking",
    Kind.SPARSE: "feature-extraction",
    Kind.MULTI_VECTOR: "feature-extraction",
}


def format_report(models: Sequence[ReportedModel], timestamp: str = "") -> str:
    """Return the bill of materials; `timestamp` is a date and time of ISO 8601, or empty for none."""
    bom = Bom(components=[_component(model) for model in models])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    cards = {_reference(model): _model_card(model) for model in models}
    if models:
        document["components"] = [one | cards[one["bom-ref"]] for one in document["components"]]
    document["metadata"] = {"tools": {"components": [_TOOL]}} | ({"timestamp": timestamp} if timestamp else {})
    # The library says that no model depends on anything, and gives each bill a random number.
    document.pop("dependencies", None)
    del document["serialNumber"]
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = uuid5(NAMESPACE_URL, content).urn
    return json.dumps(document, indent=1, sort_keys=True)


_TOOL = {"type": "application", "name": "cache-models", "version": __version__}


def _component(model: ReportedModel) -> Component:
    pin, reference = model.pin, _reference(model)
    code = {file.path: original for file, original in model.code}
    ancestors = [_base_model(name, f"{reference}#base:{name}") for name in model.card.base_models]
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=reference,
        name=pin.id,
        version=pin.commit or None,
        purl=None if pin.from_directory else _purl(pin.id, pin.commit),
        licenses=_licences(model),
        properties=_properties(_facts(model)),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
        components=[_file(file, model, code.get(file.path), reference) for file in pin.files],
    )


def _file(file: LockedFile, model: ReportedModel, origin: Original | None, reference: str) -> Component:
    """Return a file; one of another repository has its own package URL, one that was made has its original."""
    pin, original = model.pin, file.original
    foreign = origin is not None and (origin.repository, origin.commit) != (pin.id, pin.commit)
    lines = {licence.path: licence.first_line for licence in model.licence_files}
    facts = [("size", str(file.size))]
    facts += [("made", str(file.made))] if file.made else []
    facts += [("pickle", "true")] if file.path in pin.pickles else []
    facts += [("code", f"{origin.repository}@{origin.commit}" if origin.commit else "directory")] if origin else []
    facts += [("first_line", lines[file.path])] if lines.get(file.path) else []
    made_from = _original(original, f"{reference}#{file.path}:from") if file.made and original else None
    return Component(
        type=ComponentType.FILE,
        bom_ref=f"{reference}#{file.path}",
        name=file.path,
        hashes=_hashes(file.sha256),
        purl=_purl(origin.repository, origin.commit, origin.path) if origin and foreign else None,
        properties=_properties(facts),
        pedigree=Pedigree(ancestors=[made_from]) if made_from else None,
    )


def _original(original: Original, reference: str) -> Component:
    facts = _properties([("size", str(original.size))])
    hashes = _hashes(original.sha256)
    return Component(type=ComponentType.FILE, bom_ref=reference, name=original.path, hashes=hashes, properties=facts)


def _base_model(name: str, reference: str) -> Component:
    """Return a model that a card names as its base: its commit is not known."""
    purl = _purl(name) if is_id(name) else None
    return Component(type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=reference, name=name, purl=purl)


def _licences(model: ReportedModel) -> Iterator[DisjunctiveLicense]:
    """Yield the licences that the owner declares: by their SPDX ids, where these are known, else by their names."""
    link = model.card.licence_link
    url = XsUri(link) if _LINK.fullmatch(link) else None
    for name in model.licences:
        known, declared = fixup_id(name), LicenseAcknowledgement.DECLARED
        yield DisjunctiveLicense(id=known, name=None if known else name, url=url, acknowledgement=declared)


def _facts(model: ReportedModel) -> Iterator[tuple[str, str]]:
    """Yield what CycloneDX has no field for."""
    pin = model.pin
    yield "kind", str(pin.kind)
    yield "set_digest", model.digest
    yield "size", str(pin.size)
    yield "on_disk", str(model.on_disk).lower()
    yield "gated", str(bool(model.gated)).lower()
    yield "check", str(model.proof)
    yield from (("check_version", f"{name} {version}") for name, version in model.versions.items())
    if not pin.from_directory:
        yield "revision", pin.revision
    if model.index_id:
        yield "index_id", model.index_id
    if pin.remote_code is not RemoteCode.NONE:
        yield "remote_code", str(pin.remote_code)
    yield from (("package", name) for name in pin.packages)
    yield "licence_source", str(model.licence_source or UNKNOWN)
    if model.other_licence:
        yield "locked_licence", model.other_licence
    if model.card.licence_link:
        yield "licence_link", model.card.licence_link


def _model_card(model: ReportedModel) -> dict[str, Any]:
    """Return the field of the model card; a repository that is never loaded has none, as its task is not known."""
    kind = model.pin.kind
    if kind not in _TASKS:
        return {}
    return {"modelCard": {"modelParameters": {"task": _TASKS[kind], "outputs": [{"format": str(kind.spec.output)}]}}}


def _reference(model: ReportedModel) -> str:
    """Return a reference of its own for each model: one id may be pinned as two kinds."""
    return f"{model.pin.kind}:{model.pin.id}@{model.pin.commit or model.digest}"


def _purl(repository: str, commit: str = "", path: str = "") -> PackageURL:
    """Return the package URL of a repository, or of a file in it."""
    owner, _, name = repository.rpartition("/")
    return PackageURL("huggingface", owner, name, commit or None, subpath=path or None)


def _hashes(sha256: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _properties(facts: Iterable[tuple[str, str]]) -> list[Property]:
    return [Property(name=f"{_PREFIX}{name}", value=value) for name, value in facts]
