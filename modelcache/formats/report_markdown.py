"""The report of models as a page that a reviewer reads: a table, then each model with its details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from modelcache.core.kinds import Kind
from modelcache.core.model_report import UNKNOWN, Proof, ReportedModel, Source
from modelcache.core.text import escape, size_in_words
from modelcache.core.types import LockedFile, RemoteCode
from modelcache.formats.markdown import code_span, foreign_words, table_cell

_HEAD = ("model", "kind", "size", "licence", "proven")
_LONGEST_CELL = 40
_MOST_NAMED = 5
_GATED = {Source.LOCK: "the Hub asks for consent to its terms", Source.CARD: "its card asks for consent to terms"}
_CODE = {
    RemoteCode.NONE: "none",
    RemoteCode.OMITTED: "left out (trust_remote_code = false)",
    RemoteCode.VENDORED: "run by programs that load it with trust_remote_code = true",
}
_PROVEN = {Proof.PROVEN: "yes", Proof.UNPROVEN: "no", Proof.NEVER_LOADED: "-"}


def format_report(models: Sequence[ReportedModel]) -> str:
    """Return the report as Markdown."""
    total = size_in_words(sum(model.pin.size for model in models))
    lines = [f"# {len(models)} model{'s' * (len(models) != 1)}, {total}", "", *_compared(models), *_table(models)]
    lines += _points(models)
    for model in models:
        lines += ["", f"## {model.pin.id}", "", *_details(model)]
    return "\n".join(lines)


def _compared(models: Sequence[ReportedModel]) -> Iterator[str]:
    """Yield the sentence that says which models were compared with their pins."""
    if any(model.on_disk for model in models):
        rest = "" if all(model.on_disk for model in models) else " of the models that are there"
        yield from [f"Every byte on disk{rest} was compared with its pin for this page: all are as pinned.", ""]


def _table(models: Sequence[ReportedModel]) -> Iterator[str]:
    rows = [_HEAD]
    for model in models:
        pin = model.pin
        licence = table_cell(", ".join(model.licences), _LONGEST_CELL) or UNKNOWN
        rows.append((pin.id, str(pin.kind), size_in_words(pin.size), licence, _PROVEN[model.proof]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        yield f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def _points(models: Sequence[ReportedModel]) -> Iterator[str]:
    """Yield a line for each thing to look at, with the models that it concerns."""
    conditions = {
        "not on disk, so from the lock alone": [model for model in models if not model.on_disk],
        "licence unknown": [model for model in models if not model.licences],
        "licence in the lock another one": [model for model in models if model.other_licence],
        "gated": [model for model in models if model.gated],
        "with code of a repository": [model for model in models if model.code],
        "with pickles as they are": [model for model in models if model.pin.pickles],
        "with files that no repository has": [model for model in models if model.made],
        "unproven": [model for model in models if model.proof is Proof.UNPROVEN],
    }
    points = [f"- {text}: {_ids(concerned, len(models))}" for text, concerned in conditions.items() if concerned]
    yield from ["", *points] if points else []


def _details(model: ReportedModel) -> Iterator[str]:
    pin, card = model.pin, model.card
    if not model.on_disk:
        yield "- **not on disk: from the lock alone**"
    yield f"- kind: {pin.kind}"
    if pin.from_directory:
        yield "- commit: none, as it is from a directory"
    else:
        yield f"- commit: {pin.commit} (revision {foreign_words(pin.revision)})"
    yield f"- files: {len(pin.files)}, {pin.size:,} bytes"
    yield f"- set digest: {model.digest}"
    if model.index_id:
        yield f"- index id: {model.index_id}"
    yield from _licence(model)
    base = ", ".join(map(foreign_words, card.base_models)) or "none named"
    yield f"- base model: {base if model.on_disk else UNKNOWN}"
    yield f"- gated: {'; '.join(_GATED[source] for source in model.gated) or 'no'}"
    yield f"- code: {_code(model)}"
    yield from (f"  - {code_span(file.path)} from {_origin(of.repository, of.commit)}" for file, of in model.code)
    if pin.packages:
        yield f"- packages that its code imports: {', '.join(map(foreign_words, pin.packages))}"
    if pin.pickles:
        yield "- pickles as they are, of tensors alone: " + ", ".join(map(code_span, pin.pickles))
    if model.made:
        yield "- files that no repository has:"
        yield from (f"  - {code_span(file.path)}, {_made(file)}" for file in model.made)
    yield f"- numbers of `check`: {_proof(model)}"
    yield ""
    yield "```text"
    yield from sorted(f"{file.sha256}  {escape(file.path)}" for file in pin.files)
    yield "```"


def _licence(model: ReportedModel) -> Iterator[str]:
    card, source = model.card, model.licence_source
    names = ", ".join(map(foreign_words, model.licences)) or UNKNOWN
    link = f", {foreign_words(card.licence_link)}" if card.licence_link else ""
    yield f"- licence: {names}{link}{f' (named by the {source})' if source else ''}"
    if model.other_licence:
        yield f"  - the lock has {foreign_words(model.other_licence)}, as the Hub said"
    for file in model.licence_files:
        yield f"  - {code_span(file.path)}" + (f": {code_span(file.first_line)}" if file.first_line else "")


def _code(model: ReportedModel) -> str:
    """Say which code it has; a table may also name code that no configuration of the model does."""
    published = model.code and model.pin.remote_code is RemoteCode.NONE
    return "published, and named by no configuration" if published else _CODE[model.pin.remote_code]


def _made(file: LockedFile) -> str:
    original = file.original
    return f"{file.made} from {code_span(original.path)} (SHA-256 {original.sha256})" if original else f"{file.made}"


def _proof(model: ReportedModel) -> str:
    if model.proof is Proof.PROVEN:
        return f"recorded for these files, with {_versions(model.versions)}"
    if model.proof is Proof.NEVER_LOADED:
        return f"none, as a model of [[{Kind.OTHER}]] is never loaded"
    return "unproven: none are recorded for these files"


def _versions(versions: Mapping[str, str]) -> str:
    named = ", ".join(foreign_words(f"{name} {version}") for name, version in sorted(versions.items()))
    return named or "libraries that are not named"


def _origin(repository: str, commit: str) -> str:
    return code_span(f"{repository}@{commit}") if commit else "its directory"


def _ids(models: Sequence[ReportedModel], total: int) -> str:
    if len(models) == total > 1:
        return f"all {total}"
    names = [model.pin.id for model in models[:_MOST_NAMED]]
    more = len(models) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
